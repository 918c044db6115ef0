"""Arguments and options that several commands take."""

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote_to_bytes

import typer

from base.errors import SetupError
from models.engines.choice import EngineChoice


def local_path(text: str, what: str) -> Path:
    """A path as people write it: with ~ for their own folder, or as a file URI.

    Raises:
        SetupError: it is empty, or an address of something else than a file or folder.
    """
    if text.startswith("file:///"):
        return Path(os.fsdecode(unquote_to_bytes(text.removeprefix("file://"))))
    if not text or "://" in text:
        raise SetupError(f"{what} {text!r} is no file or folder of this machine. Name one.")
    return Path(os.path.expanduser(text))


RunNumber = Annotated[
    int | None, typer.Argument(min=1, max=2**63 - 1, help="Number of a run; the latest unless given.", metavar="RUN")
]
Source = Annotated[
    str, typer.Argument(help="A folder of images, one image, or s3://, gs:// or az://BUCKET/PREFIX.", metavar="SOURCE")
]
Model = Annotated[str | None, typer.Option(help="NAME or NAME:VERSION; the pretrained one unless given.")]
Include = Annotated[
    list[str] | None,
    typer.Option(help="Glob of images to take, instead of the usual suffixes; repeatable.", metavar="GLOB"),
]
Exclude = Annotated[
    list[str] | None, typer.Option(help="Glob of images or folders to leave out; repeatable.", metavar="GLOB")
]
Everything = Annotated[bool, typer.Option("--all", help="Unchanged images, too.")]
Endpoint = Annotated[
    str | None,
    typer.Option(help="Address of a server that a cloud's buckets are looked for on.", metavar="URL"),
]
Workers = Annotated[
    int | None, typer.Option(min=1, max=256, help="Worker processes to start; one per core unless given.")
]
MaxFailures = Annotated[
    str | None,
    typer.Option(help="Exit with 1 when more images fail: a number, or a share of those listed.", metavar="N or N%"),
]
Stage = Annotated[
    bool, typer.Option("--stage", help="Publish the answers together at the end, if they pass the guard.")
]
Until = Annotated[
    str | None,
    typer.Option(help="Stop at that time of day; what was not reached is left for the next run.", metavar="HH:MM"),
]
TopK = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Labels kept for each image; TAGMILL_TOP_K unless given.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Dataset = Annotated[str, typer.Argument(help="A folder that holds one folder of images for each label.")]
TargetPrecision = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Answers below the confidence from which those of their label are right this often need review.",
    ),
]
Engine = Annotated[
    EngineChoice | None, typer.Option(help="What runs the version; the fastest that is as good unless given.")
]
