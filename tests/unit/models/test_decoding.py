import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from base.errors import FailureReason, ImageError
from models import decoding
from models.decoding import DecodingLimits, decode, to_rgb
from models.preprocessing import Preprocessing, fit
from tests.corpus.mutations import mutations
from tests.samples import encode, make_animation, make_image, make_jpeg, make_noise, make_png, make_quarters

SMALL = Preprocessing(size=32)
DECODING_REASONS = {"truncated", "unreadable", "not_an_image", "too_large", "unsupported_format"}
LIMITS = DecodingLimits(max_bytes=10_000_000, max_pixels=1_000_000)


def centre(encoded: bytes) -> list[int]:
    return decode(encoded, SMALL, LIMITS)[16, 16].tolist()


def refusal(encoded: bytes, limits: DecodingLimits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(encoded, SMALL, limits)
    return caught.value


def watch_sizes(monkeypatch) -> list[tuple[int, int]]:
    """The sizes that images have once decoded."""
    sizes = []

    def note_and_fit(image, preprocessing):
        sizes.append(image.size)
        return fit(image, preprocessing)

    monkeypatch.setattr(decoding, "fit", note_and_fit)
    return sizes


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_every_format_gives_the_same_picture(image_format):
    pixels = decode(encode(make_quarters(), image_format), SMALL, LIMITS)

    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
    found = pixels[[4, 4, 27, 27], [4, 27, 4, 27]].astype(int)
    assert np.abs(found - expected).max() < 12  # JPEG and WebP lose a little.


@pytest.mark.parametrize(
    ("encoded", "colour"),
    [
        (make_png(mode="L", colour=200), (200, 200, 200)),
        (make_png(mode="1", colour=1), (255, 255, 255)),
        (make_png(mode="I;16", colour=200 * 257), (200, 200, 200)),  # Scaled, not clipped to 255.
        (encode(make_image(mode="I;16", colour=300), "TIFF"), (1, 1, 1)),
        (make_png(mode="LA", colour=(0, 0)), (255, 255, 255)),  # Transparent: white shows.
        (make_png(mode="LA", colour=(40, 255)), (40, 40, 40)),
        (make_png(mode="RGBA", colour=(255, 0, 0, 128)), (255, 127, 127)),
        (make_png(colour=(10, 20, 30), transparency=(10, 20, 30)), (255, 255, 255)),  # A colour declared transparent.
        (make_png(colour=(10, 20, 30), transparency=(0, 0, 0)), (10, 20, 30)),
        (encode(make_image(colour=(10, 200, 30)).quantize(2), "PNG"), (10, 200, 30)),
        (encode(make_image(mode="P", colour=0), "PNG", transparency=0), (255, 255, 255)),
        (encode(make_image(mode="CMYK", colour=(0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
        (encode(make_image(mode="CMYK", colour=(0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (encode(make_image(mode="YCbCr", colour=(76, 85, 255)), "TIFF"), (254, 0, 0)),
        (encode(make_image(mode="LAB", colour=(136, 208, 195)), "TIFF"), None),  # Red, give or take its white point.
        (encode(make_image(mode="F", colour=0.5), "TIFF"), (128, 128, 128)),
        (encode(make_image(mode="F", colour=200.0), "TIFF"), (200, 200, 200)),
        (encode(make_image(mode="I", colour=200), "TIFF"), (200, 200, 200)),
        (encode(make_image(mode="I", colour=65535), "TIFF"), (255, 255, 255)),
        (encode(make_image(mode="RGBA", colour=(0, 0, 0, 0)), "WEBP", lossless=True), (255, 255, 255)),
    ],
)
def test_every_colour_mode_follows_its_rule(encoded, colour):
    found = centre(encoded)

    if colour is None:
        assert found[0] > 200 and max(found[1:]) < 80
    else:
        assert np.abs(np.subtract(found, colour)).max() <= 2


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "HSV", "RGBX"])
def test_modes_that_only_pillow_makes_become_rgb(mode):
    source = make_image(mode="RGBA", colour=(0, 0, 255, 255)) if mode == "RGBa" else make_image(colour="blue")
    image = source.convert("LA").convert("La") if mode == "La" else source.convert(mode)

    colour = to_rgb(image).getpixel((0, 0))

    assert colour == ((29, 29, 29) if mode == "La" else (0, 0, 255))


def test_numbers_outside_any_white_are_stretched():
    image = Image.fromarray(np.array([[-5.0, 0.0, 5.0, np.nan]], np.float32))

    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 128, 255, 128]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_shows_the_image_upright(orientation, image_format):
    """The stored image is the upright one turned back, so that decoding it gives the upright one again."""
    upright = make_quarters(96, 64)
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = back.get(orientation, decoding.ORIENTATIONS.get(orientation))
    stored = upright if turn is None else upright.transpose(turn)

    pixels = decode(encode(stored, image_format, orientation=orientation), SMALL, LIMITS)

    difference = pixels.astype(int) - fit(upright, SMALL)
    assert np.abs(difference).mean() < 3  # A wrong turn would be above 60.


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation_counts(image_format):
    assert np.abs(np.subtract(centre(make_animation(("red", "lime"), image_format)), (255, 0, 0))).max() < 6


@pytest.mark.parametrize(
    "broken",
    [
        b"no TIFF at all",
        b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x02\x00\x04\x00\x00\x00abc\x00" + bytes(4),  # A text.
        b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x05\x00\x01\x00\x00\x00\x1a" + bytes(7) + b"\x01" + bytes(7),  # 1/0.
    ],
)
def test_damaged_exif_data_do_not_matter(broken):
    assert centre(make_jpeg(exif=b"Exif\x00\x00" + broken))[0] > 250


def test_pillow_logs_nothing(caplog):
    three_samples = b"\x15\x01\x03\x00\x01\x00\x00\x00\x03\x00"
    encoded = encode(make_image(), "TIFF").replace(three_samples, three_samples[:-2] + b"\x63\x00")

    assert refusal(encoded).reason == FailureReason.UNREADABLE
    assert caplog.records == []


def test_large_jpeg_is_decoded_smaller(monkeypatch):
    """Its whole 1000 x 800 would be eight times the pixels in each direction."""
    sizes = watch_sizes(monkeypatch)

    assert centre(make_jpeg(1000, 800))[0] > 250
    assert sizes == [(125, 100)]


def test_draft_never_goes_below_the_final_size(monkeypatch):
    sizes = watch_sizes(monkeypatch)

    decode(make_jpeg(1000, 800), Preprocessing(size=224), LIMITS)

    assert min(sizes[0]) * 0.875 >= 224


@pytest.mark.parametrize(
    ("encoded", "reason", "named"),
    [
        (b"", "truncated", "empty"),
        (encode(make_noise(), "JPEG")[:-1500], "truncated", "JPEG"),
        (encode(make_noise(), "PNG")[:-3000], "truncated", "PNG"),
        (encode(make_noise(), "GIF")[:-1500], "truncated", "GIF"),
        (encode(make_noise(), "WEBP")[:-500], "truncated", "WEBP"),
        (encode(make_noise(), "BMP")[:-1500], "truncated", "BMP"),
        (b"Dear customer, see the attached photograph.", "not_an_image", "Dear"),
        (b"\x00" * 100, "not_an_image", "100 bytes"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "not_an_image", "%PDF"),
        (b"<!DOCTYPE html><html><svg></svg></html>", "not_an_image", "<!DOCTYPE"),  # A login page, most likely.
        (b"BMW is a maker of cars from Munich.", "not_an_image", "BMW"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "unsupported_format", "HEIC"),
        (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00", "unsupported_format", "AVIF"),
        (b"8BPS\x00\x01", "unsupported_format", "Photoshop"),
        (b"\x00\x00\x01\x00\x01\x00", "unsupported_format", "ICO"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "unsupported_format", "JPEG 2000"),
        (b"\xff\x0a\xfa\x7f", "unsupported_format", "JPEG XL"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg width='1'/>", "unsupported_format", "SVG"),
        (b"P6\n4 4\n255\n", "unsupported_format", "PNM"),
        (b"\xff\xd8\xff" + b"\x00" * 100, "unreadable", "JPEG"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, "unreadable", "PNG"),
        (b"II*\x00" + b"\xff" * 100, "unreadable", "TIFF"),
        (make_png()[:45] + b"\x00" * 200, "unreadable", "PNG"),
    ],
)
def test_broken_files_have_their_reason(encoded, reason, named):
    error = refusal(encoded)

    assert error.reason == reason, str(error)
    assert named in str(error)


def test_more_pixels_than_allowed_are_refused_before_decoding():
    error = refusal(make_png(1001, 1000))

    assert error.reason == FailureReason.TOO_LARGE
    assert "1,000,000 pixels" in str(error)


def test_exactly_the_allowed_pixels_are_read():
    assert centre(make_png(1000, 1000)) == [255, 0, 0]


def test_bomb_with_an_enormous_header_is_too_large():
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += make_png()[33:]

    assert refusal(bomb).reason == FailureReason.TOO_LARGE


def test_more_bytes_than_allowed_are_refused():
    error = refusal(make_jpeg(), DecodingLimits(max_bytes=100, max_pixels=10_000))

    assert error.reason == FailureReason.TOO_LARGE
    assert "limit is 100" in str(error)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (MemoryError(), "too_large"),
        (ValueError("odd"), "unreadable"),
        (KeyError("odd"), "unreadable"),
        (struct.error("odd"), "unreadable"),
        (ZeroDivisionError(), "unreadable"),
        (OSError("image file is truncated (3 bytes not processed)"), "truncated"),
    ],
)
def test_whatever_pillow_raises_has_a_reason(monkeypatch, raised, reason):
    def fail(image):
        raise raised

    monkeypatch.setattr(decoding, "to_rgb", fail)

    assert refusal(make_jpeg()).reason == reason


def test_message_fits_into_a_text_column(monkeypatch):
    """PostgreSQL refuses NUL, and nobody reads a megabyte."""

    def fail(image):
        raise ValueError("a\x00b\nc\udcff" * 10_000)

    monkeypatch.setattr(decoding, "to_rgb", fail)
    message = str(refusal(make_jpeg()))

    assert message.isprintable() and message.isascii() and len(message) < 300


def test_damaged_files_end_with_pixels_or_a_reason():
    """Any other error fails this test."""
    seen = Counter()
    for mutation in mutations(3000, seed=1):
        try:
            seen[decode(mutation.encoded, SMALL, LIMITS).shape] += 1
        except ImageError as error:
            seen[error.reason] += 1
    assert seen.keys() - {(32, 32, 3)} <= DECODING_REASONS
    assert seen[32, 32, 3] > 500 and seen["unreadable"] > 500  # Damage that matters, and damage that does not.


@pytest.mark.parametrize(
    "encoded",
    [
        encode(make_quarters(900, 700).convert("L"), "PNG"),
        encode(make_quarters(900, 700).quantize(8), "PNG", transparency=1),
        encode(make_quarters(900, 700), "PNG", transparency=(255, 0, 0)),
        encode(make_quarters(900, 700).convert("RGBA"), "PNG"),
        encode(make_quarters(900, 700).convert("CMYK"), "TIFF"),
        encode(Image.fromarray(np.asarray(make_quarters(900, 700).convert("L")).astype(np.uint16) * 257), "PNG"),
        encode(make_quarters(900, 700).convert("F"), "TIFF"),
    ],
)
def test_large_image_is_converted_in_strips_to_the_same_picture(monkeypatch, encoded):
    sizes = watch_sizes(monkeypatch)
    whole = decode(encoded, SMALL, LIMITS)
    monkeypatch.setattr(decoding, "_WHOLE_PIXELS", 1000)
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", 30_000)

    in_strips = decode(encoded, SMALL, LIMITS)

    assert sizes == [(900, 700), (100, 78)]
    assert np.abs(in_strips.astype(int) - whole).mean() < 2


@pytest.mark.parametrize(
    "damaged",
    [
        make_jpeg().replace(b"\xff\xdb", b"\xff\xfe"),  # Without the tables that its pixels need.
        encode(make_image(), "WEBP", lossless=True)[:25] + bytes(3000),
    ],
)
def test_damaged_image_that_may_lack_memory_is_too_large(monkeypatch, damaged):
    assert refusal(damaged).reason == FailureReason.UNREADABLE
    monkeypatch.setattr(decoding, "_DECODER_BYTES", 2**50)

    assert refusal(damaged).reason == FailureReason.TOO_LARGE


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"exif": b"Exif\0\0"}])
def test_size_of_a_webp_is_read_from_its_header(options):
    assert decoding._webp_size(encode(make_image(123, 45), "WEBP", **options)) == (123, 45)
