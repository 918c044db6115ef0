"""URLs: how they are named in SQL, and who is asked."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from base import urls
from base.errors import SourceError
from base.fingerprints import UNKNOWN
from base.urls import BodyTooLarge, UrlAnswer, UrlRefused, UrlUnanswered, ask, is_public, normalise_url
from tests.web import Page, Web, web_server


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(urls, "_FIRST_WAIT_SECONDS", 0.01)
    with web_server() as server:
        yield server


def get(url: str, *, max_bytes: int = 1000, tries: int = 1, seconds: float = 10.0) -> UrlAnswer:
    return ask("GET", url, private=True, max_bytes=max_bytes, tries=tries, seconds=seconds)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://shop.example/a.jpg", "https://shop.example/a.jpg"),
        ("HTTPS://Shop.Example:8443/A.jpg#front", "https://shop.example:8443/A.jpg"),
        (
            "http://shop.example/rot & blau/ä%20b.jpg?w=1&h=ü",
            "http://shop.example/rot%20&%20blau/%C3%A4%20b.jpg?w=1&h=%C3%BC",
        ),
        ("http://bücher.example", "http://xn--bcher-kva.example/"),
        ("http://пример.рф:8080/", "http://xn--e1afmkfd.xn--p1ai:8080/"),
        ("http://[2606:4700::1111]:80?x", "http://[2606:4700::1111]:80/?x"),
    ],
)
def test_url_is_plain_ascii_without_its_fragment(url: str, normal: str) -> None:
    assert (normalise_url(url), normalise_url(normal)) == (normal, normal)


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.jpg", "http://user:secret@host/", "http://a..b/", "http://host:0/", "http://ho st/"]
)
def test_url_without_a_host_or_with_a_password_is_refused(url: str) -> None:
    with pytest.raises(SourceError) as raised:
        normalise_url(url)

    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),  # noqa: S104 (not bound to)
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1", "192.88.99.1"),
        "168.63.129.16",
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1"),
    ],
)
def test_address_of_another_network_is_not_public(address: str) -> None:
    assert not is_public(address)


def test_address_of_the_internet_is_public() -> None:
    assert [is_public(address) for address in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8")] == [True] * 3


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "[::1]", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]", "0"]
)
def test_every_name_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(UrlRefused, match="TAGMILL_ALLOW_PRIVATE_URLS"):
        ask("GET", normalise_url(f"http://{host}:9/a.jpg"), private=False, seconds=5)


def test_connection_goes_to_the_address_that_was_checked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server of an attacker says something else when it is asked again."""
    web.pages["/"] = Page(b"pixels")
    port = int(web.url.rpartition(":")[2])
    asked = []

    def resolve(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    assert get(f"http://shop.example:{port}/").body == b"pixels"
    assert asked == ["shop.example"]
    with pytest.raises(UrlRefused, match=r"shop\.example is 127\.0\.0\.1"):
        ask("GET", f"http://shop.example:{port}/", private=False, seconds=5)


def test_redirect_to_a_private_address_is_refused(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.pages["/a.jpg"] = Page(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"})
    port = int(web.url.rpartition(":")[2])
    # As if the first server were one of the internet.
    monkeypatch.setattr(urls, "is_public", lambda address: address == "127.0.0.1")

    with pytest.raises(UrlRefused, match=r"169\.254\.169\.254"):
        ask("GET", f"http://127.0.0.1:{port}/a.jpg", private=False, seconds=5)


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/a.jpg", "file:///etc/passwd", "http://me:secret@127.0.0.1/"])
def test_redirect_to_what_is_no_url_is_refused(web: Web, target: str) -> None:
    web.pages["/"] = Page(status=301, headers={"Location": target})

    with pytest.raises(UrlRefused) as raised:
        get(web.url + "/")

    assert "secret" not in str(raised.value)


def test_redirects_are_followed_up_to_five(web: Web) -> None:
    for number in range(9):
        web.pages[f"/{number}"] = Page(status=307, headers={"Location": f"/{number + 1}"})
    web.pages["/5"] = Page(b"pixels")

    assert get(web.url + "/0").body == b"pixels"
    web.pages["/5"] = Page(status=307, headers={"Location": "/0"})
    with pytest.raises(UrlRefused, match="more than 5 times"):
        get(web.url + "/0")


def test_redirect_may_hold_plain_utf_8(web: Web) -> None:
    web.pages["/"] = Page(status=302, headers={"Location": "/rot & grün.jpg".encode().decode("latin-1")})
    web.pages["/rot%20&%20gr%C3%BCn.jpg"] = Page(b"pixels")

    assert get(web.url + "/").body == b"pixels"


def test_what_a_server_says_is_text_that_sql_takes(web: Web) -> None:
    web.pages["/"] = Page(b"pixels", headers={"ETag": '"\0x"'})
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_once, args=(server, b"\0" * 5000 + b"\r\n\r\n"), daemon=True).start()
        with pytest.raises(UrlUnanswered) as raised:
            get(f"http://127.0.0.1:{server.getsockname()[1]}/")

    message = str(raised.value)
    assert (message.isprintable(), len(message) < 300) == (True, True)
    assert get(web.url + "/").fingerprint.isprintable()


def answer_once(server: socket.socket, answer: bytes) -> None:
    with server.accept()[0] as connection:
        connection.recv(4096)
        connection.sendall(answer)


def test_larger_body_is_not_read_whatever_its_length_says(web: Web) -> None:
    web.pages["/told"] = Page(bytes(1001))
    web.pages["/untold"] = Page(bytes(10**6), headers={"Content-Length": ""})

    for path in web.pages:
        with pytest.raises(BodyTooLarge):
            get(web.url + path)


def test_body_without_a_length_is_whole_where_the_connection_ends(web: Web) -> None:
    web.pages["/"] = Page(b"pixels", headers={"Content-Length": ""})

    assert get(web.url + "/").body == b"pixels"


def test_server_that_trickles_holds_nobody(web: Web) -> None:
    web.pages["/told"] = Page(bytes(900), trickle_seconds=0.05)
    web.pages["/untold"] = Page(bytes(900), headers={"Content-Length": ""}, trickle_seconds=0.05)
    began = time.monotonic()

    for path in web.pages:
        with pytest.raises(UrlUnanswered, match="it took too long"):
            get(web.url + path, seconds=0.4)

    assert time.monotonic() - began < 10


def test_server_that_is_busy_or_cuts_short_is_asked_again(web: Web) -> None:
    web.pages["/busy"] = Page(b"pixels", busy=2)
    web.pages["/cut"] = Page(b"pixels", cut=2)

    assert [get(web.url + path, tries=3).body for path in web.pages] == [b"pixels"] * 2
    web.pages["/busy"].busy = 3
    with pytest.raises(UrlUnanswered, match="answered 429, 3 times in a row"):
        get(web.url + "/busy", tries=3)


def test_host_that_never_answers_is_left_alone(web: Web) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.jpg"
        for _ in range(3):
            with pytest.raises(UrlUnanswered, match="refused"):
                get(url)
        with pytest.raises(UrlUnanswered, match="not asked for a minute"):
            get(url)

    web.pages["/"] = Page(b"pixels")
    assert get(web.url + "/").body == b"pixels"


def test_fingerprint_is_the_same_without_and_with_the_body(web: Web) -> None:
    modified = "Thu, 01 Jan 2026 00:00:00 GMT"
    web.pages |= {
        "/tag": Page(b"pixels", headers={"ETag": 'W/"x1"', "Last-Modified": modified}),
        "/time": Page(b"pixels", headers={"Last-Modified": modified}),
        "/long": Page(b"pixels", headers={"ETag": f'"{"x" * 5000}"'}),
        "/nothing": Page(b"pixels"),
    }

    found = [
        [ask(method, web.url + path, private=True, max_bytes=9, seconds=5) for method in ("HEAD", "GET")]
        for path in web.pages
    ]

    assert [head.fingerprint for head, _ in found] == [body.fingerprint for _, body in found]
    assert [head.fingerprint for head, _ in found if len(head.fingerprint) < 50] == ["6-x1", "6@1767225600", UNKNOWN]


def make_certificate(path: Path, host: str) -> None:
    """A certificate by itself, and its key, in one file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM))


@pytest.fixture
def https(tmp_path: Path, web: Web) -> Iterator[str]:
    """The address of a server whose certificate is for `shop.example` and by nobody whom we trust."""
    make_certificate(tmp_path / "cert.pem", "shop.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve() -> None:
            while True:
                try:
                    raw = server.accept()[0]
                except OSError:
                    return
                try:
                    with context.wrap_socket(raw, server_side=True) as connection:
                        connection.recv(4096)
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npixels")
                except OSError:
                    raw.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f":{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_certificate_has_to_be_the_hosts(https: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(https[1:])))],
    )
    with pytest.raises(UrlUnanswered, match="certificate"):
        get(f"https://shop.example{https}/")

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    urls._tls.cache_clear()
    assert get(f"https://shop.example{https}/").body == b"pixels"
    with pytest.raises(UrlUnanswered, match="certificate"):
        get(f"https://other.example{https}/")
    urls._tls.cache_clear()


def test_redirect_from_https_to_http_is_refused() -> None:
    # Its signature, if it has one, is not told: what is wrong with an image stands in SQL.
    with pytest.raises(UrlRefused, match=r"from https to http://shop\.example/a\.jpg\?\*\*\*,"):
        urls._redirected("https://shop.example/a.jpg", "http://shop.example/a.jpg?signature=secret")
