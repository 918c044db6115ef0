"""`tagmill models`: the registry."""

from typing import Annotated

import typer

from base.settings import load_settings
from cli.options import Json
from cli.output import RowFormat, print_json, print_rows, say

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
    from models.registry import Registry

    registry = Registry(load_settings().models_path)
    versions = registry.versions()
    columns = ("model", "version", "labels", "pixels", "engine_file", "content_hash", "created_at")
    rows = [
        (
            version.name,
            version.version,
            len(version.labels),
            version.preprocessing.size,
            version.engine_file,
            version.content_hash,
            version.created_at.isoformat(),
        )
        for version in versions
    ]
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    print_rows(columns, [(*row[:5], row[5][:12], row[6]) for row in rows], RowFormat.TABLE)
    if not versions:
        say(f"no models in {registry.root} yet; 'tagmill models build' builds the pretrained one")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="NAME or NAME:VERSION.")],
    json: Json = False,
) -> None:
    """Print the card of a model version: what it is, how good, and how it was made.

    Example: tagmill models show efficientnet_lite0
    """
    from dataclasses import asdict

    from models.registry import CARD_FILE, Registry

    version = Registry(load_settings().models_path).find(model)
    if json:
        print_json(asdict(version))
    else:
        print((version.path / CARD_FILE).read_text("utf-8"), end="")


@app.command()
def build() -> None:
    """Build the pretrained model in the registry, unless it is there.

    Other commands do that when they first need it; this one is for a registry that is shared. It needs what
    'tagmill[train]' installs.

    Example: TAGMILL_MODELS_URL=/mnt/models tagmill models build
    """
    from cli.pretrained import find_or_build
    from models.pretrained import DEFAULT_MODEL
    from models.registry import Registry

    registry = Registry(load_settings().models_path)
    was_there = bool(registry.versions(DEFAULT_MODEL))
    version = find_or_build(registry, None)
    say(f"{version} is in {registry.root}{', as before' if was_there else ' now'}")
