"""Where a manifest says that an image is, what is there now: its fingerprint, without its bytes."""

import threading
from urllib.parse import unquote_to_bytes

from base.buckets import BucketAccess, Fault, errors, fault_of, fingerprint_of, open_source_bucket, split_uri
from base.fingerprints import MISSING, UNKNOWN
from base.urls import UrlRefused, UrlUnanswered, ask, is_url
from producer.bucket import ask_store, is_bucket_url, refusal
from producer.folder import look
from producer.sources import Found

# Of a host, of which the worker asks again what was not answered here.
_URL_TRIES, _URL_SECONDS = 2, 15.0
_URL_MISSING = (401, 403, 404, 410, 451)


def find_present(uri: str, access: BucketAccess, stopped: threading.Event) -> tuple[str, int]:
    """The fingerprint and the size in bytes of an image, as other listings and the worker make them.

    An image that is not there has the fingerprint `MISSING`, and one of which nobody says what its bytes are `UNKNOWN`:
    both are left to the worker.

    Raises:
        SourceError: a bucket does not know who we are.
        TransientError: a bucket falters, and did so for half a minute.
    """
    if is_url(uri):
        return _of_url(uri, access, stopped)
    if is_bucket_url(uri):
        return _of_object(uri, access)
    path = unquote_to_bytes(uri.removeprefix("file://"))
    found = look(path, uri)
    return (found.fingerprint, found.size_bytes) if isinstance(found, Found) else (MISSING, 0)


def _of_url(url: str, access: BucketAccess, stopped: threading.Event) -> tuple[str, int]:
    try:
        answer = ask("HEAD", url, private=access.private_urls, tries=_URL_TRIES, seconds=_URL_SECONDS, stopped=stopped)
    except UrlRefused:
        return MISSING, 0
    except UrlUnanswered:
        return UNKNOWN, 0
    if answer.status == 200:
        return answer.fingerprint, answer.size_bytes
    return (MISSING if answer.status in _URL_MISSING else UNKNOWN), 0


def _of_object(uri: str, access: BucketAccess) -> tuple[str, int]:
    import obstore

    scheme, bucket, key = split_uri(uri)
    what = f"{uri} cannot be looked at"
    try:
        meta = ask_store(lambda: obstore.head(open_source_bucket(scheme, bucket, access), key), what)
    except errors() as error:
        if fault_of(error) in (Fault.NOBODY, Fault.DISBELIEVED):
            raise refusal(error, what, f"{scheme}://{bucket}") from error
        return MISSING, 0  # Or not for us, or no such bucket: the worker finds out which.
    return fingerprint_of(meta["size"], meta["e_tag"], meta["last_modified"]), meta["size"]
