"""PostgreSQL and a broker of one's own, with workers that were started by themselves."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from models.registry import Registry
from tests.acceptance.conftest import Tagmill
from tests.servers import Valkey


@pytest.fixture
def servers(tmp_path: Path, pretrained_registry: Registry, postgres_database: str, valkey: Valkey) -> Tagmill:
    """`tagmill` on PostgreSQL and a broker, with all labels kept."""
    commands = Tagmill(tmp_path / "servers", pretrained_registry.root)
    commands.environment |= {
        "TAGMILL_DATABASE_URL": postgres_database,
        "TAGMILL_BROKER_URL": valkey.url,
        "TAGMILL_TOP_K": "1000",
    }
    commands("db", "upgrade")
    return commands


@pytest.fixture
def workers(servers: Tagmill) -> Iterator[list["subprocess.Popen[str]"]]:
    """Two workers of one process each."""
    started = [servers.start("worker", "--processes", "1") for _ in range(2)]
    yield started
    for worker in started:
        worker.terminate()
    ends = [worker.communicate(timeout=30) for worker in started]
    assert [worker.returncode for worker in started] == [0, 0], ends


def labels(commands: Tagmill) -> dict[str, tuple[str, float]]:
    return {
        line.split(",")[0].rpartition("/")[2]: (line.split(",")[1], float(line.split(",")[2]))
        for line in commands("results", "--format", "csv").stdout.splitlines()[1:]
    }


def test_servers_give_the_rows_of_the_embedded_default(
    tagmill: Tagmill, servers: Tagmill, workers: list["subprocess.Popen[str]"], photos: Path, postgres_database: str
) -> None:
    tagmill.run(photos)

    facts = servers.run(photos)

    assert (facts["classified"], facts["failed"]) == (20, 0)
    embedded, served = labels(tagmill), labels(servers)
    assert embedded.keys() == served.keys()
    for name, (label, confidence) in embedded.items():
        assert served[name][0] == label
        assert served[name][1] == pytest.approx(confidence, abs=1e-6)
    servers("verify")
    assert not (servers.home / "broker").exists()


def test_confidences_of_an_image_sum_to_1(
    servers: Tagmill, workers: list["subprocess.Popen[str]"], photos: Path, postgres_database: str
) -> None:
    servers.run(photos)

    with psycopg.connect(postgres_database) as connection:
        sums = connection.execute(
            "SELECT count(*), sum(confidence), min(confidence) FROM predictions_top_k GROUP BY image_uri"
        ).fetchall()
    assert len(sums) == 20
    assert all(rows == 1000 and total == pytest.approx(1, abs=1e-5) and least >= 0 for rows, total, least in sums)


def test_interrupted_command_leaves_the_run_to_the_workers(
    servers: Tagmill, workers: list["subprocess.Popen[str]"], photos: Path, postgres_database: str
) -> None:
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)  # So that the run cannot end before it is interrupted.
    try:
        process = servers.start("run", photos)
        servers.wait_for("the listing", lambda: _listing_is_complete(postgres_database))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)

    assert process.returncode == 130
    assert "the workers go on with run 1" in err
    servers.wait_for("the workers", lambda: servers.status()["status"] == "completed")
    servers("verify")


def test_worker_stays_small_and_without_tensorflow(
    servers: Tagmill, workers: list["subprocess.Popen[str]"], photos: Path
) -> None:
    servers.run(photos)

    processes = servers.processes("celery_worker")
    assert len(processes) >= 4
    for pid in processes:
        with open(f"/proc/{pid}/status") as status:
            peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
        assert peak < 250 * 2**20, f"process {pid} took {peak / 2**20:.0f} MB"
        with open(f"/proc/{pid}/maps") as maps:
            assert "site-packages/tensorflow/" not in maps.read()


def test_reader_role_may_read_the_views_only(
    servers: Tagmill, workers: list["subprocess.Popen[str]"], photos: Path, postgres_database: str
) -> None:
    servers.run(photos)
    role = f"reader_{os.getpid()}"
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(sql.Identifier(role)))
    try:
        host = postgres_database.rpartition("@")[2]
        servers.environment["TAGMILL_READER_URL"] = f"postgresql://{role}:secret@{host}"
        servers("db", "upgrade")

        assert servers.sql("SELECT count(*) AS images FROM current_labels") == [{"images": "20"}]
        for statement in ("SELECT * FROM images", "DELETE FROM current_labels", "SELECT 1; SELECT 2"):
            assert servers("sql", statement, code=2).stdout == ""
    finally:
        with psycopg.connect(postgres_database, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {0}").format(sql.Identifier(role)))
            connection.execute(sql.SQL("DROP ROLE {0}").format(sql.Identifier(role)))


def _listing_is_complete(address: str) -> bool:
    with psycopg.connect(address) as connection:
        return connection.execute("SELECT listed_at FROM runs WHERE listed_at IS NOT NULL").fetchone() is not None
