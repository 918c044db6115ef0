"""A Keras model that was trained elsewhere becomes a model version.

TensorFlow stays in a child, `python -m models.import_keras`.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ModelError
from base.folders import make_private_folder
from models.child import run_in_child, serve, share
from models.dataset import Split, read_dataset, refuse_alike
from models.decoding import DecodingLimits
from models.engines.choice import EngineChoice
from models.keras_file import end_at_logits, load_keras, weights_hash
from models.packages import check_packages
from models.preprocessing import Preprocessing
from models.pretrained import check_own_name
from models.publishing import Draft, publish_draft
from models.registry import ModelVersion, Registry, registry_at

if TYPE_CHECKING:
    import keras

    from models.child import Progress


@dataclass(frozen=True, kw_only=True)
class Import:
    """A file and what its author knows of it."""

    name: str
    file: str  #: path of the .keras file
    labels: tuple[str, ...]  #: in class-index order
    size: int | None  #: height and width of the pixels; None where the model itself says it
    mean: float  #: the model computes with (pixel - mean) / scale
    scale: float
    crop: float  #: side of the centre square that it is given, as a share of the image's shorter side
    dataset: str | None  #: labelled images that it was not trained on, for temperature, thresholds and int8
    target_precision: float | None  #: what thresholds are chosen for, 0 to 1; None for none
    engine: EngineChoice | None  #: None for the fastest that is as good
    limits: DecodingLimits


def import_keras(registry: Registry, given: Import, *, home: Path, on_progress: Progress) -> ModelVersion:
    """Check a model, convert it, and publish it.

    Args:
        registry: where it is published.
        given: the model.
        home: scratch is made below it.
        on_progress: told how far it is.

    Raises:
        DatasetError: the dataset cannot be used.
        ModelError: the file holds code, or is no classifier of that many labels and that size; a package is missing.
        TransientError: the registry falters.
    """
    check_own_name(given.name)
    check_labels(given.labels)
    Preprocessing(size=given.size or 1, crop=given.crop, mean=given.mean, scale=given.scale)
    check_packages("importing a model")
    try:
        make_private_folder(home)
        scratch = tempfile.TemporaryDirectory(prefix="import-", dir=home)
    except OSError as error:
        raise ModelError(
            f"cannot write {home}: {error.strerror}. Mend that, or name another home with TAGMILL_HOME."
        ) from error
    with scratch as folder:
        request = asdict(given) | {
            "registry": [registry.address, str(registry.workspace)],
            "folder": str(Path(folder).absolute()),
        }
        answer = run_in_child("models.import_keras", request, scratch=Path(folder), on_progress=on_progress)
    return registry.find(answer)


def check_labels(labels: tuple[str, ...]) -> None:
    """Refuse labels that no classifier can have.

    Raises:
        DatasetError: two of them differ only in case.
        ModelError: there is only one, or two are the same.
    """
    if len(labels) < 2:
        raise ModelError(f"--labels holds only {labels[0]!r}. A classifier needs two labels or more.")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ModelError(f"--labels holds {twice!r} twice. Labels must be distinct.")
    refuse_alike(labels, "--labels")


def read_labels_file(path: Path) -> tuple[str, ...]:
    """Labels from a text file, a line each, in class-index order.

    Raises:
        ModelError: it cannot be read, or holds an empty line.
    """
    try:
        if path.exists() and not path.is_file():  # A device may have no end.
            raise ModelError(f"the labels in {path} cannot be read: it is no file. Write one label a line.")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ModelError(f"the labels in {path} cannot be read: {reason}. Write one label a line.") from error
    labels = tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
    for number, label in enumerate(labels, 1):
        if not label:
            raise ModelError(f"line {number} of {path} is empty. Write one label a line, in class-index order.")
    return labels


def _answer(request: dict[str, Any], on_progress: Progress) -> str:
    """What the child does with a request of `import_keras`."""
    address, workspace = request["registry"]
    fields = {field.name: request[field.name] for field in dataclass_fields(Import)}
    engine = None if request["engine"] is None else EngineChoice(request["engine"])
    limits = DecodingLimits(**request["limits"])
    given = Import(**fields | {"labels": tuple(request["labels"]), "limits": limits, "engine": engine})
    on_progress("loading TensorFlow", 0.0)
    found = load_keras(Path(given.file))
    model = _with_size(end_at_logits(found), given)
    preprocessing = Preprocessing(size=model.input_shape[1], crop=given.crop, mean=given.mean, scale=given.scale)
    dataset = None
    if given.dataset is not None:
        dataset = read_dataset(
            Path(given.dataset),
            preprocessing,
            limits,
            pixels_file=Path(request["folder"]) / "pixels.npy",
            labels=given.labels,
            on_progress=share(on_progress, 0.1, 0.3),
        )
    told = (
        "It came without labelled images, so its confidences are as they come: temperature 1, no thresholds, no int8."
    )
    if dataset is not None:
        images = len(dataset.splits[Split.VALIDATION])
        told = f"It was calibrated on {images:,} labelled images, which the figures below are of."
    draft = Draft(
        name=given.name,
        model=model,
        labels=given.labels,
        preprocessing=preprocessing,
        description=f"Imported from {Path(given.file).name}. {told}",
        metrics={"weights_sha256": weights_hash(model)},
        engine=given.engine,
        target_precision=given.target_precision,
    )
    return str(publish_draft(registry_at(address, Path(workspace)), draft, dataset, share(on_progress, 0.3, 1.0)))


def _with_size(model: keras.Model, given: Import) -> keras.Model:
    """The model with one input of a fixed size.

    Raises:
        ModelError: it takes or gives something else than a classifier of images does, or the size is not known.
    """
    import keras

    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.input_shape) != 4:
        raise ModelError(
            f"{given.file} takes {model.input_shape} and gives {model.output_shape}. "
            "A classifier takes pixels (B, S, S, 3) and gives one number for each label, (B, K)."
        )
    if not str(model.inputs[0].dtype).startswith("float"):
        raise ModelError(
            f"{given.file} takes pixels of type {model.inputs[0].dtype}. Give it a float32 input, which --mean and "
            "--scale can be applied to."
        )
    _, height, width, channels = model.input_shape
    size = height or width or given.size
    if size is None:
        raise ModelError(f"{given.file} takes pixels of any size. Say which one it was trained with: --size 224.")
    if channels != 3 or {height, width} - {None, size}:
        raise ModelError(f"{given.file} takes {model.input_shape}; it must be square RGB pixels, (B, S, S, 3).")
    if given.size not in (None, size):
        raise ModelError(f"{given.file} takes pixels of {size} x {size}, not --size {given.size}. Leave it out.")
    if None in (height, width) or model.input_shape[0] is not None:
        pixels = keras.Input((size, size, 3), name="pixels")
        try:
            model = keras.Model(pixels, model(pixels), name=model.name)
        except (ValueError, TypeError) as error:
            told = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{given.file} cannot take pixels of {size} x {size}: {told}. Save it so that it can."
            ) from error
    if len(model.output_shape) != 2 or model.output_shape[1] != len(given.labels):
        raise ModelError(
            f"{given.file} gives {model.output_shape} for {len(given.labels)} labels. "
            "--labels needs a line for each of its outputs, in their order."
        )
    return model


if __name__ == "__main__":
    serve(_answer)
