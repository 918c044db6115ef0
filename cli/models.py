"""`tagmill models`: the registry."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from base.settings import load_settings
from cli import activation, import_model
from cli.options import Json
from cli.output import RowFormat, print_json, print_rows, printable, say

if TYPE_CHECKING:
    from base.errors import ModelError

app = typer.Typer(
    help="The model versions in the registry.\n\nExample: tagmill models list",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_versions(json: Json = False) -> None:
    """List every model version.

    Example: tagmill models list
    """
    from models.registry import open_registry

    registry = open_registry(load_settings())
    damaged: list[ModelError] = []
    versions = registry.versions(on_damaged=damaged.append)
    columns = ("model", "version", "labels", "top_1", "pixels", "engine_file", "content_hash", "created_at")
    rows = [
        (
            version.name,
            version.version,
            len(version.labels),
            version.metrics.get("top_1"),  # Of a version that was evaluated when it was made.
            version.preprocessing.size,
            version.engine_file,
            version.content_hash,
            version.created_at.isoformat(),
        )
        for version in versions
    ]
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_rows(columns, [(*row[:6], row[6][:12], row[7]) for row in rows], RowFormat.TABLE)
    for error in damaged:
        say(f"left out: {error}")
    if damaged:
        raise typer.Exit(2)
    if not versions and not json:
        say(f"no models in {registry.address} yet; 'tagmill models build' builds the pretrained one")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="NAME or NAME:VERSION.")],
    json: Json = False,
) -> None:
    """Print the card of a model version: what it is, how good, and how it was made.

    Example: tagmill models show efficientnet_lite0
    """
    from models.registry import open_registry
    from models.storage import CARD_FILE

    version = open_registry(load_settings()).find(model)
    if json:
        print_json(version.to_json())
    else:
        for line in version.read(CARD_FILE).decode().splitlines():
            print(printable(line))


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="NAME or NAME:VERSION.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.", metavar="FOLDER")],
) -> None:
    """Write all files of a model version into a folder, each checked against what was published; all or none.

    As NAME/VERSION below another registry's folder they are that version there.

    Example: tagmill models export efficientnet_lite0 ./efficientnet_lite0
    """
    from models.export import export_version
    from models.registry import open_registry

    registry = open_registry(load_settings())
    version = registry.find(model)
    registry.refuse_inside(folder)
    files = export_version(version, folder)
    say(f"{version} is in {folder} now: {files} files, each as it was published")


@app.command()
def build() -> None:
    """Build the pretrained model in the registry, unless it is there.

    Other commands do that when they first need it; this one is for a registry that is shared. It needs what
    'tagmill[train]' installs.

    Example: TAGMILL_MODELS_URL=/mnt/models tagmill models build
    """
    from cli.pretrained import find_or_build
    from models.pretrained import DEFAULT_MODEL
    from models.registry import open_registry

    settings = load_settings()
    registry = open_registry(settings)
    was_there = registry.has(DEFAULT_MODEL)
    version = find_or_build(settings, registry, None)
    say(f"{version} is in {registry.address}{', as before' if was_there else ' now'}")


app.command("import")(import_model.import_model)
app.command()(activation.activate)
app.command()(activation.diff)
