"""A registry in a bucket, for commands and for workers with another home."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from models.registry import Registry, check_files, registry_at
from tests.acceptance.conftest import Tagmill
from tests.servers import S3, Valkey


@pytest.fixture
def models_url(s3: S3, pretrained_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a registry that has the pretrained version; the environment says how to get there."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    address = f"s3://{s3.new_bucket()}/models"
    version = pretrained_registry.find("efficientnet_lite0")
    registry_at(address, tmp_path / "publisher").publish(
        version.name,
        engines={file: version.read(file) for file in version.files if file.endswith(".tflite")},
        engine_file=version.engine_file,
        labels=version.labels,
        preprocessing=version.preprocessing,
        description="The pretrained model.",
    )
    return address


@pytest.fixture
def servers(tmp_path: Path, models_url: str, postgres_database: str, valkey: Valkey) -> list[Tagmill]:
    """`tagmill` in two homes that share servers and a bucket, and no folder."""
    homes = [Tagmill(tmp_path / name, Path()) for name in ("command", "worker")]
    for home in homes:
        home.environment |= {
            "TAGMILL_DATABASE_URL": postgres_database,
            "TAGMILL_BROKER_URL": valkey.url,
            "TAGMILL_MODELS_URL": models_url,
        }
    homes[0]("db", "upgrade")
    return homes


@pytest.fixture
def worker(servers: list[Tagmill]) -> Iterator["subprocess.Popen[str]"]:
    started = servers[1].start("worker", "--processes", "1")
    yield started
    started.terminate()
    _, err = started.communicate(timeout=30)
    assert started.returncode == 0, err


def cache(home: Tagmill) -> list[Path]:
    """The files that a home has fetched."""
    return sorted((home.home / "model-cache").glob("*/*"))


def test_worker_fetches_the_version_that_it_lacks(
    servers: list[Tagmill], worker: "subprocess.Popen[str]", photos: Path
) -> None:
    facts = servers[0].run(photos)

    assert (facts["classified"], facts["failed"]) == (20, 0)
    assert len(cache(servers[0])) == 1  # Whoever only sends needs the labels.
    assert len(cache(servers[1])) == 3  # The engine that it runs, the labels and the card.
    servers[0]("verify")


def test_worker_refuses_what_differs(
    servers: list[Tagmill], worker: "subprocess.Popen[str]", photos: Path, models_url: str
) -> None:
    bucket = S3Store(models_url.split("/")[2], prefix="models")
    obstore.put(bucket, "efficientnet_lite0/1/int8.tflite", b"something else")

    refused = servers[0]("run", photos, code=2)

    assert f"{models_url}/efficientnet_lite0/1/int8.tflite differs from what was published; restore" in refused.stderr
    assert servers[0].status()["error"] in refused.stderr


def test_commands_of_one_machine_use_the_bucket(tagmill: Tagmill, photos: Path, models_url: str, s3: S3) -> None:
    tagmill.environment |= s3.environment | {"TAGMILL_MODELS_URL": models_url}

    facts = tagmill.run(photos, "--include", "*_00_*.jpg")

    assert facts["failed"] == 0 < facts["classified"]
    (listed,) = json.loads(tagmill("models", "list", "--json").stdout)
    assert (listed["model"], listed["version"], listed["top_1"]) == ("efficientnet_lite0", 1, None)
    assert tagmill("models", "show", "efficientnet_lite0").stdout.startswith("# efficientnet_lite0 version 1\n")
    assert "default efficientnet_lite0:1: 4 files as published" in tagmill("doctor").stdout
    exported = tagmill.folder / "exported" / "efficientnet_lite0" / "1"
    told = tagmill("models", "export", "efficientnet_lite0:1", exported)
    assert told.stderr == f"efficientnet_lite0:1 is in {exported} now: 5 files, each as it was published\n"
    check_files(Registry(tagmill.folder / "exported").find("efficientnet_lite0"))
    refused = tagmill("models", "export", "efficientnet_lite0:1", exported, code=2)
    assert "is there and not an empty folder" in refused.stderr
