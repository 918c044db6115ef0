import json
import os
import shutil
from io import BytesIO

import pytest
from PIL.PngImagePlugin import PngImageFile

from base.errors import DatasetError, ModelError
from models.classifier import Classifier
from models.evaluate import evaluate
from models.registry import Registry
from tests.integration.models.conftest import LIMITS
from tests.samples import encode, make_dataset, make_tinted


def run(workshop, version, dataset, output):
    return evaluate(
        workshop.registry,
        version,
        str(dataset),
        limits=LIMITS,
        output=output,
        on_progress=lambda step, done: None,
    )


@pytest.fixture(scope="module")
def evaluated(small, tmp_path_factory):
    """small_cnn on images that it did not see, one of which stands under a wrong label and one of which is broken."""
    folder = tmp_path_factory.mktemp("evaluated")
    workshop, made = small
    make_dataset(folder / "data", 4, first=9000)
    (folder / "data" / "red" / "wrong.png").write_bytes(encode(make_tinted("blue", 9999), "PNG"))
    (folder / "data" / "red" / "broken.jpg").write_bytes(b"no image")
    return made.version, run(workshop, made.version, folder / "data", folder / "out"), folder / "out"


def test_figures_are_in_the_file_and_in_the_answer(evaluated):
    version, figures, output = evaluated

    assert json.loads((output / "metrics.json").read_text()) == figures
    assert (figures["model"], figures["version"], figures["content_hash"]) == ("tints", 1, version.content_hash)
    assert figures["images"] == 13 and sum(label["support"] for label in figures["labels"]) == 13
    for name in ("top_1", "top_5", "loss", "expected_calibration_error"):
        assert isinstance(figures[name], float)
    assert sum(pair["images"] for pair in figures["confusion"]) == 13
    right = sum(pair["images"] for pair in figures["confusion"] if pair["label"] == pair["predicted"])
    assert figures["top_1"] == pytest.approx(right / 13)
    (left_out,) = figures["left_out"]
    assert left_out["image"].endswith("red/broken.jpg") and left_out["reason"].startswith("not_an_image")


def test_every_engine_file_is_measured(evaluated):
    version, figures, _ = evaluated

    assert set(figures["engines"]) == {file for file in version.files if file.endswith((".tflite", ".keras"))}
    assert figures["engines"][version.engine_file]["top_1"] == figures["top_1"]
    assert figures["engines"]["float32.tflite"]["loss"] == pytest.approx(
        figures["engines"]["model.keras"]["loss"], abs=1e-4
    )
    assert all(each["agreement"] >= 0.9 for each in figures["engines"].values())


def test_review_is_what_the_thresholds_ask_for(evaluated):
    version, figures, output = evaluated

    assert figures["target_precision"] == version.target_precision == 0.9
    classifier = Classifier(version, limits=LIMITS)
    sure = []
    for path in sorted((output.parent / "data").rglob("*.png")):
        best = classifier.predict(path.read_bytes(), 1)[0]
        if not version.needs_review(best.label, best.confidence):
            sure.append(best.label == path.parent.name)
    assert figures["needs_review"] == 13 - len(sure)
    assert figures["precision_without_review"] == (sum(sure) / len(sure) if sure else None)


def test_images_that_were_learnt_from_are_counted(small, evaluated, tmp_path):
    workshop, made = small

    again = run(workshop, made.version, workshop.training.dataset, tmp_path / "out")

    assert evaluated[1]["learnt"] == 0
    assert again["learnt"] == again["images"] == 30


def test_pictures_are_there_and_nothing_else(evaluated):
    _, _, output = evaluated

    pictures = ["confusion", "mistakes", "precision_coverage", "reliability", "training_curves"]
    assert sorted(os.listdir(output)) == sorted(["metrics.json", *(f"{name}.png" for name in pictures)])
    for name in pictures:
        PngImageFile(BytesIO((output / f"{name}.png").read_bytes())).load()


def test_output_inside_the_registry_is_refused(small, tmp_path):
    workshop, made = small

    with pytest.raises(ModelError, match="is inside the registry"):
        run(workshop, made.version, workshop.training.dataset, workshop.registry.workspace / "tints" / "1")
    assert workshop.registry.find("tints:1") == made.version
    made.version.read("confusion.png")


def test_altered_version_is_refused_before_anything_is_written(small, tmp_path):
    workshop, _ = small
    registry = Registry(tmp_path / "models")
    shutil.copytree(workshop.registry.workspace / "tints" / "1", tmp_path / "models" / "tints" / "1")
    with (tmp_path / "models" / "tints" / "1" / "int8.tflite").open("ab") as file:
        file.write(b"more")
    version = registry.find("tints:1")
    make_dataset(tmp_path / "data", 1)

    with pytest.raises(ModelError, match=r"int8\.tflite differs from what was published"):
        evaluate(
            registry,
            version,
            str(tmp_path / "data"),
            limits=LIMITS,
            output=tmp_path / "out",
            on_progress=lambda step, done: None,
        )
    assert not (tmp_path / "out").exists()


def test_dataset_of_other_labels_is_refused_and_leaves_nothing(small, tmp_path):
    workshop, made = small
    (make_dataset(tmp_path / "data", 1) / "red").rename(tmp_path / "data" / "crimson")

    with pytest.raises(DatasetError, match="the model has no label 'crimson'"):
        run(workshop, made.version, tmp_path / "data", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
