"""Images for tests, made in code."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def make_image(width: int = 64, height: int = 48, colour: Any = "red", mode: str = "RGB") -> Image.Image:
    """One colour all over."""
    return Image.new(mode, (width, height), colour)


def make_quarters(width: int = 64, height: int = 64) -> Image.Image:
    """Red, green, blue and white quarters: top left, top right, bottom left, bottom right."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("lime", (width // 2, 0, width, height // 2))
    image.paste("blue", (0, height // 2, width // 2, height))
    image.paste("white", (width // 2, height // 2, width, height))
    return image


def make_noise(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Every pixel another colour, so that it compresses badly."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """An image as a file's content; options go to Pillow, `orientation` into the EXIF data."""
    orientation = options.pop("orientation", None)
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][ORIENTATION] = orientation
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def make_jpeg(width: int = 64, height: int = 48, colour: Any = "red", **options: Any) -> bytes:
    """A JPEG of one colour; `quality`, `orientation` and Pillow's other options may follow."""
    return encode(make_image(width, height, colour), "JPEG", **options)


def make_png(width: int = 64, height: int = 48, colour: Any = "red", mode: str = "RGB", **options: Any) -> bytes:
    """A PNG of one colour in any mode that PNG has."""
    return encode(make_image(width, height, colour, mode), "PNG", **options)


def make_animation(colours: tuple[str, ...] = ("red", "lime"), image_format: str = "GIF") -> bytes:
    """One frame per colour."""
    first, *others = [make_image(colour=colour) for colour in colours]
    return encode(first, image_format, save_all=True, append_images=others, duration=100)


def make_tinted(colour: str, seed: int, size: int = 64) -> Image.Image:
    """Noise with more of one of "red", "green" and "blue"; every seed gives another image."""
    values = np.random.default_rng(seed).integers(0, 128, (size, size, 3), np.uint8)
    values[:, :, ("red", "green", "blue").index(colour)] += 100
    return Image.fromarray(values)


def make_dataset(folder: Path, images: int, colours: Sequence[str] = ("red", "green", "blue"), first: int = 0) -> Path:
    """A labelled folder: so many tinted images of each colour, its label; no two have the same seed."""
    for number, colour in enumerate(colours):
        (folder / colour).mkdir(parents=True)
        for index in range(images):
            content = encode(make_tinted(colour, first + 1000 * number + index), "PNG")
            (folder / colour / f"{index:03}.png").write_bytes(content)
    return folder
