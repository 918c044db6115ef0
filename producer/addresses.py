"""From the address of an image, as people write it into a manifest, to its URI."""

import functools
import os
import re
from urllib.parse import unquote_to_bytes

from base.errors import SourceError
from base.settings import without_secrets
from base.urls import is_url, normalise_url
from producer.bucket import is_bucket_url, parse_bucket_url
from producer.folder import path_to_uri

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: In characters, which are ASCII: an index of PostgreSQL takes some 2,700 bytes.
LONGEST_URI = 2000


def address_to_uri(address: str, folder: str) -> str:
    """The URI of an image.

    Args:
        address: a path, a `file://` URI, that of an object in a bucket, or an `http(s)://` URL.
        folder: the URI, ending with a slash, that paths are relative to.

    Raises:
        SourceError: it is none of these.
    """
    uri = _to_uri(address, folder)
    if len(uri) > LONGEST_URI:
        raise SourceError(
            f"{without_secrets(address)[:100]!r}… is longer than {LONGEST_URI} characters. "
            "Give the image a shorter name."
        )
    return uri


def _to_uri(address: str, folder: str) -> str:
    if is_url(address):
        return normalise_url(address)
    if is_bucket_url(address):
        place = parse_bucket_url(address)
        if not place.prefix:
            raise SourceError(f"{address!r} names a bucket and no image in it. Write {place.uri}/KEY.")
        return place.uri
    if address.startswith("file:///"):
        return _file_uri(os.fsdecode(unquote_to_bytes(address.removeprefix("file://"))))
    if _SCHEME.match(address):
        raise SourceError(
            f"{without_secrets(address)!r} cannot be read. Write a path, or an address that begins with file:///, "
            "s3://, gs://, az://, http:// or https://."
        )
    if address.startswith("/") or folder.startswith("file://"):
        return _file_uri(os.path.join(os.fsdecode(unquote_to_bytes(folder.removeprefix("file://"))), address))
    # A manifest in a bucket: what it names lies there, too, and a path is no URI yet.
    return parse_bucket_url(folder + address.replace("%", "%25").replace("?", "%3F").replace("#", "%23")).uri


def _file_uri(path: str) -> str:
    # The image itself may be a link, which is not followed: whoever lists a folder passes it over, too.
    if "\0" in path:
        raise SourceError(f"{path!r} is no path: it has a NUL in it. Correct it.")
    folder, name = os.path.split(os.path.normpath(path))
    return path_to_uri(os.fsencode(os.path.join(_real_folder(folder), name)))


@functools.lru_cache(1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
