"""`tagmill evaluate`: how good a model version is on labelled images."""

from typing import Annotated, Any

import typer

from base.folders import make_private_folder
from base.settings import load_settings
from cli.options import Dataset, Json, local_path
from cli.output import RowFormat, facts_table, print_json, print_rows, progress, say, tell_left_out

# So many labels are printed, those with the lowest F1; metrics.json has all.
_LABELS_SHOWN = 20


def evaluate(
    model: Annotated[str, typer.Argument(help="NAME or NAME:VERSION.")],
    dataset: Dataset,
    output: Annotated[
        str | None,
        typer.Option(help="Folder for the figures and pictures; evaluations/NAME-VERSION in the home unless given."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure a model version on labelled images, and draw what it confuses and how far to trust its confidence.

    DATASET holds a folder for each label, named as the model names it, or the folders train, validation and test, of
    which test is taken. It needs what 'tagmill[train]' installs.

    Example: tagmill evaluate furniture ./more-furniture --output ./evaluation
    """
    from models.decoding import DecodingLimits
    from models.evaluate import FIGURES_FILE
    from models.evaluate import evaluate as evaluate_version
    from models.registry import open_registry

    settings = load_settings()
    registry = open_registry(settings)
    version = registry.find(model)
    if output is None:
        make_private_folder(settings.home_path)
        folder = settings.home_path / "evaluations" / f"{version.name}-{version.version}"
    else:
        folder = local_path(output, "--output")
    with progress(quiet=json) as reporter:
        figures = evaluate_version(
            registry,
            version,
            str(local_path(dataset, "DATASET")),
            limits=DecodingLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
            output=folder,
            on_progress=reporter.update,
        )
    if json:
        print_json(figures)
        return
    tell_left_out([(each["image"], each["reason"]) for each in figures["left_out"]])
    _print(figures)
    if figures["learnt"]:
        say(
            f"{figures['learnt']:,} of these images decided {version}, as training or validation images: the figures "
            "flatter. Evaluate it on others."
        )
    say(f"figures and pictures: {folder} ({FIGURES_FILE} and PNG files)")


def _print(figures: dict[str, Any]) -> None:
    rows: list[tuple[str, object]] = [
        ("model", f"{figures['model']}:{figures['version']}"),
        ("images", figures["images"]),
        ("top-1", f"{figures['top_1']:.4f}"),
        ("top-5", f"{figures['top_5']:.4f}"),
        ("loss", f"{figures['loss']:.4f}"),
        ("calibration error", f"{figures['expected_calibration_error']:.4f}"),
    ]
    if "needs_review" in figures:
        precision = figures["precision_without_review"]
        rows.append(("needs review", figures["needs_review"]))
        rows.append(("right without review", "" if precision is None else f"{precision:.4f}"))
    facts_table(rows)
    print()
    columns = ("engine file", "top_1", "loss", "calibration error", "agreement")
    names = ("top_1", "loss", "expected_calibration_error", "agreement")
    print_rows(
        columns,
        [(file, *(each[name] for name in names)) for file, each in figures["engines"].items()],
        RowFormat.TABLE,
    )
    print()
    labels = sorted(figures["labels"], key=lambda label: label["f1"])
    shown = labels[:_LABELS_SHOWN]
    columns = ("label", "precision", "recall", "f1", "support")
    print_rows(columns, [[label[name] for name in columns] for label in shown], RowFormat.TABLE)
    if len(labels) > len(shown):
        say(f"{len(labels) - len(shown):,} more labels, which it is better at, are in the figures")
