"""The second step of transfer learning is kept only where it helps."""

import pytest

from tests.processes import run_python
from tests.samples import make_dataset

# The upper blocks learn at each of the rates; the notes, and whether two of their layers still have their pretrained
# weights. One process does all of it: each would import TensorFlow and read the dataset.
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

pretrained = build_pretrained_keras()

def fit(dataset, folder, rate):
    folder.mkdir()
    keras.utils.set_random_seed(0)
    transfer._UPPER_RATE = float(rate)
    fitted = transfer.fit_efficientnet_lite0(
        dataset, seed=0, epochs=1, folder=folder, on_progress=lambda step, done: None
    )
    same = {
        name: all(
            np.array_equal(ours, theirs)
            for ours, theirs in zip(
                fitted.model.get_layer(name).get_weights(), pretrained.get_layer(name).get_weights(), strict=True
            )
        )
        for name in ("block10_project_conv", "head_conv")
    }
    print("RESULT", rate, same["block10_project_conv"], same["head_conv"], fitted.notes[-1].partition(" ")[0])

with tempfile.TemporaryDirectory() as folder:
    dataset = read_dataset(
        Path(sys.argv[1]), transfer.TRANSFER_PREPROCESSING, DecodingLimits(max_bytes=10**7, max_pixels=10**7),
        pixels_file=Path(folder) / "pixels.npy", on_progress=lambda step, done: None,
    )
    for rate in sys.argv[2:]:
        fit(dataset, Path(folder) / rate, rate)
"""

RATES = {
    "5e-5": "True False Adapting",  # Their own.
    "3": "True True Only",  # It ruins them; the pretrained blocks and the head are back.
}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What came of each rate."""
    return run_python(FIT, make_dataset(tmp_path_factory.mktemp("transfer") / "data", 5), *RATES)


@pytest.mark.parametrize("rate", RATES)
def test_upper_blocks_are_kept_only_where_they_help(printed: str, rate: str) -> None:
    assert f"RESULT {rate} {RATES[rate]}" in printed
