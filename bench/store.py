"""A store of as many keys as it is asked for: it makes up the pages of its listing, in the words of S3, and no bodies.

The bucket's name is the number of its keys, such as `keys-1000000`.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_PAGE = 1000
_HEAD = '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
_ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
    '<ETag>"{number:032x}"</ETag><Size>100000</Size></Contents>'
)


def key_of(number: int) -> str:
    """Numbers and keys have one order."""
    return f"photos/{number // 1000:06}/{number:09}.jpg"


class Store(BaseHTTPRequestHandler):
    """Answers ListObjectsV2, counts the bodies that somebody asks for, and tells how many there were."""

    protocol_version = "HTTP/1.1"
    bodies = 0

    def do_HEAD(self) -> None:
        """No key is the prefix itself."""
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """One page of the listing, or the count."""
        address = urlsplit(self.path)
        asked = parse_qs(address.query)
        if address.path == "/bodies":
            self._send(200, str(Store.bodies))
        elif "list-type" in asked:
            keys = int(address.path.strip("/").removeprefix("keys-"))
            after = asked.get("continuation-token") or asked.get("start-after")
            self._send(200, _page(keys, 0 if after is None else _number_of(after[0]) + 1))
        else:
            Store.bodies += 1
            self._send(404, "<Error><Code>NoSuchKey</Code><Message>There are no bodies here</Message></Error>")

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def _page(keys: int, first: int) -> str:
    last = min(first + _PAGE, keys)
    entries = "".join(_ENTRY.format(key=key_of(number), number=number) for number in range(first, last))
    more = f"<NextContinuationToken>{key_of(last - 1)}</NextContinuationToken>" if last < keys else ""
    is_cut = "true" if more else "false"
    return f"{_HEAD}<IsTruncated>{is_cut}</IsTruncated>{more}{entries}</ListBucketResult>"


def _number_of(key: str) -> int:
    return int(unquote(key).rpartition("/")[2].removesuffix(".jpg"))


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    print(server.server_port, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)
