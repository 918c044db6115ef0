import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL.PngImagePlugin import PngImageFile

from base.errors import ModelError, SetupError
from models.engines.choice import EngineChoice
from models.folder_storage import FileLock
from tests.processes import run_python
from tests.samples import encode, make_tinted

# What each engine file of a version gives for the pixels in a folder; TensorFlow stays out of the tests' process.
LOGITS = """
import sys
from pathlib import Path
import numpy as np
from models.registry import Registry, load_engine
version, folder = Registry(Path(sys.argv[1])).find(sys.argv[2]), Path(sys.argv[3])
pixels = np.load(folder / "pixels.npy")
for file in version.files:
    if file.endswith((".tflite", ".keras")):
        np.save(folder / f"{file}.logits.npy", load_engine(version, file).predict_logits(pixels))
"""


# That of every engine, as test_pretrained.py asks it of the others.
CONTRACT = """
import sys
from pathlib import Path
import numpy as np
from models.registry import Registry, load_engine
version = Registry(Path(sys.argv[1])).find(sys.argv[2])
engine = load_engine(version, "model.keras")
size = version.preprocessing.size
pixels = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), np.uint8)
together = engine.predict_logits(pixels)
assert together.dtype == np.float32 and together.shape == (5, 3)
assert engine.predict_logits(pixels[:0]).shape == (0, 3)
assert np.array_equal(engine.predict_logits(pixels[::-1])[::-1], together)
assert all(np.array_equal(engine.predict_logits(pixels[i : i + 1])[0], together[i]) for i in range(5))
"""


# Converted for LiteRT a version has the same weights, and that takes longer than these trainings do.
UNCONVERTED = EngineChoice.TENSORFLOW


class Stop(Exception):
    """Ends a training as a kill does: its process is killed at once."""


def stop_at(words):
    def on_progress(step, done):
        if step.startswith(words):
            raise Stop

    return on_progress


@pytest.fixture(params=["small", "transferred"])
def trained(request):
    return request.getfixturevalue(request.param)


def test_version_has_its_figures_and_curves(trained):
    _, made = trained
    version, metrics = made.version, made.version.metrics

    assert (version.name, version.version, version.labels) == ("tints", 1, ("blue", "green", "red"))
    assert made.images == {"train": 24, "validation": 6, "test": 0}
    assert metrics["validation_images"] == 6 and metrics["top_5"] == 1
    assert metrics["architecture"] in ("small_cnn", "efficientnet_lite0")
    kept = json.loads(version.read("metrics.json"))
    assert {"top_1", "top_5", "loss", "expected_calibration_error"} <= set(kept)
    assert "expected_calibration_error_before_temperature" in kept
    for name in ("training_curves.png", "confusion.png", "reliability.png", "precision_coverage.png"):
        PngImageFile(BytesIO(version.read(name))).load()
    card = version.read("card.md").decode()
    assert f"| top 1 | {metrics['top_1']:.4g} |" in card and "(training_curves.png)" in card


def test_default_architecture_learns_the_colours(transferred):
    _, made = transferred

    assert made.version.metrics["top_1"] == 1.0
    assert [len(epochs) for epochs in json.loads(made.version.read("history.json")).values()] == [30, 2]


def test_summary_of_the_classic_network_is_on_its_card(small):
    card = small[1].version.read("card.md").decode()

    for words in ("conv1 (Conv2D)", "pool3 (MaxPooling2D)", "flatten (Flatten)", "confidences (Dense)"):
        assert words in card
    assert "(None, 16384)" in card


def test_temperature_does_not_raise_the_loss(trained):
    metrics = trained[1].version.metrics

    assert metrics["loss"] <= metrics["loss_before_temperature"]
    assert metrics["temperature"] == trained[1].version.temperature


def test_thresholds_are_those_of_the_target_precision(small, transferred):
    assert small[1].version.target_precision == 0.9
    assert set(small[1].version.thresholds) == {"blue", "green", "red"}
    assert transferred[1].version.target_precision is None and not transferred[1].version.thresholds


def test_int8_file_is_there_where_it_passed_its_gate(trained):
    version = trained[1].version

    assert version.metrics["gate_images"] == 36
    assert ("int8.tflite" in version.files) == version.metrics["int8_passed_gate"]
    assert version.engine_file == ("int8.tflite" if version.metrics["int8_passed_gate"] else "float32.tflite")


def test_three_engines_say_the_same(trained, tmp_path):
    workshop, made = trained
    size = made.version.preprocessing.size
    images = [make_tinted(("red", "green", "blue")[number % 3], 5000 + number, size) for number in range(60)]
    np.save(tmp_path / "pixels.npy", np.stack([np.asarray(image) for image in images]))

    run_python(LOGITS, workshop.registry.address, made.version, tmp_path)

    logits = {path.stem: np.load(path) for path in tmp_path.glob("*.logits.npy")}
    assert set(logits) == {"int8.tflite.logits", "float32.tflite.logits", "model.keras.logits"}
    assert np.abs(logits["float32.tflite.logits"] - logits["model.keras.logits"]).max() < 1e-4
    for given in logits.values():
        assert (given.argmax(axis=1) == logits["model.keras.logits"].argmax(axis=1)).mean() >= 0.97


