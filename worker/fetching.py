"""URI → bytes, or a failure with its reason.

Of a bucket's object, what may pass is tried again here, as many of them travel in one batch, and giving that back for
one would be slow where a store is busy. What does not pass is nobody's fault and gives the batch back.
"""

import errno
import hashlib
import os
import random
import stat
import threading
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from base.buckets import (
    CREDENTIALS,
    BucketAccess,
    Fault,
    errors,
    fault_of,
    fingerprint_of,
    listed_as,
    open_source_bucket,
    reason_of,
    split_uri,
)
from base.errors import FailureReason, ImageError, SourceError, TransientError
from base.fingerprints import UNKNOWN
from base.urls import BodyTooLarge, UrlRefused, UrlUnanswered, ask, is_url

_TRIES = 3

# Of a bucket. Where a fifth of the answers is 503, one batch of 128 in three thousand is given back.
_BUCKET_TRIES = 8
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 2.0
_PIECE_BYTES = 2**20
# Of a host, whose images fail after that.
_URL_TRIES, _URL_SECONDS = 4, 60.0
_URL_REASONS = {
    401: FailureReason.FORBIDDEN,
    403: FailureReason.FORBIDDEN,
    451: FailureReason.FORBIDDEN,
    404: FailureReason.NOT_FOUND,
    410: FailureReason.NOT_FOUND,
}

_NEVER = threading.Event()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """The bytes of an image, all of one moment."""

    encoded: bytes
    fingerprint: str  #: as the source's listing makes it, of these very bytes
    content_hash: bytes  #: their sha256


def is_remote(uri: str) -> bool:
    """Whether fetching it is mostly waiting."""
    return not uri.startswith("file://")


def fetch(
    uri: str,
    *,
    max_bytes: int,
    access: BucketAccess = BucketAccess(),  # noqa: B008 (it is frozen)
    listed: str | None = None,
    stopped: threading.Event = _NEVER,
) -> Fetched:
    """Read an image that was listed.

    Args:
        uri: a `file://` URI, that of an object in a bucket, or a URL.
        access: how buckets and URLs are reached.
        listed: the fingerprint that the listing gave; of what changed since, the present bytes are taken.
        stopped: once it is set, a bucket or a server is not asked again.

    Raises:
        ImageError: it is not there, not to be read, too large, or kept changing.
        TransientError: a bucket falters, and did so for some seconds.
        SourceError: a bucket does not know who we are.
    """
    if is_url(uri):
        return _fetch_url(uri, max_bytes, access, stopped)
    if is_remote(uri):
        return _fetch_object(uri, max_bytes, access, listed, stopped)
    return _fetch_file(uri, max_bytes)


def _fetch_file(uri: str, max_bytes: int) -> Fetched:
    """Without ever following a link, waiting on a FIFO, or taking half of a change."""
    path = unquote_to_bytes(uri.removeprefix("file://"))
    try:
        for _ in range(_TRIES):
            fetched = _read(path, max_bytes)
            if fetched is not None:
                return fetched
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown")
        raise ImageError(_reason(error), f"{error.strerror} ({code})") from error
    raise ImageError(FailureReason.STORAGE_ERROR, f"changed while it was read, {_TRIES} times in a row")


def _fetch_url(url: str, max_bytes: int, access: BucketAccess, stopped: threading.Event) -> Fetched:
    """Unlike a bucket, a host that does not answer is its images' fault: no other host has to wait for it."""
    try:
        answer = ask(
            "GET",
            url,
            private=access.private_urls,
            max_bytes=max_bytes,
            tries=_URL_TRIES,
            seconds=_URL_SECONDS,
            stopped=stopped,
        )
    except UrlRefused as error:
        raise ImageError(FailureReason.FORBIDDEN, str(error)) from error
    except UrlUnanswered as error:
        raise ImageError(FailureReason.STORAGE_ERROR, str(error)) from error
    except BodyTooLarge as error:
        raise _too_large(f"{error} bytes or more", max_bytes) from error
    if answer.status != 200:
        reason = _URL_REASONS.get(answer.status, FailureReason.STORAGE_ERROR)
        raise ImageError(reason, f"the server answered {answer.status}")
    content_hash = hashlib.sha256(answer.body)
    # Without a word on what the bytes are they speak for themselves; no listing can say the same.
    fingerprint = answer.fingerprint if answer.fingerprint != UNKNOWN else f"sha256:{content_hash.hexdigest()}"
    return Fetched(encoded=answer.body, fingerprint=fingerprint, content_hash=content_hash.digest())


