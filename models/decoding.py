"""From an image file's bytes to the pixels that a model sees, or an ImageError with its reason.

What comes in is untrusted. Every mode that Pillow gives has its rule here:

- grey of 16 bits is divided by 256; grey of 32 bits or floating point names no white, and is scaled by the first of 1
  (only floating point), 255 and 65535 that no value exceeds, or else from its own darkest to its own lightest
- transparency is laid over white
- CMYK, YCbCr, HSV and LAB are converted by Pillow, without the file's colour profile
- of an animation the first frame counts; EXIF orientation is applied
"""

import logging
import math
import re
import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np

# Naming the plugins keeps Pillow from loading all of its others when the first image is opened.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from base.errors import FailureReason, ImageError
from base.stages import Stage, Stopwatch
from models.preprocessing import Preprocessing, fit

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")  # Never MPO, which breaks on other files; JPEG opens it.

# How files of each format begin. The second list is there to tell people what they have.
READ_SIGNATURES = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WEBP", rb"RIFF....WEBP"),
    ("TIFF", rb"II[*+]\x00|MM\x00[*+]"),
    ("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00"),
)
OTHER_SIGNATURES = (
    ("AVIF", rb".{4}ftyp(avif|avis)"),
    ("HEIC", rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)"),
    ("Canon CR3", rb".{4}ftypcrx "),
    ("Photoshop", rb"8BPS"),
    ("ICO", rb"\x00\x00[\x01\x02]\x00[^\x00]"),
    ("JPEG 2000", rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
    ("JPEG XL", rb"\x00\x00\x00\x0cJXL |\xff\x0a"),
    ("JPEG XR", rb"II\xbc"),
    ("SVG", rb"(\xef\xbb\xbf)?\s*<(svg[\s>]|(\?xml|!--|!DOCTYPE svg)(?=.*<svg[\s>]))"),
    ("EPS", rb"%!PS-Adobe-\d\.\d EPSF|\xc5\xd0\xd3\xc6"),
    ("PNM", rb"P[1-7f]\s+[\d#W]|PF\s+\d"),
    ("OpenEXR", rb"\x76\x2f\x31\x01"),
    ("Radiance HDR", rb"#\?(RADIANCE|RGBE)"),
    ("DDS", rb"DDS \x7c"),
    ("QOI", rb"qoif"),
    ("MNG", rb"[\x8a\x8b][MJ]NG\r\n\x1a\n"),
    ("ICNS", rb"icns"),
    ("XCF", rb"gimp xcf"),
    ("PCX", rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]"),
    ("DjVu", rb"AT&TFORM....DJV"),
    ("FITS", rb"SIMPLE  = "),
    ("XPM", rb"/\* XPM \*/"),
    ("Fujifilm RAF", rb"FUJIFILMCCD-RAW"),
    ("EMF", rb"\x01\x00\x00\x00.{36} EMF"),
    ("WMF", rb"\xd7\xcd\xc6\x9a"),
)
# Larger images are not converted whole, but in strips of so many pixels.
_WHOLE_PIXELS, _STRIP_PIXELS = 2**24, 2**20

# For each pixel: WebP has two canvases of four bytes, a progressive JPEG four coefficients of two, and more is needed.
_DECODER_BYTES = 9

HEAD_BYTES = 1024  # An SVG's prolog has to fit; every other signature is shorter.

# EXIF orientation → how the pixels as stored are turned into what the camera saw (Exif 2.32, section 4.6.4).
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Compressed texts and profiles may be as large as those of real images, for which Pillow's 1 MB is too little.
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 2**20

# Pillow logs what it stumbles over; an ImageError says it.
logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, kw_only=True)
class DecodingLimits:
    """What one image may cost."""

    max_bytes: int  #: of the file
    max_pixels: int  #: width x height, looked at before anything is decoded


def decode(
    encoded: bytes, preprocessing: Preprocessing, limits: DecodingLimits, watch: Stopwatch | None = None
) -> np.ndarray:
    """Decode an image file and cut out the pixels that a model sees.

    Args:
        encoded: the file's content.
        preprocessing: what the model version expects.
        limits: files and images above them are refused.
        watch: told when decoding begins, and when preprocessing.

    Returns:
        uint8 (S, S, 3), RGB.

    Raises:
        ImageError: there is no such image in it; its reason is one of truncated, not_an_image, unsupported_format,
            unreadable and too_large.
    """
    watch = watch or Stopwatch()
    watch.begin(Stage.DECODING)
    if not encoded:
        raise ImageError(FailureReason.TRUNCATED, "the file is empty")
    if len(encoded) > limits.max_bytes:
        raise ImageError(FailureReason.TOO_LARGE, f"{len(encoded):,} bytes; the limit is {limits.max_bytes:,}")
    image_format = _recognise(encoded)
    # Pillow has no such argument; in one process the limit is the same for all images.
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _decode(encoded, preprocessing, watch)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            message = f"{image_format} of more than {limits.max_pixels:,} pixels"
            raise ImageError(FailureReason.TOO_LARGE, message) from error
        except MemoryError as error:
            message = f"{image_format} that needs more memory than there is"
            raise ImageError(FailureReason.TOO_LARGE, message) from error
        except Exception as error:  # Pillow raises whatever its parsers run into: struct.error, IndexError, KeyError…
            raise _explain(error, encoded, image_format) from error


