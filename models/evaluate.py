"""How good a model version is on labelled images that it did not learn from.

TensorFlow, for the engine file that needs it, and the drawing stay in a child, `python -m models.evaluate`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import ModelError
from models.child import run_in_child, serve, share
from models.dataset import Dataset, Split, read_dataset
from models.decoding import DecodingLimits
from models.metrics import Metrics, measure
from models.packages import check_packages
from models.pictures import draw_mistakes, draw_pictures
from models.publishing import LEARNT_FILE, as_json
from models.registry import ModelVersion, Registry, check_files, load_engine, registry_at

if TYPE_CHECKING:
    from models.child import Progress

#: The files of an evaluation; the curves are there where the version was trained here.
FIGURES_FILE, CURVES_FILE = "metrics.json", "training_curves.png"


def evaluate(
    registry: Registry,
    version: ModelVersion,
    dataset: str,
    *,
    limits: DecodingLimits,
    output: Path,
    on_progress: Progress,
) -> dict[str, Any]:
    """Measure every engine file of a version, and write the figures and pictures of the one that it loads.

    Args:
        registry: where the version is.
        version: what to evaluate.
        dataset: path of a folder that holds a folder for each label; of its split `test`, where it has splits.
        limits: larger images are left out.
        output: the folder for metrics.json and the pictures; it is made, and files of those names are replaced.
        on_progress: told how far it is.

    Returns:
        What metrics.json says.

    Raises:
        DatasetError: the dataset has another label than the model, or no image that can be read.
        ModelError: a file of the version is not what was published; a package is missing.
        TransientError: the registry falters.
    """
    check_packages("evaluating a model")
    registry.refuse_inside(output)
    check_files(version)
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Beside the place of its files, so that they can be renamed into it.
        scratch = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=output))
    except OSError as error:
        raise ModelError(f"cannot write {output}: {error.strerror}. Name another folder with --output.") from error
    try:
        request = {
            "registry": [registry.address, str(registry.workspace)],
            "version": str(version),
            "dataset": dataset,
            "limits": asdict(limits),
            "scratch": str(scratch.absolute()),
        }
        answer = run_in_child("models.evaluate", request, scratch=scratch, on_progress=on_progress)
        for name in answer["files"]:
            os.replace(scratch / name, output / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    figures: dict[str, Any] = answer["figures"]
    return figures


def _answer(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """What the child does with a request of `evaluate`."""
    address, workspace = request["registry"]
    version = registry_at(address, Path(workspace)).find(request["version"])
    scratch = Path(request["scratch"])
    dataset = read_dataset(
        Path(request["dataset"]),
        version.preprocessing,
        DecodingLimits(**request["limits"]),
        pixels_file=scratch / "pixels.npy",
        labels=version.labels,
        is_test=True,
        on_progress=share(on_progress, 0.0, 0.3),
    )
    logits = _run_engines(version, dataset, share(on_progress, 0.3, 0.9))
    on_progress("drawing", 0.9)
    metrics = {
        file: measure(given, version.temperature, dataset.class_indices, version.labels)
        for file, given in logits.items()
    }
    chosen = metrics[version.engine_file]
    before = measure(logits[version.engine_file], 1.0, dataset.class_indices, version.labels)
    figures = {
        "model": version.name,
        "version": version.version,
        "content_hash": version.content_hash,
        "dataset": os.path.abspath(request["dataset"]),
        "dataset_sha256": dataset.content_hash,
        "split": str(Split.TEST),
        "learnt": _count_learnt(version, dataset),
        "left_out": [{"image": str(each.path), "reason": each.reason} for each in dataset.left_out],
        "passed_over": dataset.passed_over,
        "engine_file": version.engine_file,
        "temperature": version.temperature,
        "loss_before_temperature": before.loss,
        "expected_calibration_error_before_temperature": before.expected_calibration_error,
        **chosen.to_json(),
        "engines": {file: _of_engine(each, chosen) for file, each in metrics.items()},
        **_of_review(version, chosen),
    }
    title = f"{version} on {Path(request['dataset']).name}"
    shown = [version.labels[index] for index in dataset.class_indices]
    files = {
        FIGURES_FILE: as_json(figures),
        **draw_pictures(chosen, title),
        "mistakes.png": draw_mistakes(chosen, dataset.paths, dataset.pixels, shown, title),
    }
    if CURVES_FILE in version.files:
        files[CURVES_FILE] = version.read(CURVES_FILE)
    for name, content in files.items():
        (scratch / name).write_bytes(content)
    return {"figures": figures, "files": sorted(files)}


def _count_learnt(version: ModelVersion, dataset: Dataset) -> int | None:
    """How many of the images the version has learnt from, or was chosen by; None where nobody knows."""
    if LEARNT_FILE not in version.files:
        return None
    lines = version.read(LEARNT_FILE).decode().splitlines()[1:]
    return len({line.partition(",")[0] for line in lines} & set(dataset.hashes))


def _run_engines(version: ModelVersion, dataset: Dataset, on_progress: Progress) -> dict[str, np.ndarray]:
    """Engine file → its logits, float32 (B, K)."""
    engines = [file for file in version.files if file.endswith((".tflite", ".keras"))]
    logits = {}
    for number, file in enumerate(engines):
        engine = load_engine(version, file)
        logits[file] = np.empty((len(dataset.pixels), len(version.labels)), np.float32)
        for row, pixels in enumerate(dataset.pixels):
            if row % 32 == 0:
                share_done = row / len(dataset.pixels)
                on_progress(f"running {file}: {row:,} of {len(dataset.pixels):,}", (number + share_done) / len(engines))
            logits[file][row] = engine.predict_logits(pixels[np.newaxis])[0]
    return logits


def _of_engine(metrics: Metrics, chosen: Metrics) -> dict[str, float]:
    same = sum(one == other for one, other in zip(metrics.labels_said, chosen.labels_said, strict=True))
    return {
        "top_1": metrics.top_1,
        "top_5": metrics.top_5,
        "loss": metrics.loss,
        "expected_calibration_error": metrics.expected_calibration_error,
        "agreement": same / metrics.images,
    }


def _of_review(version: ModelVersion, metrics: Metrics) -> dict[str, Any]:
    """What the thresholds would do with these images; nothing where the version has none."""
    if version.target_precision is None:
        return {}
    answers = zip(metrics.labels_said, metrics.best, strict=True)
    is_sure = np.array([not version.needs_review(label, float(confidence)) for label, confidence in answers])
    return {
        "target_precision": version.target_precision,
        "needs_review": int((~is_sure).sum()),
        "precision_without_review": float(metrics.is_right[is_sure].mean()) if is_sure.any() else None,
    }


if __name__ == "__main__":
    serve(_answer)
