"""`tagmill models import`: a Keras model that was trained elsewhere becomes a model version."""

from typing import Annotated

import typer

from base.errors import SetupError
from base.settings import load_settings
from cli.options import Engine, Json, TargetPrecision, local_path
from cli.output import print_json, progress, say
from cli.train import why_not_litert


def import_model(
    file: Annotated[str, typer.Argument(help="A .keras file of Keras's own layers.", metavar="FILE.keras")],
    labels: Annotated[str, typer.Option(help="Text file: a label a line, in the order of the model's outputs.")],
    name: Annotated[str, typer.Option(help="Of the model: small letters, digits, '_' and '-'.")],
    mean: Annotated[
        float | None, typer.Option(help="The model computes with (pixel - MEAN) / SCALE, from pixels of 0 to 255.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="See --mean.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Height and width of its pixels, where it takes any size.")
    ] = None,
    crop: Annotated[
        float, typer.Option(help="Side of the centre square that it is given, as a share of the shorter side.")
    ] = 1.0,
    dataset: Annotated[
        str | None,
        typer.Option(help="Labelled images that it was not trained on: for temperature, thresholds and int8."),
    ] = None,
    target_precision: TargetPrecision = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Publish a Keras model that was trained elsewhere as the next version of its name.

    The file is read in Keras's safe mode; Lambda layers and classes of yours are refused. --mean and --scale say what
    the model expects of its pixels: 0 and 255 for 0 to 1, 127.5 and 127.5 for -1 to 1, 0 and 1 where a layer of its
    own scales them. Its last layer gives a softmax or logits.

    Example: tagmill models import model.keras --labels labels.txt --name mine --mean 0 --scale 255
    """
    from models.decoding import DecodingLimits
    from models.import_keras import Import, import_keras, read_labels_file
    from models.keras_file import check_keras_file
    from models.registry import open_registry

    path = local_path(file, "FILE.keras")
    check_keras_file(path)
    if mean is None or scale is None:
        missing = " and ".join(option for option, value in (("--mean", mean), ("--scale", scale)) if value is None)
        raise SetupError(
            f"{missing} must be given, as {file!r} does not say what it expects of its pixels: 0 and 255 for 0 to 1, "
            "127.5 and 127.5 for -1 to 1, 0 and 1 where a layer of its own scales them."
        )
    if target_precision is not None and dataset is None:
        raise SetupError("--target-precision needs labelled images to choose thresholds by. Name some with --dataset.")
    settings = load_settings()
    given = Import(
        name=name,
        file=str(path),
        labels=read_labels_file(local_path(labels, "--labels")),
        size=size,
        mean=mean,
        scale=scale,
        crop=crop,
        dataset=None if dataset is None else str(local_path(dataset, "--dataset")),
        target_precision=target_precision,
        engine=engine,
        limits=DecodingLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
    )
    with progress(quiet=json) as reporter:
        version = import_keras(open_registry(settings), given, home=settings.home_path, on_progress=reporter.update)
    if json:
        facts = {"model": version.name, "version": version.version, "content_hash": version.content_hash}
        print_json(facts | {"engine_file": version.engine_file, "metrics": version.metrics})
        return
    say(f"{version} is published, and runs as {version.engine_file}{why_not_litert(version)}")
    say(f"its card: tagmill models show {version}; use it: tagmill run SOURCE --model {version}")
