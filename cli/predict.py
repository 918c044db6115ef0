"""`tagmill predict`: one-off, without queue and database."""

from typing import Annotated

import typer

from base.settings import load_settings
from cli.options import Json
from cli.output import print_json, printable, say


def predict(
    images: Annotated[list[str], typer.Argument(help="Image files.", metavar="IMAGE...")],
    model: Annotated[str | None, typer.Option(help="NAME or NAME:VERSION; the pretrained one unless given.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels for each image.")] = 5,
    json: Json = False,
) -> None:
    """Print the labels of some images; nothing is stored.

    Exits with 1 when an image cannot be classified.

    Example: tagmill predict photo.jpg --top-k 3
    """
    import os

    from base.errors import ImageError
    from cli.pretrained import find_or_build
    from models.classifier import Classifier
    from models.decoding import DecodingLimits
    from models.registry import open_registry
    from producer.folder import path_to_uri
    from worker.fetching import fetch

    settings = load_settings()
    version = find_or_build(settings, open_registry(settings), model)
    limits = DecodingLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    classifier = Classifier(version, limits=limits)
    told, failed = [], 0
    for image in images:
        uri = path_to_uri(os.path.realpath(os.fsencode(image)))
        facts: dict[str, object] = {"image": os.fsencode(image).decode(errors="replace"), "model": str(version)}
        try:
            found = classifier.predict(fetch(uri, max_bytes=settings.max_image_bytes).encoded, top_k)
        except ImageError as error:
            failed += 1
            facts |= {"reason": str(error.reason), "message": str(error)}
            if not json:
                say(f"{printable(facts['image'])}: {error.reason}: {error}")
        else:
            facts["predictions"] = [
                {"rank": rank, "label": one.label, "confidence": one.confidence} for rank, one in enumerate(found, 1)
            ]
            facts["needs_review"] = needs_review = version.needs_review(found[0].label, found[0].confidence)
            if not json:
                print(printable(facts["image"]))
                for one in found:
                    print(f"  {one.confidence:7.4f}  {one.label}")
                if needs_review:
                    print("           needs review")
        told.append(facts)
    if json:
        print_json(told)
    raise typer.Exit(1 if failed else 0)
