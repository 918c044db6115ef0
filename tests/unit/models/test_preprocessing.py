import numpy as np
import pytest
from PIL import Image

from base.errors import ModelError
from models.preprocessing import Preprocessing, fit
from tests.samples import make_image, make_quarters


def test_pixels_have_the_size_asked_for():
    pixels = fit(make_image(300, 200), Preprocessing(size=32))

    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8


def test_only_the_centre_square_is_kept():
    image = Image.new("RGB", (400, 100), "blue")
    image.paste("red", (140, 0, 260, 100))  # The square of 100 is from 150 to 250; an interpolation may look further.

    pixels = fit(image, Preprocessing(size=20, crop=1.0))

    assert (pixels == (255, 0, 0)).all()


def test_border_outside_the_crop_is_left_out():
    image = Image.new("RGB", (80, 80), "blue")
    image.paste("red", (8, 8, 72, 72))

    assert (fit(image, Preprocessing(size=16, crop=0.5)) == (255, 0, 0)).all()


def test_rows_and_columns_are_not_swapped():
    pixels = fit(make_quarters(), Preprocessing(size=32))

    assert pixels[2, 29].tolist() == [0, 255, 0]
    assert pixels[29, 2].tolist() == [0, 0, 255]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3000, 2)])
def test_extreme_shapes_keep_their_colour(size):
    pixels = fit(make_image(*size), Preprocessing(size=16))

    assert (pixels == (255, 0, 0)).all()


def test_fine_stripes_become_their_mean():
    """Without antialiasing they would become black or white."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255

    pixels = fit(Image.fromarray(stripes), Preprocessing(size=16))

    assert abs(int(pixels.max()) - 128) <= 2 and abs(int(pixels.min()) - 128) <= 2


def test_json_gives_the_same_back():
    preprocessing = Preprocessing(size=128, crop=1.0, mean=0.0, scale=255.0, interpolation="bicubic")

    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing


@pytest.mark.parametrize(
    ("interpolation", "size", "overshoots"), [("hamming", 8, False), ("bicubic", 8, True), ("hamming", 48, True)]
)
def test_interpolation_is_the_one_asked_for_but_for_enlargements(interpolation, size, overshoots):
    """Where dark meets bright, bicubic makes the dark side darker and the bright side brighter than they were."""
    edge = np.full((64, 64, 3), 100, np.uint8)
    edge[:, 33:] = 200

    pixels = fit(Image.fromarray(edge), Preprocessing(size=size, crop=0.5, interpolation=interpolation))

    assert (pixels.min() < 100, pixels.max() > 200) == (overshoots, overshoots)


@pytest.mark.parametrize("fields", [{}, {"size": "x", "crop": 1, "mean": 0, "scale": 1}])
def test_damaged_json_is_refused(fields):
    with pytest.raises(ModelError, match="is not valid"):
        Preprocessing.from_json(fields)


@pytest.mark.parametrize("field", [{"size": 0}, {"crop": 0.0}, {"crop": 1.5}, {"scale": 0.0}, {"interpolation": "x"}])
def test_values_out_of_range_are_refused(field):
    with pytest.raises(ModelError, match="is not valid"):
        Preprocessing(**field)
