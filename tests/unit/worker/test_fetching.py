"""URI → bytes, or a reason: whatever took the place of the image since it was listed."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from base import urls
from base.buckets import BucketAccess
from base.errors import FailureReason, ImageError
from producer.folder import Folder
from producer.sources import Found
from tests.web import Page, Web, web_server
from worker.fetching import Fetched, fetch

MAX_BYTES = 1000


def uri_of(path: Path) -> str:
    return path.as_uri()


def reason_for(path: Path) -> tuple[FailureReason, str]:
    with pytest.raises(ImageError) as raised:
        fetch(uri_of(path), max_bytes=MAX_BYTES)
    return raised.value.reason, str(raised.value)


def test_bytes_come_with_hash_and_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"pixels")

    fetched = fetch(uri_of(tmp_path / "cat.jpg"), max_bytes=MAX_BYTES)

    assert (fetched.encoded, fetched.content_hash) == (b"pixels", hashlib.sha256(b"pixels").digest())


@pytest.mark.parametrize(
    "name",
    [
        b"cat.jpg",
        b"a b%20c#?&;=+.jpg",  # Characters that mean something in a URI.
        "Kätzchen \N{CAT FACE}.jpg".encode(),
        b"not utf-8 \xff\xfe.jpg",
        b"line\nfeed.jpg",
    ],
)
def test_fetch_finds_what_the_folder_lists(tmp_path: Path, name: bytes) -> None:
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
        file.write(b"pixels")

    (found,) = [found for found in Folder(str(tmp_path), []).walk() if isinstance(found, Found)]

    assert fetch(found.uri, max_bytes=MAX_BYTES).fingerprint == found.fingerprint


def test_empty_file_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()

    assert fetch(uri_of(tmp_path / "empty.jpg"), max_bytes=MAX_BYTES).encoded == b""


def test_file_of_the_largest_size_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(bytes(MAX_BYTES))

    assert len(fetch(uri_of(tmp_path / "cat.jpg"), max_bytes=MAX_BYTES).encoded) == MAX_BYTES


def test_larger_file_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(bytes(MAX_BYTES + 1))

    assert reason_for(tmp_path / "cat.jpg") == (
        FailureReason.TOO_LARGE,
        "1001 bytes; TAGMILL_MAX_IMAGE_BYTES allows 1000",
    )


def test_file_that_went_away_is_not_found(tmp_path: Path) -> None:
    assert reason_for(tmp_path / "cat.jpg") == (FailureReason.NOT_FOUND, "No such file or directory (ENOENT)")


def test_folder_that_became_a_file_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "folder").touch()

    assert reason_for(tmp_path / "folder" / "cat.jpg")[0] is FailureReason.NOT_FOUND


def test_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "cat.jpg").symlink_to(tmp_path / "secret")

    assert reason_for(tmp_path / "cat.jpg")[0] is FailureReason.NOT_FOUND


def test_folder_in_the_place_of_a_file_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").mkdir()

    assert reason_for(tmp_path / "cat.jpg") == (FailureReason.NOT_FOUND, "is not a file")


def test_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cat.jpg")

    assert reason_for(tmp_path / "cat.jpg") == (FailureReason.NOT_FOUND, "is not a file")


def test_socket_in_the_place_of_a_file_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # A socket's path may not be long.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("cat.jpg")

        assert reason_for(tmp_path / "cat.jpg")[0] is FailureReason.NOT_FOUND


def test_name_that_is_too_long_is_a_storage_error(tmp_path: Path) -> None:
    assert reason_for(tmp_path / ("x" * 300)) == (FailureReason.STORAGE_ERROR, "File name too long (ENAMETOOLONG)")


@pytest.mark.parametrize("error_number", [13, 1])
def test_file_that_may_not_be_read_is_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_number: int
) -> None:
    """The superuser may read everything, so the refusal is made up."""

    def refuse(*_: object) -> int:
        raise PermissionError(error_number, os.strerror(error_number))

    monkeypatch.setattr(os, "open", refuse)

    assert reason_for(tmp_path / "cat.jpg")[0] is FailureReason.FORBIDDEN


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Path]:
    """A file that somebody writes without a pause."""
    path, stop = tmp_path / "cat.jpg", threading.Event()
    path.write_bytes(b"")

    def write() -> None:
        size = 0
        with path.open("r+b", buffering=0) as file:
            while not stop.is_set():
                size = (size + 1) % MAX_BYTES
                file.truncate(size)

    writer = threading.Thread(target=write)
    writer.start()
    yield path
    stop.set()
    writer.join()


def test_bytes_are_never_of_two_moments(growing: Path) -> None:
    outcomes = [_outcome(growing) for _ in range(300)]

    for outcome in outcomes:
        if isinstance(outcome, Fetched):
            assert outcome.fingerprint.partition("-")[0] == str(len(outcome.encoded))
        else:
            assert outcome == "changed while it was read, 3 times in a row"


def test_file_changed_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"old")
    stat, calls = os.fstat, []

    def change_after_first_look(descriptor: int) -> os.stat_result:
        found = stat(descriptor)
        calls.append(found)
        if len(calls) == 1:
            path.write_bytes(b"newer")
        return found

    monkeypatch.setattr(os, "fstat", change_after_first_look)

    assert fetch(uri_of(path), max_bytes=MAX_BYTES).encoded == b"newer"


def test_file_that_keeps_changing_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"")
    stat = os.fstat

    def grow_after_each_look(descriptor: int) -> os.stat_result:
        found = stat(descriptor)
        with path.open("ab") as file:
            file.write(b"x")
        return found

    monkeypatch.setattr(os, "fstat", grow_after_each_look)

    assert reason_for(path) == (FailureReason.STORAGE_ERROR, "changed while it was read, 3 times in a row")


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as server:
        yield server


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Page(status=404), FailureReason.NOT_FOUND),
        (Page(status=410), FailureReason.NOT_FOUND),
        (Page(status=401), FailureReason.FORBIDDEN),
        (Page(status=403), FailureReason.FORBIDDEN),
        (Page(status=418), FailureReason.STORAGE_ERROR),
        (Page(status=500), FailureReason.STORAGE_ERROR),
        (Page(bytes(MAX_BYTES + 1)), FailureReason.TOO_LARGE),
        (Page(status=302, headers={"Location": "/a.jpg"}), FailureReason.FORBIDDEN),
        (Page(b"pixels", cut=99), FailureReason.STORAGE_ERROR),
    ],
)
def test_url_that_cannot_be_fetched_has_its_reason(
    web: Web, monkeypatch: pytest.MonkeyPatch, page: Page, reason: FailureReason
) -> None:
    monkeypatch.setattr(urls, "_FIRST_WAIT_SECONDS", 0.01)
    web.pages["/a.jpg"] = page

    with pytest.raises(ImageError) as raised:
        fetch(web.url + "/a.jpg", max_bytes=MAX_BYTES, access=BucketAccess(private_urls=True))

    assert raised.value.reason is reason


def test_url_of_which_nothing_is_told_is_known_by_its_bytes(web: Web) -> None:
    web.pages = {"/a.jpg": Page(b"pixels"), "/b.jpg": Page(b"others")}

    found = [fetch(web.url + path, max_bytes=9, access=BucketAccess(private_urls=True)) for path in web.pages]

    assert [one.encoded for one in found] == [b"pixels", b"others"]
    assert found[0].fingerprint != found[1].fingerprint


def test_no_file_stays_open(tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(bytes(MAX_BYTES + 1))
    (tmp_path / "cat.jpg").write_bytes(b"pixels")
    (tmp_path / "folder.jpg").mkdir()
    before = len(os.listdir("/proc/self/fd"))

    for name in ("large.jpg", "cat.jpg", "folder.jpg", "gone.jpg"):
        _outcome(tmp_path / name)

    assert len(os.listdir("/proc/self/fd")) == before


def _outcome(path: Path) -> Fetched | str:
    try:
        return fetch(uri_of(path), max_bytes=MAX_BYTES)
    except ImageError as error:
        return str(error)
