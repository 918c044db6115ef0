"""What everybody who goes to an `http(s)://` URL shares: its form, who may be asked, and how long that may take.

A manifest is written by others, and so are the redirects that its URLs lead to. So a host is resolved here, only
addresses of the public internet are connected to, and the very address that was checked is the one of the connection:
a name that is resolved a second time could mean another machine by then.
"""

import functools
import hashlib
import http.client
import ipaddress
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, cast
from urllib.parse import quote, urljoin

from base.buckets import fingerprint_of, normal_e_tag
from base.errors import SourceError
from base.fingerprints import UNKNOWN
from base.settings import without_secrets

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE | re.DOTALL)
_PLACE = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?", re.ASCII)
# All of ASCII that a URL may hold; `%` too, as what it encodes is encoded already.
_SAFE = "%/?:@!$&'()*+,;=[]~-._"

_HEADERS = {"Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity", "Connection": "close"}
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 10.0
# Of one name those that are tried.
_MOST_ADDRESSES = 3
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 5.0
_SILENT_TIMES, _SILENT_SECONDS = 3, 60.0
_PIECE_BYTES = 2**18
# An index of PostgreSQL takes some 2,700 bytes.
_LONGEST_E_TAG = 200
_LONGEST_MESSAGE = 200
# Asked too early, too late or too often; 501 is no fault of the server's, but says that it cannot answer HEAD.
_BUSY, _NOT_IMPLEMENTED = (408, 425, 429), 501
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        *("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20"),
        # Those that stand for an address of IPv4, which a gateway of this network would go to: NAT64, 6to4, Teredo.
        *("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"),
        # A public address that each machine of Azure has its cloud's own services at. Source: "What is IP address
        # 168.63.129.16?" of Azure's documentation.
        "168.63.129.16/32",
    )
]
_NEVER = threading.Event()


class UrlRefused(Exception):
    """It may not be asked, or leads to what may not."""


class UrlUnanswered(Exception):
    """No answer, or only a part of one; worth trying again."""


class BodyTooLarge(Exception):
    """The body is larger than wanted."""


@dataclass(frozen=True, kw_only=True)
class UrlAnswer:
    """What a server answered in the end, after its redirects."""

    status: int
    fingerprint: str  #: of what the answer says of the bytes; UNKNOWN where it says nothing
    size_bytes: int  #: as the answer says; 0 where it does not
    retry_after_seconds: float  #: how long it wants us to wait; 0 where it does not say
    body: bytes = b""


def is_url(address: str) -> bool:
    """Whether it means something on the web, well written or not."""
    return address[:8].lower().startswith(("http://", "https://"))


def normalise_url(url: str) -> str:
    """A URL as it is named in SQL: as it was written, but plain ASCII and without what comes after a `#`.

    Raises:
        SourceError: it is none, or holds a user's name or password.
    """
    match = _URL.fullmatch(url.partition("#")[0])
    if match is None:
        raise SourceError(f"{without_secrets(url)!r} is no URL. Write https://HOST/PATH.")
    scheme, place, rest = match.groups()
    if "@" in place:
        raise SourceError(
            f"the URL of {place.rpartition('@')[2]!r} holds a user's name or a password, which SQL would show to all. "
            "Leave them out; only what everybody may read can be fetched."
        )
    host, port = re.fullmatch(r"(.*?)(:\d*)?", place, re.ASCII | re.DOTALL).groups("")  # type: ignore[union-attr]
    try:
        ascii_place = host.encode("idna").decode() + port  # It refuses what no name server could be asked for, too.
    except UnicodeError:
        ascii_place = ""
    found = _PLACE.fullmatch(ascii_place)
    if found is None or int(found[2] or 1) not in range(1, 65536):
        raise SourceError(f"{without_secrets(url)!r} names no host. Write https://HOST/PATH.")
    return f"{scheme.lower()}://{ascii_place.lower()}{quote(rest if rest[:1] == '/' else '/' + rest, safe=_SAFE)}"


