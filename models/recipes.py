"""How each architecture is trained: a dataset in, a Keras model out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from models.augmentation import augment, generator
from models.dataset import Dataset, Split
from models.fitting import Fitted, compile_model, in_order, label_weights, one_hot, shuffled, train_epochs
from models.preprocessing import Preprocessing
from models.transfer import TRANSFER_PREPROCESSING, fit_efficientnet_lite0

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from models.child import Progress
    from models.fitting import TrainingBatch, ValidationBatch

_SMALL_CNN = Preprocessing(size=128, crop=1.0, mean=0.0, scale=255.0)
_SMALL_CNN_EPOCHS = 15


class Fit(Protocol):
    """Trains one architecture."""

    def __call__(
        self, dataset: Dataset, *, seed: int, epochs: int | None, folder: Path, on_progress: Progress
    ) -> Fitted:
        """Train on the dataset's training split, and choose by its validation split.

        Args:
            dataset: with both splits.
            seed: the same one gives the same weights, on the same kind of machine.
            epochs: at most; None for the architecture's own number.
            folder: what is kept there is gone on with when the same training is begun again.
            on_progress: told each epoch with its figures.

        Returns:
            A model that takes normalised pixels, and ends at logits or a softmax.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An architecture as it is trained."""

    preprocessing: Preprocessing
    fit: Fit


def fit_small_cnn(dataset: Dataset, *, seed: int, epochs: int | None, folder: Path, on_progress: Progress) -> Fitted:
    """See `Fit`: from nothing, on augmented pixels, for 15 epochs, of which the best is kept."""
    from models.architectures import build_small_cnn

    num_labels, most = len(dataset.labels), epochs or _SMALL_CNN_EPOCHS
    rows, checked = dataset.splits[Split.TRAIN], dataset.splits[Split.VALIDATION]
    targets = one_hot(dataset.class_indices, num_labels)
    weights = label_weights(dataset.class_indices[rows], num_labels)

    def training(epoch: int) -> Iterator[TrainingBatch]:
        for some in shuffled(len(rows), seed, epoch):
            seen = [augment(dataset.pixels[rows[each]], generator(seed, epoch, int(each))) for each in some]
            yield _SMALL_CNN.normalise(np.stack(seen)), targets[rows[some]], weights[some]

    def validation() -> Iterator[ValidationBatch]:
        for some in in_order(len(checked)):
            yield _SMALL_CNN.normalise(dataset.pixels[checked[some]]), targets[checked[some]]

    model = build_small_cnn(num_labels)
    compile_model(model, 1e-3, from_logits=False)
    history = train_epochs(
        model,
        training,
        validation,
        epochs=most,
        patience=_SMALL_CNN_EPOCHS,
        checkpoint=folder / "epochs.npz",
        on_epoch=lambda number, epoch: on_progress(f"epoch {number} of {most}: {epoch}", number / most),
    )
    return Fitted(model=model, history={"training": history})


#: What can be trained, by name.
RECIPES: Mapping[str, Recipe] = {
    "efficientnet_lite0": Recipe(preprocessing=TRANSFER_PREPROCESSING, fit=fit_efficientnet_lite0),
    "small_cnn": Recipe(preprocessing=_SMALL_CNN, fit=fit_small_cnn),
}
