import numpy as np

from models.augmentation import augment, generator
from models.preprocessing import Preprocessing, fit
from tests.samples import make_quarters, make_tinted

PIXELS = fit(make_quarters(64, 64), Preprocessing(size=32, crop=1.0))


def test_same_seed_epoch_and_image_give_the_same_pixels():
    once, again = (augment(PIXELS, generator(7, 3, 5)) for _ in range(2))

    assert once.shape == PIXELS.shape and once.dtype == np.uint8
    assert np.array_equal(once, again)


def test_another_seed_epoch_or_image_gives_other_pixels():
    seen = {augment(PIXELS, generator(*numbers)).tobytes() for numbers in [(7, 3, 5), (8, 3, 5), (7, 4, 5), (7, 3, 6)]}

    assert len(seen) == 4


def test_half_of_the_images_are_mirrored():
    """The red quarter is top left, the green one top right."""
    red_left = [augment(PIXELS, generator(0, 0, image))[4, 4, 0] > 100 for image in range(200)]

    assert 60 < sum(red_left) < 140


def test_what_an_image_shows_stays():
    pixels = fit(make_tinted("green", 1), Preprocessing(size=32, crop=1.0))

    for image in range(50):
        assert augment(pixels, generator(0, 0, image)).mean(axis=(0, 1)).argmax() == 1
