"""Changes to a training image that leave its label as it is."""

import math

import numpy as np
from PIL import Image, ImageEnhance

_LEAST_AREA = 0.5
_LONGEST_SIDES = 1.25  # Of the cut-out: its longer side by its shorter.
_STRONGEST_CHANGE = 0.25  # Of brightness, contrast and saturation.


def augment(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mirror, cut out a part, and change brightness, contrast and saturation, each by chance.

    The cut-out is that of Szegedy et al. 2015 (arXiv:1409.4842), section 6, with at least half of the area.

    Args:
        pixels: uint8 (S, S, 3).
        random: decides; the same one gives the same pixels.

    Returns:
        uint8 (S, S, 3).
    """
    image = Image.fromarray(pixels)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = image.width
    area = side * side * random.uniform(_LEAST_AREA, 1)
    ratio = math.exp(random.uniform(-math.log(_LONGEST_SIDES), math.log(_LONGEST_SIDES)))
    width, height = min(side, math.sqrt(area * ratio)), min(side, math.sqrt(area / ratio))
    left, top = random.uniform(0, side - width), random.uniform(0, side - height)
    box = (left, top, left + width, top + height)
    image = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(random.uniform(1 - _STRONGEST_CHANGE, 1 + _STRONGEST_CHANGE))
    return np.asarray(image)


def generator(seed: int, epoch: int, image: int) -> np.random.Generator:
    """What decides for one image in one epoch, so that a training that goes on sees what it would have seen."""
    return np.random.default_rng([seed, epoch, image])
