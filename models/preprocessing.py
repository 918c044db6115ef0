"""How an image becomes the pixels that a model sees; training, workers, `predict` and the web all use this."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from base.errors import ModelError

if TYPE_CHECKING:  # The registry needs what is declared here, and none of these.
    from collections.abc import Mapping

    import numpy as np
    from PIL import Image

#: How an image is made smaller. Hamming's window looks at half of the pixels that bicubic does, for the same accuracy.
#: Both make it larger with bicubic, as Hamming's window would show it in blocks.
INTERPOLATIONS = ("hamming", "bicubic")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a model version expects; the defaults are those of EfficientNet-Lite0, but for its bicubic."""

    size: int = 224  #: height and width of the pixels, S
    crop: float = 0.875  #: side of the centre square that is kept, as a share of the image's shorter side
    mean: float = 127.0  #: a model computes with (pixel - mean) / scale
    scale: float = 128.0
    interpolation: str = "hamming"  #: of what is made smaller, one of INTERPOLATIONS

    def __post_init__(self) -> None:
        is_finite = math.isfinite(self.mean) and math.isfinite(self.scale)
        if not (self.size >= 1 and 0 < self.crop <= 1 and self.scale > 0 and is_finite):
            raise ModelError(
                f"{self} is not valid: mean must be a number, size and scale above 0, and crop above 0 and at most 1."
            )
        if self.interpolation not in INTERPOLATIONS:
            known = " or ".join(INTERPOLATIONS)
            raise ModelError(f"interpolation {self.interpolation!r} is not valid; it must be {known}.")

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """What a float32 model computes with: float32 of the pixels' shape, from uint8 (…, S, S, 3)."""
        normalised = pixels.astype("float32")
        normalised -= self.mean
        normalised /= self.scale
        return normalised

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            ModelError: a field is not valid, or one other than the interpolation is missing.
        """
        try:
            return cls(
                size=int(fields["size"]),
                crop=float(fields["crop"]),
                mean=float(fields["mean"]),
                scale=float(fields["scale"]),
                # Versions that do not say it are from when there was no other.
                interpolation=fields.get("interpolation", "bicubic"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"preprocessing {fields!r} is not valid: {error!r}.") from error


def fit(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Cut the centre square out of an image and resize it, in one antialiased step: bicubic where it gets larger.

    Args:
        image: mode RGB, of any size.
        preprocessing: what the model version expects.

    Returns:
        uint8 (S, S, 3).
    """
    import numpy as np
    from PIL import Image

    side = preprocessing.crop * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    size = (preprocessing.size, preprocessing.size)
    is_enlarged = side < preprocessing.size
    interpolation = "bicubic" if is_enlarged else preprocessing.interpolation
    resample = Image.Resampling[interpolation.upper()]
    return np.array(image.resize(size, resample, box=(left, top, left + side, top + side)))
