"""A loaded model version: an image file's bytes in, its most confident labels out."""

from collections.abc import Sequence

import numpy as np

from base.stages import Stage, Stopwatch
from models.decoding import DecodingLimits, decode
from models.engines.engine import Engine
from models.predictions import Prediction, confidences, top_k
from models.registry import ModelVersion, load_engine


class Classifier:
    """The one path from bytes to labels, whoever asks: a worker or `tagmill predict`.

    Args:
        version: what to classify with.
        limits: what an image may cost.
        engine: for tests; None loads the version's own.
        watch: told what is being done.

    Raises:
        ModelError: the version's files are missing, or not what was published.
    """

    def __init__(
        self,
        version: ModelVersion,
        *,
        limits: DecodingLimits,
        engine: Engine | None = None,
        watch: Stopwatch | None = None,
    ) -> None:
        self.version = version
        self._limits = limits
        self._watch = watch or Stopwatch()
        self._engine = load_engine(version) if engine is None else engine

    def predict(self, encoded: bytes, k: int) -> list[Prediction]:
        """The k most confident labels of one image, the most confident first; all of them when there are fewer.

        Raises:
            ImageError: the bytes are no image that can be read.
        """
        return self.label([self.infer(self.decode(encoded))], k)[0]

    def decode(self, encoded: bytes) -> np.ndarray:
        """The pixels that the model sees of one image: uint8 (S, S, 3), RGB; errors as for `predict`."""
        return decode(encoded, self.version.preprocessing, self._limits, self._watch)

    def infer(self, pixels: np.ndarray) -> np.ndarray:
        """The logits for the pixels that `decode` gave, uint8 (S, S, 3): float32 (K,)."""
        self._watch.begin(Stage.INFERENCE)
        logits: np.ndarray = self._engine.predict_logits(pixels[np.newaxis])[0]
        return logits

    def label(self, logits: Sequence[np.ndarray], k: int) -> list[list[Prediction]]:
        """As `predict`, for each of some images, in their order: from the logits that `infer` gave, float32 (K,).

        Raises:
            ModelError: a logit is not a finite number.
        """
        if not logits:
            return []
        self._watch.begin(Stage.INFERENCE)
        return top_k(confidences(np.stack(logits), self.version.temperature), self.version.labels, k)
