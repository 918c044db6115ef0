"""Transfer learning: the pretrained network with a head for other labels, and its upper blocks adapted to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.augmentation import augment, generator
from models.child import share
from models.dataset import Dataset, Split, map_file
from models.fitting import (
    BATCH,
    Epoch,
    Fitted,
    compile_model,
    in_order,
    label_weights,
    one_hot,
    shuffled,
    train_epochs,
    validate,
)
from models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import keras

    from models.child import Progress
    from models.fitting import TrainingBatch, ValidationBatch

# ImageNet's evaluation cuts off an eighth of the side; a product often fills its photograph to the edges.
TRANSFER_PREPROCESSING = Preprocessing(crop=1.0)

# The layer up to which nothing is learnt, and the last one before the labels.
_TRUNK_END, _FEATURES = "block10_add", "pool"
_HEAD_EPOCHS, _HEAD_RATE = 30, 1e-3
_HEAD_PENALTY = 5e-3  # Times the sum of squares of the head's weights.
# Without it a few hundred images are learnt by heart and every answer is sure. The temperature makes up for it after.
_SMOOTHING = 0.05
_UPPER_RATE, _UPPER_PATIENCE = 5e-5, 4
# Passes through the frozen part cost most of the time, so the more images there are, the fewer views each one gets.
_VIEWS_IN_ALL, _MOST_VIEWS = 2500, 10
# The same for the images that fine-tuning goes through.
_IMAGES_IN_ALL, _MOST_EPOCHS = 50_000, 10


def fit_efficientnet_lite0(
    dataset: Dataset, *, seed: int, epochs: int | None, folder: Path, on_progress: Progress
) -> Fitted:
    """See `Fit`, in two steps; `epochs` are those of the second.

    First the head learns from features that the frozen network gives for augmented views of each image, computed
    once. Then the upper five blocks learn with it, slowly, from what the frozen blocks below them give; that is kept
    only where it lowers the loss on validation. Batch normalisation keeps its ImageNet statistics.
    """
    from models.pretrained import build_pretrained_keras

    pretrained = build_pretrained_keras()
    views = _compute_views(dataset, pretrained, seed, folder, share(on_progress, 0.0, 0.45))
    upper = _upper(pretrained, len(dataset.labels))
    head = _fit_head(upper, views, seed, folder, share(on_progress, 0.45, 0.55))
    before, _ = validate(upper, views.validation)
    head_only = upper.get_weights()
    most = min(max(_IMAGES_IN_ALL // len(views.targets), 2), _MOST_EPOCHS) if epochs is None else epochs
    upper_history = _fit_upper(upper, views, seed, most, folder, share(on_progress, 0.55, 1.0))
    after = min((epoch.validation_loss for epoch in upper_history), default=before)
    if after < before:
        note = "Adapting the upper five blocks lowered the loss on validation, and was kept."
    else:
        upper.set_weights(head_only)
        note = "Only the head was trained: adapting the upper five blocks did not lower the loss on validation."
    return Fitted(
        model=_whole(upper, pretrained, len(dataset.labels)),
        history={"head": head, "upper blocks": upper_history},
        notes=(f"Each training image was seen in {len(views.trunk)} views.", note),
    )


@dataclass(frozen=True, kw_only=True)
class _Views:
    """What the frozen network gives for V views of each of N training images, and for M validation images.

    The first view is the image as it is.
    """

    trunk: np.ndarray  #: float16 (V, N, h, w, c), mapped from a file
    features: np.ndarray  #: float32 (V, N, F), what the pretrained head would get
    targets: np.ndarray  #: float32 (N, K), one-hot
    weights: np.ndarray  #: float32 (N,)
    validation_trunk: np.ndarray  #: float16 (M, h, w, c), mapped from a file
    validation_features: np.ndarray  #: float32 (M, F)
    validation_targets: np.ndarray  #: float32 (M, K), one-hot

    def validation(self) -> Iterator[ValidationBatch]:
        """For the blocks above the trunk."""
        for some in in_order(len(self.validation_trunk)):
            yield self.validation_trunk[some].astype(np.float32), self.validation_targets[some]

    def head_validation(self) -> Iterator[ValidationBatch]:
        """For the head."""
        for some in in_order(len(self.validation_features)):
            yield self.validation_features[some], self.validation_targets[some]


def _compute_views(dataset: Dataset, pretrained: keras.Model, seed: int, folder: Path, on_progress: Progress) -> _Views:
    rows, checked = dataset.splits[Split.TRAIN], dataset.splits[Split.VALIDATION]
    count = 1 + min(max(_VIEWS_IN_ALL // len(rows), 1), _MOST_VIEWS)
    shape = pretrained.get_layer(_TRUNK_END).output.shape[1:]
    (features,) = pretrained.get_layer(_FEATURES).output.shape[1:]
    trunk = map_file(folder / "trunk.npy", np.float16, (count, len(rows), *shape))
    validation_trunk = map_file(folder / "validation_trunk.npy", np.float16, (len(checked), *shape))
    pooled = np.empty((count, len(rows), features), np.float32)
    validation_pooled = np.empty((len(checked), features), np.float32)
    frozen = _frozen(pretrained)
    total = count * len(rows) + len(checked)

    def report(done: int) -> None:
        on_progress(f"computing features: {done:,} of {total:,}", done / total)

    for view in range(count):

        def see(row: int, view: int = view) -> np.ndarray:
            pixels: np.ndarray = dataset.pixels[rows[row]]
            return augment(pixels, generator(seed, view, row)) if view else pixels

        for some in in_order(len(rows)):
            trunk[view, some], pooled[view, some] = frozen(np.stack([see(int(row)) for row in some]))
            report(view * len(rows) + int(some[-1]) + 1)
    for some in in_order(len(checked)):
        validation_trunk[some], validation_pooled[some] = frozen(dataset.pixels[checked[some]])
        report(count * len(rows) + int(some[-1]) + 1)
    num_labels = len(dataset.labels)
    return _Views(
        trunk=trunk,
        features=pooled,
        targets=one_hot(dataset.class_indices[rows], num_labels),
        weights=label_weights(dataset.class_indices[rows], num_labels),
        validation_trunk=validation_trunk,
        validation_features=validation_pooled,
        validation_targets=one_hot(dataset.class_indices[checked], num_labels),
    )


def _frozen(pretrained: keras.Model) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """From pixels uint8 (B, S, S, 3) to what the trunk gives, (B, h, w, c), and the features, (B, F)."""
    import keras
    import tensorflow as tf

    both = keras.Model(pretrained.inputs, [pretrained.get_layer(name).output for name in (_TRUNK_END, _FEATURES)])
    size = TRANSFER_PREPROCESSING.size
    signature = tf.TensorSpec((BATCH, size, size, 3), tf.float32)
    compute = tf.function(lambda inputs: both(inputs, training=False), input_signature=[signature])

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Always of one size: another one would be another graph, which takes seconds to make.
        filled = np.zeros((BATCH, size, size, 3), np.uint8)
        filled[: len(pixels)] = pixels
        trunk, features = compute(TRANSFER_PREPROCESSING.normalise(filled))
        return trunk.numpy()[: len(pixels)], features.numpy()[: len(pixels)]

    return run


def _upper(pretrained: keras.Model, num_labels: int) -> keras.Model:
    """The blocks that are adapted, with a new head; its input is what the trunk gives."""
    import keras
    from keras import layers

    blocks = keras.Model(pretrained.get_layer(_TRUNK_END).output, pretrained.get_layer(_FEATURES).output)
    for layer in blocks.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False  # Keras then keeps its statistics, too.
    x = layers.Dropout(0.2, name="dropout")(blocks.output)
    return keras.Model(blocks.inputs, _head(num_labels)(x))


def _head(num_labels: int) -> keras.layers.Layer:
    from keras import initializers, layers, regularizers

    return layers.Dense(
        num_labels,
        name="logits",
        kernel_initializer=initializers.Zeros(),
        kernel_regularizer=regularizers.L2(_HEAD_PENALTY),
    )


def _fit_head(upper: keras.Model, views: _Views, seed: int, folder: Path, on_progress: Progress) -> list[Epoch]:
    """Train the head on the features of all views, and give it to `upper`."""
    import keras

    count, images, features = views.features.shape
    flat = views.features.reshape(-1, features)

    def training(epoch: int) -> Iterator[TrainingBatch]:
        for some in shuffled(count * images, seed, epoch):
            yield flat[some], views.targets[some % images], views.weights[some % images]

    inputs = keras.Input((features,))
    head = keras.Model(inputs, _head(views.targets.shape[1])(inputs))
    compile_model(head, _HEAD_RATE, from_logits=True, label_smoothing=_SMOOTHING)
    history = train_epochs(
        head,
        training,
        views.head_validation,
        epochs=_HEAD_EPOCHS,
        patience=_HEAD_EPOCHS,
        checkpoint=folder / "head.npz",
        on_epoch=lambda number, epoch: on_progress(
            f"head, epoch {number} of {_HEAD_EPOCHS}: {epoch}", number / _HEAD_EPOCHS
        ),
    )
    upper.get_layer("logits").set_weights(head.layers[-1].get_weights())
    compile_model(upper, _UPPER_RATE, from_logits=True, label_smoothing=_SMOOTHING)
    return history


def _fit_upper(
    upper: keras.Model, views: _Views, seed: int, epochs: int, folder: Path, on_progress: Progress
) -> list[Epoch]:
    def training(epoch: int) -> Iterator[TrainingBatch]:
        chosen = np.random.default_rng([seed, epoch]).integers(0, len(views.trunk), len(views.targets))
        for some in shuffled(len(views.targets), seed, epoch):
            yield views.trunk[chosen[some], some].astype(np.float32), views.targets[some], views.weights[some]

    return train_epochs(
        upper,
        training,
        views.validation,
        epochs=epochs,
        patience=_UPPER_PATIENCE,
        checkpoint=folder / "upper.npz",
        on_epoch=lambda number, epoch: on_progress(
            f"upper blocks, epoch {number} of {epochs}: {epoch}", number / epochs
        ),
    )


def _whole(upper: keras.Model, pretrained: keras.Model, num_labels: int) -> keras.Model:
    """The network in one piece, with the weights of both parts."""
    from models.architectures import build_efficientnet_lite0

    model = build_efficientnet_lite0(num_labels)
    trained = {layer.name: layer for layer in upper.layers}
    for layer in model.layers:
        if layer.weights:
            layer.set_weights((trained.get(layer.name) or pretrained.get_layer(layer.name)).get_weights())
    return model
