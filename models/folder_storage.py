"""A registry in a folder: ROOT/NAME/VERSION/FILE.

A version is written in a hidden folder beside its place and renamed into it, so that a reader never sees half of one.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from base.errors import AppError, ModelError, TransientError
from models.storage import NAME, NUMBER, MakeFiles, differs, hash_of

_STORAGE_FALTERS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN, errno.EHOSTUNREACH)
UNFINISHED = ".unfinished-"  # What a publisher that was killed may leave; the next one clears it away.


@dataclass(frozen=True)
class FolderStorage:
    """See `Storage`."""

    root: Path

    @property
    def address(self) -> str:
        """The path, as it was given."""
        return str(self.root)

    @property
    def workspace(self) -> Path:
        """The folder itself: who may publish may write there."""
        return self.root

    def list_versions(self, name: str | None = None) -> dict[str, list[int]]:
        """See `Storage`; none when the folder does not exist."""
        names = [each for each in self._folders(self.root) if NAME.fullmatch(each)] if name is None else [name]
        found = {
            each: sorted(int(folder) for folder in self._folders(self.root / each) if NUMBER.fullmatch(folder))
            for each in names
        }
        return {each: numbers for each, numbers in found.items() if numbers}

    def locate(self, name: str, number: int, file: str) -> str:
        """See `Storage`."""
        return str(self.root / name / str(number) / file)

    def read(self, name: str, number: int, file: str, sha256: str | None = None) -> bytes:
        """See `Storage`."""
        location = self.locate(name, number, file)
        try:
            content = Path(location).read_bytes()
        except OSError as error:
            raise _unread(
                error, f"{location} cannot be read: {error.strerror}. Restore that model version, or remove it."
            ) from error
        if sha256 is not None and hash_of(content) != sha256:
            raise differs(location)
        return content

    def publish(self, name: str, make_files: MakeFiles) -> int:
        """See `Storage`."""
        try:
            with self._publishing(name) as unfinished:
                number = max(self.list_versions(name).get(name, ()), default=0) + 1
                for file, content in make_files(number).items():
                    write_file(unfinished / file, content)
                unfinished.chmod(0o755)  # Workers may run as another user; mkdtemp lets only its own in.
                _sync_folder(unfinished)
                unfinished.rename(self.root / name / str(number))
                _sync_folder(self.root / name)
        except OSError as error:
            raise ModelError(
                f"cannot write the model {name!r} below {self.root}: {error}. "
                "Mend that, or name another registry with TAGMILL_MODELS_URL."
            ) from error
        return number

    def _folders(self, parent: Path) -> list[str]:
        try:
            with os.scandir(parent) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unread(error, f"cannot list the models in {parent}: {error}") from error

    @contextmanager
    def _publishing(self, name: str) -> Iterator[Path]:
        """A new folder to write a version in; one publisher of a name at a time, after clearing what others left."""
        parent = self.root / name
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / ".publish.lock"):
            for leftover in parent.glob(f"{UNFINISHED}*"):
                shutil.rmtree(leftover)
            unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
            try:
                yield unfinished
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)


class FileLock:
    """A lock between processes, which the system takes back from one that is killed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def __enter__(self) -> Self:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give it back, or up."""
        self._file.close()

    def fileno(self) -> int:
        """For a child that is to keep the lock even when its parent is killed."""
        return self._file.fileno()

    def is_free(self) -> bool:
        """Try to take it, without waiting."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def write_file(path: Path, content: bytes) -> None:
    """Write a new file, so that it outlives a power cut."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unread(error: OSError, message: str) -> AppError:
    """A storage that falters comes back by itself; what is missing or wrong has to be mended."""
    return TransientError(message) if error.errno in _STORAGE_FALTERS else ModelError(message)