def ask(
    method: Literal["HEAD", "GET"],
    url: str,
    *,
    private: bool,
    max_bytes: int = 0,
    tries: int = 1,
    seconds: float,
    stopped: threading.Event | None = None,
) -> UrlAnswer:
    """Ask for a URL, and for where it redirects to, until a server has answered.

    A host that left several URLs in a row without an answer is left alone for a minute: one that is down would
    otherwise keep everybody waiting, image by image.

    Args:
        private: addresses that are not of the public internet may be asked, too.
        max_bytes: no more is read of a body.
        tries: how often, when a server is busy or gives no answer.
        seconds: for all of it.
        stopped: once it is set, nothing is tried again.

    Raises:
        UrlRefused: it may not be asked, or redirects without an end.
        UrlUnanswered: the server was busy, or gave no answer or only a part of one, each time.
        BodyTooLarge: its body is larger than `max_bytes`.
    """
    place, deadline = _split(url)[1], time.monotonic() + seconds
    _silence.check(place)
    reason, number, is_answered = "", 0, False
    while True:
        number, wait, is_answered = number + 1, 0.0, False
        try:
            answer = _ask_once(method, url, private, max_bytes, deadline)
        except UrlUnanswered as error:
            reason = str(error)
        else:
            if (answer.status not in _BUSY and answer.status < 500) or answer.status == _NOT_IMPLEMENTED:
                _silence.end(place)
                return answer
            reason, wait, is_answered = f"the server answered {answer.status}", answer.retry_after_seconds, True
        longest = _FIRST_WAIT_SECONDS * 2 ** (number - 1)
        wait = min(max(wait, random.uniform(longest / 2, longest)), _LONGEST_WAIT_SECONDS)
        if number >= tries or time.monotonic() + wait >= deadline or (stopped or _NEVER).wait(wait):
            break
    # Whoever only looks goes on without an answer, so it is not worth waiting for a busy server again and again.
    if method == "HEAD" or not is_answered:
        _silence.note(place)
    raise UrlUnanswered(f"{reason}{f', {number} times in a row' if number > 1 else ''}")


def _ask_once(method: str, url: str, private: bool, max_bytes: int, deadline: float) -> UrlAnswer:
    for _ in range(_MOST_REDIRECTS + 1):
        with _response(method, url, private, deadline) as response:
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                body = _read(response, max_bytes, deadline) if method == "GET" and response.status == 200 else b""
                return _answer(response, body)
        url = _redirected(url, location)
    raise UrlRefused(f"it is redirected more than {_MOST_REDIRECTS} times")


def _redirected(url: str, location: str) -> str:
    # Headers are bytes, which arrive as Latin-1; most servers that do not encode a path mean UTF-8 by them.
    location = quote(location.encode("latin-1"), safe=_SAFE + "#")
    try:
        target = normalise_url(urljoin(url, location))
    except (SourceError, ValueError) as error:
        raise UrlRefused(f"it is redirected to what cannot be read: {str(error).partition('. ')[0]}") from error
    if url.startswith("https:") and not target.startswith("https:"):
        raise UrlRefused(
            f"it is redirected from https to {without_secrets(target)}, which anybody on the way could change"
        )
    return target


@contextmanager
def _response(method: str, url: str, private: bool, deadline: float) -> Iterator[http.client.HTTPResponse]:
    """Send a request and yield the answer, whose body is still to be read."""
    scheme, place, target = _split(url)
    host, port = _host_and_port(scheme, place)
    try:
        sock = _connect(_addresses(host, port, private), deadline)
        try:
            if scheme == "https":
                sock = cast("_TlsSocket", _tls().wrap_socket(sock, server_hostname=host))
                sock.deadline = deadline
            connection = http.client.HTTPConnection(place)
            connection.sock = sock
            connection.request(method, target, headers={"Host": place, "User-Agent": _user_agent(), **_HEADERS})
            with connection.getresponse() as response:
                yield response
        finally:
            sock.close()
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= deadline:
            raise UrlUnanswered("it took too long") from error
        raise UrlUnanswered(_told(error)) from error


