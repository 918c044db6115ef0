"""What `docs/sql.md` says of the views, and what its queries answer, on both databases."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from base.errors import FailureReason
from base.settings import Settings
from results.reader import grant_reader
from results.schema import upgrade
from results.session import Database, parse_database_url
from results.tables import VIEWS, RunStatus, SlotStatus
from tests.catalogue import fill
from tests.conftest import new_database
from tests.documents import DOCUMENTS, ROOT, Block, blocks, inline_code, tables
from tests.integration.results.test_reader import ask, new_role, reader_address, settings_of

_SQL = ROOT / "docs" / "sql.md"
_QUERIES = blocks(_SQL, "sql")
# Not questions: they make the roles, and tests/acceptance/test_documents.py runs them.
_STATEMENTS_OF = {"operations.md"}
_MARKS = {"sqlite": "On SQLite:", "postgresql": "On PostgreSQL:"}
_NOW = datetime.now(UTC)


def _day(*, hours_ago: int) -> str:
    return f"{_NOW - timedelta(hours=hours_ago):%Y-%m-%d}"


_P, _S = "file:///photos", "file:///studio"
EXPECTED: dict[str, list[tuple[object, ...]]] = {
    "The most common labels": [
        ("backpack", 3, 0.7),
        ("running shoe", 2, 0.86),
        ("sandal", 2, 0.665),
        ("clog", 1, 0.25),
        ("coffee mug", 1, 1.0),
        ("folding chair", 1, 0.35),
        ("table lamp", 1, 0.66),
    ],
    "How much of the catalogue has a label that is sure": [
        ("efficientnet_lite0", 11, 8, 72.7),
        ("shop_labels", 2, 2, 100.0),
    ],
    "How the confidences are spread": [
        (tenth / 10, images) for tenth, images in enumerate([0, 0, 1, 1, 1, 1, 2, 1, 0, 4])
    ],
    "The share of each label in each folder": [
        (f"{_P}/bags/C300/", "backpack", 3, 100.0),
        (f"{_P}/shoes/A100/", "running shoe", 1, 50.0),
        (f"{_P}/shoes/A100/", "sandal", 1, 50.0),
        (f"{_P}/shoes/B200/", "clog", 1, 50.0),
        (f"{_P}/shoes/B200/", "sandal", 1, 50.0),
        (f"{_P}/shoesold/", "running shoe", 1, 100.0),
        (f"{_S}/", "coffee mug", 1, 33.3),
        (f"{_S}/", "folding chair", 1, 33.3),
        (f"{_S}/", "table lamp", 1, 33.3),
    ],
    "The most common labels of each source": [
        (_P, 1, "backpack", 3),
        (_P, 2, "running shoe", 2),
        (_P, 3, "sandal", 2),
        (_S, 1, "coffee mug", 1),
        (_S, 2, "folding chair", 1),
        (_S, 3, "table lamp", 1),
    ],
    "Everything below a folder with a label": [(f"{_P}/shoes/A100/front.jpg", 0.95)],
    "Images that have a label among their first three": [
        (f"{_P}/shoes/B200/front.jpg", 1, 0.91),
        (f"{_P}/shoes/A100/on%20foot.jpg", 1, 0.42),
        (f"{_P}/shoes/A100/front.jpg", 2, 0.03),
    ],
    "Folders whose images have different labels": [
        (f"{_S}/", 3, 3, "coffee mug", "table lamp"),
        (f"{_P}/shoes/A100/", 2, 2, "running shoe", "sandal"),
        (f"{_P}/shoes/B200/", 2, 2, "clog", "sandal"),
    ],
    "The file name of each image": [
        ("back.jpg", "backpack", 0.61),
        ("front.jpg", "backpack", 0.99),
        ("strap.jpg", "backpack", 0.5),
        ("front.jpg", "running shoe", 0.95),
        ("on foot.jpg", "sandal", 0.42),
        ("front.jpg", "sandal", 0.91),
        ("side 50%20.jpg", "clog", 0.25),
        ("front.jpg", "running shoe", 0.77),
        ("chair.jpg", "folding chair", 0.35),
        ("lamp.jpg", "table lamp", 0.66),
        ("mug 1.jpg", "coffee mug", 1.0),
    ],
    "New or changed in the last 24 hours": [
        (f"{_S}/chair.jpg", "folding chair", 0.35),
        (f"{_S}/lamp.jpg", "table lamp", 0.66),
    ],
    "Images that the model is least sure of": [
        (f"{_P}/shoes/B200/side%2050%2520.jpg", "clog", 0.25, True),
        (f"{_P}/bags/C300/strap.jpg", "backpack", 0.5, True),
        (f"{_S}/chair.jpg", "folding chair", 0.35, False),
        (f"{_P}/shoes/A100/on%20foot.jpg", "sandal", 0.42, False),
        (f"{_P}/bags/C300/back.jpg", "backpack", 0.61, False),
        (f"{_S}/lamp.jpg", "table lamp", 0.66, False),
        (f"{_P}/shoesold/front.jpg", "running shoe", 0.77, False),
        (f"{_P}/shoes/B200/front.jpg", "sandal", 0.91, False),
        (f"{_P}/shoes/A100/front.jpg", "running shoe", 0.95, False),
        (f"{_P}/bags/C300/front.jpg", "backpack", 0.99, False),
        (f"{_S}/mug%201.jpg", "coffee mug", 1.0, False),
    ],
    "Images that could be one of two labels": [
        (f"{_P}/shoes/A100/on%20foot.jpg", "sandal", "running shoe", 0.02),
        (f"{_P}/shoes/B200/side%2050%2520.jpg", "clog", "boot", 0.03),
        (f"{_S}/chair.jpg", "folding chair", "rocking chair", 0.05),
    ],
    "Who answered, and what waits for a review": [
        ("efficientnet_lite0", "model", False, 9),
        ("efficientnet_lite0", "model", True, 2),
        ("shop_labels", "model", False, 2),
    ],
    "A list for a new photograph": [
        (f"{_P}/bags/C300/zip.jpg", "truncated"),
        (f"{_P}/shoes/A100/back.jpg", "unreadable"),
        (f"{_P}/shoes/B200/side%2050%2520.jpg", "looks like nothing in particular"),
        (f"{_S}/pot.jpg", "too_large"),
    ],
    "What another version of the model would change": [
        (f"{_P}/shoes/A100/on%20foot.jpg", "sandal", 0.42, "running shoe", 0.55),
        (f"{_P}/shoes/B200/side%2050%2520.jpg", "clog", 0.25, "sandal", 0.5),
    ],
    "Where two models differ": [
        (f"{_P}/shoes/B200/front.jpg", "efficientnet_lite0", "sandal", "shop_labels", "slipper"),
    ],
    "Images classified on each day": [
        ("2024-11-18", 7, 7),
        ("2024-11-21", 1, 8),
        (_day(hours_ago=25), 1, 9),
        (_day(hours_ago=1), 2, 11),
    ],
    "The latest runs": [
        (6, _S, "running", 8, 1, 2, 3, 37.5, 0.0, None),
        (5, _S, "completed", 2, 0, 1, 1, 50.0, 0.0, 0.4),
        (4, _P, "completed", 10, 8, 2, 0, 0.0, 0.0, 0.1),
        (3, _P, "completed", 10, 0, 8, 2, 20.0, 0.0, 1.0),
        (2, _P, "completed", 10, 7, 1, 2, 20.0, 0.0, 0.5),
        (1, _P, "completed", 11, 0, 9, 2, 18.2, 33.3, 0.5),
    ],
    "What failed in the latest run, and why": [
        ("forbidden", 2, f"{_S}/urn.jpg"),
        ("too_large", 1, f"{_S}/pot.jpg"),
    ],
    "Images that failed and still have no answer": [
        (f"{_P}/bags/C300/zip.jpg", 3, "truncated"),
        (f"{_P}/bags/E500/front.jpg", 1, "unreadable"),
        (f"{_P}/shoes/A100/back.jpg", 3, "unreadable"),
        (f"{_S}/pot.jpg", 6, "too_large"),
        (f"{_S}/urn.jpg", 6, "forbidden"),
        (f"{_S}/vase.jpg", 6, "forbidden"),
    ],
    "Products whose photographs disagree": [
        ("B200", "sandal", 0.455, 2, 0.5),
        ("A100", "running shoe", 0.475, 2, 0.5),
    ],
    "What the catalogue says, and what the photographs show": [
        ("bags", "backpack", 1, 40.0),
        ("shoes", "running shoe", 1, 90.0),
        ("shoes", "sandal", 1, 50.5),
    ],
    "Products without any answer": [("Z900", 1)],
}
# What PostgreSQL calls these itself.
_POSTGRESQL_TYPES = {"timestamptz": "timestamp with time zone"}


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The catalogue in SQLite."""
    home = tmp_path_factory.mktemp("home")
    db = Database(sa.URL.create("sqlite", database=str(home / "tagmill.db")))
    upgrade(db)
    fill(db, now=_NOW.timestamp())
    db.close()
    return Settings(home=home)


