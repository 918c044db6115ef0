"""A registry in a bucket, on a server that speaks S3."""

import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, GenericError
from obstore.store import S3Store

from base.errors import ModelError, TransientError
from base.findings import FindingStatus
from models import bucket_storage
from models.bucket_storage import BucketStorage
from models.check import check_active_version
from models.export import export_version
from models.preprocessing import Preprocessing
from models.registry import ModelVersion, Registry, check_files, registry_at
from tests.servers import S3

FIELDS: dict[str, Any] = {
    "engines": {"float32.tflite": b"weights", "model.keras": b"weights of Keras"},
    "engine_file": "float32.tflite",
    "labels": ("cat", "Hund, groß"),
    "preprocessing": Preprocessing(),
    "description": "Made for a test.",
    "metrics": {"top_1": 0.875},
    "files": {"confusion.png": b"a picture"},
}
CONTENTS = [b"weights", b"weights of Keras", b"a picture", "cat\nHund, groß\n".encode()]


@pytest.fixture
def address(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of an empty registry."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    yield f"s3://{s3.new_bucket()}/a/models"
    bucket_storage._open.cache_clear()


@pytest.fixture
def registry(address: str, tmp_path: Path) -> Registry:
    return registry_at(address, tmp_path / "cache")


@pytest.fixture
def elsewhere(address: str, tmp_path: Path) -> Registry:
    """The same registry from a machine that has fetched nothing yet."""
    return registry_at(address, tmp_path / "cache elsewhere")


@pytest.fixture
def bucket(address: str) -> S3Store:
    """The registry's objects, past the registry."""
    return S3Store(address.split("/")[2], prefix="a/models")


def keys(bucket: S3Store) -> list[str]:
    return sorted(entry["path"] for page in obstore.list(bucket) for entry in page)


def cached(registry: Registry) -> list[bytes]:
    return sorted(path.read_bytes() for path in registry.workspace.iterdir())


def test_published_version_is_found_elsewhere(registry: Registry, elsewhere: Registry) -> None:
    published = registry.publish("small_cnn", **FIELDS)

    found = elsewhere.find("small_cnn")

    assert (str(found), found.content_hash) == ("small_cnn:1", published.content_hash)
    assert (found.labels, found.metrics, found.engine_file) == (
        FIELDS["labels"],
        FIELDS["metrics"],
        FIELDS["engine_file"],
    )
    check_files(found)
    assert [str(one) for one in elsewhere.versions()] == ["small_cnn:1"]
    with pytest.raises(ModelError, match=r"no version '2' of 'small_cnn' in s3://bucket-\w+/a/models; known: 1"):
        elsewhere.find("small_cnn:2")


def test_contents_are_those_of_a_version_in_a_folder(registry: Registry, tmp_path: Path) -> None:
    in_bucket = registry.publish("small_cnn", **FIELDS)
    in_folder = Registry(tmp_path / "models").publish("small_cnn", **FIELDS)

    assert in_bucket.content_hash == in_folder.content_hash
    assert in_bucket.files.keys() == in_folder.files.keys()


def test_versions_are_sorted_by_number(registry: Registry, elsewhere: Registry) -> None:
    for name in ("zebra", "ant", *["zebra"] * 10):
        registry.publish(name, **FIELDS)

    assert [str(version) for version in elsewhere.versions()] == ["ant:1", *(f"zebra:{n}" for n in range(1, 12))]
    assert elsewhere.find("zebra").version == 11
    assert (elsewhere.has("ant"), elsewhere.has("an"), elsewhere.has("bee")) == (True, False, False)


def test_empty_bucket_is_an_empty_registry(registry: Registry) -> None:
    assert registry.versions() == []


def test_looking_fetches_no_engine(registry: Registry, elsewhere: Registry) -> None:
    registry.publish("small_cnn", **FIELDS)

    elsewhere.versions()

    assert cached(elsewhere) == [FIELDS["labels"][0].encode() + "\nHund, groß\n".encode()]


def test_fetched_files_are_fetched_once(registry: Registry, elsewhere: Registry, bucket: S3Store) -> None:
    registry.publish("small_cnn", **FIELDS)
    version = elsewhere.find("small_cnn")
    card = version.read("card.md")
    check_files(version)
    obstore.delete(bucket, [key for key in keys(bucket) if not key.endswith("version.json")])

    check_files(elsewhere.find("small_cnn"))
    assert cached(elsewhere) == sorted([*CONTENTS, card])


@pytest.mark.parametrize("file", ["float32.tflite", "model.keras", "confusion.png", "labels.txt", "card.md"])
def test_altered_object_is_named_and_refused(
    registry: Registry, elsewhere: Registry, bucket: S3Store, file: str
) -> None:
    registry.publish("small_cnn", **FIELDS)
    key = f"small_cnn/1/{file}"
    obstore.put(bucket, key, bytes(obstore.get(bucket, key).bytes()) + b"!")

    with pytest.raises(ModelError, match=rf"{elsewhere.address}/{key} differs from what was published; restore"):
        check_files(elsewhere.find("small_cnn"))
    assert not elsewhere.workspace.exists() or all(not content.endswith(b"!") for content in cached(elsewhere))


def test_altered_description_is_named_and_refused(registry: Registry, elsewhere: Registry, bucket: S3Store) -> None:
    registry.publish("small_cnn", **FIELDS)
    key = "small_cnn/1/version.json"
    facts = bytes(obstore.get(bucket, key).bytes())
    obstore.put(bucket, key, facts.replace(b'"temperature": 1.0', b'"temperature": 2.0'))

    with pytest.raises(ModelError, match=rf"{key} differs from what was published"):
        check_files(elsewhere.find("small_cnn"))


def test_missing_object_is_named(registry: Registry, elsewhere: Registry, bucket: S3Store) -> None:
    registry.publish("small_cnn", **FIELDS)
    obstore.delete(bucket, "small_cnn/1/float32.tflite")

    with pytest.raises(ModelError, match=r"small_cnn/1/float32\.tflite: it is not there\. Restore"):
        check_files(elsewhere.find("small_cnn"))


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"weigh"), lambda path: path.unlink()])
def test_damaged_cache_is_mended(registry: Registry, elsewhere: Registry, harm: Callable[[Path], object]) -> None:
    registry.publish("small_cnn", **FIELDS)
    version = elsewhere.find("small_cnn")
    check_files(version)
    before = cached(elsewhere)
    harm(elsewhere.workspace / version.files["float32.tflite"])

    check_files(version)
    assert cached(elsewhere) == before


