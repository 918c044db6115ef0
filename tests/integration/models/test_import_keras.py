import json
import zipfile

import numpy as np
import pytest

from base.errors import ModelError, SetupError
from models.classifier import Classifier
from models.engines.choice import EngineChoice
from models.import_keras import Import, import_keras, read_labels_file
from models.registry import Registry, load_engine
from tests.integration.models.conftest import LIMITS
from tests.processes import run_python
from tests.samples import encode, make_dataset, make_tinted

# Small models of every kind that people bring, and what the first of them says of an image.
MAKE = """
import os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from pathlib import Path
import keras
import numpy as np
from keras import layers

folder = Path(sys.argv[1])
keras.utils.set_random_seed(0)

def base():
    return [layers.Conv2D(8, 3, activation="relu"), layers.GlobalAveragePooling2D()]

def save(name, *splits, shape=(32, 32, 3)):
    model = keras.Sequential([keras.Input(shape), *splits])
    model.save(folder / f"{name}.keras")
    return model

class Mine(layers.Layer):
    def call(self, inputs):
        return inputs

softmax = lambda: layers.Dense(3, activation="softmax")
plain = save("softmax", *base(), softmax())
pixels = np.load(folder / "pixels.npy")
np.save(folder / "expected.npy", plain.predict_on_batch((pixels / 255.0).astype("float32")))
save("layer", *base(), layers.Dense(3), layers.Softmax())
save("activation", *base(), layers.Dense(3), layers.Activation("softmax"))
save("logits", *base(), layers.Dense(3))
save("sigmoid", *base(), layers.Dense(3, activation="sigmoid"))
save("any_size", *base(), softmax(), shape=(None, None, 3))
save("grey", *base(), softmax(), shape=(32, 32, 1))
save("oblong", *base(), softmax(), shape=(32, 48, 3))
save("map", layers.Conv2D(3, 3))
save("lambda", layers.Lambda(lambda inputs: inputs * 2), *base(), softmax())
save("unknown", Mine(), *base(), softmax())
save("then_linear", *base(), softmax(), layers.Activation("linear", dtype="float32"))
save("then_dropout", *base(), softmax(), layers.Dropout(0.5))
save("relu", *base(), layers.Dense(3), layers.ReLU())
inputs = keras.Input((32, 32, 3))
features = keras.Sequential(base())(inputs)
logits = layers.Dense(3)(features)
keras.Model(inputs, keras.ops.softmax(logits)).save(folder / "operation.keras")
halves = [layers.Dense(3, activation="softmax")(features) for _ in range(2)]
keras.Model(inputs, layers.Average()(halves)).save(folder / "average.keras")
fixed = keras.Input(batch_shape=(1, 32, 32, 3))
keras.Model(fixed, layers.Dense(3)(layers.GlobalAveragePooling2D()(fixed))).save(folder / "fixed.keras")
keras.Sequential([layers.Flatten(), softmax()]).save(folder / "unbuilt.keras")
diverged = save("diverged", *base(), layers.Dense(3))
diverged.set_weights([weights * np.nan for weights in diverged.get_weights()])
diverged.save(folder / "diverged.keras")
whole = keras.Input((32, 32, 3), dtype="uint8")
scaled = layers.Rescaling(1 / 255)(whole)
keras.Model(whole, layers.Dense(3)(layers.GlobalAveragePooling2D()(scaled))).save(folder / "integers.keras")
save("nested", layers.Rescaling(2.0), keras.Sequential([keras.Input((32, 32, 3)), *base(), softmax()]))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    np.save(folder / "pixels.npy", np.stack([np.asarray(make_tinted(c, 1, 32)) for c in ("red", "green", "blue")]))
    run_python(MAKE, folder)
    (folder / "text.keras").write_text("no model")
    (folder / "softmax.h5").write_bytes(b"")
    return folder


@pytest.fixture
def bring(files, tmp_path):
    registry = Registry(tmp_path / "models")

    def bring(file, **changes):
        fields = {
            "name": "mine",
            "file": str(files / file),
            "labels": ("red", "green", "blue"),
            "size": None,
            "mean": 0.0,
            "scale": 255.0,
            "crop": 1.0,
            "dataset": None,
            "target_precision": None,
            "engine": None,
            "limits": LIMITS,
        }
        given = Import(**fields | changes)
        return import_keras(registry, given, home=tmp_path / "home", on_progress=lambda step, done: None)

    bring.registry = registry
    return bring


def test_imported_model_says_what_it_said_in_keras(bring, files):
    version = bring("softmax.keras")

    classifier = Classifier(version, limits=LIMITS)
    for pixels, expected in zip(np.load(files / "pixels.npy"), np.load(files / "expected.npy"), strict=True):
        found = {one.label: one.confidence for one in classifier.predict(encode_pixels(pixels), 3)}
        assert [found[label] for label in ("red", "green", "blue")] == pytest.approx(expected.tolist(), abs=1e-5)
    assert version.engine_file == "float32.tflite" and version.temperature == 1.0


def encode_pixels(pixels):
    from PIL import Image

    return encode(Image.fromarray(pixels), "PNG")


@pytest.mark.parametrize("name", ["layer", "activation", "logits", "then_linear", "then_dropout", "operation", "fixed"])
def test_every_usual_end_is_taken(bring, name):
    version = bring(f"{name}.keras")

    assert version.preprocessing.size == 32
    logits = load_engine(version).predict_logits(np.zeros((1, 32, 32, 3), np.uint8))
    assert abs(logits.sum() - 1) > 1e-3  # Confidences would be softened once more.


def test_labelled_images_calibrate_it_and_let_it_run_in_int8(bring, tmp_path):
    dataset = make_dataset(tmp_path / "data", 8)

    version = bring("any_size.keras", size=48, dataset=str(dataset), target_precision=0.5)

    assert version.preprocessing.size == 48
    assert version.metrics["validation_images"] == 6 and version.metrics["gate_images"] == 36
    assert version.target_precision == 0.5


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("lambda.keras", {}, "holds a Lambda layer, which is code"),
        ("unknown.keras", {}, "holds a 'Mine', which is no class of Keras's own"),
        ("nested.keras", {}, "ends with a model inside it"),
        ("sigmoid.keras", {}, "ends with 'sigmoid'. One label for each image needs a softmax there"),
        ("grey.keras", {}, "it must be square RGB pixels"),
        ("oblong.keras", {}, "it must be square RGB pixels"),
        ("map.keras", {}, "for 3 labels"),
        ("any_size.keras", {}, "takes pixels of any size. Say which one it was trained with: --size 224."),
        ("softmax.keras", {"size": 64}, "takes pixels of 32 x 32, not --size 64"),
        ("softmax.keras", {"labels": ("a", "b")}, "for 2 labels"),
        ("average.keras", {}, "ends with a softmax that cannot be taken off"),
        ("integers.keras", {}, "takes pixels of type uint8. Give it a float32 input"),
        ("relu.keras", {}, "ends with 're_lu"),
        ("unbuilt.keras", {}, "whose inputs are not known"),
        ("diverged.keras", {}, "not all finite numbers"),
        ("softmax.keras", {"labels": ("a", "b", "a")}, "--labels holds 'a' twice"),
        ("softmax.keras", {"labels": ("a", "b", "A")}, "the labels 'A' and 'a' in --labels differ only in case"),
        ("softmax.keras", {"labels": ("a",)}, "--labels holds only 'a'"),
        ("softmax.keras", {"scale": 0.0}, "size and scale above 0"),
        ("softmax.keras", {"mean": float("nan")}, "mean must be a number"),
        ("softmax.keras", {"name": "My model"}, "model name 'My model' is not valid"),
        ("softmax.keras", {"name": "-"}, "model name '-' is not valid; begin with a letter or digit"),
        ("softmax.keras", {"name": "efficientnet_lite0"}, "is the name of the pretrained model"),
        ("softmax.keras", {"engine": EngineChoice.INT8}, "there are no images to compare it with float32 on"),
        ("softmax.keras", {"dataset": "/nowhere"}, "the dataset '/nowhere' does not exist"),
        ("text.keras", {}, "is not what Keras saves"),
        ("softmax.h5", {}, "is no .keras file"),
        ("nowhere.keras", {}, "cannot be read: No such file or directory"),
    ],
)
def test_model_that_cannot_be_taken_is_refused_and_nothing_published(bring, tmp_path, file, changes, message):
    with pytest.raises(SetupError, match=message):
        bring(file, **changes)

    assert bring.registry.versions() == []
    assert not (tmp_path / "home").exists() or list((tmp_path / "home").iterdir()) == []


def test_code_that_hides_its_name_is_kept_out_by_keras(bring, files, tmp_path):
    """The reader's own look at the file is not what safety rests on."""
    hidden = tmp_path / "hidden.keras"
    with zipfile.ZipFile(files / "softmax.keras") as plain, zipfile.ZipFile(hidden, "w") as changed:
        for name in plain.namelist():
            content = plain.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["layers"][1]["module"] = "keras.src.utils.file_utils"
                config["config"]["layers"][1]["class_name"] = "get_file"
                content = json.dumps(config).encode()
            changed.writestr(name, content)

    with pytest.raises(ModelError, match="cannot be loaded safely"):
        bring(hidden)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"red\n\nblue\n", "line 2 of .* is empty"),
        (b"", "line 1 of .* is empty"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(tmp_path, content, message):
    (tmp_path / "labels.txt").write_bytes(content)

    with pytest.raises(ModelError, match=message):
        read_labels_file(tmp_path / "labels.txt")


def test_labels_are_the_lines_of_the_file(tmp_path):
    (tmp_path / "labels.txt").write_bytes("\ufeffrouge\r\nvert, foncé\r\n".encode())

    assert read_labels_file(tmp_path / "labels.txt") == ("rouge", "vert, foncé")
