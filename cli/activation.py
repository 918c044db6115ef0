"""`tagmill models activate` and `tagmill models diff`: whose answers are shown, and what others would be."""

from typing import TYPE_CHECKING, Annotated

import typer

from base.errors import SetupError
from base.settings import load_settings
from cli.options import Json
from cli.output import RowFormat, facts_table, print_json, print_rows, say

if TYPE_CHECKING:
    from results.versions import Difference


def activate(
    model: Annotated[str, typer.Argument(help="NAME:VERSION.")],
    json: Json = False,
) -> None:
    """Make current_labels show the answers of this version of a model; those of the others stay stored.

    Example: tagmill models activate furniture:2
    """
    from results import versions
    from results.schema import open_database

    name, version = _parse(model)
    db = open_database(load_settings())
    previous = versions.activate(db, name, version)
    if previous == version:
        say(f"{model} is active already")
    else:
        say(f"current_labels shows {model} now; before, it was {name}:{previous}")
    covered = versions.count_coverage(db, (name, previous), (name, version))
    images_before, images = covered.both + covered.only_from, covered.both + covered.only_to
    if previous != version:
        say(f"images with an answer: {images:,} of {model}, {images_before:,} of {name}:{previous}")
    if covered.only_from:
        say(
            f"{covered.only_from:,} images have no answer until 'tagmill run SOURCE --model {model}' has classified "
            f"them; 'tagmill models activate {name}:{previous}' switches back"
        )
    if json:
        print_json(
            {
                "model": name,
                "version": version,
                "previous_version": previous,
                "images": images,
                "images_before": images_before,
            }
        )


def diff(
    model_from: Annotated[str, typer.Argument(help="NAME:VERSION.", metavar="FROM")],
    model_to: Annotated[str, typer.Argument(help="NAME:VERSION.", metavar="TO")],
    source: Annotated[
        str | None, typer.Option(help="Only images of this folder, file, bucket's prefix or manifest.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=2**63 - 1, help="At most so many kinds of flips.")] = 20,
    json: Json = False,
) -> None:
    """Compare the stored answers of two model versions: which labels flip, from what to what.

    Compared are the images that exist and have answers of both, as they are now.

    Example: tagmill models diff furniture:1 furniture:2
    """
    from dataclasses import asdict

    from producer.sources import source_uri
    from results.schema import open_database
    from results.versions import compare_versions

    version_from, version_to = _parse(model_from), _parse(model_to)
    uri = source_uri(source) if source is not None else None
    found = compare_versions(open_database(load_settings()), version_from, version_to, source=uri, most_flips=limit)
    if json:
        print_json({"model_from": model_from, "model_to": model_to, "source": uri} | asdict(found))
    else:
        _print(found, model_from, model_to)
    if not found.compared:
        say(
            f"no image has answers of both; 'tagmill run SOURCE --model {model_to}' classifies those of a source that "
            f"{model_to} has not answered"
        )


def _print(found: "Difference", model_from: str, model_to: str) -> None:
    share = f" ({found.flipped / found.compared:.1%})" if found.compared else ""
    facts: list[tuple[str, object]] = [("compared", found.compared), ("flipped", f"{found.flipped}{share}")]
    for model, only, confidence, needs_review in (
        (model_from, found.only_from, found.mean_confidence_from, found.needs_review_from),
        (model_to, found.only_to, found.mean_confidence_to, found.needs_review_to),
    ):
        facts += [
            (f"only {model}", only),
            (f"mean confidence of {model}", "" if confidence is None else f"{confidence:.4f}"),
            (f"needs review by {model}", needs_review),
        ]
    facts_table(facts)
    if not found.flips:
        return
    print()
    rows = [(flip.images, flip.label_from, flip.label_to, " ".join(flip.samples)) for flip in found.flips]
    print_rows(("images", "label_from", "label_to", "for example"), rows, RowFormat.TABLE)
    if found.kinds > len(rows):
        say(f"{found.kinds - len(rows):,} more kinds of flips; --limit {found.kinds} shows all")


def _parse(reference: str) -> tuple[str, int]:
    from models.storage import NAME, NUMBER

    name, _, version = reference.partition(":")
    if not NAME.fullmatch(name) or not NUMBER.fullmatch(version):
        raise SetupError(
            f"{reference!r} does not name a model version; write NAME:VERSION, such as small_cnn:2. "
            "'tagmill models list' shows those in the registry."
        )
    return name, int(version)