def test_tensorflow_engine_keeps_the_contract_and_says_nothing(small):
    workshop, made = small

    assert run_python(CONTRACT, workshop.registry.address, made.version) == ""


def test_same_seed_gives_the_same_weights_and_another_gives_others(small):
    workshop, made = small

    again = workshop.train(target_precision=0.9).version
    other = workshop.train(engine=UNCONVERTED, seed=1).version

    assert again.metrics["weights_sha256"] == made.version.metrics["weights_sha256"]
    assert again.content_hash == made.version.content_hash
    assert other.metrics["weights_sha256"] != made.version.metrics["weights_sha256"]


def test_training_that_was_killed_goes_on_to_the_same_weights(workshop, small):
    with pytest.raises(Stop):
        workshop.train(stop_at("epoch 1 "))
    assert workshop.registry.versions() == []

    steps = []
    made = workshop.train(lambda step, done: steps.append(step), engine=UNCONVERTED)

    assert made.epochs_before == 1
    assert not any(step.startswith("epoch 1 ") for step in steps)
    # Thresholds and engine apart, the same training as that of the fixture, which nobody killed.
    assert made.version.metrics["weights_sha256"] == small[1].version.metrics["weights_sha256"]
    assert not (workshop.home / "training" / "tints").exists()


def test_transfer_that_was_killed_goes_on_to_the_same_weights(tmp_path, transferred):
    from tests.integration.models.conftest import make_workshop

    workshop = make_workshop(tmp_path, architecture="efficientnet_lite0")
    with pytest.raises(Stop):
        workshop.train(stop_at("upper blocks, epoch 1 "))

    made = workshop.train(engine=UNCONVERTED)

    assert made.epochs_before == 31
    assert made.version.metrics["weights_sha256"] == transferred[1].version.metrics["weights_sha256"]


def test_another_training_starts_anew(workshop):
    with pytest.raises(Stop):
        workshop.train(stop_at("epoch 1 "))
    (Path(workshop.training.dataset) / "red" / "new.png").write_bytes(encode(make_tinted("red", 77), "PNG"))

    assert workshop.train(engine=UNCONVERTED).epochs_before == 0


def test_checkpoint_that_a_power_cut_has_damaged_is_begun_anew(workshop):
    with pytest.raises(Stop):
        workshop.train(stop_at("epoch 1 "))
    checkpoint = workshop.home / "training" / "tints" / "epochs.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])

    assert workshop.train(engine=UNCONVERTED).epochs_before == 0


def test_two_trainings_of_one_name_are_refused(workshop):
    (workshop.home / "training").mkdir(parents=True)

    with FileLock(workshop.home / "training" / ".tints.lock"), pytest.raises(ModelError, match="another command"):
        workshop.train()


@pytest.mark.parametrize("engine", [EngineChoice.FLOAT32, EngineChoice.TENSORFLOW])
def test_engine_that_is_asked_for_runs_the_version(workshop, engine):
    version = workshop.train(engine=engine, epochs=1).version

    assert version.engine_file == {"float32": "float32.tflite", "tensorflow": "model.keras"}[engine]
    assert "int8.tflite" not in version.files  # Nobody asked for it.


def test_uneven_labels_and_left_out_images_are_trained_around(workshop):
    folder = Path(workshop.training.dataset)
    for index in range(3, 10):
        (folder / "blue" / f"{index:03}.png").unlink()
    (folder / "red" / "broken.jpg").write_bytes(b"no image")

    made = workshop.train(epochs=1, engine=UNCONVERTED)

    assert made.images == {"train": 18, "validation": 5, "test": 0}
    assert [(Path(path).name, reason.partition(":")[0]) for path, reason in made.left_out] == [
        ("broken.jpg", "not_an_image")
    ]
    assert made.version.metrics["images_left_out"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Furniture!"}, "model name 'Furniture!' is not valid"),
        ({"dataset": "/nowhere"}, "the dataset '/nowhere' does not exist"),
    ],
)
def test_training_that_cannot_be_publishes_nothing(workshop, changes, message):
    with pytest.raises(SetupError, match=message):
        workshop.train(**changes)

    assert workshop.registry.versions() == []
    assert not (workshop.home / "training" / "tints").exists()


def test_home_that_cannot_be_written_is_told(workshop):
    workshop.home.write_text("")

    with pytest.raises(ModelError, match=r"cannot write .*home/training/tints: .*TAGMILL_HOME"):
        workshop.train()


def test_weights_differ_from_label_to_label_where_images_do():
    from models.fitting import label_weights

    assert label_weights(np.array([0, 0, 0, 1]), 2).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert label_weights(np.array([0, 1, 2]), 3).tolist() == [1.0, 1.0, 1.0]
