"""A registry in a bucket, URL/NAME/VERSION/FILE, with a cache in the home.

Every object is created, never overwritten: creating the card claims a number, and creating version.json, which comes
last, publishes it. So two publishers never write into the same version, and one that is killed leaves a number without
version.json, which no reader takes for a version and nobody uses again. What the store must do for that is to create
an object only where there is none (S3's `If-None-Match: *`, as AWS, MinIO, Ceph and R2 have it; Google's and Azure's
own), and to show what was created to whoever asks next.
"""

import functools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from base.buckets import CREDENTIALS, Fault, fault_of, open_store, reason_of
from base.errors import ModelError, TransientError
from base.folders import make_private_folder
from models.storage import FACTS_FILE, NAME, NUMBER, MakeFiles, differs, hash_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

# Of a server that is silent: two attempts, so that it is given up within 7 s. One that answers may take its time.
_CONNECT_TIMEOUT = _READ_TIMEOUT = "3s"
_RETRY_TIMEOUT = timedelta(seconds=5)
_FILE_TIMEOUT = "600s"
_MAX_RETRIES = 5
_PIECE_BYTES = 2**20
# At once, of the same model; more are taken for a store that says that everything is there.
_MOST_PUBLISHERS = 100

_NO_BUCKET = "there is no such bucket. Make it, or correct TAGMILL_MODELS_URL"


@dataclass(frozen=True)
class BucketStorage:
    """See `Storage`."""

    url: str  #: s3://, gs:// or az://, then the bucket and a prefix
    cache: Path  #: holds files by their sha256; may be deleted at any time

    @property
    def address(self) -> str:
        """The URL; who goes there is told by the environment."""
        return self.url

    @property
    def workspace(self) -> Path:
        """The cache."""
        return self.cache

    def list_versions(self, name: str | None = None) -> dict[str, list[int]]:
        """See `Storage`."""
        found: dict[str, list[int]] = {}
        for each, number, file in self._list(name):
            if file == FACTS_FILE:
                found.setdefault(each, []).append(number)
        return {each: sorted(found[each]) for each in sorted(found)}

    def locate(self, name: str, number: int, file: str) -> str:
        """See `Storage`."""
        return f"{self.url}/{_key(name, number, file)}"

    def read(self, name: str, number: int, file: str, sha256: str | None = None) -> bytes:
        """See `Storage`. Only a file whose sha256 is known is looked for in the cache, and kept there."""
        if sha256 is not None and (cached := self._read_cached(sha256)) is not None:
            return cached
        location = self.locate(name, number, file)
        with self._asking(f"cannot read {location}", "it is not there. Restore that model version, or remove it"):
            content = self._get(_key(name, number, file))
        if sha256 is not None:
            if hash_of(content) != sha256:
                raise differs(location)
            self._keep(sha256, content)
        return content

    def publish(self, name: str, make_files: MakeFiles) -> int:
        """See `Storage`."""
        what = f"cannot write the model {name!r} below {self.url}"
        taken = max((number for _, number, _ in self._list(name)), default=0)
        with self._asking(what, _NO_BUCKET):
            for number in range(taken + 1, taken + 1 + _MOST_PUBLISHERS):
                if self._create(name, number, make_files(number)):
                    return number
        raise TransientError(f"{what}: others took {_MOST_PUBLISHERS} numbers meanwhile. Try again.")

    def _create(self, name: str, number: int, files: Mapping[str, bytes]) -> bool:
        """Create the objects of a version; False where somebody else has that number."""
        store = _open(self.url, writes=True)
        for file, content in files.items():
            key = _key(name, number, file)
            try:
                obstore.put(store, key, content, mode="create")
            except BaseError as error:
                # The answer to a request may get lost, and its repetition then meets what the first one created.
                if file == FACTS_FILE and self._holds(key, content):
                    return True
                if isinstance(error, AlreadyExistsError):
                    return False
                raise
        return True

    def _holds(self, key: str, content: bytes) -> bool:
        try:
            return self._get(key) == content
        except (BaseError, FileNotFoundError):
            return False

    def _get(self, key: str) -> bytes:
        # In pieces: between two of them Ctrl-C is heeded.
        return b"".join(obstore.get(_open(self.url), key).stream(min_chunk_size=_PIECE_BYTES))

    def _list(self, name: str | None) -> list[tuple[str, int, str]]:
        """Name, number and file of every object, below one name or all."""
        with self._asking(f"cannot list the models in {self.url}", _NO_BUCKET):
            pages = obstore.list(_open(self.url), None if name is None else f"{name}/", chunk_size=1000)
            keys = [entry["path"].split("/") for page in pages for entry in page]
        return [
            (key[0], int(key[1]), key[2])
            for key in keys
            if len(key) == 3 and NAME.fullmatch(key[0]) and NUMBER.fullmatch(key[1])
        ]

    @contextmanager
    def _asking(self, what: str, missing: str) -> Iterator[None]:
        """Tell in our words what a bucket refuses.

        Args:
            what: cannot be done then.
            missing: what it means when the bucket knows no such thing, and what to do.
        """
        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as error:
            credentials = CREDENTIALS[self.url.partition("://")[0]]
            reason = reason_of(error)
            match fault_of(error):
                case Fault.MISSING:
                    raise ModelError(f"{what}: {missing}.") from error
                case Fault.NOBODY:
                    raise ModelError(f"{what}: there are no credentials. Set {credentials}.") from error
                case Fault.DISBELIEVED | Fault.DENIED:
                    raise ModelError(
                        f"{what}: {reason}. Correct {credentials}, or what these are allowed to do there."
                    ) from error
                case Fault.FALTERS:
                    raise TransientError(f"{what}: {reason}. See whether the server can be reached.") from error
                case _:
                    raise ModelError(f"{what}: {reason}. Correct TAGMILL_MODELS_URL or {credentials}.") from error

    def _read_cached(self, sha256: str) -> bytes | None:
        try:
            content = (self.cache / sha256).read_bytes()
        except OSError:
            return None
        return content if hash_of(content) == sha256 else None

    def _keep(self, sha256: str, content: bytes) -> None:
        # What cannot be kept is fetched again; doctor tells of a home that cannot be written.
        with suppress(OSError):
            make_private_folder(self.cache.parents[1])  # The home.
            self.cache.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.cache, prefix=".part-", delete=False) as file:
                try:
                    file.write(content)
                    file.close()
                    # Others of the home may be other users, as in containers.
                    Path(file.name).chmod(0o644)
                    Path(file.name).replace(self.cache / sha256)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise


def _key(name: str, number: int, file: str) -> str:
    return f"{name}/{number}/{file}"


@functools.cache  # And so in the process that uses it: a store does not survive a fork.
def _open(url: str, *, writes: bool = False) -> "ObjectStore":
    """A client of the bucket, which reads the environment for where it is and who we are."""
    scheme, _, place = url.partition("://")
    bucket, _, prefix = place.partition("/")
    config = {"connect_timeout": _CONNECT_TIMEOUT, "timeout": _FILE_TIMEOUT}
    if not writes:  # The answer to a large file comes late; a silent server is met by the listing before it.
        config["read_timeout"] = _READ_TIMEOUT
    retries: RetryConfig = {"max_retries": _MAX_RETRIES, "retry_timeout": _RETRY_TIMEOUT}
    return open_store(scheme, bucket, prefix=prefix or None, config=config, retries=retries)
