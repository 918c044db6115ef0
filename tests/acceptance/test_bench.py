"""The measurements of `bench/` run; what they measure is no test's business."""

import json
import os
import subprocess
import sys
from pathlib import Path

from models.registry import Registry


def test_listing_is_measured(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"

    done = subprocess.run(
        [sys.executable, "-m", "bench.listing", "1500", "--output", figures], check=True, capture_output=True, text=True
    )

    new, unchanged, *_ = rows = json.loads(figures.read_text())
    assert [row["source"] for row in rows[::2]] == ["bucket", "one folder", "1,000 folders"]
    assert (new["rows_written"], unchanged["rows_written"], unchanged["bodies"]) == (1500 + 1500 + 24, 0, 0)
    assert done.stdout.count("| 1,500 |") == len(rows)


def test_cost_of_the_ledger_is_measured(tmp_path: Path, pretrained_registry: Registry) -> None:
    figures = tmp_path / "figures.json"
    little = ("--batches", "3", "--images-per-batch", "2", "--processes", "1", "--repeats", "1", "--engines", "int8")

    done = subprocess.run(
        [sys.executable, "-m", "bench.ledger", *little, "--databases", "postgresql", "--output", figures],
        env=os.environ | {"TAGMILL_MODELS_URL": str(pretrained_registry.root)},
        check=True,
        capture_output=True,
        text=True,
    )

    (row,) = json.loads(figures.read_text())
    spent = row["milliseconds_per_batch"]
    assert row["ratio"] == row["ledger_images_per_second"] / row["plain_images_per_second"] > 0
    assert {way: [step for step, took in spent[way].items() if took] for way in spent} == {
        "ledger": ["claim", "classify", "find_twins", "finish", "waiting"],
        "plain": ["classify", "finish", "waiting"],
    }
    assert done.stdout.startswith("| engine | database | with ledger, img/s | without | costs |")
