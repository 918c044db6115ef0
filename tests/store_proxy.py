"""A server between us and a store, which counts what is asked for and answers badly when told to."""

import http.client
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StoreProxy:
    """Passes every request on to `url`."""

    def __init__(self, url: str) -> None:
        self.upstream = url.removeprefix("http://")
        self.url = ""
        self.busy = self.cut = 0.0  #: shares of the answers that are 503, and that break off
        self.refused: dict[str, int] = {}  #: from the end of a path to the status that it gets
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
            status = next((one for end, one in proxy.refused.items() if path.endswith(end)), 503 if is_busy else 0)
            if status:
                self.answer(status, {}, b"<Error><Code>Told</Code><Message>No.</Message></Error>")
                return
            if "continuation-token" in query:
                proxy.go_on.wait(60)
            connection = http.client.HTTPConnection(proxy.upstream)
            connection.request("GET", self.path, headers=dict(self.headers))
            response = connection.getresponse()
            body = response.read()
            connection.close()
            if query:
                proxy.lists.append(query)
            elif response.status == 200:
                proxy.bodies.append(path)
            self.answer(response.status, dict(response.headers), body, cut=is_cut and not query)

        def answer(self, status: int, headers: dict[str, Any], body: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            for name in ("ETag", "Last-Modified", "Content-Type"):
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = cut

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