@pytest.fixture(scope="module")
def postgresql(postgres: str) -> Iterator[Settings]:
    """The catalogue in PostgreSQL, with a role that reads its views."""
    with new_database(postgres) as address:
        db = Database(parse_database_url(address, "TAGMILL_DATABASE_URL"))
        upgrade(db)
        fill(db, now=_NOW.timestamp())
        with new_role(db) as role:
            grant_reader(db, reader_address(db, role))
            yield settings_of(db, reader_address(db, role))
        db.close()


def query(title: str, server: str) -> str:
    """The text below a title; that for the server where there are two."""
    texts = [block.text for block in _QUERIES if block.heading == title and _is_for(block, server)]
    assert len(texts) == 1, f"{title!r} has {len(texts)} queries for {server}"
    return texts[0]


def _is_for(block: Block, server: str) -> bool:
    return block.lead not in _MARKS.values() or block.lead == _MARKS[server]


def plain(value: object) -> object:
    """What both databases mean: times as SQLite's text, numbers without the digits in which arithmetic differs."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return round(float(value), 6) if isinstance(value, float | Decimal) else value


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> str:
    """The name of either database, which is that of its fixture too."""
    name: str = request.param
    return name


@pytest.fixture
def settings(request: pytest.FixtureRequest, server: str) -> Settings:
    """Either database with the catalogue."""
    found: Settings = request.getfixturevalue(server)
    return found


def test_every_documented_query_has_expected_rows() -> None:
    titles = list(dict.fromkeys(block.heading for block in _QUERIES))

    assert titles == list(EXPECTED)
    assert len(titles) == 23


@pytest.mark.parametrize("title", EXPECTED)
def test_documented_query_gives_these_rows(settings: Settings, server: str, title: str) -> None:
    _, rows = ask(settings, query(title, server))

    assert [tuple(plain(value) for value in row) for row in rows] == EXPECTED[title]


def test_other_documents_have_no_untested_query() -> None:
    with_sql = {document.name for document in DOCUMENTS if blocks(document, "sql")}

    assert with_sql == {_SQL.name} | _STATEMENTS_OF


def test_documented_views_are_those_that_exist() -> None:
    assert {heading for heading in VIEWS if tables(_SQL, heading)} == set(VIEWS)


@pytest.mark.parametrize("view", VIEWS)
def test_columns_of_a_view_are_documented_in_order(settings: Settings, server: str, view: str) -> None:
    documented = [(name.strip("`"), _type(kind, server)) for name, kind, _ in tables(_SQL, view)[0]]

    columns, _ = ask(settings, f"SELECT * FROM {view}")

    assert documented == [(column, _type_of(settings, server, view, column)) for column in columns]


def test_every_reason_is_documented() -> None:
    _, reasons = tables(_SQL, "failures_by_image")

    assert [row[0].strip("`") for row in reasons] == [str(reason) for reason in FailureReason]


def test_every_status_of_a_run_is_documented() -> None:
    (row,) = [row for row in tables(_SQL, "run_summary")[0] if row[0] == "`status`"]

    assert set(inline_code(row[2])) == {str(status) for status in RunStatus}


def test_every_status_of_a_slot_is_documented() -> None:
    (row,) = [row for row in tables(_SQL, "schedule_slots")[0] if row[0] == "`status`"]

    assert set(inline_code(row[2])) == {str(status) for status in SlotStatus}


def _type(documented: str, server: str) -> str:
    """`integer (0, 1) / boolean` is integer on SQLite and boolean on PostgreSQL."""
    of_sqlite, _, of_postgresql = documented.partition(" / ")
    if server == "sqlite":
        return of_sqlite.partition(" (")[0]
    found = of_postgresql or of_sqlite
    return _POSTGRESQL_TYPES.get(found, found)


def _type_of(settings: Settings, server: str, view: str, column: str) -> object:
    """Of the values: SQLite's columns of views have no types of their own."""
    function = "typeof" if server == "sqlite" else "pg_typeof"
    _, rows = ask(
        settings, f'SELECT DISTINCT CAST({function}("{column}") AS text) FROM {view} WHERE "{column}" IS NOT NULL'
    )
    assert len(rows) == 1, rows
    return rows[0][0]
