from tests.processes import run_python

# A network of one weight on numbers, so that each epoch's validation loss is what the test wants it to be.
PRELUDE = """
import os, sys, tempfile
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from pathlib import Path
import keras
import numpy as np
from models.fitting import compile_model, train_epochs

inputs = np.array([[1.0], [-1.0]], np.float32)
targets = np.eye(2, dtype=np.float32)
pixels = keras.Input((1,))
model = keras.Model(pixels, keras.layers.Dense(2, kernel_initializer="zeros")(pixels))
compile_model(model, 0.1, from_logits=True)
kept = []

def training(epoch):
    yield inputs, targets, np.ones(2, np.float32)

def run(wrong_after, epochs, patience):
    # After so many epochs the validation targets are turned round, so that what is learnt makes it worse.
    def validation():
        kept.append(model.get_weights()[0].copy())
        yield inputs, targets if len(kept) <= wrong_after else targets[::-1]

    with tempfile.TemporaryDirectory() as folder:
        return train_epochs(
            model, training, validation, epochs=epochs, patience=patience,
            checkpoint=Path(folder) / "epochs.npz", on_epoch=lambda number, epoch: None,
        )
"""


def test_training_stops_when_so_many_epochs_were_no_better():
    run_python(PRELUDE + "assert len(run(wrong_after=3, epochs=50, patience=4)) == 7")


def test_weights_of_the_best_epoch_are_kept():
    code = """
run(wrong_after=3, epochs=6, patience=6)
assert np.array_equal(model.get_weights()[0], kept[2])
assert not np.array_equal(kept[2], kept[5])
"""
    run_python(PRELUDE + code)


def test_all_epochs_are_run_where_each_is_better():
    run_python(PRELUDE + "assert len(run(wrong_after=50, epochs=12, patience=3)) == 12")