def _told(error: Exception) -> str:
    """What is wrong; of what a server sent there may be any bytes in it, and SQL takes no NUL."""
    text = str(error)[:_LONGEST_MESSAGE].strip() or type(error).__name__
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _addresses(host: str, port: int, private: bool) -> list[Any]:
    """Where a host is, of that only what may be asked; each as `socket.getaddrinfo` gives it."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    allowed = [one for one in found if private or is_public(str(one[4][0]))]
    if not allowed:
        raise UrlRefused(
            f"{host} is {found[0][4][0]}, which is not an address of the public internet. If such images are to be "
            "fetched, set TAGMILL_ALLOW_PRIVATE_URLS=true for the producer and the workers"
        )
    return allowed[:_MOST_ADDRESSES]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and not of this machine, its network or its cloud."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return is_public(str(ip.ipv4_mapped))
    if any(ip in network for network in _NOT_PUBLIC):  # Some of what Python's releases do not agree on.
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)


def _connect(addresses: Sequence[Any], deadline: float) -> "_Socket | _TlsSocket":
    """A connection to the first address that takes one."""
    refused: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        sock = _Socket(family, kind, protocol)
        sock.deadline = deadline
        try:
            sock.settimeout(_seconds_left(deadline, _CONNECT_SECONDS))
            sock.connect(address)
        except OSError as error:
            sock.close()
            refused = error
        else:
            return sock
    assert refused is not None
    raise refused


class _Timed:
    """A socket whose reads end at a deadline: a server that sends a byte now and then meets no other time-out."""

    deadline: float

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        self.settimeout(_seconds_left(self.deadline, _READ_SECONDS))  # type: ignore[attr-defined]
        read: int = super().recv_into(*arguments, **options)  # type: ignore[misc]
        return read


class _Socket(_Timed, socket.socket):
    pass


class _TlsSocket(_Timed, ssl.SSLSocket):
    pass


def _seconds_left(deadline: float, most: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it took too long")
    return min(left, most)


@functools.cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.sslsocket_class = _TlsSocket
    return context


def _read(response: http.client.HTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """A whole body."""
    expected = _size(response)
    pieces, size = [], 0
    if expected is not None and expected > max_bytes:
        raise BodyTooLarge(expected)
    while piece := response.read(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise BodyTooLarge(size)
    if expected is not None and size != expected:
        raise UrlUnanswered("its body was shorter than its length")
    _seconds_left(deadline, 0)  # A body without a length ends with the connection, whoever ended that.
    return b"".join(pieces)


def _answer(response: http.client.HTTPResponse, body: bytes) -> UrlAnswer:
    size = _size(response) or 0
    return UrlAnswer(
        status=response.status,
        fingerprint=_fingerprint(response, size),
        size_bytes=size,
        retry_after_seconds=_retry_after(response.headers.get("Retry-After", "")),
        body=body,
    )


def _fingerprint(response: http.client.HTTPResponse, size: int) -> str:
    tag, modified = response.headers.get("ETag"), _date(response.headers.get("Last-Modified", ""))
    if not normal_e_tag(tag) and modified is None:
        return UNKNOWN
    if tag is not None and (len(tag) > _LONGEST_E_TAG or not tag.isprintable()):  # SQL takes no NUL.
        tag = hashlib.sha256(tag.encode()).hexdigest()
    return fingerprint_of(size, tag, modified or datetime.now(UTC))


def _size(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) and not response.chunked else None


def _retry_after(text: str) -> float:
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return float(text)
    until = _date(text)
    return 0.0 if until is None else max(until.timestamp() - time.time(), 0.0)


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None


def _split(url: str) -> tuple[str, str, str]:
    """Scheme, host with port, and the rest of a URL that is normal."""
    scheme, _, rest = url.partition("://")
    place, slash, target = rest.partition("/")
    return scheme, place, slash + target


def _host_and_port(scheme: str, place: str) -> tuple[str, int]:
    host, colon, port = place.rpartition(":") if re.search(r":\d+$", place) else (place, "", "")
    return host.strip("[]"), int(port) if colon else (443 if scheme == "https" else 80)


@functools.cache
def _user_agent() -> str:
    try:
        return f"tagmill/{version('tagmill')}"
    except PackageNotFoundError:  # A checkout that is not installed.
        return "tagmill"


class _Silence:
    """Which hosts leave everybody without an answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, tuple[int, float]] = {}

    def check(self, place: str) -> None:
        with self._lock:
            times, until = self._hosts.get(place, (0, 0.0))
        if times >= _SILENT_TIMES and time.monotonic() < until:
            raise UrlUnanswered(f"{place} gave no answer {times} times in a row, and is not asked for a minute")

    def note(self, place: str) -> None:
        with self._lock:
            times, _ = self._hosts.get(place, (0, 0.0))
            self._hosts[place] = times + 1, time.monotonic() + _SILENT_SECONDS

    def end(self, place: str) -> None:
        with self._lock:
            self._hosts.pop(place, None)


_silence = _Silence()
