"""A source that is a bucket, what lies below a prefix of it, or one object.

Stores list their keys in the order of the keys' bytes, and images are compared in the order of their URIs. For keys
without a byte that is encoded although others below it are not, such as those of `é` or `[`, both are the same: these
are one stretch, compared as it streams. The others are sorted on disk meanwhile and are the second stretch.
"""

import functools
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote_to_bytes

from base.buckets import (
    CREDENTIALS,
    BucketAccess,
    Fault,
    errors,
    fault_of,
    fingerprint_of,
    is_in_key_order,
    key_to_uri,
    open_source_bucket,
    reason_of,
    split_uri,
)
from base.errors import SourceError, TransientError
from base.settings import without_secrets
from models.suffixes import SUFFIXES
from producer.globs import Globs
from producer.sorting import Row, Sorted
from producer.sources import Found, Stretch

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

T = TypeVar("T")

_URL = re.compile(r"(s3|gs|az)://([A-Za-z0-9][A-Za-z0-9._-]{1,})(?:/([^?#]*))?", re.ASCII)
_KEYS_PER_PAGE = 1000
# One after another without a single key; the waits between them add up to half a minute.
_TRIES = 9
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.2, 8.0


@dataclass(frozen=True)
class BucketPlace:
    """What a bucket's URL names."""

    scheme: str
    bucket: str
    prefix: str  #: decoded, without slashes at its ends; empty for the whole bucket

    @property
    def bucket_uri(self) -> str:
        return f"{self.scheme}://{self.bucket}"

    @property
    def uri(self) -> str:
        return key_to_uri(self.bucket_uri, self.prefix) if self.prefix else self.bucket_uri


def is_bucket_url(address: str) -> bool:
    """Whether it means a bucket, well written or not."""
    return address.partition("://")[0] in CREDENTIALS and "://" in address


def parse_bucket_url(url: str) -> BucketPlace:
    """Read `s3://BUCKET/PREFIX` and its like.

    Raises:
        SourceError: it names no bucket, or a prefix that cannot be listed.
    """
    match, prefix = _URL.fullmatch(url), ""
    try:
        prefix = unquote_to_bytes(match[3] or "").decode().strip("/") if match else ""
    except UnicodeDecodeError:
        match = None
    if match is None:
        raise SourceError(
            f"{without_secrets(url)!r} does not name a bucket. Write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "az://CONTAINER/PREFIX, with %3F for a question mark and %23 for a hash sign; who goes there is told by "
            "the variables of its cloud, such as AWS_ACCESS_KEY_ID."
        )
    if any(part in ("", ".", "..") for part in prefix.split("/")[: None if prefix else 0]) or not prefix.isprintable():
        raise SourceError(f"the prefix of {url!r} has an empty, '.' or '..' part, or control characters. Name another.")
    return BucketPlace(match[1], match[2], prefix)


