"""`tagmill doctor` finds what is wrong, tells how to mend it, and its exit code says so."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from psycopg import sql
from typer.testing import CliRunner

import worker.check
from base.settings import Settings
from cli.main import app
from models.pretrained import TRAIN_PACKAGES
from models.registry import Registry
from results.schema import make_database, migration_config, open_database
from results.tables import model_versions
from tests.servers import Valkey, free_port, valkey_server

Report = tuple[int, list[dict[str, str]]]


class Doctor:
    """`tagmill doctor` with settings of the test's own, in this process: most of a command's time is its start."""

    def __init__(self, home: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in os.environ:
            if name.startswith("TAGMILL_"):
                monkeypatch.delenv(name)
        monkeypatch.chdir(home.parent)
        self.home = home
        self._monkeypatch = monkeypatch
        self.set(home=home, models_url=models)

    def set(self, **settings: object) -> None:
        for name, value in settings.items():
            self._monkeypatch.setenv(f"TAGMILL_{name}".upper(), str(value))

    def look(self) -> Report:
        """The exit code, and whatever is not well."""
        done = CliRunner().invoke(app, ["doctor", "--json"])
        assert done.stderr == ""
        findings = json.loads(done.stdout)["findings"]
        return done.exit_code, [one for one in findings if one["status"] != "ok"]

    def the_fault(self, check: str) -> str:
        """The one fault that there is, of that check, with how to mend it; the exit code says that there is one."""
        code, findings = self.look()
        (fault,) = [one for one in findings if one["status"] == "fault"]
        assert (code, fault["check"]) == (1, check), fault
        assert fault["mend"]
        return f"{fault['found']}. {fault['mend']}"


@pytest.fixture
def doctor(tmp_path: Path, pretrained_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """A machine that is well: SQLite in a home, and the pretrained model."""
    doctor = Doctor(tmp_path / "home", pretrained_registry.root, monkeypatch)
    make_database(Settings(home=doctor.home))[0].close()
    return doctor


@pytest.fixture
def on_postgresql(doctor: Doctor, postgres_database: str) -> Doctor:
    make_database(Settings(database_url=postgres_database))[0].close()
    doctor.set(database_url=postgres_database)
    return doctor


@pytest.fixture
def on_valkey(doctor: Doctor, valkey: Valkey) -> Doctor:
    doctor.set(broker_url=valkey.url)
    return doctor


def test_machine_that_is_well_has_no_fault(doctor: Doctor) -> None:
    before = sorted(doctor.home.rglob("*"))

    assert doctor.look() == (0, [])
    assert sorted(doctor.home.rglob("*")) == before


def test_machine_before_its_first_run_has_no_fault(doctor: Doctor, tmp_path: Path) -> None:
    doctor.set(home=tmp_path / "new", models_url="")

    code, (finding,) = doctor.look()

    assert (code, finding["check"], finding["status"]) == (0, "model", "warning")
    assert not (tmp_path / "new").exists()


def test_servers_that_are_well_have_no_fault(on_postgresql: Doctor, valkey: Valkey) -> None:
    on_postgresql.set(broker_url=valkey.url)

    code, findings = on_postgresql.look()

    # The tests' own server runs without them, for speed; one of somebody else's need not.
    told = {finding["found"] for finding in findings}
    assert code == 0
    assert told <= {f"{setting} is off: a power cut may damage it" for setting in ("fsync", "full_page_writes")}


def test_facts_for_people_say_the_same(doctor: Doctor) -> None:
    doctor.set(broker_url=f"redis://:secret-word@127.0.0.1:{free_port()}/0")

    done = CliRunner().invoke(app, ["doctor"])

    assert done.exit_code == 1
    assert "\nfault    broker    the broker redis://:**@127.0.0.1" in done.stdout
    assert "\n                   -> Start it, correct TAGMILL_BROKER_URL" in done.stdout
    assert done.stdout.endswith("\n1 fault, no warnings\n")
    assert "TAGMILL_BROKER_URL" in done.stdout
    assert "secret" not in done.stdout


# Settings


def test_unknown_variable_is_a_fault(doctor: Doctor) -> None:
    doctor.set(topk=3)

    assert "there is no setting TAGMILL_TOPK" in doctor.the_fault("settings")


def test_file_that_is_no_toml_is_a_fault(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "tagmill.toml").write_text("top_k: 3")

    assert "is not TOML" in doctor.the_fault("settings")


def test_file_of_the_option_is_read(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("top_k = 3")
    os.environ["TAGMILL_CONFIG"] = ""  # For monkeypatch, which puts back what it finds here.
    doctor.set(config="")

    done = CliRunner().invoke(app, ["--config", "other.toml", "doctor", "--json"])

    shown = {one["name"]: one for one in json.loads(done.stdout)["settings"]}
    assert shown["top_k"] == {"name": "top_k", "value": "3", "origin": str(tmp_path / "other.toml")}


# Versions


def test_schedule_that_cannot_be_run_is_a_fault(on_valkey: Doctor) -> None:
    on_valkey.set(schedule=json.dumps([{"name": "nightly", "cron": "0 2 * * *", "source": "/nowhere"}]))

    assert "'nightly': no folder '/nowhere'" in on_valkey.the_fault("schedules")


def test_pillow_that_is_too_old_is_a_fault(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site" / "pillow-12.9.0.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "pillow-12.9.0.dist-info" / "METADATA").write_text("Name: pillow\nVersion: 12.9.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")

    assert "pillow 12.9.0 is not >=13.0.0. pip install 'pillow>=13.0.0'" in doctor.the_fault("versions")


# Broker


def test_wrong_password_of_the_broker_is_a_fault(doctor: Doctor, valkey: Valkey) -> None:
    doctor.set(broker_url=f"redis://:not-the-password@{valkey.url.rpartition('@')[2]}")

    message = doctor.the_fault("broker")

    assert "does not answer" in message
    assert "not-the-password" not in message


def test_broker_that_is_not_there_is_a_fault(doctor: Doctor) -> None:
    doctor.set(broker_url=f"redis://:secret@127.0.0.1:{free_port()}/0")

    assert "Start it, correct TAGMILL_BROKER_URL" in doctor.the_fault("broker")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"), "maxmemory-policy is 'allkeys-lru'"),
        (("REPLICAOF", "127.0.0.1", "1"), "it is a replica"),
        (("CONFIG", "SET", "maxmemory", "1mb"), "of its memory is used. Raise maxmemory"),
    ],
)
def test_broker_that_loses_or_refuses_messages_is_a_fault(
    on_valkey: Doctor, valkey: Valkey, change: tuple[str, ...], message: str
) -> None:
    with valkey.client() as client:
        client.execute_command(*change)

    assert message in on_valkey.the_fault("broker")


def test_broker_that_keeps_nothing_on_disk_is_a_warning(on_valkey: Doctor, valkey: Valkey) -> None:
    with valkey.client() as client:
        client.config_set("appendonly", "no")

    code, (finding,) = on_valkey.look()

    assert (code, finding["status"], finding["mend"]) == (0, "warning", "Set appendonly to 'yes'.")


def test_broker_that_is_a_cluster_is_a_fault(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    with valkey_server(tmp_path / "cluster", **{"cluster-enabled": "yes", "cluster-port": str(free_port())}) as cluster:
        doctor.set(broker_url=cluster.url)

        code, findings = doctor.look()

    assert code == 1
    assert "it is a cluster, which Celery cannot use" in [one["found"] for one in findings]


# Database


def test_old_schema_is_a_fault(doctor: Doctor) -> None:
    db = open_database(Settings(home=doctor.home))
    config = migration_config()
    config.attributes["connection"] = db.engine
    command.downgrade(config, "0001")
    db.close()

    assert "it has schema 0001, and this tagmill needs" in doctor.the_fault("database")


def test_database_without_tables_is_a_fault(doctor: Doctor, postgres_database: str) -> None:
    doctor.set(database_url=postgres_database)

    assert "it has schema none, and this tagmill needs" in doctor.the_fault("database")


def test_database_of_somebody_else_is_a_fault(doctor: Doctor, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as other:
        other.execute("CREATE TABLE customers (id)")
    other.close()
    doctor.set(database_url=f"sqlite:///{tmp_path / 'shop.db'}")

    assert "it is not tagmill's: it holds customers" in doctor.the_fault("database")


def test_wrong_password_of_the_database_is_a_fault(on_postgresql: Doctor, postgres_database: str) -> None:
    url = sa.make_url(postgres_database).set(password="not-the-password")
    on_postgresql.set(database_url=url.render_as_string(hide_password=False))

    message = on_postgresql.the_fault("database")

    assert "password authentication failed" in message
    assert "not-the-password" not in message


def test_database_that_is_not_there_is_a_fault(doctor: Doctor) -> None:
    doctor.set(database_url=f"postgresql://tagmill:secret@127.0.0.1:{free_port()}/tagmill")

    assert "Start it, or correct TAGMILL_DATABASE_URL" in doctor.the_fault("database")


def test_database_in_a_folder_that_is_not_there_is_a_fault(doctor: Doctor, tmp_path: Path) -> None:
    doctor.set(database_url=f"sqlite:///{tmp_path}/unmounted/tagmill.db")

    assert "unmounted. Make or mount it" in doctor.the_fault("database")


def test_damaged_database_is_a_fault(doctor: Doctor) -> None:
    path = doctor.home / "tagmill.db"
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'images'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\x00" * 100)

    assert "Restore it from a backup" in doctor.the_fault("database")


def test_role_that_may_not_write_is_a_fault(on_postgresql: Doctor, reader: tuple[str, str]) -> None:
    on_postgresql.set(database_url=reader[1])

    assert "may not write. Name the owner" in on_postgresql.the_fault("database")


# The role that reads


@pytest.fixture
def reader(on_postgresql: Doctor, postgres_database: str) -> tuple[str, str]:
    """A role that may see that there is a schema, and the address that it has."""
    role = f"reader_{os.urandom(4).hex()}"
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        name = sql.Identifier(role)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'reads'").format(name))
        connection.execute(sql.SQL("GRANT SELECT ON tagmill_schema TO {}").format(name))
    address = sa.make_url(postgres_database).set(username=role, password="reads").render_as_string(hide_password=False)
    yield role, address
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
        connection.execute(sql.SQL("DROP ROLE {}").format(name))


@pytest.mark.parametrize(
    ("grant", "message"),
    [
        ("GRANT INSERT ON images TO {}", "may reach the tables images. Name one that may only read the views"),
        (
            "GRANT SELECT ON current_labels TO {}",
            "permission denied for view predictions_top_k. Run 'tagmill db upgrade'",
        ),
    ],
)
def test_reader_that_may_more_or_less_than_it_should_is_a_fault(
    on_postgresql: Doctor, postgres_database: str, reader: tuple[str, str], grant: str, message: str
) -> None:
    role, address = reader
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute(sql.SQL(grant).format(sql.Identifier(role)))
    on_postgresql.set(reader_url=address)

    assert message in on_postgresql.the_fault("reader")


# Model


@pytest.fixture
def own_models(doctor: Doctor, pretrained_registry: Registry, tmp_path: Path) -> Path:
    """The folder of the default model's version, to be broken."""
    shutil.copytree(pretrained_registry.root, tmp_path / "models")
    doctor.set(models_url=tmp_path / "models")
    (version,) = Registry(tmp_path / "models").versions()
    return tmp_path / "models" / version.name / str(version.version)


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda version: alter(version / "int8.tflite"), "differs from what was published"),
        (lambda version: (version / "labels.txt").unlink(), "labels.txt cannot be read: No such file or directory"),
        (lambda version: (version / "float32.tflite").unlink(), "No such file or directory"),
        (lambda version: shutil.rmtree(version.parents[1]), "Make or mount it, or correct TAGMILL_MODELS_URL"),
    ],
)
def test_harm_to_the_registry_is_a_fault(
    doctor: Doctor, own_models: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(own_models)

    assert message in doctor.the_fault("model")


def test_model_that_cannot_be_built_is_a_fault(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    doctor.set(models_url=tmp_path / "empty")
    monkeypatch.setitem(TRAIN_PACKAGES, "a_package_that_is_not_there", "not-there")

    assert "building it needs not-there. pip install 'tagmill[train]'" in doctor.the_fault("model").replace(
        "Pip", "pip"
    ).replace(": pip", ". pip")


def test_version_with_other_contents_than_the_database_knows_is_a_fault(doctor: Doctor) -> None:
    db = open_database(Settings(home=doctor.home))
    row = {"name": "efficientnet_lite0", "version": 1, "content_hash": "0" * 64, "active": True}
    db.write(lambda connection: connection.execute(model_versions.insert().values(**row)))
    db.close()

    assert "the database has 000000000000. Set TAGMILL_MODELS_URL" in doctor.the_fault("model")


# Disk


def test_home_that_cannot_be_written_is_a_fault(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    doctor.set(home=tmp_path / "file" / "home", database_url=f"sqlite:///{doctor.home}/tagmill.db")

    assert f"home: {tmp_path / 'file'} is no folder" in doctor.the_fault("disk")


def test_full_disk_is_a_fault(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    # A disk cannot be filled in a test that anybody may run; so any disk counts as full, however much is free.
    monkeypatch.setattr(worker.check, "_FAULT_BYTES", 2**63)

    code, findings = doctor.look()

    assert code == 1
    assert [one["found"].partition(":")[0] for one in findings] == ["home", "database", "registry"]
    assert {(one["check"], one["status"]) for one in findings} == {("disk", "fault")}


# Clock


def test_clock_that_is_off_by_an_hour_is_a_fault(on_postgresql: Doctor, postgres_database: str) -> None:
    # The server has the clock of this machine; so its function that tells the time is another one in this database.
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
            "$$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$"
        )
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = public, pg_catalog").format(name))

    assert "this machine's clock is 3,600 s behind the database's. Let NTP" in on_postgresql.the_fault("clock")
