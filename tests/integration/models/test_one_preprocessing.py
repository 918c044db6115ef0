"""Training, evaluation, a worker and `predict` see the same pixels, and so give the same confidences."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.classifier import Classifier
from models.dataset import read_dataset
from models.predictions import confidences
from models.registry import load_engine
from producer.folder import path_to_uri
from results.ledger import ClaimedImage
from tests.integration.models.conftest import LIMITS
from tests.samples import encode, make_animation, make_noise, make_quarters
from worker.classify import classify

MANY = 1000


def odd_images() -> dict[str, bytes]:
    """One of each kind that is turned, converted or cut."""
    rgb = make_quarters(90, 60)
    deep = Image.fromarray((np.arange(90 * 60).reshape(60, 90) * 12).astype(np.uint16))
    see_through = rgb.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(rgb.size))
    turned = {f"turned{orientation}.jpg": encode(rgb, "JPEG", orientation=orientation) for orientation in range(1, 9)}
    return turned | {
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "grey.jpg": encode(rgb.convert("L"), "JPEG"),
        "palette.png": encode(rgb.convert("P"), "PNG", transparency=0),
        "alpha.png": encode(see_through, "PNG"),
        "deep.png": encode(deep, "PNG"),
        "moving.gif": make_animation(("blue", "red")),
        "large.jpg": encode(make_noise(1200, 900), "JPEG"),
        "one.png": encode(make_noise(1, 1), "PNG"),
        "long.webp": encode(make_noise(900, 3), "WEBP"),
    }


@pytest.fixture(scope="module")
def version(pretrained_registry):
    return pretrained_registry.find("efficientnet_lite0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The images as a dataset of two labels that the model knows."""
    folder = tmp_path_factory.mktemp("odd")
    for number, (name, content) in enumerate(odd_images().items()):
        label = folder / ("tench" if number % 2 else "goldfish")
        label.mkdir(exist_ok=True)
        (label / name).write_bytes(content)
    return folder


def from_pixels(version, dataset) -> dict[str, dict[str, float]]:
    """What the engine says of the pixels of a dataset, as training and evaluation see them."""
    shares = confidences(load_engine(version).predict_logits(np.asarray(dataset.pixels)), version.temperature)
    return {
        path.name: dict(zip(version.labels, row.tolist(), strict=True))
        for path, row in zip(dataset.paths, shares, strict=True)
    }


def read(folder, version, tmp_path, **options):
    return read_dataset(
        folder,
        version.preprocessing,
        LIMITS,
        pixels_file=tmp_path / "pixels.npy",
        on_progress=lambda step, done: None,
        **options,
    )


def test_every_path_gives_equal_confidences(version, folder, tmp_path):
    images = sorted(path for path in folder.rglob("*") if path.is_file())
    classifier = Classifier(version, limits=LIMITS)
    predicted = {
        path.name: {one.label: one.confidence for one in classifier.predict(path.read_bytes(), MANY)} for path in images
    }

    trained = from_pixels(version, read(folder, version, tmp_path))
    evaluated = from_pixels(version, read(folder, version, tmp_path, labels=version.labels, is_test=True))
    worked = in_worker(classifier, images)

    assert len(predicted) == len(images) == 17
    assert trained == evaluated == worked == predicted


def in_worker(classifier: Classifier, images: list[Path]) -> dict[str, dict[str, float]]:
    claimed = [
        ClaimedImage(image_id=number, uri=path_to_uri(str(path).encode()), fingerprint="")
        for number, path in enumerate(images)
    ]
    answers, failures = classify(
        classifier,
        claimed,
        top_k=MANY,
        max_bytes=LIMITS.max_bytes,
        find_twins=lambda content_hashes: {},
        on_progress=lambda: None,
    )
    assert failures == []
    return {images[answer.image_id].name: dict(answer.labels) for answer in answers}
