import json
import os
import shutil
from pathlib import Path

import pytest

from base.errors import ModelError, SetupError
from models.export import export_version
from models.preprocessing import Preprocessing
from models.registry import ModelVersion, Registry, check_files


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.fixture
def version(registry: Registry) -> ModelVersion:
    return registry.publish(
        "small_cnn",
        engines={"float32.tflite": b"weights"},
        engine_file="float32.tflite",
        labels=("cat", "dog"),
        preprocessing=Preprocessing(),
        description="Made for a test.",
        files={"metrics.json": b"{}"},
    )


def stored(version: ModelVersion) -> Path:
    return Path(version.locate("version.json")).parent


@pytest.mark.parametrize("exists", [False, True])
def test_export_is_that_version_in_another_registry(version: ModelVersion, tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "other" / "small_cnn" / "1"
    if exists:
        folder.mkdir(parents=True)

    assert export_version(version, folder) == 5

    found = Registry(tmp_path / "other").find("small_cnn")
    assert (found.content_hash, found.files) == (version.content_hash, version.files)
    check_files(found)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert os.listdir(folder.parent) == ["1"]


@pytest.mark.parametrize("name", ["full", "file"])
def test_place_that_is_taken_is_refused(version: ModelVersion, tmp_path: Path, name: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")

    with pytest.raises(SetupError, match=f"{name}' is there and not an empty folder. Name a new folder."):
        export_version(version, tmp_path / name)
    assert (tmp_path / "full" / "mine").read_text() == (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "content"),
    [("float32.tflite", "other"), ("metrics.json", "{ }"), ("labels.txt", "cat\ncow\n")],
)
def test_altered_version_is_not_exported(version: ModelVersion, tmp_path: Path, file: str, content: str) -> None:
    (stored(version) / file).write_text(content)

    with pytest.raises(ModelError, match="differs from what was published"):
        export_version(version, tmp_path / "there" / "export")
    assert os.listdir(tmp_path / "there") == []


def test_altered_description_is_not_exported(version: ModelVersion, tmp_path: Path) -> None:
    path = stored(version) / "version.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 2.0}))

    with pytest.raises(ModelError, match=r"version\.json differs from what was published"):
        export_version(version, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_place_that_cannot_be_written_is_named(version: ModelVersion, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(
        SetupError, match=r"cannot write small_cnn:1 into '.*export': (File exists|Not a directory)\. Mend that, or"
    ):
        export_version(version, tmp_path / "file" / "export")


def test_link_to_a_folder_is_followed(version: ModelVersion, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "place")

    export_version(version, tmp_path / "link")

    assert (tmp_path / "link").is_symlink()
    assert len(os.listdir(tmp_path / "place")) == 5
    shutil.rmtree(tmp_path / "place")