def test_cache_that_cannot_be_written_costs_only_time(registry: Registry, address: str, tmp_path: Path) -> None:
    registry.publish("small_cnn", **FIELDS)
    (tmp_path / "file").write_text("in the way")

    check_files(registry_at(address, tmp_path / "file" / "cache").find("small_cnn"))


def test_version_of_another_process_reads_its_files(registry: Registry) -> None:
    version = registry.publish("small_cnn", **FIELDS)

    other: ModelVersion = pickle.loads(pickle.dumps(version))  # noqa: S301 (our own)

    assert other == version
    assert other.read("confusion.png") == b"a picture"


def storage(registry: Registry) -> BucketStorage:
    assert isinstance(registry._storage, BucketStorage)
    return registry._storage


def files(number: int, content: bytes = b"mine") -> dict[str, bytes]:
    return {"card.md": b"%d" % number, "float32.tflite": content, "version.json": content}


def test_publishers_at_the_same_time_get_numbers_of_their_own(
    registry: Registry, elsewhere: Registry, bucket: S3Store
) -> None:
    others: list[int] = []

    def outrun(number: int) -> Mapping[str, bytes]:
        """Between looking for a free number and taking it, somebody else takes it."""
        if len(others) < 2:
            others.append(storage(elsewhere).publish("small_cnn", lambda number: files(number, b"theirs")))
        return files(number)

    mine = storage(registry).publish("small_cnn", outrun)

    assert (others, mine) == ([1, 2], 3)
    engines = [bytes(obstore.get(bucket, f"small_cnn/{number}/float32.tflite").bytes()) for number in (1, 2, 3)]
    assert engines == [b"theirs", b"theirs", b"mine"]
    assert registry._storage.list_versions() == {"small_cnn": [1, 2, 3]}


