"""The measurements of `bench/` run; what they measure is no test's business."""

import json
import subprocess
import sys
from pathlib import Path


def test_listing_is_measured(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"

    done = subprocess.run(
        [sys.executable, "-m", "bench.listing", "1500", "--output", figures], check=True, capture_output=True, text=True
    )

    new, unchanged, *_ = rows = json.loads(figures.read_text())
    assert [row["source"] for row in rows[::2]] == ["bucket", "one folder", "1,000 folders"]
    assert (new["rows_written"], unchanged["rows_written"], unchanged["bodies"]) == (1500 + 1500 + 24, 0, 0)
    assert done.stdout.count("| 1,500 |") == len(rows)
