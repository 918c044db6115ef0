"""Every kind of odd file that we could think of, made in code, and what has to come of each.

A kind is a function, and `KINDS` lists them. What lies in a folder as plain bytes returns them; what does not is a
function of the path that it makes.
"""

import gzip
import os
import socket
import stat
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from base.errors import FailureReason
from tests.samples import encode, make_animation, make_image, make_jpeg, make_noise, make_png, make_quarters

#: What may come of a file, other than a failure with its reason.
CLASSIFIED = "classified"
PASSED_OVER = "passed over"  # Counted by the listing, and no more.
NOT_LISTED = "not listed"  # By its name it is no image.

TRUNCATED = FailureReason.TRUNCATED
UNREADABLE = FailureReason.UNREADABLE
NOT_AN_IMAGE = FailureReason.NOT_AN_IMAGE
UNSUPPORTED = FailureReason.UNSUPPORTED_FORMAT
TOO_LARGE = FailureReason.TOO_LARGE
NOT_FOUND = FailureReason.NOT_FOUND
FORBIDDEN = FailureReason.FORBIDDEN
STORAGE_ERROR = FailureReason.STORAGE_ERROR


#: How large a process may become by one of these, all in all.
PEAK_BYTES = 512 * 2**20


class NotMadeError(Exception):
    """This system has no such files, or would not let us make one; the text says why."""


@dataclass(frozen=True)
class Kind:
    """One kind of odd file."""

    name: str  #: below the folder
    ends: tuple[str, ...]  #: one of these must come of it
    make: Callable[[Path], object]
    meanwhile: Callable[[Path], object] | None = None  #: what happens to it between its listing and its reading
    large: bool = False  #: takes seconds to make and to read
    peak_bytes: int = PEAK_BYTES  #: how large the process may become by it


KINDS: list[Kind] = []


def content(
    name: str, *ends: str, large: bool = False, peak_bytes: int = PEAK_BYTES
) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """A file of the bytes that the function returns."""

    def register(make: Callable[[], bytes]) -> Callable[[], bytes]:
        KINDS.append(Kind(name, ends, lambda path: path.write_bytes(make()), large=large, peak_bytes=peak_bytes))
        return make

    return register


