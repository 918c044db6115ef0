import numpy as np

from models.engines.fake import FakeEngine
from models.preprocessing import Preprocessing, fit
from tests.samples import make_image


def test_fake_engine_tells_colours_apart():
    pixels = np.stack([fit(make_image(colour=colour), Preprocessing(size=8)) for colour in ("red", "lime", "blue")])

    assert FakeEngine().predict_logits(pixels).argmax(axis=1).tolist() == [0, 1, 2]


def test_fake_engine_prefers_the_first_labels():
    pixels = np.full((1, 8, 8, 3), 255, np.uint8)

    assert FakeEngine(num_labels=5).predict_logits(pixels)[0].argsort(kind="stable").tolist() == [3, 4, 0, 1, 2]
