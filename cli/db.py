"""`tagmill db`: the schema of the database."""

import typer

from base.settings import load_settings
from cli.output import say

app = typer.Typer(
    help="The database's schema.\n\nExample: tagmill db upgrade", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _group() -> None:
    """Keeps `upgrade` a command of its own although it is the only one."""


@app.command()
def upgrade() -> None:
    """Make the tables of a new database, or bring an older one up to date; the data stays.

    Example: TAGMILL_DATABASE_URL=postgresql://tagmill@db.example/tagmill tagmill db upgrade
    """
    from results.reader import grant_reader
    from results.schema import make_database

    settings = load_settings()
    db, before, after = make_database(settings)
    say(f"{db}: schema {after}, as before" if before == after else f"{db}: schema {before or 'none'} -> {after}")
    if settings.reader_url is not None:
        role = grant_reader(db, settings.reader_url.get_secret_value())
        say(f"{db}: the role {role} may read the views, and nothing else")