def entry(
    name: str, *ends: str, meanwhile: Callable[[Path], object] | None = None
) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Something at a path, made by the function."""

    def register(make: Callable[[Path], object]) -> Callable[[Path], object]:
        KINDS.append(Kind(name, ends, make, meanwhile=meanwhile))
        return make

    return register


def contents(files: Iterable[tuple[str, Callable[[], bytes], str]]) -> None:
    """Files that need no function of their own."""
    for name, make, end in files:
        content(name, end)(make)


def make_odd_files(folder: Path, *, large: bool = True) -> tuple[dict[str, Kind], dict[str, str]]:
    """Make one of each kind, or without the large ones.

    Returns:
        The kinds by their names, and why some of them could not be made.
    """
    made: dict[str, Kind] = {}
    not_made: dict[str, str] = {}
    for kind in KINDS:
        if kind.large and not large:
            continue
        path = folder / kind.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            kind.make(path)
            made[kind.name] = kind
        except (NotMadeError, PermissionError) as error:
            not_made[kind.name] = str(error)
    return made, not_made


def let_happen(folder: Path, kinds: Iterable[Kind] = KINDS) -> None:
    """What happens to some of them between their listing and their reading."""
    for kind in kinds:
        if kind.meanwhile is not None:
            kind.meanwhile(folder / kind.name)


# What begins like an image, and ends too early or is damaged.

contents(
    [
        ("empty.jpg", lambda: b"", TRUNCATED),
        ("one-byte.jpg", lambda: b"\xff", NOT_AN_IMAGE),
        ("signature.jpg", lambda: b"\xff\xd8\xff", UNREADABLE),
        ("signature.png", lambda: b"\x89PNG\r\n\x1a\n", UNREADABLE),
        ("signature.gif", lambda: b"GIF89a", UNREADABLE),
        ("half.jpg", lambda: _half("JPEG"), TRUNCATED),
        ("half.png", lambda: _half("PNG"), TRUNCATED),
        ("half.gif", lambda: _half("GIF"), TRUNCATED),
        ("half.webp", lambda: _half("WEBP"), TRUNCATED),
        ("half.tif", lambda: _half("TIFF"), TRUNCATED),
        ("half.bmp", lambda: _half("BMP"), TRUNCATED),
        ("half-progressive.jpg", lambda: _half("JPEG", progressive=True), TRUNCATED),
        ("without-end.jpg", lambda: encode(make_noise(), "JPEG")[:-2], TRUNCATED),
        ("without-end.png", lambda: make_png()[:-12], CLASSIFIED),
        ("with-tail.jpg", lambda: make_jpeg() + b"camera maker's notes" * 500, CLASSIFIED),
        ("with-tail.png", lambda: make_png() + bytes(5000), CLASSIFIED),
        ("twice.jpg", lambda: make_jpeg() + make_jpeg(colour="blue"), CLASSIFIED),
        ("zeros.jpg", lambda: bytes(4096), NOT_AN_IMAGE),
        ("hole.jpg", lambda: _with_hole(encode(make_noise(), "JPEG")), CLASSIFIED),
    ]
)


def _half(image_format: str, **options: bool) -> bytes:
    whole = encode(make_noise(), image_format, **options)
    return whole[: len(whole) // 2]


def _with_hole(encoded: bytes) -> bytes:
    """As a disk leaves it that lost a block."""
    middle = len(encoded) // 2
    return encoded[:middle] + bytes(512) + encoded[middle + 512 :]


# What is something else than its name says.

contents(
    [
        ("jpeg.png", make_jpeg, CLASSIFIED),
        ("png.jpg", make_png, CLASSIFIED),
        ("webp.gif", lambda: encode(make_image(), "WEBP"), CLASSIFIED),
        ("tiff.bmp", lambda: encode(make_image(), "TIFF"), CLASSIFIED),
        ("page.jpg", lambda: b"<html>404 Not Found</html>", NOT_AN_IMAGE),
        ("denied.jpg", lambda: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", NOT_AN_IMAGE),
        ("pointer.jpg", lambda: b"version https://git-lfs.example/spec/v1\noid sha256:00\nsize 1\n", NOT_AN_IMAGE),
        ("document.jpg", lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj <<>> endobj", NOT_AN_IMAGE),
        ("film.jpg", lambda: b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(200), NOT_AN_IMAGE),
        ("packed.jpg", lambda: gzip.compress(make_jpeg()), NOT_AN_IMAGE),
        ("archive.jpg", lambda: b"PK\3\4" + bytes(26), NOT_AN_IMAGE),
        ("fork.jpg", lambda: b"\0\5\x16\7\0\2\0\0Mac OS X        ", NOT_AN_IMAGE),
        ("targa.jpg", lambda: encode(make_image(), "TGA"), NOT_AN_IMAGE),
        ("drawing.jpg", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", UNSUPPORTED),
        ("declared-drawing.png", lambda: b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg width='1'/>", UNSUPPORTED),
        ("phone.jpg", lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), UNSUPPORTED),
        ("next-phone.jpg", lambda: encode(make_image(), "AVIF"), UNSUPPORTED),
        ("cinema.jpg", lambda: encode(make_image(), "JPEG2000"), UNSUPPORTED),
        ("icon.png", lambda: encode(make_image(), "ICO"), UNSUPPORTED),
        ("portable.jpg", lambda: encode(make_image(), "PPM"), UNSUPPORTED),
        ("texture.png", lambda: encode(make_image(), "DDS"), UNSUPPORTED),
        ("brush.jpg", lambda: encode(make_image(), "PCX"), UNSUPPORTED),
        ("print.jpg", lambda: encode(make_image(), "EPS"), UNSUPPORTED),
        ("layers.jpg", lambda: b"8BPS\0\1" + bytes(20), UNSUPPORTED),
        ("successor.jpg", lambda: b"\xff\x0a\xfa\x7f" + bytes(20), UNSUPPORTED),
        ("icon.icns", lambda: encode(make_image(64, 64), "ICNS"), NOT_LISTED),
        ("drawing.svg", lambda: b"<svg/>", NOT_LISTED),
        ("document.pdf", lambda: b"%PDF-1.7", NOT_LISTED),
        ("phone.heic", lambda: b"\0\0\0\x18ftypheic", NOT_LISTED),
        ("notes.txt", lambda: b"notes", NOT_LISTED),
    ]
)

# Small, and enormous once it is unpacked. The largest that is let through has 100 million pixels.

_SIDE = 10_000


@content("bomb.png", TOO_LARGE)
def header_of_ten_gigapixels() -> bytes:
    """Of a few hundred bytes."""
    return _png(100_000, 100_000, b"\0" * 100)


@content("bomb-of-zeros.png", TOO_LARGE)
def unpacks_to_gigabytes() -> bytes:
    """What it says of itself is true."""
    return _png(50_000, 20_000, bytes(20_000 * (1 + 50_000 // 8)), bits=1, mode=0)


@content("largest-black.png", CLASSIFIED, large=True)
def largest_of_one_bit() -> bytes:
    """12 KB of which every pixel is one bit."""
    return _png(_SIDE, _SIDE, bytes(_SIDE * (1 + _SIDE // 8)), bits=1, mode=0)


@content("largest-colours.png", CLASSIFIED, large=True)
def largest_of_three_colours() -> bytes:
    """300 MB as it is stored, 400 MB as Pillow keeps it."""
    return _png(_SIDE, _SIDE, _rows(3), mode=2)


@content("largest-transparent.png", CLASSIFIED, large=True)
def largest_with_transparency() -> bytes:
    """What lays it over white must not need it several times."""
    return _png(_SIDE, _SIDE, _rows(4), mode=6)


@content("largest-deep.png", CLASSIFIED, large=True)
def largest_of_16_bits() -> bytes:
    """Grey of two bytes."""
    return _png(_SIDE, _SIDE, _rows(2), bits=16, mode=0)


def _one_colour(mode: str, image_format: str, **options: Any) -> Callable[[], bytes]:
    return lambda: encode(Image.new(mode, (_SIDE, _SIDE)), image_format, **options)


_DEFLATE = {"compression": "tiff_adobe_deflate"}
for _name, _make, *_ends in (
    ("largest.gif", _one_colour("P", "GIF"), CLASSIFIED),
    ("largest.jpg", _one_colour("L", "JPEG", progressive=True), CLASSIFIED),
    ("largest.tif", _one_colour("CMYK", "TIFF", **_DEFLATE), CLASSIFIED),
    ("largest-float.tif", _one_colour("F", "TIFF", **_DEFLATE), CLASSIFIED),
    # It needs more than the limit lets it have: four coefficients of two bytes for each pixel.
    ("largest-cmyk.jpg", _one_colour("CMYK", "JPEG", progressive=True), TOO_LARGE),
):
    content(_name, *_ends, large=True)(_make)
# And these nearly so: the coefficients of three colours, and all rows of it in one strip beside the pixels.
content("largest-colours.jpg", CLASSIFIED, large=True, peak_bytes=700 * 2**20)(
    _one_colour("RGB", "JPEG", progressive=True, subsampling=0)
)
content("largest-strip.tif", CLASSIFIED, TOO_LARGE, large=True, peak_bytes=800 * 2**20)(
    _one_colour("RGB", "TIFF", strip_size=2**31 - 1, **_DEFLATE)
)


@content("largest.webp", TOO_LARGE)
def webp_that_needs_more_than_the_limit() -> bytes:
    """34 bytes, for which the decoder wants two canvases of 400 MB."""
    webp = bytearray(encode(make_image(64, 64), "WEBP", lossless=True))
    bits = int.from_bytes(webp[21:25], "little") & ~0xFFFFFFF
    webp[21:25] = (bits | (_SIDE - 1) << 14 | (_SIDE - 1)).to_bytes(4, "little")
    return bytes(webp)


def _rows(bytes_per_pixel: int) -> bytes:
    return bytes(_SIDE * (1 + _SIDE * bytes_per_pixel))


@content("bomb.jpg", TOO_LARGE)
def jpeg_of_four_gigapixels() -> bytes:
    """By its header."""
    return _with_frame(make_jpeg(), struct.pack(">HH", 65_500, 65_500))


@content("bomb.gif", TOO_LARGE)
def gif_of_four_gigapixels() -> bytes:
    """By its screen."""
    gif = encode(make_image(), "GIF")
    return gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:]


@content("bomb-frame.gif", TOO_LARGE)
def gif_with_a_frame_beyond_its_screen() -> bytes:
    """The screen is small, the frame is not."""
    gif = bytearray(encode(make_image(), "GIF"))
    start = gif.index(b",\0\0\0\0") + 5
    gif[start : start + 4] = struct.pack("<HH", 65_535, 65_535)
    return bytes(gif)


@content("bomb.bmp", TOO_LARGE)
def bmp_of_a_gigapixel() -> bytes:
    """By its header."""
    bmp = encode(make_image(), "BMP")
    return bmp[:18] + struct.pack("<ii", 32_000, 32_000) + bmp[26:]


@content("bomb.webp", TOO_LARGE)
def webp_of_many_pixels() -> bytes:
    """The largest that the format has."""
    webp = bytearray(encode(make_image(mode="RGBA", colour=(0, 0, 0, 9)), "WEBP", lossless=False))
    start = webp.index(b"VP8X") + 12
    webp[start : start + 6] = b"\xfe\x3f\0\xfe\x3f\0"
    return bytes(webp)


@content("bomb.tif", TOO_LARGE)
def tiff_of_ten_gigapixels() -> bytes:
    """By its header."""
    return _tiff({256: 100_000, 257: 100_000})


@content("bomb-of-strips.tif", CLASSIFIED)
def tiff_whose_strip_is_enormous() -> bytes:
    """Few pixels by its header, and four gigabytes in its one strip."""
    return _tiff({279: 0xFFFFFFF0})


@content("bomb-of-text.png", UNREADABLE)
def png_with_a_packed_text() -> bytes:
    """Of 40 MB."""
    return _png_with(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(40_000_000), 1))


@content("large-profile.png", CLASSIFIED)
def png_with_a_large_profile() -> bytes:
    """Some of printers have 3 MB."""
    return _png_with(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000), 1))


@content("bomb-of-profile.png", UNREADABLE)
def png_with_a_packed_profile() -> bytes:
    """Of 40 MB."""
    return _png_with(b"iCCP", b"profile\0\0" + zlib.compress(bytes(40_000_000), 1))


@content("many-scans.jpg", CLASSIFIED)
def jpeg_of_many_scans() -> bytes:
    """Each is one more pass over all of it."""
    jpeg = encode(make_noise(512, 512), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * 50 + jpeg[-2:]


# Sizes and shapes.

for _name in ("jpeg", "png", "gif", "webp", "tiff", "bmp"):
    content(f"1x1.{_name}", CLASSIFIED)(lambda _name=_name: encode(make_image(1, 1), _name.upper()))

contents(
    [
        ("20000x1.png", lambda: make_png(20_000, 1), CLASSIFIED),
        ("1x20000.png", lambda: make_png(1, 20_000), CLASSIFIED),
        ("65500x1.jpg", lambda: make_jpeg(65_500, 1), CLASSIFIED),
        ("0x0.png", lambda: _png(0, 0, b""), UNREADABLE),
        ("0x0.gif", lambda: encode(make_image(), "GIF")[:6] + bytes(4) + encode(make_image(), "GIF")[10:], CLASSIFIED),
        ("0x64.jpg", lambda: _with_frame(make_jpeg(), struct.pack(">HH", 64, 0)), UNREADABLE),
        (
            "0x64.bmp",
            lambda: encode(make_image(), "BMP")[:18] + bytes(4) + encode(make_image(), "BMP")[22:],
            UNREADABLE,
        ),
    ]
)

# Colours.

contents(
    [
        ("grey.jpg", lambda: encode(make_image(mode="L", colour=99), "JPEG"), CLASSIFIED),
        ("cmyk.jpg", lambda: encode(make_image(mode="CMYK", colour=(0, 255, 255, 0)), "JPEG"), CLASSIFIED),
        ("cmyk.tif", lambda: encode(make_image(mode="CMYK", colour=(0, 255, 255, 0)), "TIFF"), CLASSIFIED),
        ("1-bit.png", lambda: make_png(mode="1", colour=1), CLASSIFIED),
        ("16-bit.png", lambda: make_png(mode="I;16", colour=40_000), CLASSIFIED),
        ("16-bit.tif", lambda: encode(make_image(mode="I;16", colour=300), "TIFF"), CLASSIFIED),
        ("16-bit-colours.png", lambda: _png(8, 8, bytes(8 * 49), bits=16, mode=2), CLASSIFIED),
        ("grey-and-alpha.png", lambda: make_png(mode="LA", colour=(40, 0)), CLASSIFIED),
        ("palette-and-alpha.png", lambda: _palette_png(transparency=bytes(range(0, 256, 2))), CLASSIFIED),
        ("palette-and-alpha.gif", lambda: encode(make_quarters().quantize(8), "GIF", transparency=1), CLASSIFIED),
        ("transparent-colour.png", lambda: make_png(transparency=(255, 0, 0)), CLASSIFIED),
        ("nothing-but-alpha.webp", lambda: encode(make_image(mode="RGBA", colour=(0, 0, 0, 0)), "WEBP"), CLASSIFIED),
        ("float.tif", lambda: encode(make_image(mode="F", colour=0.5), "TIFF"), CLASSIFIED),
        ("not-numbers.tif", lambda: encode(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), CLASSIFIED),
        ("lab.tif", lambda: encode(make_image(mode="LAB", colour=(136, 208, 195)), "TIFF"), CLASSIFIED),
        ("palette-missing.png", lambda: _png(8, 8, bytes(72), mode=3), CLASSIFIED),
    ]
)


@content("ycck.jpg", CLASSIFIED)
def ycck() -> bytes:
    """What Photoshop makes of CMYK: Adobe's marker says that the first three are YCbCr."""
    jpeg = bytearray(encode(make_image(mode="CMYK", colour=(0, 255, 255, 0)), "JPEG"))
    jpeg[jpeg.index(b"Adobe") + 11] = 2
    return bytes(jpeg)


