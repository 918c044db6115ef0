"""Real image files, damaged at random: the same ones for the same seed, and each can be made again alone."""

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from tests.samples import encode, make_animation, make_image, make_noise

# Sizes, counts and offsets at which decoders have gone wrong before.
_NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 32_767, 32_768, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_HEADER_BYTES = 256


@dataclass(frozen=True)
class Mutation:
    """A damaged file."""

    name: str  #: says of which file and how to make it again
    encoded: bytes


def mutations(number: int, seed: int) -> Iterator[Mutation]:
    """So many of them, the files taking turns."""
    return (mutate(index, seed) for index in range(number))


def mutate(index: int, seed: int) -> Mutation:
    """The one of that index, which does not depend on the others."""
    chance = random.Random(f"{seed}/{index}")
    names = list(originals())
    name = names[index % len(names)]
    stem, suffix = name.rsplit(".")
    encoded = bytearray(originals()[name])
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        chance.choice(_DEEDS)(encoded, chance)
    # Most damage would end at a wrong checksum, before anything is parsed.
    if suffix == "png" and chance.random() < 0.8:
        encoded = _with_checksums(encoded)
    return Mutation(f"{seed}-{index:06}-{stem}.{suffix}", bytes(encoded))


@cache
def originals() -> dict[str, bytes]:
    """The files that are damaged: each of the formats, as their encoders differ most."""
    noise, grey = make_noise(40, 30), make_noise(40, 30).convert("L")
    palette, clear = noise.quantize(32), make_image(40, 30, (200, 9, 9, 120), "RGBA")
    return {
        "plain.jpg": encode(noise, "JPEG", orientation=6),
        "progressive.jpg": encode(noise, "JPEG", progressive=True, icc_profile=bytes(200)),
        "cmyk.jpg": encode(noise.convert("CMYK"), "JPEG", restart_marker_rows=1),
        "two-eyes.jpg": make_animation(image_format="MPO"),
        "plain.png": encode(noise, "PNG", orientation=3),
        "palette.png": encode(palette, "PNG", transparency=bytes(range(32))),
        "deep.png": encode(make_image(40, 30, 999, "I;16"), "PNG"),
        "animated.png": make_animation(image_format="PNG"),
        "plain.gif": encode(palette, "GIF", interlace=1),
        "animated.gif": make_animation(),
        "plain.webp": encode(noise, "WEBP", orientation=8),
        "lossless.webp": encode(clear, "WEBP", lossless=True),
        "animated.webp": make_animation(image_format="WEBP"),
        "plain.tif": encode(noise, "TIFF"),
        "lzw.tif": encode(noise, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encode(clear, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": encode(noise, "TIFF", compression="jpeg"),
        "fax.tif": encode(grey.convert("1"), "TIFF", compression="group4"),
        "float.tif": encode(grey.convert("F"), "TIFF"),
        "big.tif": encode(noise, "TIFF", big_tiff=True),
        "plain.bmp": encode(noise, "BMP"),
        "palette.bmp": encode(palette, "BMP"),
        "alpha.bmp": encode(clear, "BMP"),
    }


def _place(encoded: bytearray, chance: random.Random) -> int:
    """Half of them in the header, where most is decided."""
    end = len(encoded) if chance.random() < 0.5 else min(len(encoded), _HEADER_BYTES)
    return chance.randrange(max(1, end))


def _stretch(encoded: bytearray, chance: random.Random) -> slice:
    start = _place(encoded, chance)
    return slice(start, start + chance.choice((1, 2, 4, 16, 64, 256)))


def _flip_bit(encoded: bytearray, chance: random.Random) -> None:
    if encoded:
        encoded[_place(encoded, chance)] ^= 1 << chance.randrange(8)


def _set_number(encoded: bytearray, chance: random.Random) -> None:
    place, size = _place(encoded, chance), chance.choice((1, 2, 4))
    number = chance.choice(_NUMBERS) % 256**size
    encoded[place : place + size] = number.to_bytes(size, chance.choice(("little", "big")))


def _scramble(encoded: bytearray, chance: random.Random) -> None:
    part = _stretch(encoded, chance)
    encoded[part] = chance.randbytes(len(encoded[part]))


def _fill(encoded: bytearray, chance: random.Random) -> None:
    part = _stretch(encoded, chance)
    encoded[part] = chance.choice((b"\0", b"\xff")) * len(encoded[part])


def _delete(encoded: bytearray, chance: random.Random) -> None:
    del encoded[_stretch(encoded, chance)]


def _insert(encoded: bytearray, chance: random.Random) -> None:
    place = _place(encoded, chance)
    encoded[place:place] = chance.randbytes(chance.choice((1, 2, 4, 64)))


def _repeat(encoded: bytearray, chance: random.Random) -> None:
    part = _stretch(encoded, chance)
    encoded[part.start : part.start] = encoded[part] * chance.choice((1, 2, 50))


def _cut(encoded: bytearray, chance: random.Random) -> None:
    del encoded[_place(encoded, chance) :]


def _splice(encoded: bytearray, chance: random.Random) -> None:
    other = chance.choice(list(originals().values()))
    encoded[_place(encoded, chance) :] = other[chance.randrange(len(other)) :]


_DEEDS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bit,
    _flip_bit,
    _set_number,
    _set_number,
    _set_number,
    _scramble,
    _fill,
    _delete,
    _insert,
    _repeat,
    _cut,
    _splice,
)


def _with_checksums(png: bytearray) -> bytearray:
    """With the checksum of every chunk as its data now want it, as far as there are chunks."""
    mended, start = bytearray(png), 8
    while start + 12 <= len(mended):
        (length,) = struct.unpack_from(">I", mended, start)
        end = start + 8 + length
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[start + 4 : end]))
        start = end + 4
    return mended
