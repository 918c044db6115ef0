"""A minute of `make chaos` on each database; what it does and looks at is in tests/chaos."""

from pathlib import Path

import pytest

from tests.chaos.chaos import DATABASES, storm


@pytest.mark.parametrize("database", DATABASES)
def test_every_image_has_one_end_whatever_dies(database: str, tmp_path: Path) -> None:
    report = storm(tmp_path / "home", database, seed=0, most=None, seconds=60)

    assert report.wrong == []
    assert report.classified > 0 and len(report.done) > 10
