"""From a Keras model and labelled images to a published version: engines, temperature, thresholds, figures, card."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from base.errors import ModelError
from models.calibration import choose_thresholds, fit_temperature
from models.conversion import GateImages, gate_crops, make_engines
from models.dataset import Split
from models.engines.engine import open_engine
from models.metrics import measure
from models.pictures import draw_curves, draw_pictures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import keras

    from models.child import Progress
    from models.dataset import Dataset
    from models.engines.choice import EngineChoice
    from models.engines.engine import Engine
    from models.fitting import Epoch
    from models.metrics import Metrics
    from models.preprocessing import Preprocessing
    from models.registry import ModelVersion, Registry

#: Which images a version has learnt from, or was chosen by.
LEARNT_FILE = "learnt_images.csv"

# So many training images set the ranges of int8; more change little but the time that it takes.
_CALIBRATION_IMAGES = 200
# So many validation images judge int8. Of few, crops are made: with 50 images a single one would be two points.
_GATE_IMAGES, _GATE_FEW = 2000, 200


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A Keras model that is to become a version."""

    name: str
    model: keras.Model  #: takes normalised pixels and ends at logits
    labels: Sequence[str]
    preprocessing: Preprocessing
    description: str  #: Markdown, how it came about
    metrics: Mapping[str, Any]  #: facts of how it came about, for the card
    engine: EngineChoice | None  #: None for the fastest that is as good
    target_precision: float | None  #: what thresholds are chosen for; None for none
    history: Mapping[str, Sequence[Epoch]] = field(default_factory=dict)  #: of its training, where that was here


def publish_draft(registry: Registry, draft: Draft, dataset: Dataset | None, on_progress: Progress) -> ModelVersion:
    """Convert, calibrate, measure and publish; the figures are those of the validation images.

    Args:
        registry: where it is published.
        draft: the model.
        dataset: with a training and a validation split; None for no int8 file, temperature 1 and no figures.
        on_progress: told how far it is.

    Raises:
        ModelError: the engine that was chosen cannot be used, the model gives no numbers, or the registry cannot be
            written.
        TransientError: the registry falters.
    """
    engines = make_engines(
        draft.model,
        draft.preprocessing,
        None if dataset is None else _gate_images(dataset, draft.preprocessing),
        choice=draft.engine,
        on_progress=lambda step, done: on_progress(step, 0.7 * done),
    )
    on_progress("measuring", 0.7)
    engine = open_engine(engines.engine_file, engines.files[engines.engine_file], draft.preprocessing)
    _try(engine, draft)
    measured = _Measured() if dataset is None else _measure(draft, engines.engine_file, engine, dataset)
    files = {**measured.files, "model_summary.txt": summary(draft.model).encode()}
    if draft.history:
        files["training_curves.png"] = draw_curves(draft.history, draft.name)
        history = {step: [vars(epoch) for epoch in epochs] for step, epochs in draft.history.items()}
        files["history.json"] = as_json(history)
    if dataset is not None:
        files[LEARNT_FILE] = _learnt(dataset)
    on_progress("publishing", 0.95)
    return registry.publish(
        draft.name,
        engines=engines.files,
        engine_file=engines.engine_file,
        labels=draft.labels,
        preprocessing=draft.preprocessing,
        description=draft.description,
        temperature=measured.temperature,
        thresholds=measured.thresholds,
        target_precision=draft.target_precision,
        metrics={**measured.metrics, **engines.metrics, **draft.metrics},
        built_with={package: importlib.metadata.version(package) for package in ("tensorflow", "keras", "numpy")},
        files=files,
    )


def summary(model: keras.Model) -> str:
    """What Keras says of a model's layers: their output shapes and parameters."""
    lines: list[str] = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    return "\n".join(lines) + "\n"


