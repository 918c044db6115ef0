"""What everybody who goes to a bucket shares: opening it, its URIs, and what its errors mean.

A store is made in the process that uses it and on first use: it does not survive a fork.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

#: Where who we are is told, by the scheme of an address.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_ENDPOINT_KEYS = {"s3": "aws_endpoint_url_s3", "gs": "google_base_url", "az": "azure_storage_endpoint"}

# What stays as it is in a URI. Every byte below these is encoded, with a `%` that is below them, too: so plain keys
# have the order of their URIs, and `!` and `$`, which RFC 3986 would leave, are encoded.
_SAFE = "/&'()*+,;=:@"
_DISORDERED = re.compile(r"%(?![01]|2[0-5])")

# Of HTTP: asked too late or too often, or the server's own fault.
_FALTERS = re.compile(r"status code: (408|429|5\d\d)\b|HTTP error: (?!builder error)|error decoding response body")
_DENIED = re.compile(r"status code: (401|403)\b")
_MISSING = re.compile(r"status code: 404\b")
# Where a machine of a cloud is told who it is, which is asked where no variable says that.
_NOBODY = re.compile(r"://(169\.254\.\d+\.\d+|metadata)\b|: Missing \w+|: Account must be specified")
# Whoever we say that we are, the store does not believe it, or it cannot even be told; no object is to blame.
_DISBELIEVED = re.compile(
    r"status code: 401\b|token request: .*status code: 4(?!08|29)\d\d|<Code>(InvalidAccessKeyId|SignatureDoesNotMatch|"
    r"ExpiredToken|InvalidToken|RequestTimeTooSkewed|InvalidSecurity|AuthenticationFailed)</Code>|"
    r"Server failed to authenticate|: (Unable to \w+ service account|Invalid Access Key|Error reading pem)"
)
_TOLD = re.compile(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>(?:\s*<Details>(.*?)</Details>)?", re.DOTALL)

_MD5 = re.compile(r"\d+-[0-9a-f]{32}")

_CONNECT_TIMEOUT, _READ_TIMEOUT, _OBJECT_TIMEOUT = "5s", "10s", "300s"


class Fault(Enum):
    """What a refusal means."""

    MISSING = auto()  # No such bucket, or no such object.
    NOBODY = auto()  # There are no credentials.
    DISBELIEVED = auto()  # There are, and they are wrong or have expired.
    DENIED = auto()  # Not for us.
    FALTERS = auto()  # Worth trying again.
    CHANGED = auto()  # Not the object that was asked for.
    OTHER = auto()


@dataclass(frozen=True, kw_only=True)
class BucketAccess:
    """How sources in buckets, and on the web, are reached; who goes to a bucket is told by the environment."""

    endpoint: str | None = None  #: of a compatible server; plain http only where this says so
    requester_pays: bool = False  #: S3: what is read is charged to us
    user_project: str | None = None  #: Google: the project that what is read is charged to
    private_urls: bool = False  #: URLs may lead to addresses that are not of the public internet


def errors() -> tuple[type[Exception], ...]:
    """What a store raises."""
    from obstore.exceptions import BaseError

    return (BaseError, FileNotFoundError, ValueError)


def fault_of(error: Exception) -> Fault:
    """What kind of refusal it is."""
    from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

    text = _told(error)
    if isinstance(error, PreconditionError):
        return Fault.CHANGED
    if isinstance(error, FileNotFoundError):
        return Fault.MISSING
    if _NOBODY.search(text):
        return Fault.NOBODY
    if isinstance(error, UnauthenticatedError) or _DISBELIEVED.search(text):
        return Fault.DISBELIEVED
    if _MISSING.search(text):
        return Fault.MISSING
    if isinstance(error, PermissionDeniedError) or _DENIED.search(text):
        return Fault.DENIED
    return Fault.FALTERS if _FALTERS.search(text) else Fault.OTHER


def reason_of(error: Exception) -> str:
    """The short of it, without what may be secret in addresses."""
    text = _told(error)
    told = _TOLD.search(text)
    if told is not None:  # Google says in the details what it means, and Azure adds lines about the request.
        return f"{told[1]}: {(told[3] or told[2]).partition(chr(10))[0].rstrip('.')}"
    line = re.sub(r"^Generic \w+ error: (Error performing list request: )?", "", text.partition("\n")[0].rstrip(" .:"))
    return re.sub(r"\?\S*", "", re.sub(r"://[^/\s]*@", "://***@", line))[:300]


def open_store(
    scheme: str,
    bucket: str,
    *,
    prefix: str | None = None,
    config: Mapping[str, str],
    retries: "RetryConfig",
    client: "ClientConfig | None" = None,
) -> "ObjectStore":
    """A client of a bucket, which reads the environment for where it is and who we are.

    Args:
        config: outranks the environment.
        client: takes the place of all that config and environment say of connections.
    """
    from obstore.store import AzureStore, GCSStore, S3Store

    stores: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    store: ObjectStore = stores[scheme](
        bucket, prefix=prefix, config=dict(config), client_options=client, retry_config=retries
    )
    return store


@functools.cache
def open_source_bucket(scheme: str, bucket: str, access: BucketAccess) -> "ObjectStore":
    """A client for images. It repeats nothing by itself: how often, and how long to wait, is the caller's part."""
    connections = {"connect_timeout": _CONNECT_TIMEOUT, "read_timeout": _READ_TIMEOUT, "timeout": _OBJECT_TIMEOUT}
    config: dict[str, str] = {}
    client: Any = None
    if access.endpoint is not None:
        config[_ENDPOINT_KEYS[scheme]] = access.endpoint.rstrip("/")  # One would be doubled.
        if access.endpoint.startswith("http://"):
            connections["allow_http"] = "true"
    if access.requester_pays and scheme == "s3":
        config["aws_request_payer"] = "true"
    if access.user_project and scheme == "gs":
        # Headers of our own can be told in no other way.
        client = {**connections, "default_headers": {"x-goog-user-project": access.user_project}}
    retries: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
    return open_store(scheme, bucket, config=config | connections, client=client, retries=retries)


