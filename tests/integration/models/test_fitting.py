"""Epochs are run, and one of them is kept."""

import json
from typing import Any

import pytest

from tests.processes import run_python

# A network of one weight on numbers, so that each epoch's validation loss is what the test wants it to be. One process
# does all of it: each would import TensorFlow.
FIT = """
import json, os, sys, tempfile
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from pathlib import Path
import keras
import numpy as np
from models.fitting import compile_model, train_epochs

inputs = np.array([[1.0], [-1.0]], np.float32)
targets = np.eye(2, dtype=np.float32)

def training(epoch):
    yield inputs, targets, np.ones(2, np.float32)

def run(wrong_after, epochs, patience):
    pixels = keras.Input((1,))
    model = keras.Model(pixels, keras.layers.Dense(2, kernel_initializer="zeros")(pixels))
    compile_model(model, 0.1, from_logits=True)
    seen = []

    # After so many epochs the validation targets are turned round, so that what is learnt makes it worse.
    def validation():
        seen.append(model.get_weights()[0].tolist())
        yield inputs, targets if len(seen) <= wrong_after else targets[::-1]

    with tempfile.TemporaryDirectory() as folder:
        epochs = train_epochs(
            model, training, validation, epochs=epochs, patience=patience,
            checkpoint=Path(folder) / "epochs.npz", on_epoch=lambda number, epoch: None,
        )
    return {"epochs": len(epochs), "seen": seen, "kept": model.get_weights()[0].tolist()}

print("RESULT", json.dumps({name: run(*values) for name, values in json.loads(sys.argv[1]).items()}))
"""

# Of each: after how many epochs it gets worse, how many there are to be, and how many may be no better.
RUNS = {"impatient": (3, 50, 4), "worse": (3, 6, 6), "better": (50, 12, 3)}


@pytest.fixture(scope="module")
def fitted() -> Any:
    """Of each: the epochs that were run, the weights after each of them, and those that were kept."""
    return json.loads(run_python(FIT, json.dumps(RUNS)).partition("RESULT ")[2].partition("\n")[0])


def test_training_stops_when_so_many_epochs_were_no_better(fitted: Any) -> None:
    assert fitted["impatient"]["epochs"] == 7


def test_weights_of_the_best_epoch_are_kept(fitted: Any) -> None:
    seen = fitted["worse"]["seen"]

    assert fitted["worse"]["kept"] == seen[2] != seen[5]


def test_all_epochs_are_run_where_each_is_better(fitted: Any) -> None:
    assert fitted["better"]["epochs"] == 12
