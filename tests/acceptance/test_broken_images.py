"""A tenth of a folder broken in ten ways: its good images do not notice, and each broken one has its reason."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.conftest import Tagmill
from tests.acceptance.test_run import make_many
from tests.samples import encode, make_image, make_jpeg, make_noise, make_png

GOOD = 90


def huge_png() -> bytes:
    """A PNG of a few hundred bytes that says it has 10 gigapixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    png = make_png()
    return png[:16] + header + checksum + png[33:]


def damaged_png() -> bytes:
    """A PNG whose compressed pixels are not what the compressor wrote."""
    png = bytearray(encode(make_noise(), "PNG"))
    start = png.index(b"IDAT") + 12
    png[start : start + 64] = bytes(64)
    return bytes(png)


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.jpg": (lambda: b"", "truncated"),
    "half.jpg": (lambda: encode(make_noise(), "JPEG")[:-900], "truncated"),
    "half.png": (lambda: encode(make_noise(), "PNG")[:5000], "truncated"),
    "text.jpg": (lambda: b"<html>404 Not Found</html>", "not_an_image"),
    "packed.jpg": (lambda: gzip.compress(make_jpeg()), "not_an_image"),
    "phone.jpg": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "unsupported_format"),
    "drawing.png": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"),
    "bomb.png": (huge_png, "too_large"),
    "heavy.bmp": (lambda: encode(make_image(width=700, height=700), "BMP"), "too_large"),
    "damaged.png": (damaged_png, "unreadable"),
}


def test_broken_images_fail_alone_each_with_its_reason(tagmill: Tagmill, tmp_path: Path) -> None:
    tagmill.environment["TAGMILL_MAX_IMAGE_BYTES"] = "1000000"
    folder = make_many(tmp_path / "mixed", GOOD)
    tagmill.run(folder)
    alone = tagmill.rows()
    assert len(alone) == GOOD

    other = Tagmill(tmp_path / "other home", Path(tagmill.environment["TAGMILL_MODELS_URL"]))
    other.environment["TAGMILL_MAX_IMAGE_BYTES"] = "1000000"
    for name, (make, _) in BROKEN.items():
        (folder / name).write_bytes(make())
    facts = other.run(folder)

    failures = other.sql("SELECT image_uri, reason, message, attempts FROM failures_by_image")
    found = {os.path.basename(row["image_uri"]): row["reason"] for row in failures}
    assert found == {name: reason for name, (_, reason) in BROKEN.items()}
    assert all(row["message"] and row["attempts"] == "1" for row in failures)
    assert (facts["classified"], facts["failed"]) == (GOOD, len(BROKEN))
    assert other.rows() == alone
    other("verify")
