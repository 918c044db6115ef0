"""The second step of transfer learning is kept only where it helps."""

from pathlib import Path

import pytest

from tests.processes import run_python
from tests.samples import make_dataset

# The upper blocks learn at a rate that ruins them, or at their own; the notes, and whether the trunk's last trained
# layer still has its pretrained weights.
FIT = """
import os, sys, tempfile
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from pathlib import Path
import keras
import numpy as np
from models import transfer
from models.dataset import read_dataset
from models.decoding import DecodingLimits
from models.pretrained import build_pretrained_keras

keras.utils.set_random_seed(0)
transfer._UPPER_RATE = float(sys.argv[2])
with tempfile.TemporaryDirectory() as folder:
    dataset = read_dataset(
        Path(sys.argv[1]), transfer.TRANSFER_PREPROCESSING, DecodingLimits(max_bytes=10**7, max_pixels=10**7),
        pixels_file=Path(folder) / "pixels.npy", on_progress=lambda step, done: None,
    )
    fitted = transfer.fit_efficientnet_lite0(
        dataset, seed=0, epochs=1, folder=Path(folder), on_progress=lambda step, done: None
    )
pretrained = build_pretrained_keras()
same = {
    name: all(
        np.array_equal(ours, theirs)
        for ours, theirs in zip(
            fitted.model.get_layer(name).get_weights(), pretrained.get_layer(name).get_weights(), strict=True
        )
    )
    for name in ("block10_project_conv", "head_conv")
}
print("RESULT", same["block10_project_conv"], same["head_conv"], fitted.notes[-1].partition(" ")[0])
"""


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("5e-5", "True False Adapting"),  # Its own.
        ("3", "True True Only"),  # The pretrained blocks and the head are back.
    ],
)
def test_upper_blocks_are_kept_only_where_they_help(tmp_path: Path, rate: str, expected: str) -> None:
    printed = run_python(FIT, make_dataset(tmp_path / "data", 5), rate)

    assert f"RESULT {expected}" in printed
