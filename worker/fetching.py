"""URI → bytes, or a failure with its reason."""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from base.errors import FailureReason, ImageError

_TRIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """The bytes of an image, all of one moment."""

    encoded: bytes
    fingerprint: str  #: as `producer/folder.py` makes it, of these very bytes
    content_hash: bytes  #: their sha256


def fetch(uri: str, *, max_bytes: int) -> Fetched:
    """Read an image that was listed, without ever following a link, waiting on a FIFO, or taking half of a change.

    Args:
        uri: a `file://` URI.

    Raises:
        ImageError: it is not there, not to be read, too large, or kept changing.
    """
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


def _read(path: bytes, max_bytes: int) -> Fetched | None:
    """None when the file changed meanwhile."""
    # Not blocking: a FIFO that took the file's place would wait for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise ImageError(FailureReason.NOT_FOUND, "is not a file")
        if before.st_size > max_bytes:
            raise ImageError(
                FailureReason.TOO_LARGE, f"{before.st_size} bytes; TAGMILL_MAX_IMAGE_BYTES allows {max_bytes}"
            )
        with open(descriptor, "rb", closefd=False) as file:  # Reads on where the system gives less than was asked for.
            encoded = file.read(before.st_size + 1)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    fingerprint = f"{after.st_size}-{after.st_mtime_ns}"
    if len(encoded) != after.st_size or fingerprint != f"{before.st_size}-{before.st_mtime_ns}":
        return None
    return Fetched(encoded=encoded, fingerprint=fingerprint, content_hash=hashlib.sha256(encoded).digest())


def _reason(error: OSError) -> FailureReason:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
        return FailureReason.NOT_FOUND
    if error.errno in (errno.EACCES, errno.EPERM):
        return FailureReason.FORBIDDEN
    return FailureReason.STORAGE_ERROR