def _fetch_object(
    uri: str, max_bytes: int, access: BucketAccess, listed: str | None, stopped: threading.Event
) -> Fetched:
    e_tag = listed_as(listed)[1] if listed else None
    waits = 0
    while True:
        try:
            fetched = _get(uri, max_bytes, access, e_tag)
            if fetched is not None:
                return fetched
            reason = "its body was shorter than its length"
        except errors() as error:
            fault, reason = fault_of(error), reason_of(error)
            if fault is Fault.CHANGED and e_tag is not None:
                e_tag = None  # Others have written to it since: what is there now is taken.
                continue
            if fault is not Fault.FALTERS:
                raise _refusal(uri, fault, reason) from error
        waits += 1
        longest = min(_FIRST_WAIT_SECONDS * 2 ** (waits - 1), _LONGEST_WAIT_SECONDS)
        if waits == _BUCKET_TRIES or stopped.wait(random.uniform(longest / 2, longest)):
            raise TransientError(f"{uri} could not be fetched: {reason}, {waits} times in a row")


def _get(uri: str, max_bytes: int, access: BucketAccess, e_tag: str | None) -> Fetched | None:
    """None where the body ended too early."""
    import obstore

    scheme, bucket, key = split_uri(uri)
    store = open_source_bucket(scheme, bucket, access)
    response = obstore.get(store, key, options={"if_match": f'"{e_tag}"'} if e_tag else {})
    meta = response.meta
    size = meta["size"]
    if size > max_bytes:
        raise _too_large(f"{size} bytes", max_bytes)
    encoded = b"".join(response.stream(min_chunk_size=_PIECE_BYTES))
    if len(encoded) != size:
        return None
    fingerprint = fingerprint_of(size, meta["e_tag"], meta["last_modified"])
    return Fetched(encoded=encoded, fingerprint=fingerprint, content_hash=hashlib.sha256(encoded).digest())


def _refusal(uri: str, fault: Fault, reason: str) -> ImageError | SourceError:
    if fault in (Fault.NOBODY, Fault.DISBELIEVED):
        told = "there are no credentials" if fault is Fault.NOBODY else reason
        return SourceError(f"{uri} cannot be fetched: {told}. Correct {CREDENTIALS[split_uri(uri)[0]]} of the worker.")
    reasons = {Fault.MISSING: FailureReason.NOT_FOUND, Fault.DENIED: FailureReason.FORBIDDEN}
    return ImageError(reasons.get(fault, FailureReason.STORAGE_ERROR), reason)


def _read(path: bytes, max_bytes: int) -> Fetched | None:
    """None when the file changed meanwhile."""
    # Not blocking: a FIFO that took the file's place would wait for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise ImageError(FailureReason.NOT_FOUND, "is not a file")
        if before.st_size > max_bytes:
            raise _too_large(f"{before.st_size} bytes", max_bytes)
        with open(descriptor, "rb", closefd=False) as file:  # Reads on where the system gives less than was asked for.
            encoded = file.read(before.st_size + 1)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    fingerprint = f"{after.st_size}-{after.st_mtime_ns}"
    if len(encoded) != after.st_size or fingerprint != f"{before.st_size}-{before.st_mtime_ns}":
        return None
    return Fetched(encoded=encoded, fingerprint=fingerprint, content_hash=hashlib.sha256(encoded).digest())


def _too_large(size: str, max_bytes: int) -> ImageError:
    return ImageError(FailureReason.TOO_LARGE, f"{size}; TAGMILL_MAX_IMAGE_BYTES allows {max_bytes}")


def _reason(error: OSError) -> FailureReason:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
        return FailureReason.NOT_FOUND
    if error.errno in (errno.EACCES, errno.EPERM):
        return FailureReason.FORBIDDEN
    return FailureReason.STORAGE_ERROR