class Bucket:
    """The images below a prefix, or one image.

    Args:
        url: `s3://BUCKET/PREFIX`, `gs://…` or `az://…`. As with folders, `photos` is not a prefix of `photos2`. Where
            an object has the name of the prefix itself, and none lies below it, it is the one image.
        include, exclude: as `Globs` takes them.

    Raises:
        SourceError: the URL names no bucket.
    """

    def __init__(
        self, url: str, include: Sequence[str] = (), exclude: Sequence[str] = (), *, access: BucketAccess
    ) -> None:
        self.include, self.exclude = tuple(include), tuple(exclude)
        self._globs = Globs(include, exclude)
        self._place = parse_bucket_url(url)
        self._access = access
        self.uri = self._place.uri
        self._prefix = self.uri + "/"

    @functools.cached_property
    def is_object(self) -> bool:
        """Whether it is a single object; the store is asked once, and `SourceError` and `TransientError` may follow."""
        found = self._look()
        return found is not None and found.size_bytes > 0 and next(self._entries(None), None) is None

    @property
    def uri_range(self) -> tuple[str, str]:
        """See `Source`."""
        if self.is_object:
            return self.uri, self.uri + " "  # A URI holds no space, so nothing lies between the two.
        return self._prefix, self._prefix[:-1] + chr(ord("/") + 1)

    def lists(self, uri: str) -> bool:
        """Whether this source lists an image of that URI, when it is there."""
        if self.is_object:
            return uri == self.uri
        if not uri.startswith(self._prefix):
            return False
        key = split_uri(uri)[2]
        return self._globs.take(key[len(self._place.prefix) :].lstrip("/"))

    def stretches(self, after: str | None = None) -> Iterator[Stretch]:
        """See `Source`. The first is of the keys that come in the order of their URIs; a single object has one."""
        if self.is_object:
            found = self._look()
            is_ahead = found is not None and (after is None or found.uri > after)
            yield Stretch(listing=iter([found] if found and is_ahead else []), lists=self.lists, after=after)
            return
        is_in_second = after is not None and not is_in_key_order(after)
        with closing(Sorted()) as others:
            if not is_in_second:
                yield Stretch(
                    listing=self._list_in_order(after, others),
                    lists=lambda uri: is_in_key_order(uri) and self.lists(uri),
                    after=after,
                )
            if after is not None:  # Those that an earlier listing had met before.
                others.add(map(_to_row, self._list_others(until=None if is_in_second else after)))
            yield Stretch(
                listing=map(_to_found, others.read(after if is_in_second else None)),
                lists=lambda uri: not is_in_key_order(uri) and self.lists(uri),
                after=after if is_in_second else None,
                disordered=True,
            )

    def _list_in_order(self, after: str | None, others: Sorted) -> Iterator[Found]:
        for found in self._list(after):
            if is_in_key_order(found.uri):
                yield found
            else:
                others.add([_to_row(found)])

    def _list_others(self, until: str | None) -> Iterator[Found]:
        last = None if until is None else split_uri(until)[2]
        for found in self._list(None):
            if last is not None and split_uri(found.uri)[2] > last:
                return
            if not is_in_key_order(found.uri):
                yield found

    def _list(self, after: str | None) -> Iterator[Found]:
        """The images in the order of their keys, which is that of their code points, too."""
        last = None if after is None else split_uri(after)[2]
        for entry in self._entries(last):
            key, size = entry["path"], entry["size"]
            if size == 0 and not key.lower().endswith(SUFFIXES):
                continue  # What consoles put in the place of a folder; its slash is lost on the way to us.
            if last is not None and key <= last:
                raise SourceError(
                    f"the store lists {self.uri} in no order: {key!r} after {last!r}. Only stores that list in the "
                    "order of their keys can be read; copy the images into another."
                )
            last, found = key, self._found(entry)
            if self.lists(found.uri):
                yield found

    def _look(self) -> Found | None:
        """The object that the URL names; None where we see none. What else is wrong, a listing tells."""
        import obstore

        if not self._place.prefix:
            return None
        try:
            head = ask_store(lambda: obstore.head(self._open(), self._place.prefix), f"{self.uri} cannot be looked at")
        except errors():
            return None
        return self._found(head)

    def _found(self, entry: "ObjectMeta") -> Found:
        fingerprint = fingerprint_of(entry["size"], entry["e_tag"], entry["last_modified"])
        uri = key_to_uri(self._place.bucket_uri, entry["path"])
        return Found(uri=uri, fingerprint=fingerprint, size_bytes=entry["size"])

    def _entries(self, after: str | None) -> Iterator["ObjectMeta"]:
        """All objects below the prefix, beginning after a key; a store that falters is asked again for what is left."""
        import obstore  # Here, as below: of no use to whoever has a folder.

        tries = 0
        while True:
            try:
                prefix = self._place.prefix or None
                for page in obstore.list(self._open(), prefix, offset=after, chunk_size=_KEYS_PER_PAGE):
                    for entry in page:
                        if after is None or entry["path"] > after:  # Not every store heeds the offset.
                            yield entry
                    tries = 0
                    if page:
                        after = max(after or "", page[-1]["path"])
                return
            except errors() as error:
                tries += 1
                if fault_of(error) is not Fault.FALTERS or tries == _TRIES:
                    raise refusal(
                        error, f"{self.uri} cannot be listed", self._place.bucket_uri, self._access.endpoint
                    ) from error
                _wait(tries)

    def _open(self) -> "ObjectStore":
        return open_source_bucket(self._place.scheme, self._place.bucket, self._access)


def ask_store(call: Callable[[], T], what: str) -> T:
    """What a store answers; one that falters is asked again. It raises what else the store does, too.

    Args:
        what: cannot be done, for people.

    Raises:
        TransientError: it faltered for half a minute.
    """
    tries = 0
    while True:
        try:
            return call()
        except errors() as error:
            tries += 1
            if fault_of(error) is not Fault.FALTERS:
                raise
            if tries == _TRIES:
                raise refusal(error, what, "") from error
            _wait(tries)


def refusal(error: Exception, what: str, place: str, endpoint: str | None = None) -> SourceError | TransientError:
    """What to tell of a store that refuses.

    Args:
        what: cannot be done.
        place: the URI of the bucket.
        endpoint: of a compatible server, where one was asked.
    """
    reason = reason_of(error)
    scheme, _, bucket = place.partition("://")
    credentials = CREDENTIALS.get(scheme, "")
    match fault_of(error):
        case Fault.MISSING:
            at, mend = (f" at {endpoint}", " or --endpoint") if endpoint else ("", "")
            return SourceError(f"{what}: there is no bucket {bucket!r}{at}. Correct its name{mend}.")
        case Fault.NOBODY:
            return SourceError(f"{what}: there are no credentials. Set {credentials}.")
        case Fault.DISBELIEVED | Fault.DENIED:
            return SourceError(f"{what}: {reason}. Correct {credentials}, or what these are allowed to do there.")
        case Fault.FALTERS:
            return TransientError(
                f"{what}: {reason}. See whether the server can be reached; the same command then goes on."
            )
        case _ if "invalid path" in str(error):
            return SourceError(
                f"{what}: {reason}. Keys with empty, '.' or '..' parts or control characters cannot be read: "
                "rename that one, or name a prefix without it."
            )
        case _:
            return SourceError(f"{what}: {reason}. Correct the address, --endpoint or {credentials}.")


def _wait(tries: int) -> None:
    longest = min(_FIRST_WAIT_SECONDS * 2 ** (tries - 1), _LONGEST_WAIT_SECONDS)
    time.sleep(random.uniform(longest / 2, longest))


def _to_row(found: Found) -> Row:
    return Row(found.uri, "", found.fingerprint, found.size_bytes)


def _to_found(row: Row) -> Found:
    return Found(uri=row.uri, fingerprint=row.text, size_bytes=row.number)
