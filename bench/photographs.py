"""The images that are measured: copies of somebody's photographs, or such that are made in code."""

from collections.abc import Sequence
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

#: Width and height of catalogue pictures: of the web, of a shop, of a camera.
SIZES = ((500, 375), (1500, 1500), (4000, 3000))

_QUALITY = 85
_DIFFERENT = 6  # Images of one size that are drawn; the others are copies.
# Side of the squares of one colour → by how much they differ. Photographs have most of their contrast in what is large.
_SCALES = ((256, 50.0), (64, 30.0), (16, 18.0), (4, 14.0), (2, 9.0), (1, 6.0))


def fill(folder: Path, contents: Sequence[bytes], number: int) -> Path:
    """A folder of so many images.

    Each ends with bytes of its own, so that none is taken for the twin of another. Decoders stop before them.
    """
    folder.mkdir(parents=True)
    for index, content in enumerate(islice(cycle(contents), number)):
        (folder / f"{index:06}.jpg").write_bytes(content + index.to_bytes(8, "big"))
    return folder


def read_photographs(folder: Path) -> list[bytes]:
    """The JPEG files of a folder."""
    if not folder.is_dir():
        raise SystemExit(f"bench: no folder {str(folder)!r}; name another with DIR=")
    contents = [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg")]
    if not contents:
        raise SystemExit(f"bench: {folder} holds no .jpg or .jpeg file; name another folder with DIR=")
    return contents


def make_photographs(width: int, height: int, different: int = _DIFFERENT) -> list[bytes]:
    """JPEG files that cost about what photographs of that size cost: gradients, and noise at several scales."""
    return [_encode(_draw(np.random.default_rng(seed), width, height)) for seed in range(different)]


def _draw(random: np.random.Generator, width: int, height: int) -> Image.Image:
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    slopes = random.uniform(-60, 60, (2, 3)).astype(np.float32)
    pixels = 128 + down[..., None] * slopes[0] + across[..., None] * slopes[1]  # (H, W, 3)
    for side, contrast in _SCALES:
        coarse = random.normal(0, contrast, (-(-height // side) + 1, -(-width // side) + 1)).astype(np.float32)
        pixels += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _encode(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
