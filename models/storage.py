"""Where the files of a registry lie: one interface for a folder (folder_storage.py) or a bucket (bucket_storage.py)."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from base.errors import ModelError

NAME = re.compile(r"[a-z0-9_-]+", re.ASCII)
NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)

#: The file of a version that says what the others are; a version is there when this one is.
FACTS_FILE = "version.json"
CARD_FILE = "card.md"

#: From the number that a version gets to its files, by their names: the card first, the facts last.
MakeFiles = Callable[[int], Mapping[str, bytes]]


class Storage(Protocol):
    """Keeps the files of model versions. It can be sent to another process."""

    @property
    def address(self) -> str:
        """For people, and to open it again with; holds no secret."""
        ...

    @property
    def workspace(self) -> Path:
        """A folder of this machine for locks and scratch; it may have to be made."""
        ...

    def list_versions(self, name: str | None = None) -> dict[str, list[int]]:
        """The numbers of the complete versions of one name or of all, both in their order; no name without any.

        Raises:
            ModelError: it cannot be listed.
            TransientError: it does not answer.
        """
        ...

    def locate(self, name: str, number: int, file: str) -> str:
        """Where a file is, for people."""
        ...

    def read(self, name: str, number: int, file: str, sha256: str | None = None) -> bytes:
        """The content of a file.

        Args:
            sha256: what it has to have; None for whatever is there.

        Raises:
            ModelError: it is missing, cannot be read or differs.
            TransientError: the storage falters.
        """
        ...

    def publish(self, name: str, make_files: MakeFiles) -> int:
        """Add a version under the next free number; a reader sees all of it or nothing.

        Returns:
            The number.

        Raises:
            ModelError: it cannot be written.
            TransientError: the storage falters.
        """
        ...


def hash_of(content: bytes) -> str:
    """The sha256 of a file's content, in hex."""
    return hashlib.sha256(content).hexdigest()


def differs(location: str) -> ModelError:
    """What to raise for a file that is not what was published."""
    return ModelError(f"{location} differs from what was published; restore that model version, or remove it.")
