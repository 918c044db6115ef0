"""Python runs this first in every process that has this folder on its PYTHONPATH: LiteRT's place is taken by the fake.

The registry, its checks and all that a worker does around its engine stay as they are.
"""

import os
import sys
import time
from types import ModuleType

import numpy as np


class _SlowFake:
    """The fake engine, with the time that a real one would need."""

    def __init__(self, content: bytes, preprocessing: object) -> None:
        from models.engines.fake import FakeEngine

        self._engine = FakeEngine()
        self._seconds = float(os.environ["CHAOS_IMAGE_SECONDS"])

    def predict_logits(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(self._seconds * len(pixels))
        return self._engine.predict_logits(pixels)


_litert = ModuleType("models.engines.litert")
_litert.LitertEngine = _SlowFake  # type: ignore[attr-defined]
sys.modules[_litert.__name__] = _litert