def as_json(facts: object) -> bytes:
    """A file's content."""
    # A file name that is not UTF-8 comes as lone surrogates, which JSON can only hold escaped.
    return json.dumps(facts, indent=2, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What the validation images say of a model's answers."""

    temperature: float = 1.0
    thresholds: Mapping[str, float | None] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def _try(engine: Engine, draft: Draft) -> None:
    """Let the model answer once before anybody relies on it.

    Raises:
        ModelError: it does not give a finite number for each label, or what it gives are confidences already.
    """
    shape = (3, draft.preprocessing.size, draft.preprocessing.size, 3)
    logits = engine.predict_logits(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    if not np.isfinite(logits).all():
        raise ModelError(
            f"the model gives {logits[0, :3].tolist()}…, which are not all finite numbers. Its weights are damaged, or "
            "it diverged while it was trained."
        )
    if (logits >= 0).all() and np.abs(logits.sum(axis=1) - 1).max() < 1e-3:
        raise ModelError(
            "the model ends with a softmax that cannot be taken off. Build it so that it ends with a Dense layer, with "
            "activation 'softmax' or without one."
        )


def _learnt(dataset: Dataset) -> bytes:
    """A CSV of the images that decided the version, so that an evaluation can tell which of its own are among them."""
    rows = [
        f"{dataset.hashes[row]},{split}"
        for split in (Split.TRAIN, Split.VALIDATION)
        for row in dataset.splits[split].tolist()
    ]
    return "\n".join(["pixels_sha256,split", *rows, ""]).encode()


def _measure(draft: Draft, engine_file: str, engine: Engine, dataset: Dataset) -> _Measured:
    rows, class_indices = dataset.splits[Split.VALIDATION], dataset.class_indices[dataset.splits[Split.VALIDATION]]
    # One at a time: the pixels of all of them may not fit into memory.
    logits = np.concatenate([engine.predict_logits(dataset.pixels[row : row + 1]) for row in rows])
    temperature = fit_temperature(logits, class_indices)
    before = measure(logits, 1.0, class_indices, draft.labels)
    after = measure(logits, temperature, class_indices, draft.labels)
    thresholds: Mapping[str, float | None] = {}
    if draft.target_precision is not None:
        thresholds = choose_thresholds(logits, temperature, class_indices, draft.labels, draft.target_precision)
    figures: dict[str, Any] = {
        "split": str(Split.VALIDATION),
        "engine_file": engine_file,
        "temperature": temperature,
        "loss_before_temperature": before.loss,
        "expected_calibration_error_before_temperature": before.expected_calibration_error,
        **after.to_json(),
    }
    if draft.target_precision is not None:
        figures |= {"target_precision": draft.target_precision, "thresholds": _support(thresholds, after)}
    scalars = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    pictures = draw_pictures(after, f"{draft.name} on validation")
    return _Measured(
        temperature=temperature,
        thresholds=thresholds,
        metrics={"validation_images" if name == "images" else name: value for name, value in scalars.items()},
        files={"metrics.json": as_json(figures), **pictures},
    )


def _support(thresholds: Mapping[str, float | None], metrics: Metrics) -> list[dict[str, Any]]:
    """Each label's threshold with the number of answers that it rests on."""
    answers = list(zip(metrics.labels_said, metrics.best.tolist(), strict=True))
    return [
        {
            "label": label,
            "threshold": threshold,
            "answers": sum(
                said == label and threshold is not None and confidence >= threshold for said, confidence in answers
            ),
        }
        for label, threshold in thresholds.items()
    ]


def _gate_images(dataset: Dataset, preprocessing: Preprocessing) -> GateImages:
    rows = _spread(dataset.splits[Split.VALIDATION], _GATE_IMAGES)
    pixels, class_indices = dataset.pixels[rows], dataset.class_indices[rows]
    if len(rows) <= _GATE_FEW:
        images = zip(map(Image.fromarray, pixels), class_indices.tolist(), strict=True)
        pixels, class_indices = gate_crops(images, preprocessing)
    return GateImages(
        calibration=dataset.pixels[_spread(dataset.splits[Split.TRAIN], _CALIBRATION_IMAGES)],
        pixels=pixels,
        class_indices=class_indices,
    )


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """So many of them at most, evenly from the first to the last."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
