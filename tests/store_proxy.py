"""A server between us and a store, which counts what is asked for and answers badly when told to."""

import http.client
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_REFUSAL = "<Error><Code>Told</Code><Message>No.</Message></Error>"


class StoreProxy:
    """Passes every request on to `url`."""

    def __init__(self, url: str) -> None:
        self.upstream = urlsplit(url)
        self.url = ""
        self.busy = self.cut = 0.0  #: shares of the answers that are 503, and that break off
        self.busy_status = 503
        self.refused: dict[str, int] = {}  #: from the end of a path to the status that it gets
        self.refusal = _REFUSAL  #: the body of those
        self.page_size = 0  #: keys of a listing's page; 0 leaves it to the server. Changes what was signed
        self.headers: list[dict[str, str]] = []  #: of the requests
        self.bodies: list[str] = []  #: paths of the objects that were given
        self.lists: list[str] = []  #: what listings asked for
        self.go_on = threading.Event()  #: while it is not set, a listing's second page has to wait
        self.go_on.set()
        self.chance = random.Random(5)
        self.lock = threading.Lock()


@contextmanager
def store_proxy(url: str) -> Iterator[StoreProxy]:
    proxy = StoreProxy(url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with proxy.lock:
                is_busy, is_cut = proxy.chance.random() < proxy.busy, proxy.chance.random() < proxy.cut
            path, _, query = self.path.partition("?")
            path = unquote(path)
            self.rfile.read(int(self.headers.get("Content-Length", "0")))  # Of a POST, which is only ever refused.
            proxy.headers.append(dict(self.headers))
            busy = proxy.busy_status if is_busy else 0
            status = next((one for end, one in proxy.refused.items() if path.endswith(end)), busy)
            if status:
                self.answer(status, {}, proxy.refusal.encode())
                return
            if "continuation-token" in query or "marker=" in query:
                proxy.go_on.wait(60)
            response, body = self.ask(bool(query))
            if query:
                proxy.lists.append(query)
            elif response.status == 200 and self.command == "GET":
                proxy.bodies.append(path)
            self.answer(response.status, response.headers, body, cut=is_cut and not query)

        do_HEAD = do_POST = do_GET  # noqa: N815 (the names are the library's)

        def ask(self, is_listing: bool) -> tuple[http.client.HTTPResponse, bytes]:
            page = f"&max-keys={proxy.page_size}&maxresults={proxy.page_size}" if is_listing and proxy.page_size else ""
            connection = http.client.HTTPConnection(proxy.upstream.netloc)
            connection.request(self.command, self.path + page, headers=dict(self.headers))
            response = connection.getresponse()
            body = response.read()
            connection.close()
            return response, body

        def answer(self, status: int, headers: Mapping[str, str], body: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            for name in ("ETag", "Last-Modified", "Content-Type"):
                if name in headers:
                    self.send_header(name, headers[name])
            is_head = self.command == "HEAD"
            self.send_header("Content-Length", headers.get("Content-Length", "0") if is_head else str(len(body)))
            self.end_headers()
            if is_head:
                return
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = cut

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_port}{proxy.upstream.path}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
