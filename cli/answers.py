"""`tagmill results` and `tagmill sql`."""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import typer

from base.errors import SetupError
from base.settings import load_settings
from cli.export import Format, Output, export_rows, find_target
from cli.output import say

if TYPE_CHECKING:
    from results.queries import LabelFilter
    from results.session import Database


def results(
    label: Annotated[list[str] | None, typer.Option(help="Only this label; repeatable, for any of them.")] = None,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Only answers this sure.")] = None,
    max_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Only answers no surer.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Only images of this folder, file, bucket's prefix or manifest.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only the answers of this model, NAME or NAME:VERSION.")] = None,
    reviewed: Annotated[
        bool | None, typer.Option("--reviewed/--not-reviewed", help="Only answers of people, or of models.")
    ] = None,
    needs_review: Annotated[
        bool | None, typer.Option("--needs-review/--no-needs-review", help="Only what somebody should look at, or not.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=2**63 - 1, help="At most so many rows.")] = None,
    form: Format = None,
    output: Output = None,
) -> None:
    """Print the current label of every image, or write it into a file.

    Example: tagmill results --label "tabby" --min-confidence 0.8 --output cats.csv
    """
    from producer.sources import source_uri
    from results.queries import LABEL_COLUMNS, LabelFilter, list_labels
    from results.schema import open_database

    target = find_target(form, output)
    _check_encoding(model or "", *(label or ()))
    name, _, version = (model or "").partition(":")
    if model is not None and (not name or (":" in model and not (version.isdecimal() and len(version) < 10))):
        raise SetupError(f"{model!r} does not name a model; write NAME or NAME:VERSION.")
    wanted = LabelFilter(
        labels=tuple(label or ()),
        min_confidence=min_confidence,
        max_confidence=max_confidence,
        source=source_uri(source) if source is not None else None,
        model=name or None,
        model_version=int(version) if version else None,
        reviewed=reviewed,
        needs_review=needs_review,
    )
    db = open_database(load_settings())
    rows = list_labels(db, wanted, limit=limit)
    if export_rows(target, list(LABEL_COLUMNS), rows, list(LABEL_COLUMNS.values())) == 0:
        say("; ".join(["no images match", *_unknown_names(db, wanted)]))


def _unknown_names(db: "Database", wanted: "LabelFilter") -> list[str]:
    """What was asked for by a name that nothing has, with those that come near."""
    from results.queries import active_models, known_labels

    models = active_models(db) if wanted.model is not None else {}
    found = []
    if models and wanted.model not in models:
        found.append(f"no model {wanted.model!r} has answers; there are those of {_quoted(sorted(models))}")
    elif models and wanted.model_version not in (None, models[str(wanted.model)]):
        found.append(f"the active version of {wanted.model!r} is {models[str(wanted.model)]}")
    labels = known_labels(db) if wanted.labels else []
    for label in [label for label in wanted.labels if labels and label not in labels]:
        near = _near(label, labels)
        others = "'tagmill sql \"SELECT DISTINCT label FROM current_labels\"' lists those that there are"
        found.append(f"no image has the label {label!r}; " + (f"near it: {_quoted(near)}" if near else others))
    return found


def _check_encoding(*texts: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SetupError(f"{text!r} is not UTF-8, as the database's text is. Write it in UTF-8.") from error


def _near(name: str, names: list[str], most: int = 5) -> list[str]:
    """Names that hold this one, as most labels hold a shorter word, or else are spelt like it."""
    folded = {other.casefold(): other for other in names}
    holding = [other for key, other in folded.items() if name.casefold() in key]
    return holding[:most] or [folded[key] for key in get_close_matches(name.casefold(), folded, n=most)]


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT from the views.")],
    form: Format = None,
    output: Output = None,
) -> None:
    """Ask the database one question in SQL; it cannot change anything.

    The views are current_labels, predictions_top_k, run_summary, failures_by_image, image_columns, current_products and
    schedule_slots.

    Example: tagmill sql "SELECT label, count(*) AS images FROM current_labels GROUP BY label ORDER BY images DESC"
    """
    from results.reader import read_only_rows
    from results.schema import open_database

    target = find_target(form, output)
    _check_encoding(query)
    settings = load_settings()
    open_database(settings).close()
    with read_only_rows(settings, query) as answer:
        export_rows(target, answer.columns, answer.rows)
