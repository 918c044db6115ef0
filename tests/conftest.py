"""Fixtures that more than one folder of tests needs."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from models.pretrained import ensure_pretrained
from models.registry import Registry
from tests.servers import (
    S3,
    Azure,
    BucketServer,
    GoogleStorage,
    Valkey,
    azure_server,
    google_server,
    postgres_server,
    s3_server,
    valkey_server,
)
from tests.store_proxy import StoreProxy, store_proxy


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is left out."""
    is_left_out = config.option.markexpr == "not azure"
    return "without the tests that need Azurite: 'make test-azure' runs them" if is_left_out else None


@pytest.fixture(scope="session")
def pretrained_registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry holding the default model, built once for all tests; treat it as read-only."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # pytest's processes share it; of two that build at once, one waits for the other.
    registry = Registry(folder / "models")
    ensure_pretrained(registry, lambda step, done: None)
    return registry


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server's superuser; of the one in TAGMILL_TEST_DATABASE_URL where that is set."""
    given = os.environ.get("TAGMILL_TEST_DATABASE_URL")
    if given:
        yield given
        return
    with postgres_server() as address:
        yield address


@contextmanager
def new_database(postgres: str, template: str = "template1") -> Iterator[str]:
    """A new database of the server with that address, a copy of another, for as long as the block lasts.

    Yields:
        Its own address.
    """
    name = f"tagmill_{secrets.token_hex(4)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        yield postgres.rpartition("/")[0] + "/" + name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def postgres_database(postgres: str) -> Iterator[str]:
    """The address of a new, empty database."""
    with new_database(postgres) as address:
        yield address


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A broker of the test's own."""
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A server of buckets; each test makes its own bucket."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleStorage]:
    """As `s3`."""
    with google_server(tmp_path_factory.mktemp("gs")) as server:
        yield server


@pytest.fixture(scope="session")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    """As `s3`; what uses it is marked `azure`."""
    with azure_server(tmp_path_factory.mktemp("az")) as server:
        yield server


@pytest.fixture(params=["s3", "gs", pytest.param("az", marks=pytest.mark.azure)])
def bucket_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BucketServer:
    """Each of the three, and the environment says who we are there."""
    server: BucketServer = request.getfixturevalue(request.param)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def proxy(bucket_server: BucketServer) -> Iterator[StoreProxy]:
    """Between us and that server."""
    with store_proxy(bucket_server.url) as server:
        yield server
