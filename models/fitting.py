"""The training loop: epochs, early stopping, and a checkpoint after each that a killed training goes on from."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import keras

BATCH = 32

# Inputs (B, …), one-hot targets float32 (B, K) and the weight of each image float32 (B,).
TrainingBatch = tuple[np.ndarray, np.ndarray, np.ndarray]
# The same without weights.
ValidationBatch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """How an epoch went; losses are plain cross-entropies."""

    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.3f}, accuracy {self.accuracy:.3f}; "
            f"on validation {self.validation_loss:.3f}, {self.validation_accuracy:.3f}"
        )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained model and how it came about."""

    model: keras.Model
    history: dict[str, list[Epoch]]  #: step → its epochs, in order
    notes: tuple[str, ...] = ()  #: sentences for the card


def compile_model(model: keras.Model, learning_rate: float, *, from_logits: bool, label_smoothing: float = 0.0) -> None:
    """Make a model ready for `train_epochs`: Adam, categorical cross-entropy, accuracy.

    Args:
        model: ends at logits or a softmax.
        learning_rate: of Adam.
        from_logits: which of the two.
        label_smoothing: the share of each target that is spread over all labels.
    """
    import keras

    model.compile(
        keras.optimizers.Adam(learning_rate),
        loss=keras.losses.CategoricalCrossentropy(from_logits=from_logits, label_smoothing=label_smoothing),
        # The loss that Keras tells by itself has smoothing and regularisation in it.
        metrics=[keras.metrics.CategoricalCrossentropy(name="cross_entropy", from_logits=from_logits), "accuracy"],
        weighted_metrics=[],
    )


def train_epochs(
    model: keras.Model,
    training: Callable[[int], Iterable[TrainingBatch]],
    validation: Callable[[], Iterable[ValidationBatch]],
    *,
    epochs: int,
    patience: int,
    checkpoint: Path,
    on_epoch: Callable[[int, Epoch], None],
) -> list[Epoch]:
    """Train a compiled model, and leave it with the weights of the epoch whose validation loss was lowest.

    Args:
        model: from `compile_model`.
        training: from an epoch's number, from 0 on, to its training batches; the same each time it is asked.
        validation: the validation images in batches; the same each time it is asked.
        epochs: at most.
        patience: stop when so many epochs in a row were no better; as many as `epochs` for never.
        checkpoint: the file that is written after each epoch, and gone on from where it exists.
        on_epoch: told each epoch's number, from 1 on, and how it went.

    Returns:
        Every epoch, those of an earlier process too.
    """
    model.optimizer.build(model.trainable_variables)
    history, best = _restore(model, checkpoint)
    while len(history) < epochs and len(history) - _best_epoch(history) < patience:
        loss, accuracy = _mean(
            (len(inputs), model.train_on_batch(inputs, targets, sample_weight=weights, return_dict=True))
            for inputs, targets, weights in training(len(history))
        )
        validation_loss, validation_accuracy = validate(model, validation)
        history.append(
            Epoch(
                loss=loss,
                accuracy=accuracy,
                validation_loss=validation_loss,
                validation_accuracy=validation_accuracy,
            )
        )
        if _best_epoch(history) == len(history):
            best = [variable.numpy() for variable in model.variables]
        _save(model, history, best, checkpoint)
        on_epoch(len(history), history[-1])
    for variable, value in zip(model.variables, best, strict=True):
        variable.assign(value)
    return history


def validate(model: keras.Model, validation: Callable[[], Iterable[ValidationBatch]]) -> tuple[float, float]:
    """The cross-entropy and the accuracy of a compiled model on the batches that `validation` gives."""
    return _mean(
        (len(inputs), model.test_on_batch(inputs, targets, return_dict=True)) for inputs, targets in validation()
    )


def _mean(batches: Iterable[tuple[int, Mapping[str, float]]]) -> tuple[float, float]:
    """The cross-entropy and accuracy over all images, of those that Keras tells of each batch."""
    told = list(batches)
    images = sum(count for count, _ in told)
    loss, accuracy = (
        sum(count * float(figures[name]) for count, figures in told) / images for name in ("cross_entropy", "accuracy")
    )
    return loss, accuracy


def one_hot(class_indices: np.ndarray, num_labels: int) -> np.ndarray:
    """Targets float32 (B, K) of class indices (B,)."""
    targets: np.ndarray = np.eye(num_labels, dtype=np.float32)[class_indices]
    return targets


def label_weights(class_indices: np.ndarray, num_labels: int) -> np.ndarray:
    """The weight float32 (B,) of each image, so that every label counts as much as any other; 1 where they are even."""
    counts = np.bincount(class_indices, minlength=num_labels)
    per_label = len(class_indices) / (num_labels * np.maximum(counts, 1))
    weights: np.ndarray = per_label.astype(np.float32)[class_indices]
    return weights


def in_order(count: int) -> Iterator[np.ndarray]:
    """The positions 0 to `count`, a batch at a time."""
    for start in range(0, count, BATCH):
        yield np.arange(start, min(start + BATCH, count))


def shuffled(count: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The positions of each training batch of an epoch; the same for the same seed and epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    for rows in in_order(count):
        yield order[rows]


def epochs_done(checkpoint: Path) -> int:
    """How many epochs lie behind a checkpoint of `train_epochs`.

    Raises:
        ValueError: it is damaged."""
    try:
        with np.load(checkpoint, allow_pickle=False) as saved:
            return len(json.loads(str(saved["history"])))
    except (OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{checkpoint} is no checkpoint: {error}") from error


def _best_epoch(history: Sequence[Epoch]) -> int:
    """Its number, from 1 on; 0 where there is none. Of equals the first."""
    losses = [epoch.validation_loss for epoch in history]
    return losses.index(min(losses)) + 1 if losses else 0


def _save(model: keras.Model, history: Sequence[Epoch], best: Sequence[np.ndarray], checkpoint: Path) -> None:
    arrays = {f"now_{index}": variable.numpy() for index, variable in enumerate(_state(model))}
    arrays |= {f"best_{index}": value for index, value in enumerate(best)}
    unfinished = checkpoint.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.savez(file, history=json.dumps([asdict(epoch) for epoch in history]), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, checkpoint)  # A kill leaves the one before.


def _restore(model: keras.Model, checkpoint: Path) -> tuple[list[Epoch], list[np.ndarray]]:
    """The epochs that lie behind, and the best weights among them; the model gets the state after the last."""
    if not checkpoint.exists():
        return [], [variable.numpy() for variable in model.variables]
    with np.load(checkpoint, allow_pickle=False) as saved:
        for index, variable in enumerate(_state(model)):
            variable.assign(saved[f"now_{index}"])
        best = [saved[f"best_{index}"] for index in range(len(model.variables))]
        return [Epoch(**epoch) for epoch in json.loads(str(saved["history"]))], best


def _state(model: keras.Model) -> list[Any]:
    """All that an epoch changes: weights, the state of dropout's random numbers, and the optimizer's memory."""
    return [*model.variables, *model.optimizer.variables]
