"""`tagmill train`, `evaluate`, `models import`: labelled photographs in, a version that runs and can be trusted out."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from models.registry import Registry
from tests.acceptance.conftest import Tagmill
from tests.samples import encode, make_dataset, make_jpeg, make_tinted

QUICK = ("--architecture", "small_cnn", "--epochs", "4")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "dataset", 10)


@pytest.fixture
def workshop(tagmill: Tagmill) -> Tagmill:
    """`tagmill` with an empty registry of its own."""
    tagmill.environment["TAGMILL_MODELS_URL"] = str(tagmill.home / "models")
    return tagmill


def versions(tagmill: Tagmill) -> list[str]:
    return [
        f"{version['model']}:{version['version']}" for version in json.loads(tagmill("models", "list", "--json").stdout)
    ]


def test_trained_version_answers_the_next_run(workshop: Tagmill, dataset: Path, tmp_path: Path) -> None:
    trained = json.loads(
        workshop("train", dataset, "--name", "tints", *QUICK, "--target-precision", "1", "--json").stdout
    )
    source = make_dataset(tmp_path / "source", 4, first=5000)

    run = workshop.run(source, "--model", "tints")

    assert (run["classified"], run["failed"]) == (12, 0)
    rows = workshop.sql("SELECT image_uri, label, confidence, model, model_version, needs_review FROM current_labels")
    assert len(rows) == 12 and {(row["model"], row["model_version"]) for row in rows} == {("tints", "1")}
    thresholds = json.loads(workshop("models", "show", "tints", "--json").stdout)["thresholds"]
    for row in rows:
        threshold = thresholds[row["label"]]
        assert bool(int(row["needs_review"])) == (threshold is None or float(row["confidence"]) < threshold)
    workshop("verify")
    assert trained["images"] == {"train": 24, "validation": 6, "test": 0}

    figures = json.loads(workshop("evaluate", "tints", source, "--output", tmp_path / "out", "--json").stdout)

    right = sum(row["label"] == row["image_uri"].split("/")[-2] for row in rows)
    assert figures["top_1"] == pytest.approx(right / 12)
    assert figures["needs_review"] == sum(int(row["needs_review"]) for row in rows)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == figures


def test_second_version_is_compared_activated_and_switched_back(
    workshop: Tagmill, dataset: Path, tmp_path: Path
) -> None:
    source = make_dataset(tmp_path / "source", 4, first=5000)
    query = "SELECT image_uri, label, confidence, model_version FROM current_labels ORDER BY image_uri"
    workshop("train", dataset, "--name", "tints", *QUICK)
    workshop.run(source, "--model", "tints")
    first = workshop.sql(query)
    workshop("train", dataset, "--name", "tints", *QUICK, "--seed", "1")

    run = workshop.run(source, "--model", "tints")

    assert run["classified"] == 12 and run["active"] is False
    assert workshop.sql(query) == first  # The new version's answers are stored, and not shown.
    difference = json.loads(workshop("models", "diff", "tints:1", "tints:2", "--source", source, "--json").stdout)
    assert difference["compared"] == 12
    workshop("models", "activate", "tints:2")
    second = workshop.sql(query)
    assert {row["model_version"] for row in second} == {"2"} and len(second) == 12
    flipped = sum(one["label"] != two["label"] for one, two in zip(first, second, strict=True))
    assert difference["flipped"] == flipped
    workshop("models", "activate", "tints:1")
    assert workshop.sql(query) == first


def test_training_that_is_killed_goes_on(workshop: Tagmill, dataset: Path) -> None:
    command = ("train", dataset, "--name", "tints", "--architecture", "small_cnn", "--epochs", "300")
    training = workshop.start(*command)
    checkpoint = workshop.home / "training" / "tints" / "epochs.npz"
    workshop.wait_for("a checkpoint", checkpoint.exists)
    training.send_signal(signal.SIGKILL)
    training.communicate()
    workshop.wait_for("the end of its process", lambda: not workshop.processes("models.train"))
    assert versions(workshop) == []

    again = workshop("train", *command[1:])

    assert "went on after" in again.stderr
    assert versions(workshop) == ["tints:1"]
    assert not checkpoint.exists()


def test_interrupted_training_says_how_to_go_on(workshop: Tagmill, dataset: Path) -> None:
    training = workshop.start("train", dataset, "--name", "tints", "--architecture", "small_cnn", "--epochs", "300")
    workshop.wait_for("a checkpoint", (workshop.home / "training" / "tints" / "epochs.npz").exists)
    training.send_signal(signal.SIGINT)
    _, told = training.communicate(timeout=30)

    assert training.returncode == 130
    assert "the same command goes on" in told and "Traceback" not in told
    assert workshop.processes("models.train") == []


def test_imported_model_is_trained_elsewhere_and_runs_here(workshop: Tagmill, dataset: Path, tmp_path: Path) -> None:
    """The file is the one that a version of ours holds: it ends at logits, and its pixels are 0 to 1."""
    workshop("train", dataset, "--name", "tints", *QUICK)
    workshop("models", "export", "tints", tmp_path / "exported")
    (tmp_path / "labels.txt").write_text("blue\ngreen\nred\n")
    image = tmp_path / "red.png"
    image.write_bytes(encode(make_tinted("red", 77), "PNG"))

    workshop(
        *("models", "import", tmp_path / "exported" / "model.keras", "--labels", tmp_path / "labels.txt"),
        *("--name", "mine", "--mean", "0", "--scale", "255", "--engine", "float32"),
    )

    told = {
        name: json.loads(workshop("predict", image, "--model", name, "--json").stdout)[0]["predictions"][0]["label"]
        for name in ("tints", "mine")
    }
    assert told["tints"] == told["mine"]


def test_bad_datasets_exit_with_2_and_publish_nothing(workshop: Tagmill, dataset: Path) -> None:
    def refused(words: str) -> None:
        assert words in workshop("train", dataset, "--name", "tints", *QUICK, code=2).stderr

    (dataset / "oak").mkdir()
    refused("the label 'oak' in")
    (dataset / "oak" / "a.jpg").write_bytes(make_jpeg()[:100])
    refused("the label 'oak' has 0 images to learn from that can be read")
    (dataset / "oak").rename(dataset / "Red")
    refused("differ only in case")
    assert "model name" in workshop("train", dataset, "--name", "No name", code=2).stderr
    assert (
        "is the name of the pretrained model"
        in workshop("train", dataset, "--name", "efficientnet_lite0", code=2).stderr
    )
    assert versions(workshop) == []


def test_damaged_version_does_not_hide_the_others(workshop: Tagmill, dataset: Path) -> None:
    workshop("train", dataset, "--name", "tints", *QUICK)
    shutil.copytree(workshop.home / "models" / "tints", workshop.home / "models" / "other")

    done = workshop("models", "list", "--json", code=2)

    assert [version["model"] for version in json.loads(done.stdout)] == ["tints"]
    assert "other/1/version.json describes tints:1" in done.stderr


def test_unreadable_image_is_named_and_training_goes_on(workshop: Tagmill, dataset: Path) -> None:
    (dataset / "red" / "broken.jpg").write_bytes(make_jpeg()[:100])

    done = workshop("train", dataset, "--name", "tints", *QUICK)

    assert "left out: " in done.stderr and "red/broken.jpg: truncated" in done.stderr
    assert "left out             1" in done.stdout


def test_altered_version_is_refused_by_everything_that_would_use_it(
    workshop: Tagmill, dataset: Path, tmp_path: Path
) -> None:
    workshop("train", dataset, "--name", "tints", *QUICK)
    version = Registry(workshop.home / "models").find("tints")
    inside = workshop("models", "export", "tints", workshop.home / "models" / "other" / "1", code=2)
    assert "is inside the registry" in inside.stderr
    with (workshop.home / "models" / "tints" / "1" / version.engine_file).open("ab") as file:
        file.write(b"more")

    for command in (
        ("predict", dataset / "red" / "000.png", "--model", "tints"),
        ("evaluate", "tints", dataset),
        ("models", "export", "tints", tmp_path / "out"),
        ("run", dataset, "--model", "tints"),
    ):
        assert "differs from what was published" in workshop(*command, code=2).stderr
