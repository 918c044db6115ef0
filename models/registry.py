"""The registry: a folder of immutable model versions, ROOT/NAME/VERSION/.

A version is written in a hidden folder beside its place and renamed into it, so that a reader never sees half of one.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from base.errors import AppError, ModelError, TransientError
from models.engines.engine import Engine
from models.preprocessing import Preprocessing

NAME = re.compile(r"[a-z0-9_-]+", re.ASCII)
NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
FACTS_FILE, LABELS_FILE, CARD_FILE = "version.json", "labels.txt", "card.md"
_STORAGE_FALTERS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN, errno.EHOSTUNREACH)
UNFINISHED = ".unfinished-"  # What a publisher that was killed may leave; the next one clears it away.


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One immutable trained result."""

    name: str
    version: int  #: counts up per name
    content_hash: str  #: sha256 of all that determines its answers
    path: Path  #: its folder
    labels: tuple[str, ...]  #: in class-index order
    preprocessing: Preprocessing
    temperature: float  #: its logits are divided by this before the softmax
    thresholds: Mapping[str, float | None]  #: label → confidence that its answers must reach; None: none is sure enough
    target_precision: float | None  #: what the thresholds were chosen for, 0 to 1; None: there are none
    engine_file: str  #: the one of `files` that is loaded unless told otherwise
    files: Mapping[str, str]  #: name → sha256 of every file but version.json
    metrics: Mapping[str, Any]  #: what was measured before it was published
    built_with: Mapping[str, str]  #: package → version
    created_at: datetime

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    def needs_review(self, label: str, confidence: float) -> bool:
        """Whether a person should look at this answer: it is less sure than its label's threshold asks for."""
        if self.target_precision is None:
            return False
        threshold = self.thresholds[label]
        return threshold is None or confidence < threshold


