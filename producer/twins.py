"""Which new images of a listing are old ones under another name, told before any of them is fetched.

What a fingerprint says of the bytes differs. That of an object of S3 that was uploaded in one piece is their hash. That
of a local file is size and time, which `mv` and `cp -p` keep: only files whose fingerprint is known are read. Of
others nothing tells before a run has fetched them.
"""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from base.buckets import is_content_hash
from producer.changes import Change, Kind

_FINGERPRINTS_PER_QUESTION = 500

#: Of some fingerprints those of images that have an answer, with the content hashes of these.
FindAnswered = Callable[[Collection[str]], dict[str, set[bytes]]]


@dataclass(frozen=True, kw_only=True)
class Twins:
    """New images that need no inference."""

    renamed: int = 0  #: as many images with their bytes are gone
    copied: int = 0


class NewImages:
    """The new and the gone images of a listing, in a file that nobody else sees, as long as it is not closed."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute("CREATE TABLE new (fingerprint TEXT, uri TEXT)")
        self._connection.execute("CREATE TABLE gone (fingerprint TEXT)")
        self._connection.execute("BEGIN")

    def add(self, change: Change) -> None:
        """Take note of it, where it is new or gone."""
        if change.kind is Kind.NEW:
            self._connection.execute("INSERT INTO new VALUES (?, ?)", (change.fingerprint, change.uri))
        elif change.kind is Kind.GONE and change.known is not None and change.known.answered:
            self._connection.execute("INSERT INTO gone VALUES (?)", (change.known.fingerprint,))

    def find_twins(self, find_answered: FindAnswered) -> Twins:
        """Count those whose bytes have an answer under another name, or are those of another new one before them."""
        self._connection.execute("CREATE INDEX new_fingerprint ON new (fingerprint, uri)")
        self._connection.execute("CREATE INDEX gone_fingerprint ON gone (fingerprint)")
        renamed = copied = 0
        for page in self._pages():
            answered = find_answered([fingerprint for fingerprint, *_ in page])
            for fingerprint, uri, images, gone in page:
                hashes = answered.get(fingerprint, set())
                if is_content_hash(uri, fingerprint):
                    twins = images if hashes else images - 1  # The first of them is to be classified.
                else:
                    twins = sum(_hash_file(uri) in hashes for uri in self._uris(fingerprint)) if hashes else 0
                renamed += min(twins, gone)
                copied += max(twins - gone, 0)
        return Twins(renamed=renamed, copied=copied)

    def _pages(self) -> Iterator[list[tuple[str, str, int, int]]]:
        """Of each fingerprint of the new ones: one URI, how many are new, and how many gone."""
        rows = self._connection.execute(
            "SELECT fingerprint, min(uri), count(*), (SELECT count(*) FROM gone WHERE fingerprint = new.fingerprint) "
            "FROM new GROUP BY fingerprint"
        )
        while page := rows.fetchmany(_FINGERPRINTS_PER_QUESTION):
            yield page

    def _uris(self, fingerprint: str) -> Iterator[str]:
        for (uri,) in self._connection.execute("SELECT uri FROM new WHERE fingerprint = ?", (fingerprint,)):
            yield uri

    def close(self) -> None:
        self._connection.close()


def _hash_file(uri: str) -> bytes | None:
    """The sha256 of a local file's bytes; None where it cannot be read, or is none."""
    if not uri.startswith("file://"):
        return None
    path = unquote_to_bytes(uri.removeprefix("file://"))
    try:
        # Neither through a link nor waiting on a FIFO that took the file's place.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
