"""What tagmill makes for itself is for its own user."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.folders import make_private_folder
from base.settings import Settings
from demo import start_afresh
from results.schema import open_database


@pytest.fixture(autouse=True)
def _everybody_may_do_everything() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_folder_and_those_above_that_were_missing_are_private(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)

    make_private_folder(tmp_path / "shared" / "a" / "b")

    assert [mode(tmp_path / path) for path in ("shared", "shared/a", "shared/a/b")] == [0o755, 0o700, 0o700]


def test_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o775)
    (tmp_path / "link").symlink_to(tmp_path / "home")

    make_private_folder(tmp_path / "link")

    assert mode(tmp_path / "home") == 0o775


def test_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").touch()

    with pytest.raises(OSError, match="File exists"):
        make_private_folder(tmp_path / "home")


def test_home_of_a_new_database_is_private(tmp_path: Path) -> None:
    open_database(Settings(home=tmp_path / "home"), create=True).close()

    assert mode(tmp_path / "home") == 0o700


def test_home_of_the_demo_is_private_with_the_one_above(tmp_path: Path) -> None:
    start_afresh(tmp_path / "tagmill-data" / "demo")

    assert [mode(tmp_path / path) for path in ("tagmill-data", "tagmill-data/demo")] == [0o700, 0o700]
