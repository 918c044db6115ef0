"""A source that is a manifest: a file that names images, wherever each of them lies.

It is in no order, and images are compared in the order of their URIs. So all of it is read and sorted on disk before
anything is written, and what is wrong with a line is told before that.
"""

import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import groupby
from operator import attrgetter
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from base.buckets import BucketAccess, Fault, errors, fault_of, open_source_bucket, split_uri
from base.errors import SourceError, TransientError
from base.settings import without_secrets
from producer.addresses import LONGEST_URI, address_to_uri
from producer.bucket import ask_store, is_bucket_url, parse_bucket_url, refusal
from producer.folder import path_to_uri
from producer.manifest_file import MANIFEST_SUFFIXES, read_manifest
from producer.present import find_present
from producer.sorting import Row, Sorted
from producer.sources import Found, Stretch

_Group = tuple[str, tuple[tuple[str, str], ...]]  # The URI of an image, and its rows.

# Asked for at once, and ahead of what is compared.
_ASKERS, _AHEAD = 16, 64
_PIECE_BYTES = 2**20


def is_manifest(address: str) -> bool:
    """Whether an address means a manifest: by its suffix, where no folder has that name."""
    if not address.lower().endswith(MANIFEST_SUFFIXES):
        return False
    return is_bucket_url(address) or ("://" not in address and not os.path.isdir(address)) or _is_local_uri(address)


def _is_local_uri(address: str) -> bool:
    return address.startswith("file://") and not os.path.isdir(unquote_to_bytes(address.removeprefix("file://")))


class Manifest:
    """The images that a file names.

    Args:
        address: a path, a `file://` URI, or that of an object in a bucket.
        access: how buckets and URLs are reached.
        column: the column of the images; None for the one whose name says it.
        key: the column of the products' keys, if any.

    Raises:
        SourceError: there is no such file, or it can have no columns.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __init__(
        self, address: str, *, access: BucketAccess, column: str | None = None, key: str | None = None
    ) -> None:
        self._access = access
        self._column, self._key = column, key
        self._path: bytes | None = None
        self._name = address.rpartition("/")[2]
        if address.lower().endswith(".txt") and (column is not None or key is not None):
            option = "--column" if column is not None else "--key"
            raise SourceError(
                f"{without_secrets(address)!r} has one address a line and no columns. Leave out {option}, or write CSV."
            )
        if is_bucket_url(address):
            self.uri = parse_bucket_url(address).uri
        else:
            raw = unquote_to_bytes(address.removeprefix("file://")) if "://" in address else os.fsencode(address)
            self._path = os.path.realpath(raw)
            if not os.path.isfile(self._path):
                raise SourceError(
                    f"there is no manifest {without_secrets(address)!r}. Name a file, a folder of images, or one image."
                )
            self.uri = path_to_uri(self._path)
        if len(self.uri) > LONGEST_URI:
            raise SourceError(
                f"{address[:100]!r}… is {len(self.uri)} characters long as a URI. Move it up some folders."
            )

    @property
    def uri_range(self) -> tuple[str, str]:
        """See `Source`: any image can be of a manifest."""
        return "", "\x7f"

    def stretches(self, after: str | None = None) -> Iterator[Stretch]:
        """See `Source`; a manifest has one. Which known images are gone is for `manifest_changes` to tell."""
        yield Stretch(listing=self._list(after), lists=lambda uri: False, after=after)

    def check(self) -> None:
        """Read all of it.

        Raises:
            SourceError: it cannot be read, or names no image.
        """
        if next(self._sorted.read(), None) is None:
            raise SourceError(f"{self.uri} names no images. Write some into it, or name another source.")

    def _list(self, after: str | None) -> Iterator[Found]:
        """The images in the order of their URIs, each once, as each is where it lies."""
        groups = (
            (uri, tuple((row.key, row.text) for row in rows))
            for uri, rows in groupby(self._sorted.read(after), attrgetter("uri"))
        )
        stopped = threading.Event()
        try:
            yield from _look_ahead(groups, partial(_look, access=self._access, stopped=stopped))
        finally:
            stopped.set()

    @cached_property
    def _sorted(self) -> Sorted:
        """All rows by URI and key; kept, as a command asks for them several times."""
        rows = Sorted()
        weakref.finalize(self, rows.close)
        folder = self.uri[: self.uri.rindex("/") + 1]
        with self._opened() as file:
            rows.add(
                Row(self._to_uri(row.address, row.line, folder), row.key, row.columns, row.line)
                for row in read_manifest(file, self._name, column=self._column, key=self._key)
            )
        return rows

    def _to_uri(self, address: str, line: int, folder: str) -> str:
        try:
            return address_to_uri(address, folder)
        except SourceError as error:
            raise SourceError(f"{self._name}, line {line}: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if self._path is None:
            with tempfile.TemporaryFile() as file:
                self._download(file)
                yield file
            return
        try:
            with open(self._path, "rb") as file:
                yield file
        except OSError as error:
            raise SourceError(f"{self.uri} cannot be read: {error.strerror}. Check its permissions.") from error

    def _download(self, file: BinaryIO) -> None:
        import obstore  # Most manifests are files.

        scheme, bucket, key = split_uri(self.uri)

        def get() -> bool:
            file.seek(0)
            file.truncate()
            response = obstore.get(open_source_bucket(scheme, bucket, self._access), key)
            file.writelines(response.stream(min_chunk_size=_PIECE_BYTES))
            return file.tell() == response.meta["size"]

        what = f"{self.uri} cannot be read"
        try:
            if not ask_store(get, what):
                raise TransientError(f"{what}: its body was shorter than its length. Try again.")
        except errors() as error:
            if fault_of(error) is Fault.MISSING:
                raise SourceError(f"there is no manifest {self.uri}. Correct the address.") from error
            raise refusal(error, what, f"{scheme}://{bucket}") from error
        file.seek(0)


def _look(group: _Group, access: BucketAccess, stopped: threading.Event) -> Found:
    uri, rows = group
    fingerprint, size_bytes = find_present(uri, access, stopped)
    return Found(uri=uri, fingerprint=fingerprint, size_bytes=size_bytes, rows=rows)


def _look_ahead(groups: Iterable[_Group], look: Callable[[_Group], Found]) -> Iterator[Found]:
    """What is there now, in the order of the groups. Where it is a server that tells, several are asked at once."""
    running: deque[Future[Found]] = deque()
    pool = ThreadPoolExecutor(_ASKERS, thread_name_prefix="look")
    try:
        for group in groups:
            is_local = group[0].startswith("file://")
            if not is_local:
                running.append(pool.submit(look, group))
            while running and (is_local or len(running) >= _AHEAD):
                yield running.popleft().result()
            if is_local:
                yield look(group)
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