def test_store_that_says_that_everything_is_there_is_given_up(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise AlreadyExistsError("At least one of the pre-conditions you specified did not hold")

    monkeypatch.setattr(obstore, "put", refuse)

    with pytest.raises(TransientError, match="others took 100 numbers meanwhile"):
        registry.publish("small_cnn", **FIELDS)


@pytest.mark.parametrize("last", ["card.md", "float32.tflite", "labels.txt"])
def test_publisher_that_is_killed_leaves_no_version(
    registry: Registry, elsewhere: Registry, bucket: S3Store, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    put = obstore.put

    def put_until(store: Any, key: str, content: bytes, **options: Any) -> object:
        done = put(store, key, content, **options)
        if key.endswith(last):
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as killed:
        killed.setattr(obstore, "put", put_until)
        with pytest.raises(KeyboardInterrupt):
            registry.publish("small_cnn", **FIELDS)

    assert f"small_cnn/1/{last}" in keys(bucket)
    monkeypatch.setattr(bucket_storage, "_MOST_PUBLISHERS", 1)  # What is left over is nobody to run against.
    assert elsewhere.versions() == []
    assert elsewhere.publish("small_cnn", **FIELDS).version == 2
    assert [version.version for version in registry.versions()] == [2]


@pytest.mark.parametrize("error", [GenericError("HTTP error: error sending request"), None])
def test_lost_answer_to_the_last_request_publishes_once(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Whether it is told as a fault, or the request is repeated and meets what it created itself."""
    put = obstore.put

    def put_without_answer(store: Any, key: str, content: bytes, **options: Any) -> object:
        done = put(store, key, content, **options)
        if not key.endswith("version.json"):
            return done
        if error is not None:
            raise error
        return put(store, key, content, **options)

    monkeypatch.setattr(obstore, "put", put_without_answer)

    assert registry.publish("small_cnn", **FIELDS).version == 1
    assert [version.version for version in registry.versions()] == [1]


def test_objects_of_others_are_no_versions(registry: Registry, bucket: S3Store) -> None:
    for key in (
        "version.json",
        "small_cnn/version.json",
        "small_cnn/01/version.json",
        "Big/1/version.json",
        "a/b/c/d",
        "small_cnn/7",
    ):
        obstore.put(bucket, key, b"{}")

    assert registry.versions() == []
    assert registry.publish("small_cnn", **FIELDS).version == 1


def test_bucket_that_is_not_there_is_named(registry: Registry, tmp_path: Path) -> None:
    missing = registry_at("s3://no-such-bucket/models", tmp_path / "cache")

    for ask in (missing.versions, lambda: missing.find("small_cnn"), lambda: missing.publish("small_cnn", **FIELDS)):
        with pytest.raises(ModelError, match=r"s3://no-such-bucket/models: there is no such bucket\. Make it, or"):
            ask()


def test_missing_credentials_are_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(ModelError, match=r"there are no credentials\. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        registry.versions()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_storage, "_READ_TIMEOUT", "200ms")
    monkeypatch.setattr(bucket_storage, "_MAX_RETRIES", 1)


@pytest.fixture
def server(registry: Registry, impatient: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Takes the place of the server of buckets; says nothing unless the test does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}")
        yield listener


def test_server_that_does_not_answer_is_a_passing_fault(registry: Registry, server: socket.socket) -> None:
    started = time.monotonic()

    with pytest.raises(TransientError, match="cannot list the models in s3://") as raised:
        registry.versions()

    assert time.monotonic() - started < 2
    assert "secret" not in str(raised.value)
    assert "See whether the server can be reached." in str(raised.value)


def test_server_that_is_gone_is_a_passing_fault(registry: Registry, server: socket.socket) -> None:
    server.close()

    with pytest.raises(TransientError, match="See whether the server can be reached"):
        registry.find("small_cnn")


@contextmanager
def answering(listener: socket.socket, *answers: bytes) -> Iterator[None]:
    """Give one answer after the other, and the last to everybody who comes then."""
    left = list(answers)

    def serve() -> None:
        with suppress(OSError):  # Closed: that is the end.
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(left.pop(0) if len(left) > 1 else left[0])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        ("403 Forbidden", ModelError, "AccessDenied: You may not. Correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("503 Slow Down", TransientError, "AccessDenied: You may not. See whether the server can be reached"),
        ("400 Bad Request", ModelError, "AccessDenied: You may not. Correct TAGMILL_MODELS_URL or AWS_ACCESS_KEY_ID"),
    ],
)
def test_refusal_says_what_to_do(
    registry: Registry, server: socket.socket, status: str, error: type[Exception], message: str
) -> None:
    body = "<Error><Code>AccessDenied</Code><Message>You may not.</Message></Error>"
    answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()

    with answering(server, answer), pytest.raises(error, match=message):
        registry.versions()


def test_answer_that_breaks_off_is_a_passing_fault(registry: Registry, server: socket.socket) -> None:
    head = 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nLast-Modified: Mon, 05 Jan 2026 00:00:00 GMT\r\nETag: "x"\r\n\r\n'

    with answering(server, f"{head}half".encode(), b""), pytest.raises(TransientError, match="See whether the server"):
        storage(registry).read("small_cnn", 1, "float32.tflite", "0" * 64)
    assert not registry.workspace.exists()


def test_doctor_looks_at_every_file(registry: Registry, elsewhere: Registry, bucket: S3Store) -> None:
    version = registry.publish("small_cnn", **FIELDS | {"engine_file": "model.keras"})
    well = check_active_version(elsewhere, "small_cnn", 1, version.content_hash)
    obstore.put(bucket, "small_cnn/1/confusion.png", b"another picture")
    (elsewhere.workspace / version.files["confusion.png"]).unlink()

    harmed = check_active_version(elsewhere, "small_cnn", 1, version.content_hash)

    assert (well.status, harmed.status) == (FindingStatus.OK, FindingStatus.FAULT)
    assert "5 files as published; model.keras was not loaded" in well.found
    assert "confusion.png differs from what was published" in harmed.found


def test_export_is_a_version_of_another_registry(registry: Registry, elsewhere: Registry, tmp_path: Path) -> None:
    registry.publish("small_cnn", **FIELDS)

    written = export_version(elsewhere.find("small_cnn"), tmp_path / "models" / "small_cnn" / "1")

    found = Registry(tmp_path / "models").find("small_cnn")
    check_files(found)
    assert found.content_hash == registry.find("small_cnn").content_hash
    assert written == len(found.files) + 1 == len(os.listdir(tmp_path / "models" / "small_cnn" / "1"))