def _palette_png(**options: bytes) -> bytes:
    return encode(make_noise().quantize(128), "PNG", **options)


@content("palette-too-short.png", CLASSIFIED)
def short_palette() -> bytes:
    """Its pixels name colours that the palette does not have."""
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", b"\xff\0\0"),
            _chunk(b"IDAT", zlib.compress(b"\0\xff\xff\xff\xff\xff\xff\xff\xff" * 8)),
            _chunk(b"IEND", b""),
        ]
    )


# Ways to store an image.

contents(
    [
        ("progressive.jpg", lambda: encode(make_noise(), "JPEG", progressive=True), CLASSIFIED),
        ("restarts.jpg", lambda: encode(make_noise(), "JPEG", restart_marker_rows=1), CLASSIFIED),
        ("12-bit.jpg", lambda: _with_frame(make_jpeg(), b"\x0c", -1), UNREADABLE),
        ("arithmetic.jpg", lambda: make_jpeg().replace(b"\xff\xc0", b"\xff\xc9"), CLASSIFIED),
        ("lossless.jpg", lambda: make_jpeg().replace(b"\xff\xc0", b"\xff\xc3"), UNREADABLE),
        ("tables-missing.jpg", lambda: make_jpeg().replace(b"\xff\xdb", b"\xff\xfe"), UNREADABLE),
        ("comments.jpg", lambda: _jpeg_with(*[(0xFE, bytes(65_000))] * 50), CLASSIFIED),
        ("animated.gif", make_animation, CLASSIFIED),
        ("animated.webp", lambda: make_animation(image_format="WEBP"), CLASSIFIED),
        ("animated.png", lambda: make_animation(image_format="PNG"), CLASSIFIED),
        ("pages.tif", lambda: make_animation(image_format="TIFF"), CLASSIFIED),
        ("two-eyes.jpg", lambda: make_animation(image_format="MPO"), CLASSIFIED),
        ("without-frames.gif", lambda: encode(make_image(), "GIF")[:13] + b";", UNREADABLE),
        ("fax.tif", lambda: encode(make_image(mode="1"), "TIFF", compression="group4"), CLASSIFIED),
        ("lzw.tif", lambda: encode(make_noise(), "TIFF", compression="tiff_lzw"), CLASSIFIED),
        ("jpeg.tif", lambda: encode(make_noise(), "TIFF", compression="jpeg"), CLASSIFIED),
        ("big.tif", lambda: encode(make_noise(), "TIFF", big_tiff=True), CLASSIFIED),
        ("top-down.bmp", lambda: _with_negative_height(encode(make_image(), "BMP")), CLASSIFIED),
        (
            "pixels-elsewhere.bmp",
            lambda: encode(make_image(), "BMP").replace(b"\x36\0\0\0", b"\0\0\xff\x7f", 1),
            TRUNCATED,
        ),
        ("wrong-checksum.png", lambda: _png_with(b"tEXt", b"a\0b", checksum=0), UNREADABLE),
        ("wrong-checksum-of-header.png", lambda: make_png()[:29] + bytes(4) + make_png()[33:], UNREADABLE),
        ("pixels-missing.png", lambda: _png(64, 48, b"", mode=2), TRUNCATED),
        ("wrong-length.webp", lambda: b"RIFF" + bytes(4) + encode(make_noise(), "WEBP")[8:], UNREADABLE),
    ]
)


