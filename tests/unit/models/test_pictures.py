from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL.PngImagePlugin import PngImageFile

from models.fitting import Epoch
from models.metrics import measure
from models.pictures import draw_curves, draw_mistakes, draw_pictures


def opened(content):
    image = PngImageFile(BytesIO(content))  # Not Image.open, whose limit on pixels is that of the test before.
    image.load()
    return image


def metrics_of(num_labels, images, name="label {}"):
    random = np.random.default_rng(0)
    logits = random.normal(size=(images, num_labels)).astype(np.float32)
    labels = [name.format(number) for number in range(num_labels)]
    return measure(logits, 1.0, random.integers(0, num_labels, images), labels), labels


@pytest.mark.parametrize(
    ("num_labels", "images", "name"),
    [
        (2, 1, "{}"),
        (3, 54, "{}"),
        (1000, 3000, "{}"),  # More labels than a picture can show.
        (12, 60, "a very long label that costs $5 and $6 each, number {}"),  # Dollars are formulas to the library.
    ],
)
def test_pictures_are_drawn_whatever_the_labels_are(num_labels, images, name):
    metrics, _ = metrics_of(num_labels, images, name)

    pictures = draw_pictures(metrics, "furniture:1")

    assert sorted(pictures) == ["confusion.png", "precision_coverage.png", "reliability.png"]
    for content in pictures.values():
        assert opened(content).size == (700, 600)


def test_mistakes_are_shown_the_surest_first():
    """Each image is of one colour, that of its confidence, so that the first cell tells which image it is."""
    class_indices = np.zeros(20, int)
    logits = np.stack([np.linspace(-1, 1, 20), np.zeros(20)], axis=1).astype(np.float32)
    metrics = measure(logits, 1.0, class_indices, ("a", "b"))
    pixels = np.zeros((20, 8, 8, 3), np.uint8)
    pixels[0] = (255, 0, 0)  # The surest mistake.

    picture = opened(draw_mistakes(metrics, [Path(f"{n}.jpg") for n in range(20)], pixels, ["a"] * 20, "m:1"))

    red = np.argwhere((np.asarray(picture.convert("RGB")) == (255, 0, 0)).all(axis=2))
    assert len(red) > 1000 and red[:, 0].max() < picture.height / 2 and red[:, 1].max() < picture.width / 2


def test_no_mistakes_are_a_picture_too():
    metrics = measure(np.eye(2, dtype=np.float32), 1.0, np.array([0, 1]), ("a", "b"))
    pixels = np.zeros((2, 8, 8, 3), np.uint8)

    opened(draw_mistakes(metrics, [Path("a.jpg"), Path("b.jpg")], pixels, ["a", "b"], "m:1"))


def test_curves_have_a_line_for_training_and_one_for_validation():
    epoch = Epoch(loss=0.5, accuracy=0.8, validation_loss=0.6, validation_accuracy=0.7)

    picture = opened(draw_curves({"head": [epoch] * 3, "upper blocks": [epoch] * 2}, "furniture"))

    colours = {colour for _, colour in picture.convert("RGB").getcolors(100_000)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours
