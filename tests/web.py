"""A web server of a test's own, which answers as it is told and notes what it was asked."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Page:
    """What a path answers."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    heads: int | None = None  #: what HEAD gets instead, such as 405
    busy: int = 0  #: so many requests get 429 first
    cut: int = 0  #: so many get half of the body first
    trickle_seconds: float = 0.0  #: between any two bytes of the body


class Web:
    """Its pages by path; a path that it does not have is 404."""

    def __init__(self) -> None:
        self.url = ""
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str]] = []  #: method and path

    def asked_for_bodies(self) -> list[str]:
        return [path for method, path in self.asked if method == "GET"]


@contextmanager
def web_server() -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            web.asked.append((self.command, self.path))
            page = web.pages.get(self.path, Page(status=404))
            status = page.heads if page.heads is not None and not with_body else page.status
            body = page.body
            if page.busy:
                page.busy -= 1
                status = 429
            elif with_body and page.cut:
                page.cut -= 1
                body = body[: len(body) // 2]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(page.body)), **page.headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if with_body and status == 200:
                self.send(body, page.trickle_seconds)

        def send(self, body: bytes, pause: float) -> None:
            if not pause:
                self.wfile.write(body)
                return
            try:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(pause)
            except OSError:  # Nobody reads on.
                pass

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
