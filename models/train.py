"""Train a model on a labelled folder, and publish it as a version; what a training that was killed left is used.

TensorFlow stays in a child, `python -m models.train`.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ModelError
from base.folders import make_private_folder
from models.child import run_in_child, serve, share
from models.dataset import Dataset, Split, read_dataset
from models.decoding import DecodingLimits
from models.engines.choice import EngineChoice
from models.fitting import epochs_done
from models.folder_storage import FileLock
from models.keras_file import end_at_logits, weights_hash
from models.packages import check_packages
from models.pretrained import check_own_name
from models.publishing import Draft, publish_draft, summary
from models.recipes import RECIPES
from models.registry import ModelVersion, Registry, registry_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.child import Progress
    from models.fitting import Fitted

# A summary of more lines than this is only in its file.
_LINES_ON_CARD = 40


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is to be trained."""

    name: str
    dataset: str  #: path of the folder
    architecture: str  #: one of RECIPES
    epochs: int | None  #: at most; None for the architecture's own number
    seed: int  #: the same one gives the same weights, on the same kind of machine
    target_precision: float | None  #: what thresholds are chosen for, 0 to 1; None for none
    engine: EngineChoice | None  #: None for the fastest that is as good
    limits: DecodingLimits


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of it."""

    version: ModelVersion
    images: Mapping[str, int]  #: split → images
    left_out: tuple[tuple[str, str], ...]  #: (path, reason) of files that took no part
    passed_over: int  #: links, devices and files of other kinds
    epochs_before: int  #: done by a training that was stopped, and gone on with


def train(registry: Registry, training: Training, *, home: Path, on_progress: Progress) -> Trained:
    """Train, and publish the version.

    Args:
        registry: where it is published.
        training: what is to be trained.
        home: checkpoints are kept below it until the version is published, in `training/NAME`.
        on_progress: told how far it is.

    Raises:
        DatasetError: nothing can be learnt from the dataset.
        ModelError: a package is missing, the name is not valid or is being trained by another command, or the registry
            cannot be written.
        TransientError: the registry falters.
    """
    check_own_name(training.name)
    check_packages("training a model")
    folder = home / "training" / training.name
    try:
        make_private_folder(folder)
        lock = FileLock(folder.parent / f".{training.name}.lock")
    except OSError as error:
        raise ModelError(
            f"cannot write {folder}: {error.strerror}. Mend that, or name another home with TAGMILL_HOME."
        ) from error
    if not lock.is_free():
        lock.close()
        raise ModelError(f"another command trains {training.name!r} in {home}. Wait for it, or take another --name.")
    with lock:
        request = asdict(training) | {
            "registry": [registry.address, str(registry.workspace)],
            "folder": str(folder.absolute()),
        }
        try:
            answer = run_in_child(
                "models.train", request, scratch=folder, on_progress=on_progress, keep_open=[lock.fileno()]
            )
        except BaseException:
            if not list(folder.glob("*.npz")):  # Nothing to go on from.
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
    return Trained(
        version=registry.find(answer["version"]),
        images=answer["images"],
        left_out=tuple((path, reason) for path, reason in answer["left_out"]),
        passed_over=answer["passed_over"],
        epochs_before=answer["epochs_before"],
    )


def _answer(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """What the child does with a request of `train`."""
    registry = registry_at(request["registry"][0], Path(request["registry"][1]))
    folder = Path(request["folder"])
    fields = {field.name: request[field.name] for field in dataclass_fields(Training)}
    engine = None if request["engine"] is None else EngineChoice(request["engine"])
    training = Training(**fields | {"limits": DecodingLimits(**request["limits"]), "engine": engine})
    recipe = RECIPES[training.architecture]
    dataset = read_dataset(
        Path(training.dataset),
        recipe.preprocessing,
        training.limits,
        pixels_file=folder / "pixels.npy",
        on_progress=share(on_progress, 0.0, 0.1),
    )
    epochs_before = _go_on(folder, training, dataset)
    on_progress("loading TensorFlow", 0.1)
    _make_repeatable(training.seed)
    fitted = recipe.fit(
        dataset,
        seed=training.seed,
        epochs=training.epochs,
        folder=folder,
        on_progress=share(on_progress, 0.12, 0.7),
    )
    draft = _draft(training, dataset, fitted)
    version = publish_draft(registry, draft, dataset, share(on_progress, 0.7, 1.0))
    return {
        "version": str(version),
        "images": {str(split): len(rows) for split, rows in dataset.splits.items()},
        "left_out": [(str(each.path), each.reason) for each in dataset.left_out],
        "passed_over": dataset.passed_over,
        "epochs_before": epochs_before,
    }


def _go_on(folder: Path, training: Training, dataset: Dataset) -> int:
    """Keep the checkpoints of this very training, and clear away those of another; the epochs that are done."""
    identity = json.dumps(
        {
            "dataset": dataset.content_hash,
            "architecture": training.architecture,
            "epochs": training.epochs,
            "seed": training.seed,
            "keras": importlib.metadata.version("keras"),
            "tagmill": importlib.metadata.version("tagmill"),
        },
        sort_keys=True,
    )
    note = folder / "training.json"
    checkpoints = list(folder.glob("*.npz"))
    try:
        if note.read_text() == identity:
            return sum(map(epochs_done, checkpoints))
    except (OSError, ValueError):  # There is none yet, or a power cut has damaged one.
        pass
    for checkpoint in checkpoints:
        checkpoint.unlink()
    note.write_text(identity)
    return 0


def _make_repeatable(seed: int) -> None:
    """The same seed gives the same weights; the order of sums would otherwise depend on which thread is first."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _draft(training: Training, dataset: Dataset, fitted: Fitted) -> Draft:
    model = end_at_logits(fitted.model)
    layers = summary(fitted.model)
    told = [
        f"{training.architecture}, trained on {len(dataset.splits[Split.TRAIN]):,} images of {len(dataset.labels)} "
        f"labels and chosen by {len(dataset.splits[Split.VALIDATION]):,} others, which the figures below are of. "
        f"Seed {training.seed}, {sum(map(len, fitted.history.values()))} epochs. {' '.join(fitted.notes)}".strip()
    ]
    if layers.count("\n") <= _LINES_ON_CARD:
        told.append(f"```text\n{layers}```")
    return Draft(
        name=training.name,
        model=model,
        labels=dataset.labels,
        preprocessing=RECIPES[training.architecture].preprocessing,
        description="\n\n".join(told),
        metrics={
            "architecture": training.architecture,
            "seed": training.seed,
            "training_images": len(dataset.splits[Split.TRAIN]),
            "images_left_out": len(dataset.left_out),
            "dataset_sha256": dataset.content_hash,
            "weights_sha256": weights_hash(model),
        },
        engine=training.engine,
        target_precision=training.target_precision,
        history=fitted.history,
    )


if __name__ == "__main__":
    serve(_answer)
