"""Model versions that are trained once for all tests that only look at them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from models.decoding import DecodingLimits
from models.registry import Registry
from models.train import Trained, Training, train
from tests.samples import make_dataset

LIMITS = DecodingLimits(max_bytes=10_000_000, max_pixels=100_000_000)


@dataclass(frozen=True)
class Workshop:
    """A registry and a home to train in."""

    registry: Registry
    home: Path
    training: Training  #: small_cnn on tinted noise, three labels, two epochs

    def train(self, on_progress: Callable[[str, float], None] = lambda step, done: None, **changes: object) -> Trained:
        """Train, with other values than those of `training`."""
        return train(self.registry, replace(self.training, **changes), home=self.home, on_progress=on_progress)  # type: ignore[arg-type]


def make_workshop(folder: Path, *, images: int = 10, architecture: str = "small_cnn") -> Workshop:
    """A new one, with a dataset of so many images of each label."""
    training = Training(
        name="tints",
        dataset=str(make_dataset(folder / "dataset", images)),
        architecture=architecture,
        epochs=2,
        seed=0,
        target_precision=None,
        engine=None,
        limits=LIMITS,
    )
    return Workshop(Registry(folder / "models"), folder / "home", training)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """One of the test's own."""
    return make_workshop(tmp_path)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, Trained]:
    """small_cnn, trained with thresholds; for tests that only look at it."""
    shared = make_workshop(tmp_path_factory.mktemp("small"))
    return shared, shared.train(target_precision=0.9)


@pytest.fixture(scope="session")
def transferred(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, Trained]:
    """The default architecture; for tests that only look at it."""
    shared = make_workshop(tmp_path_factory.mktemp("transferred"), architecture="efficientnet_lite0")
    return shared, shared.train()
