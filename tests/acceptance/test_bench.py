"""The measurements of `bench/` run; what they measure is no test's business."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.versions import MEAN_COLOUR
from models.registry import Registry
from tests.documents import ROOT
from tests.samples import make_jpeg


def test_listing_is_measured(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"

    done = subprocess.run(
        [sys.executable, "-m", "bench.listing", "1500", "--output", figures], check=True, capture_output=True, text=True
    )

    new, unchanged, *_ = rows = json.loads(figures.read_text())
    assert [row["source"] for row in rows[::2]] == ["bucket", "one folder", "1,000 folders"]
    assert (new["rows_written"], unchanged["rows_written"], unchanged["bodies"]) == (
        1500 + 1500 + 20,
        0,
        0,
    )  # Images, items, batches.
    assert done.stdout.count("| 1,500 |") == len(rows)


def test_cost_of_the_ledger_is_measured(tmp_path: Path, pretrained_registry: Registry) -> None:
    models = shutil.copytree(pretrained_registry.workspace, tmp_path / "models")
    little = ("--batches", "3", "--images-per-batch", "2", "--processes", "1", "--repeats", "1", "--engines", "int8")
    places = ("--databases", "postgresql", "--models", models, "--output", tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "bench.ledger", *little, *places],
        check=True,
        capture_output=True,
        text=True,
    )

    told = json.loads((tmp_path / "ledger.json").read_text())
    (row,) = told["figures"]
    spent = row["milliseconds_per_batch"]
    assert row["ratio"] == row["ledger_images_per_second"] / row["plain_images_per_second"] > 0
    assert {way: [step for step, took in spent[way].items() if took] for way in spent} == {
        "ledger": ["claim", "classify", "find_twins", "finish", "waiting"],
        "plain": ["classify", "finish", "waiting"],
    }
    assert done.stdout.startswith(told["machine"]["date"])
    assert "| engine | database | with ledger, img/s | without | costs |" in done.stdout
    assert done.stderr == "bench: 1/1 int8 postgresql\n"


def test_speed_is_measured_and_written(tmp_path: Path, pretrained_registry: Registry) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    (photographs / "one.jpg").write_bytes(make_jpeg())
    names = ["decoding", "engine int8", "tagmill int8 SQLite"]

    figures, written = _measure(
        tmp_path, pretrained_registry, "speed", photographs, "--number", 6, "--repeats", 1, "--only", *names
    )

    assert list(figures["medians"]) == names
    assert "| int8 SQLite |" in written and "6 photographs" in written
    assert figures["medians"]["tagmill int8 SQLite"]["before_first_batch_seconds"] > 0


def test_growth_is_measured_and_written(tmp_path: Path, pretrained_registry: Registry) -> None:
    figures, written = _measure(tmp_path, pretrained_registry, "growth", 6, "--repeats", 1, "--photographs", 0)

    assert (figures["unchanged"]["classified"], figures["unchanged"]["files_opened"]) == (0, 0)
    assert "| 6 |" in written and "6 images again" in written


def _measure(tmp_path: Path, registry: Registry, name: str, *arguments: object) -> tuple[dict[str, Any], str]:
    """The figures that a measurement keeps, and the document that it writes its tables into."""
    document, models = tmp_path / "performance.md", tmp_path / "models"
    shutil.copy(ROOT / "docs" / "performance.md", document)
    assert registry.root is not None
    shutil.copytree(registry.root, models)
    version = registry.find("efficientnet_lite0")
    Registry(models).publish(  # Any model will do, and making the real one would load TensorFlow.
        MEAN_COLOUR,
        engines={version.engine_file: version.read(version.engine_file)},
        engine_file=version.engine_file,
        labels=version.labels,
        preprocessing=version.preprocessing,
        description="Stands in.",
    )
    places = ["--models", models, "--output", tmp_path, "--document", document]
    subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *map(str, arguments), *places], check=True, capture_output=True
    )
    return json.loads((tmp_path / f"{name}.json").read_text()), document.read_text()