def _recognise(encoded: bytes) -> str:
    """The name of the format that the file begins like.

    Raises:
        ImageError: it is of a format that is not read, or of none that we know.
    """
    head = encoded[:HEAD_BYTES]
    for name, signature in READ_SIGNATURES:
        if re.match(signature, head, re.DOTALL):
            return name
    for name, signature in OTHER_SIGNATURES:
        if re.match(signature, head, re.DOTALL):
            known = ", ".join(FORMATS)
            raise ImageError(
                FailureReason.UNSUPPORTED_FORMAT, f"{name}, which is not read; convert it to one of {known}"
            )
    raise ImageError(FailureReason.NOT_AN_IMAGE, f"{len(encoded):,} bytes that begin with {head[:12]!r}, like no image")


def _decode(encoded: bytes, preprocessing: Preprocessing, watch: Stopwatch) -> np.ndarray:
    with Image.open(BytesIO(encoded), formats=FORMATS) as image:
        # libjpeg can leave out detail while decoding: down to 1/8, and never below the square's final size. Over 200
        # photographs enlarged to short sides of 520 to 1500, accuracy stayed within 0.5 points and decoding took half.
        needed = math.ceil(preprocessing.size / preprocessing.crop)
        image.draft("RGB", (needed, needed))
        image.load()
        watch.begin(Stage.PREPROCESSING)
        # Turning the small square gives what turning the whole image before would, as the square is its centre.
        pixels = fit(_to_small_rgb(image, needed), preprocessing)
        turn = ORIENTATIONS.get(_orientation(image))
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))


def _to_small_rgb(image: Image.Image, needed: int) -> Image.Image:
    """As `to_rgb`, but a large image is averaged down to no less than twice the needed side, a few rows at a time.

    Otherwise an image and what it is converted to would be in memory together, whole: twice 400 MB and more.
    """
    if _is_plain(image) or image.width * image.height <= _WHOLE_PIXELS:
        return to_rgb(image)
    # Twice, so that what is resized after it has pixels to choose from.
    factor = max(1, min(image.size) // (2 * needed))
    if image.mode in ("I", "F"):  # What is white is found in all of its values.
        return to_rgb(image.reduce(factor))
    small = Image.new("RGB", (math.ceil(image.width / factor), math.ceil(image.height / factor)))
    rows = factor * max(1, _STRIP_PIXELS // (factor * image.width))
    for top in range(0, image.height, rows):
        strip = to_rgb(image.crop((0, top, image.width, min(top + rows, image.height))))
        small.paste(strip.reduce(factor), (0, top // factor))
    return small


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode by the rules at the top of this file."""
    if _is_plain(image):
        return image
    if image.mode.startswith("I;16"):
        return _grey((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return _grey(_to_8_bits(np.asarray(image)))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _over_white(image)
    return image.convert("RGB")


def _is_plain(image: Image.Image) -> bool:
    return image.mode == "RGB" and "transparency" not in image.info


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale values of a type that names no white: 1, 255 or 65535, whichever holds them all, else their own range.

    Args:
        values: int32 or float32 (H, W); what is not a finite number counts as 0.

    Returns:
        uint8 (H, W).
    """
    finite = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = 0.0, float(finite.max())
    whites = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    if finite.min() < 0 or high > whites[-1]:
        low = float(finite.min())
    else:
        high = next(white for white in whites if high <= white)
    return np.round((finite - low) * (255 / max(high - low, 1e-30))).astype(np.uint8)


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # Pillow knows no straight way from there.
        image = image.convert("LA")
    with_alpha = image.convert("RGBA")
    opaque = Image.new("RGB", image.size, "white")
    opaque.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return opaque


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, as stored, where the EXIF data are missing or damaged, as the image can do without."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 (Pillow raises about anything over damaged EXIF data)
        return 1


def _explain(error: Exception, encoded: bytes, image_format: str) -> ImageError:
    if _is_truncated(encoded, image_format, error):
        return ImageError(FailureReason.TRUNCATED, f"{image_format} that ends too early{_tell(error)}")
    if _may_lack_memory(encoded, image_format):
        message = f"{image_format} that needs more memory than there is, or is damaged{_tell(error)}"
        return ImageError(FailureReason.TOO_LARGE, message)
    return ImageError(FailureReason.UNREADABLE, f"damaged {image_format}{_tell(error)}")


def _is_truncated(encoded: bytes, image_format: str, error: Exception) -> bool:
    if image_format == "WEBP":  # Its decoder does not say what it misses, but its header says how long it is.
        return int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
    return isinstance(error, EOFError) or (isinstance(error, OSError) and "truncated" in str(error).lower())


def _may_lack_memory(encoded: bytes, image_format: str) -> bool:
    """Whether it is so large that its decoder may have met the limit; libraries in C tell of that as of damage."""
    try:
        if image_format == "WEBP":
            width, height = _webp_size(encoded)
        else:
            with Image.open(BytesIO(encoded), formats=FORMATS) as image:
                width, height = image.size
        np.empty((height, width, _DECODER_BYTES), np.uint8)  # Never written to, so it takes no memory.
    except MemoryError:
        return True
    except Exception:  # noqa: BLE001 (as when it is decoded)
        return False
    return False


def _webp_size(encoded: bytes) -> tuple[int, int]:
    """Width and height as the header has them (RFC 9649, sections 2.5 to 2.7); Pillow tells them once it decodes."""
    number = int.from_bytes
    match encoded[12:16]:
        case b"VP8X":
            return number(encoded[24:27], "little") + 1, number(encoded[27:30], "little") + 1
        case b"VP8L":
            bits = number(encoded[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            return number(encoded[26:28], "little") & 0x3FFF, number(encoded[28:30], "little") & 0x3FFF


def _tell(error: Exception) -> str:
    """What Pillow said, short and printable, so that it fits into a column of text."""
    if isinstance(error, UnidentifiedImageError):  # It names an object in memory.
        return ""
    text = str(error).encode("ascii", "backslashreplace").decode()
    return ": " + "".join(character if character.isprintable() else " " for character in text[:200])
