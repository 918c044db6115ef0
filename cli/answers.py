"""`tagmill results` and `tagmill sql`."""

from typing import Annotated

import typer

from base.errors import SetupError
from base.settings import load_settings
from cli.output import RowFormat, print_rows, say

Format = Annotated[RowFormat, typer.Option("--format", help="How rows are printed.")]


def results(
    label: Annotated[str | None, typer.Option(help="Only this label.")] = None,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Only answers this sure.")] = None,
    source: Annotated[str | None, typer.Option(help="Only images of this folder or file.")] = None,
    model: Annotated[str | None, typer.Option(help="Only the answers of this model, NAME or NAME:VERSION.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=2**63 - 1, help="At most so many rows.")] = None,
    form: Format = RowFormat.TABLE,
) -> None:
    """Print the current label of every image.

    Example: tagmill results --label "tabby" --min-confidence 0.8 --format csv
    """
    from producer.folder import source_uri
    from results.queries import LABEL_COLUMNS, LabelFilter, list_labels
    from results.schema import open_database

    db = open_database(load_settings())
    name, _, version = (model or "").partition(":")
    if model is not None and (not name or (":" in model and not version.isdecimal())):
        raise SetupError(f"{model!r} does not name a model; write NAME or NAME:VERSION.")
    wanted = LabelFilter(
        label=label,
        min_confidence=min_confidence,
        source=source_uri(source) if source is not None else None,
        model=name or None,
        model_version=int(version) if version else None,
    )
    if print_rows(LABEL_COLUMNS, list_labels(db, wanted, limit=limit), form) == 0:
        say("no images match")


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT from the views.")],
    form: Format = RowFormat.TABLE,
) -> None:
    """Ask the database one question in SQL; it cannot change anything.

    The views are current_labels, predictions_top_k, run_summary and failures_by_image.

    Example: tagmill sql "SELECT label, count(*) AS images FROM current_labels GROUP BY label ORDER BY images DESC"
    """
    from results.reader import read_only_rows
    from results.schema import open_database

    settings = load_settings()
    open_database(settings).close()
    with read_only_rows(settings, query) as answer:
        print_rows(answer.columns, answer.rows, form)
