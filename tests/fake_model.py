"""A model version for the fake engine."""

from datetime import UTC, datetime
from pathlib import Path

from models.folder_storage import FolderStorage
from models.preprocessing import Preprocessing
from models.registry import ModelVersion


def fake_version(preprocessing: Preprocessing = Preprocessing()) -> ModelVersion:  # noqa: B008 (it is frozen)
    """Labels red, green and blue, which have thresholds; no file of it exists."""
    return ModelVersion(
        name="fake",
        version=1,
        content_hash="a" * 64,
        storage=FolderStorage(Path("/nowhere")),
        labels=("red", "green", "blue"),
        preprocessing=preprocessing,
        temperature=1.0,
        thresholds={"red": 0.9, "green": None, "blue": 0.5},
        target_precision=0.95,
        engine_file="fake.tflite",
        files={},
        metrics={},
        built_with={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
