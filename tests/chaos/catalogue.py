"""A folder of small images that changes between runs, and what has to be said of each of them."""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from tests.samples import encode, make_tinted

COLOURS = ("red", "green", "blue")  #: the labels of the fake engine

_PER_FOLDER = 500
_SIZE = 16
# Of the images that are new: how many have the bytes of one that is there already.
_TWINS = 0.1
# How many of those that are there are renamed, get other bytes, or are removed before each run; each at least one.
_RENAMED = _CHANGED = _REMOVED = 0.01


class Image(NamedTuple):
    """What an image shows."""

    colour: str
    content_hash: bytes  #: sha256 of its bytes


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a run finds."""

    images: dict[str, Image]  #: by URI, all that the source holds
    new: frozenset[str]
    changed: frozenset[str]
    gone: frozenset[str]


class Catalogue:
    """The images of a source; the same seed makes the same ones, and changes them alike."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self._chance = random.Random(f"images {seed}")
        self._images: dict[Path, Image] = {}
        self._made = 0

    def change(self, more: int) -> Change:
        """Add so many images, and rename, change and remove some of those that were there."""
        before = {self._uri(path): image for path, image in self._images.items()}
        there = list(self._images)
        self._chance.shuffle(there)
        for share, act in ((_RENAMED, self._rename), (_CHANGED, self._fill), (_REMOVED, self._remove)):
            for _ in range(max(1, int(len(self._images) * share)) if before else 0):
                act(there.pop())
        for _ in range(more):
            self._fill(self._new_path())
        now = {self._uri(path): image for path, image in self._images.items()}
        return Change(
            images=now,
            new=frozenset(now.keys() - before.keys()),
            changed=frozenset(uri for uri in now.keys() & before.keys() if now[uri] != before[uri]),
            gone=frozenset(before.keys() - now.keys()),
        )

    def _fill(self, path: Path) -> None:
        if path not in self._images and self._images and self._chance.random() < _TWINS:
            other = self._chance.choice(list(self._images))
            path.write_bytes(other.read_bytes())
            self._images[path] = self._images[other]
            return
        colour = self._chance.choice(COLOURS)
        content = encode(make_tinted(colour, self._chance.getrandbits(32), _SIZE), "PNG")
        path.write_bytes(content)
        self._images[path] = Image(colour, hashlib.sha256(content).digest())

    def _rename(self, path: Path) -> None:
        other = self._new_path()
        path.rename(other)
        self._images[other] = self._images.pop(path)

    def _remove(self, path: Path) -> None:
        path.unlink()
        del self._images[path]

    def _new_path(self) -> Path:
        folder = self.folder / f"{self._made // _PER_FOLDER:03}"
        folder.mkdir(parents=True, exist_ok=True)
        self._made += 1
        return folder / f"{self._made:06}.png"

    def _uri(self, path: Path) -> str:
        return f"file://{quote(str(path))}"