def key_to_uri(bucket_uri: str, key: str) -> str:
    """The URI of an object of `s3://BUCKET` and its like."""
    return f"{bucket_uri}/{quote(key, safe=_SAFE)}"


def split_uri(uri: str) -> tuple[str, str, str]:
    """Scheme, bucket and key of an object's URI."""
    scheme, _, place = uri.partition("://")
    bucket, _, path = place.partition("/")
    return scheme, bucket, unquote(path)


def is_in_key_order(uri: str) -> bool:
    """Whether the URI sorts among others of which this is true as its key does among theirs, byte by byte."""
    return _DISORDERED.search(uri) is None


def fingerprint_of(size_bytes: int, e_tag: str | None, last_modified: datetime) -> str:
    """What changes when the bytes of an object may have changed; the same from a listing and from the object."""
    tag = normal_e_tag(e_tag)
    return f"{size_bytes}-{tag}" if tag else f"{size_bytes}@{int(last_modified.timestamp())}"


def normal_e_tag(e_tag: str | None) -> str:
    """Without the quotes and the mark of weakness, which not every answer has; empty where there is none."""
    return (e_tag or "").removeprefix("W/").strip('"')


def is_content_hash(uri: str, fingerprint: str) -> bool:
    """Whether images with this fingerprint have the same bytes: S3 gives an object that was uploaded in one piece their
    MD5 as its ETag, or something that no other object has."""
    return uri.startswith("s3://") and _MD5.fullmatch(fingerprint) is not None


def listed_as(fingerprint: str) -> tuple[int, str | None]:
    """Size and ETag that a fingerprint was made of; 0 and None where it is no such fingerprint."""
    match = re.fullmatch(r"(\d+)(?:-(.+)|@-?\d+)", fingerprint)
    return (0, None) if match is None else (int(match[1]), match[2])


def _told(error: Exception) -> str:
    return str(error).partition("\n\nDebug source")[0]