class Registry:
    """The model versions below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """Every version, of one name or of all, sorted by name and number; none when the folder does not exist.

        Raises:
            ModelError: a version's description is damaged or cannot be read.
        """
        names = self._names() if name is None else [name]
        return [self._read(each, number) for each in names for number in self._numbers(each)]

    def find(self, reference: str) -> ModelVersion:
        """Find "NAME", meaning its highest version, or "NAME:VERSION".

        Raises:
            ModelError: there is no such version, or its description is damaged.
        """
        name, colon, version = reference.partition(":")
        if not NAME.fullmatch(name) or (colon and not NUMBER.fullmatch(version)):
            raise ModelError(
                f"{reference!r} does not name a model; write NAME or NAME:VERSION, such as small_cnn or small_cnn:2."
            )
        numbers = self._numbers(name)
        if not numbers:
            known = ", ".join(each for each in self._names() if self._numbers(each)) or "none"
            raise ModelError(f"no model {name!r} in {self.root}; known: {known}. Run 'tagmill models list'.")
        number = int(version) if colon else numbers[-1]
        if number not in numbers:
            known = ", ".join(map(str, numbers))
            raise ModelError(
                f"no version {version!r} of {name!r} in {self.root}; known: {known}. Run 'tagmill models list'."
            )
        return self._read(name, number)

    def publish(
        self,
        name: str,
        *,
        engines: Mapping[str, bytes],
        engine_file: str,
        labels: Sequence[str],
        preprocessing: Preprocessing,
        description: str,
        temperature: float = 1.0,
        thresholds: Mapping[str, float | None] | None = None,
        target_precision: float | None = None,
        metrics: Mapping[str, Any] | None = None,
        built_with: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Add a version under the next free number; it is there completely or not at all.

        Args:
            name: of the model: small letters, digits, "_" and "-".
            engines: file name → content of each .tflite file.
            engine_file: the one to load.
            labels: in class-index order.
            preprocessing: what the model was trained with.
            description: Markdown, how the model came about; the first part of its card.
            temperature: found by calibration; 1 changes nothing.
            thresholds: of every label, the confidence from 0 to 1 below which its answers need review; None for all.
            target_precision: what the thresholds were chosen for, 0 to 1; None with no thresholds.
            metrics: what was measured, as JSON types.
            built_with: package → version.

        Raises:
            ModelError: a value is not valid, or the folder cannot be written.
        """
        _check(name, engines, engine_file, labels, temperature)
        contents = {**engines, LABELS_FILE: "".join(f"{label}\n" for label in labels).encode()}
        engine_hashes = {file: _sha256(content) for file, content in engines.items()}
        facts: dict[str, Any] = {
            "name": name,
            "content_hash": _content_hash(engine_hashes, labels, preprocessing, temperature, engine_file),
            "labels_file": LABELS_FILE,
            "preprocessing": preprocessing.to_json(),
            "temperature": temperature,
            "engine_file": engine_file,
            "metrics": dict(metrics or {}),
            "built_with": dict(built_with or {}),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            with self._publishing(name) as unfinished:
                number = max(self._numbers(name), default=0) + 1
                facts["version"] = number
                contents[CARD_FILE] = _card(facts, description).encode()
                facts["files"] = {file: _sha256(content) for file, content in sorted(contents.items())}
                contents[FACTS_FILE] = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
                for file, content in contents.items():
                    _write(unfinished / file, content)
                unfinished.chmod(0o755)  # Workers may run as another user; mkdtemp lets only its own in.
                _sync_folder(unfinished)
                unfinished.rename(self.root / name / str(number))
                _sync_folder(self.root / name)
        except OSError as error:
            raise ModelError(f"cannot write the model {name!r} below {self.root}: {error}") from error
        return self._read(name, number)

    def _names(self) -> list[str]:
        return [folder for folder in self._folders(self.root) if NAME.fullmatch(folder)]

    def _numbers(self, name: str) -> list[int]:
        return sorted(int(folder) for folder in self._folders(self.root / name) if NUMBER.fullmatch(folder))

    def _folders(self, parent: Path) -> list[str]:
        try:
            with os.scandir(parent) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unread(error, f"cannot list the models in {parent}: {error}") from error

    def _read(self, name: str, number: int) -> ModelVersion:
        path = self.root / name / str(number)
        try:
            facts = json.loads((path / FACTS_FILE).read_bytes())
            if (facts["name"], facts["version"]) != (name, number):
                raise ModelError(
                    f"{path / FACTS_FILE} describes {facts['name']}:{facts['version']}; restore the folder."
                )
            return ModelVersion(
                name=name,
                version=number,
                content_hash=facts["content_hash"],
                path=path,
                labels=tuple((path / facts["labels_file"]).read_text("utf-8").removesuffix("\n").split("\n")),
                preprocessing=Preprocessing.from_json(facts["preprocessing"]),
                temperature=float(facts["temperature"]),
                engine_file=facts["engine_file"],
                files=facts["files"],
                metrics=facts["metrics"],
                built_with=facts["built_with"],
                created_at=datetime.fromisoformat(facts["created_at"]),
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise _unread(
                error, f"{path / FACTS_FILE} cannot be read: {error!r}. Restore the folder or remove it."
            ) from error

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


def load_engine(version: ModelVersion) -> Engine:
    """Check every file of a version, then load its engine from the very bytes that were checked.

    Raises:
        ModelError: a file is missing or differs from what was published, or it cannot be loaded.
    """
    contents: dict[str, bytes] = {}
    for file, expected in version.files.items():
        path = version.path / file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _unread(error, f"cannot read {path} of model {version}: {error}") from error
        if _sha256(content) != expected:
            raise ModelError(
                f"{path} differs from what was published as model {version}; restore or remove its folder."
            )
        if file == version.engine_file:
            contents[file] = content
    engine_hashes = {file: digest for file, digest in version.files.items() if file.endswith(".tflite")}
    found = _content_hash(
        engine_hashes, version.labels, version.preprocessing, version.temperature, version.engine_file
    )
    if found != version.content_hash or version.engine_file not in contents:
        path = version.path / FACTS_FILE
        raise ModelError(f"{path} differs from what was published as model {version}; restore or remove its folder.")
    from models.engines.litert import LitertEngine  # Loading LiteRT takes time that listing versions should not.

    return LitertEngine(contents[version.engine_file], version.preprocessing)


def _unread(error: Exception, message: str) -> AppError:
    """A storage that falters comes back by itself; what is missing or wrong has to be mended."""
    falters = isinstance(error, OSError) and error.errno in _STORAGE_FALTERS
    return TransientError(message) if falters else ModelError(message)


def _check(
    name: str, engines: Mapping[str, bytes], engine_file: str, labels: Sequence[str], temperature: float
) -> None:
    if not NAME.fullmatch(name):
        raise ModelError(f"model name {name!r} is not valid; use small letters, digits, '_' and '-'.")
    for file in engines:
        if not re.fullmatch(r"[a-z0-9_]+\.tflite", file, re.ASCII):
            raise ModelError(f"engine file {file!r} is not valid; use small letters, digits and '_', then '.tflite'.")
    if engine_file not in engines:
        raise ModelError(f"engine file {engine_file!r} is not one of {sorted(engines)}.")
    if len(set(labels)) != len(labels) or not labels:
        raise ModelError("labels must be distinct and at least one.")
    for label in labels:
        if not label.strip() or not label.isprintable():
            raise ModelError(f"label {label!r} is not valid; it must be one line of text.")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ModelError(f"temperature {temperature!r} is not above 0.")


def _content_hash(
    engine_hashes: Mapping[str, str],
    labels: Sequence[str],
    preprocessing: Preprocessing,
    temperature: float,
    engine_file: str,
) -> str:
    """One hash over all that determines a version's answers, and over nothing else."""
    identity = {
        "engines": dict(engine_hashes),
        "labels": list(labels),
        "preprocessing": preprocessing.to_json(),
        "temperature": temperature,
        "engine_file": engine_file,
    }
    return _sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode())


def _card(facts: Mapping[str, Any], description: str) -> str:
    """The model card: what a person wants to know before trusting the version."""
    preprocessing = facts["preprocessing"]
    lines = [
        f"# {facts['name']} version {facts['version']}",
        "",
        description.strip(),
        "",
        "| fact | value |",
        "| --- | --- |",
        f"| content hash | {facts['content_hash']} |",
        f"| engine file | {facts['engine_file']} |",
        f"| pixels | {preprocessing['size']} x {preprocessing['size']}, bicubic |",
        f"| centre square | {preprocessing['crop']:g} of the shorter side |",
        f"| normalisation | (pixel - {preprocessing['mean']:g}) / {preprocessing['scale']:g} |",
        f"| temperature | {facts['temperature']:g} |",
        f"| created | {facts['created_at']} |",
        *(f"| {name.replace('_', ' ')} | {_figure(value)} |" for name, value in facts["metrics"].items()),
        *(f"| {package} | {version} |" for package, version in facts["built_with"].items()),
    ]
    return "\n".join(lines) + "\n"


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
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
