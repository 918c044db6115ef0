"""`tagmill train`: a labelled folder becomes a model version."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from base.settings import load_settings
from cli.options import Dataset, Engine, Json, TargetPrecision, local_path
from cli.output import facts_table, print_json, progress, say, tell_left_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.registry import ModelVersion
    from models.train import Trained

_LABELS_SHOWN = 10
# Below this one image more or less changes every figure by points.
_FEW_FOR_VALIDATION = 20


class Architecture(StrEnum):
    """What can be trained."""

    EFFICIENTNET_LITE0 = "efficientnet_lite0"  # Transfer learning from the pretrained model.
    SMALL_CNN = "small_cnn"  # Three convolutions, from nothing.


def train(
    dataset: Dataset,
    name: Annotated[str, typer.Option(help="Of the model: small letters, digits, '_' and '-'.")],
    architecture: Annotated[
        Architecture, typer.Option(help="What to train; the first learns far more from few images.")
    ] = Architecture.EFFICIENTNET_LITE0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="Epochs at most, of efficientnet_lite0 those after its head; unless given, as suits it.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The same seed gives the same weights.")] = 0,
    target_precision: TargetPrecision = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Train a model on labelled images, and publish it as the next version of its name.

    DATASET holds a folder for each label, or the folders train, validation and test with those in them. Without a
    validation folder, a fifth of the images is kept for that. A training that was stopped is gone on with by the same
    command. It needs what 'tagmill[train]' installs.

    Example: tagmill train ./furniture --name furniture --architecture small_cnn --target-precision 0.95
    """
    from models.decoding import DecodingLimits
    from models.registry import open_registry
    from models.train import Training
    from models.train import train as train_model

    settings = load_settings()
    training = Training(
        name=name,
        dataset=str(local_path(dataset, "DATASET")),
        architecture=architecture.value,
        epochs=epochs,
        seed=seed,
        target_precision=target_precision,
        engine=engine,
        limits=DecodingLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
    )
    registry = open_registry(settings)
    try:
        with progress(quiet=json) as reporter:
            trained = train_model(registry, training, home=settings.home_path, on_progress=reporter.update)
    except KeyboardInterrupt:
        say("stopped; the same command goes on after the last epoch that was finished")
        raise
    _summarise(trained, json=json)


def _summarise(trained: "Trained", *, json: bool) -> None:
    version = trained.version
    if json:
        facts = {"model": version.name, "version": version.version, "content_hash": version.content_hash}
        print_json(
            facts
            | {"images": trained.images, "passed_over": trained.passed_over, "epochs_before": trained.epochs_before}
            | {"left_out": [{"image": path, "reason": reason} for path, reason in trained.left_out]}
            | {"engine_file": version.engine_file, "temperature": version.temperature, "metrics": version.metrics}
        )
        return
    if trained.epochs_before:
        say(f"went on after {trained.epochs_before} epochs of a training that was stopped")
    tell_left_out(trained.left_out)
    metrics = version.metrics
    rows: list[tuple[str, object]] = [("model", str(version)), ("labels", _some(version.labels))]
    rows += [(f"{split} images", images) for split, images in trained.images.items() if images]
    rows += [("left out", len(trained.left_out))] if trained.left_out else []
    rows += (
        [("passed over", f"{trained.passed_over} (links, and files that are no images)")] if trained.passed_over else []
    )
    rows += [
        ("right on validation", f"{metrics['top_1']:.1%}"),
        ("loss on validation", f"{metrics['loss']:.4f}"),
        ("calibration error", f"{metrics['expected_calibration_error']:.4f}"),
        ("temperature", f"{version.temperature:.3f}"),
        ("engine file", f"{version.engine_file}{why_not_litert(version)}"),
    ]
    facts_table(rows)
    if metrics["validation_images"] < _FEW_FOR_VALIDATION:
        say(
            f"only {metrics['validation_images']} images for validation: take figures, temperature and thresholds as "
            "guesses"
        )
    say(f"its card: tagmill models show {version}; use it: tagmill run SOURCE --model {version}")


def why_not_litert(version: "ModelVersion") -> str:
    """What to add where a version runs in TensorFlow although nobody asked for that."""
    if "float32" not in version.metrics:
        return ""
    return f" (LiteRT {version.metrics['float32']}), so its workers need TensorFlow"


def _some(labels: "Sequence[str]") -> str:
    more = len(labels) - _LABELS_SHOWN
    return ", ".join(labels[:_LABELS_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
