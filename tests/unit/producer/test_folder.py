"""What a folder lists, in which order, and what it passes over."""

import os
from pathlib import Path

import pytest

from base.errors import SourceError
from producer.folder import Folder, path_to_uri
from producer.sources import Found, PassedOver


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(folder: Path, include: tuple[str, ...] = (), after: str | None = None) -> list[str]:
    """The names below the folder, as they are listed."""
    source = Folder(str(folder), include)
    prefix = source.uri + "/"
    return [found.uri.removeprefix(prefix) for found in source.walk(after) if isinstance(found, Found)]


def passed_over(folder: Path) -> list[str]:
    return [
        os.path.basename(found.uri.rstrip("/")) for found in Folder(str(folder)).walk() if isinstance(found, PassedOver)
    ]


def test_usual_suffixes_are_listed_in_any_case(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.JPEG", "c.Png", "d.gif", "e.webp", "f.tif", "g.tiff", "h.bmp", "notes.txt", "jpg")

    assert listed(tmp_path) == ["a.jpg", "b.JPEG", "c.Png", "d.gif", "e.webp", "f.tif", "g.tiff", "h.bmp"]


def test_folders_are_walked_in_the_order_of_the_uris(tmp_path: Path) -> None:
    touch(tmp_path, "a/z.jpg", "a.jpg", "a-b.jpg", "a/b/c.jpg", "b.jpg", "a b.jpg", "ä.jpg", "Z.jpg")

    names = listed(tmp_path)

    assert names == sorted(names)
    assert names == ["%C3%A4.jpg", "Z.jpg", "a%20b.jpg", "a-b.jpg", "a.jpg", "a/b/c.jpg", "a/z.jpg", "b.jpg"]


def test_walk_goes_on_after_any_image(tmp_path: Path) -> None:
    touch(tmp_path, "a/z.jpg", "a.jpg", "a-b.jpg", "a/b/c.jpg", "a/b/d/e.jpg", "b.jpg", "a b.jpg", "ä.jpg", "z/1.jpg")
    names = listed(tmp_path)
    prefix = path_to_uri(os.fsencode(tmp_path)) + "/"

    for position, name in enumerate(names):
        assert listed(tmp_path, after=prefix + name) == names[position + 1 :]


def test_name_that_is_not_utf_8_has_a_uri(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 #1?.jpg")).write_bytes(b"x")

    assert listed(tmp_path) == ["caf%E9%20%231%3F.jpg"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.jpg", ["a.jpg", "sub/b.jpg", "sub/deep/c.jpg"]),  # Without a slash: at any depth.
        ("/*.jpg", ["a.jpg"]),  # Anchored.
        ("sub/*.jpg", ["sub/b.jpg"]),  # A star stays within a folder.
        ("sub/**/*.jpg", ["sub/b.jpg", "sub/deep/c.jpg"]),
        ("**/c.*", ["sub/deep/c.jpg"]),
        ("[ab].jpg", ["a.jpg", "sub/b.jpg"]),
        ("[!a].jpg", ["sub/b.jpg", "sub/deep/c.jpg"]),
        ("?.txt", ["d.txt"]),  # Instead of the usual suffixes, not beside them.
        ("*.gif", []),
    ],
)
def test_include_takes_what_its_glob_matches(tmp_path: Path, glob: str, expected: list[str]) -> None:
    touch(tmp_path, "a.jpg", "d.txt", "sub/b.jpg", "sub/deep/c.jpg")

    assert listed(tmp_path, (glob,)) == expected


def test_links_and_fifos_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "real/b.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")

    assert listed(tmp_path) == ["a.jpg", "real/b.jpg"]
    assert passed_over(tmp_path) == ["link.jpg", "loop", "pipe.jpg"]


def test_link_to_a_folder_may_be_the_source(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")

    assert Folder(str(tmp_path / "link")).uri == path_to_uri(os.fsencode(tmp_path / "real"))


def test_file_given_as_source_is_listed_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "photo", "other.jpg")
    source = Folder(str(tmp_path / "photo"))

    assert [found.uri for found in source.walk()] == [source.uri]
    assert list(source.walk(after=source.uri)) == []


def test_fingerprint_changes_with_size_and_time(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(b"x")
    source = Folder(str(tmp_path))
    seen = {found.fingerprint for found in source.walk() if isinstance(found, Found)}
    os.utime(image, (1, 1))
    seen |= {found.fingerprint for found in source.walk() if isinstance(found, Found)}
    image.write_bytes(b"xy")
    os.utime(image, (1, 1))
    seen |= {found.fingerprint for found in source.walk() if isinstance(found, Found)}

    assert len(seen) == 3


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no folder .*nowhere.*: No such file or directory"):
        Folder(str(tmp_path / "nowhere"))


def test_device_is_refused() -> None:
    with pytest.raises(SourceError, match="neither a folder nor a file"):
        Folder("/dev/null")


@pytest.mark.parametrize("glob", ["", "/", "[z-a].jpg"])
def test_glob_that_matches_nothing_is_refused(tmp_path: Path, glob: str) -> None:
    with pytest.raises(SourceError, match="--include"):
        Folder(str(tmp_path), (glob,))


def test_range_of_uris_holds_all_that_is_below_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/z/ü.jpg", "photos-old/b.jpg", "photos.jpg")
    source = Folder(str(tmp_path / "photos"))
    first, end = source.uri_range
    prefix = path_to_uri(os.fsencode(tmp_path))

    assert all(first <= found.uri < end for found in source.walk())
    assert not any(first <= f"{prefix}/{name}" < end for name in ("photos-old/b.jpg", "photos.jpg", "photos"))