@content("damaged.png", UNREADABLE)
def damaged_png() -> bytes:
    """A PNG whose compressed pixels are not what the compressor wrote."""
    png = bytearray(encode(make_noise(), "PNG"))
    start = png.index(b"IDAT") + 12
    png[start : start + 64] = bytes(64)
    return bytes(png)


@content("iphone.png", UNREADABLE)
def iphone_png() -> bytes:
    """As Xcode makes it for apps: an own first chunk, and pixels without the header of zlib."""
    packer = zlib.compressobj(wbits=-15)
    header = _chunk(b"CgBI", bytes(4)) + _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 6, 0, 0, 0))
    pixels = _chunk(b"IDAT", packer.compress(bytes(8 * 33)) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + header + pixels + _chunk(b"IEND", b"")


def _with_negative_height(bmp: bytes) -> bytes:
    (height,) = struct.unpack_from("<i", bmp, 22)
    return bmp[:22] + struct.pack("<i", -height) + bmp[26:]


@content("endless.tif", CLASSIFIED)
def endless_tiff() -> bytes:
    """Its first page is followed by its first page."""
    tiff = bytearray(encode(make_image(), "TIFF"))
    (start,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, start)
    struct.pack_into("<I", tiff, start + 2 + 12 * entries, start)
    return bytes(tiff)


# What is written beside the pixels.

for _orientation in range(1, 9):
    content(f"orientation-{_orientation}.jpg", CLASSIFIED)(
        lambda _orientation=_orientation: encode(make_quarters(), "JPEG", orientation=_orientation)
    )

contents(
    [
        ("orientation-0.jpg", lambda: make_jpeg(orientation=0), CLASSIFIED),
        ("orientation-99.jpg", lambda: make_jpeg(orientation=99), CLASSIFIED),
        ("orientation-6.png", lambda: make_png(orientation=6), CLASSIFIED),
        ("broken-exif.jpg", lambda: make_jpeg(exif=b"Exif\0\0no TIFF at all"), CLASSIFIED),
        ("endless-exif.jpg", lambda: make_jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"), CLASSIFIED),
        ("exif-of-gigabytes.jpg", lambda: make_jpeg(exif=_exif(0x0112, 7, 0xFFFFFFF0)), CLASSIFIED),
        ("exif-division-by-zero.jpg", lambda: make_jpeg(exif=_exif(0x0112, 5, 1)), CLASSIFIED),
        ("broken-exif.png", lambda: _png_with(b"eXIf", b"MM\0*\xff\xff\xff\xff"), CLASSIFIED),
        ("broken-profile.jpg", lambda: make_jpeg(icc_profile=b"no profile" * 9), CLASSIFIED),
        ("broken-profile.png", lambda: _png_with(b"iCCP", b"name\0\0no deflate"), CLASSIFIED),
        ("profile-in-parts.jpg", lambda: _jpeg_with((0xE2, b"ICC_PROFILE\0\2\3" + bytes(50))), CLASSIFIED),
        ("broken-adobe.jpg", lambda: _jpeg_with((0xEE, b"Adobe")), UNREADABLE),
        (
            "broken-photoshop.jpg",
            lambda: _jpeg_with((0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\4abcd")),
            CLASSIFIED,
        ),
        ("broken-thumbnail.jpg", lambda: make_jpeg(exif=_exif(0x0201, 4, 1)), CLASSIFIED),
        ("two-images-announced.jpg", lambda: _jpeg_with((0xE2, b"MPF\0II*\0\xff\xff\xff\xff")), CLASSIFIED),
    ]
)


def _exif(tag: int, type_number: int, count: int) -> bytes:
    """EXIF data of one entry, whose value is said to lie at byte 26, where zeros are."""
    return b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", tag, type_number, count, 26) + bytes(20)


# Names.

for _name in (
    "line\nfeed.jpg",
    "tab\tand\x07bell.jpg",
    "escape\x1b[31m.jpg",
    os.fsdecode(b"not utf-8 \xff\xfe.jpg"),
    "a" * 251 + ".jpg",
    "\N{CAT FACE}" * 62 + ".jpg",
    "-rf.jpg",
    "  .jpg",
    ".jpg",
    "a%20b%2Fc?d#e&f;g=h+.jpg",
    "[a-z]*{b,c}.jpg",
    "back\\slash.jpg",
    "'; DROP TABLE images; --.jpg",
    '"quoted", with a comma.jpg',
    "=cmd().jpg",
    "a\u0308.jpg",
    "\u00e4.jpg",
    "\u202egpj.exe.jpg",
    "LOUD.JPG",
    "folder.jpg/inside.jpg",
):
    content(_name, CLASSIFIED)(make_jpeg)


@entry("deep", PASSED_OVER)
def deeper_than_a_path_can_be(path: Path) -> None:
    """Folders in folders, whose last no path can name."""
    path.mkdir()
    there = os.open(path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=there)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=there)
        os.close(there)
        there = below
    with open(os.open("a.jpg", os.O_WRONLY | os.O_CREAT, dir_fd=there), "wb") as file:
        file.write(make_jpeg())
    os.close(there)


# What is no file, or none that may be read.


@entry("pipe.jpg", PASSED_OVER)
def fifo(path: Path) -> None:
    """Who opens it waits for ever."""
    os.mkfifo(path)


@entry("zero.jpg", PASSED_OVER)
def device(path: Path) -> None:
    """Of which there is no end."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


@entry("socket.jpg", PASSED_OVER)
def unix_socket(path: Path) -> None:
    """It has a name like a file."""
    here = os.getcwd()
    os.chdir(path.parent)  # The address may only be short.
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


@entry("link.jpg", PASSED_OVER)
def link_to_an_image(path: Path) -> None:
    """It may lead anywhere."""
    path.symlink_to("folder.jpg/inside.jpg")


@entry("link-to-nothing.jpg", PASSED_OVER)
def link_to_nothing(path: Path) -> None:
    """What it led to is gone."""
    path.symlink_to("nowhere.jpg")


@entry("link-to-itself.jpg", PASSED_OVER)
def link_to_itself(path: Path) -> None:
    """Following it never ends."""
    path.symlink_to(path.name)


@entry("loop", PASSED_OVER)
def link_to_the_folder(path: Path) -> None:
    """Walking through it never ends."""
    path.symlink_to(".")


@entry("hard-link.jpg", CLASSIFIED)
def hard_link(path: Path) -> None:
    """The same file by another name."""
    os.link(path.parent / "LOUD.JPG", path)


@entry("hole-of-a-terabyte.jpg", TOO_LARGE)
def hole_of_a_terabyte(path: Path) -> None:
    """It takes no room on the disk."""
    path.touch()
    os.truncate(path, 2**40)


@entry("secret.jpg", FORBIDDEN)
def no_permission(path: Path) -> None:
    """Nobody may read it."""
    path.write_bytes(make_jpeg())
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.unlink()
        raise NotMadeError("this user may read every file")


@entry("secrets", PASSED_OVER)
def folder_without_permission(path: Path) -> None:
    """Nobody may list it."""
    path.mkdir(0)
    if os.access(path, os.R_OK):
        path.rmdir()
        raise NotMadeError("this user may read every folder")


# What changes after it was listed.


def _replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _keep_changing(path: Path) -> None:
    """For some seconds, or until this process ends."""

    def change() -> None:
        with open(path, "ab", buffering=0) as file:
            for _ in range(20_000):
                file.write(b"x")
                file.truncate(600)
                time.sleep(0.0001)

    threading.Thread(target=change, daemon=True).start()


def _jpeg_at(path: Path) -> None:
    path.write_bytes(make_jpeg())


entry("vanishing.jpg", NOT_FOUND, meanwhile=Path.unlink)(_jpeg_at)
entry("changing.jpg", CLASSIFIED, meanwhile=lambda path: path.write_bytes(make_jpeg(colour="blue")))(_jpeg_at)
entry("emptied.jpg", TRUNCATED, meanwhile=lambda path: os.truncate(path, 0))(_jpeg_at)
entry("becomes-a-pipe.jpg", NOT_FOUND, meanwhile=_replace_by_fifo)(_jpeg_at)
entry("becomes-a-link.jpg", NOT_FOUND, meanwhile=_replace_by_link)(_jpeg_at)
entry("keeps-changing.jpg", CLASSIFIED, TRUNCATED, STORAGE_ERROR, meanwhile=_keep_changing)(_jpeg_at)


# How they are put together.


def _chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    number = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", number)


def _png(width: int, height: int, rows: bytes, *, bits: int = 8, mode: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, mode, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows, 1)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _png_with(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    png = make_png()
    return png[:33] + _chunk(kind, data, checksum) + png[33:]


def _jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    jpeg = make_jpeg()
    added = b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)
    return jpeg[:2] + added + jpeg[2:]


def _with_frame(jpeg: bytes, data: bytes, shift: int = 0) -> bytes:
    """With its height and width, and what follows them, replaced."""
    start = jpeg.index(b"\xff\xc0") + 5 + shift
    return jpeg[:start] + data + jpeg[start + len(data) :]


def _tiff(tags: dict[int, int]) -> bytes:
    """A TIFF that says other things of itself than it is."""
    tiff = bytearray(encode(make_noise(), "TIFF"))
    (start,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        (tag,) = struct.unpack_from("<H", tiff, at)
        if tag in tags:
            struct.pack_into("<HHII", tiff, at, tag, TiffImagePlugin.TiffTags.LONG, 1, tags[tag])
    return bytes(tiff)
