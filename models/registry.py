"""The registry: immutable model versions, in a folder or a bucket.

What a version is, and that it still is what was published, is decided here; `Storage` only keeps files.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from base.errors import ModelError
from base.settings import Settings
from models.card import make_card
from models.engines.engine import Engine, open_engine
from models.folder_storage import FolderStorage
from models.preprocessing import Preprocessing
from models.storage import CARD_FILE, FACTS_FILE, NAME, NUMBER, Storage, differs, hash_of

LABELS_FILE = "labels.txt"
_FILE = re.compile(r"[a-z0-9_]+\.[a-z]+", re.ASCII)
_ENGINE_FILE = re.compile(r"[a-z0-9_]+\.(tflite|keras)", re.ASCII)
_OTHER_FILE = re.compile(r"[a-z0-9_]+\.(json|png|txt|csv)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One immutable trained result."""

    name: str
    version: int  #: counts up per name
    content_hash: str  #: sha256 of all that determines its answers
    storage: Storage  #: where its files are
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

    def locate(self, file: str) -> str:
        """Where a file of it is, for people."""
        return self.storage.locate(self.name, self.version, file)

    def read(self, file: str) -> bytes:
        """The content of one of its files, checked.

        Raises:
            ModelError: it has no such file, or the file is missing or differs from what was published.
            TransientError: the storage falters.
        """
        if file not in self.files:
            raise ModelError(f"model {self} has no file {file!r}; it has {', '.join(sorted(self.files))}.")
        return self.storage.read(self.name, self.version, file, self.files[file])

    def to_json(self) -> dict[str, Any]:
        """Its facts as JSON types."""
        facts = {name: value for name, value in asdict(self).items() if name != "storage"}
        return facts | {"created_at": self.created_at.isoformat(), "registry": self.storage.address}


class Registry:
    """The model versions below one folder, or in one bucket.

    Args:
        place: the folder, or what keeps the files.
    """

    def __init__(self, place: Path | Storage) -> None:
        self._storage: Storage = FolderStorage(place) if isinstance(place, Path) else place

    @property
    def address(self) -> str:
        """For people, and for `registry_at`: a path or the URL of a bucket; holds no secret."""
        return self._storage.address

    @property
    def workspace(self) -> Path:
        """A folder of this machine for locks and scratch; it may have to be made."""
        return self._storage.workspace

    @property
    def root(self) -> Path | None:
        """Its folder; None for a registry in a bucket."""
        return self._storage.root if isinstance(self._storage, FolderStorage) else None

    def refuse_inside(self, place: Path) -> None:
        """Refuse to write somewhere below the registry's own folder, where every file is part of some version.

        Raises:
            ModelError: the place is there.
        """
        if self.root is not None and Path(os.path.realpath(place)).is_relative_to(os.path.realpath(self.root)):
            raise ModelError(f"{str(place)!r} is inside the registry {self.address}. Name a folder outside of it.")

    def has(self, name: str) -> bool:
        """Whether there is any version of that name; errors as for `versions`."""
        return bool(self._storage.list_versions(name))

    def versions(
        self, name: str | None = None, *, on_damaged: Callable[[ModelError], object] | None = None
    ) -> list[ModelVersion]:
        """Every version, of one name or of all, sorted by name and number; none when the folder does not exist.

        Args:
            name: None for all.
            on_damaged: told of each version whose description is damaged, which is left out; None to raise that.

        Raises:
            ModelError: a version's description is damaged or cannot be read.
            TransientError: the storage falters.
        """
        versions = []
        for each, numbers in self._storage.list_versions(name).items():
            for number in numbers:
                try:
                    versions.append(self._read(each, number))
                except ModelError as error:
                    if on_damaged is None:
                        raise
                    on_damaged(error)
        return versions

    def find(self, reference: str) -> ModelVersion:
        """Find "NAME", meaning its highest version, or "NAME:VERSION".

        Raises:
            ModelError: there is no such version, or its description is damaged.
            TransientError: the storage falters.
        """
        name, colon, version = reference.partition(":")
        if not NAME.fullmatch(name) or (colon and not NUMBER.fullmatch(version)):
            raise ModelError(
                f"{reference!r} does not name a model; write NAME or NAME:VERSION, such as small_cnn or small_cnn:2."
            )
        numbers = self._storage.list_versions(name).get(name)
        if not numbers:
            known = ", ".join(self._storage.list_versions()) or "none"
            raise ModelError(f"no model {name!r} in {self.address}; known: {known}. Run 'tagmill models list'.")
        number = int(version) if colon else numbers[-1]
        if number not in numbers:
            known = ", ".join(map(str, numbers))
            raise ModelError(
                f"no version {version!r} of {name!r} in {self.address}; known: {known}. Run 'tagmill models list'."
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
        files: Mapping[str, bytes] | None = None,
    ) -> ModelVersion:
        """Add a version under the next free number; it is there completely or not at all.

        Args:
            name: of the model: small letters, digits, "_" and "-".
            engines: file name → content of each .tflite and .keras file.
            engine_file: the one to load.
            labels: in class-index order.
            preprocessing: what the model was trained with.
            description: Markdown, how the model came about; the first part of its card.
            temperature: found by calibration; 1 changes nothing.
            thresholds: of every label, the confidence from 0 to 1 below which its answers need review; None for all.
            target_precision: what the thresholds were chosen for, 0 to 1; None with no thresholds.
            metrics: what was measured, as JSON types.
            built_with: package → version.
            files: name → content of whatever else is kept with it: .json, .png, .txt and .csv files.

        Raises:
            ModelError: a value is not valid, or the storage cannot be written.
            TransientError: the storage falters.
        """
        others = dict(files or {})
        _check_names(name, engines, engine_file, others)
        _check_answers(labels, temperature, metrics or {})
        _check_thresholds(labels, thresholds or {}, target_precision)
        # Floats whatever was given: a version read back has to come to the same content hash.
        chosen: dict[str, Any] = {}
        if target_precision is not None:
            asked = {label: None if one is None else float(one) for label, one in (thresholds or {}).items()}
            chosen = {"target_precision": float(target_precision), "thresholds": asked}
        given = {**engines, **others, LABELS_FILE: "".join(f"{label}\n" for label in labels).encode()}
        facts: dict[str, Any] = {
            "name": name,
            "labels_file": LABELS_FILE,
            "preprocessing": preprocessing.to_json(),
            "temperature": float(temperature),
            "engine_file": engine_file,
            **chosen,
            "metrics": dict(metrics or {}),
            "built_with": dict(built_with or {}),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        facts["content_hash"] = _content_hash(facts, {file: hash_of(one) for file, one in engines.items()}, labels)

        def make_files(number: int) -> Mapping[str, bytes]:
            numbered = facts | {"version": number}
            contents = {CARD_FILE: make_card(numbered, description, others).encode(), **given}
            numbered["files"] = {file: hash_of(content) for file, content in sorted(contents.items())}
            written = json.dumps(numbered, indent=2, sort_keys=True, ensure_ascii=False)
            return {**contents, FACTS_FILE: written.encode() + b"\n"}

        return self._read(name, self._storage.publish(name, make_files))

    def _read(self, name: str, number: int) -> ModelVersion:
        return read_version(self._storage, name, number, self._storage.read(name, number, FACTS_FILE))


def open_registry(settings: Settings) -> Registry:
    """The registry that the settings name; nothing is asked of it yet.

    Raises:
        SetupError: the address is neither of a folder nor of a bucket.
    """
    return registry_at(settings.models_address, settings.models_workspace)


def registry_at(address: str, workspace: Path) -> Registry:
    """The registry of another one's `address` and `workspace`, in another process say."""
    if "://" not in address:
        return Registry(Path(address))
    from models.bucket_storage import BucketStorage  # obstore is of no use to whoever has a folder.

    return Registry(BucketStorage(address, workspace))


def read_version(storage: Storage, name: str, number: int, content: bytes) -> ModelVersion:
    """A version from the content of its version.json, and its labels.

    Raises:
        ModelError: either is damaged or altered, or is of another version.
        TransientError: the storage falters.
    """
    location = storage.locate(name, number, FACTS_FILE)
    try:
        facts = json.loads(content)
        if (facts["name"], facts["version"]) != (name, number):
            raise ModelError(f"{location} describes {facts['name']}:{facts['version']}; restore that model version.")
        for file in facts["files"]:
            if not _FILE.fullmatch(file):  # It becomes part of a path, here and in exports.
                raise ModelError(f"{location} names a file {file!r}; restore that model version, or remove it.")
        labels_file = facts["labels_file"]
        labels = storage.read(name, number, labels_file, facts["files"][labels_file]).decode()
        version = ModelVersion(
            name=name,
            version=number,
            content_hash=facts["content_hash"],
            storage=storage,
            labels=tuple(labels.removesuffix("\n").split("\n")),
            preprocessing=_read_preprocessing(facts["preprocessing"], location),
            temperature=float(facts["temperature"]),
            thresholds=facts.get("thresholds", {}),
            target_precision=facts.get("target_precision"),
            engine_file=facts["engine_file"],
            files=facts["files"],
            metrics=facts["metrics"],
            built_with=facts["built_with"],
            created_at=datetime.fromisoformat(facts["created_at"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{location} cannot be read: {error!r}. Restore that model version, or remove it.") from error
    # Before anybody keeps the hash of what is damaged, as a database would.
    engines = _engine_hashes(version.files)
    found = _content_hash(version.to_json(), engines, version.labels)
    if found != version.content_hash or version.engine_file not in engines:
        raise differs(location)
    return version


def _read_preprocessing(fields: Mapping[str, Any], location: str) -> Preprocessing:
    try:
        return Preprocessing.from_json(fields)
    except ModelError as error:
        raise ModelError(f"{location}: {error} Restore that model version, or remove it.") from error


def load_engine(version: ModelVersion, file: str | None = None) -> Engine:
    """Check what a version holds beside its engines, then load one of these from the very bytes that were checked.

    The other engines are not read: they give no answers here, and a worker need not fetch 40 MB for an engine of 5.

    Args:
        file: which of its engine files; None for the one that it names.

    Raises:
        ModelError: a file is missing or differs from what was published, or it cannot be loaded.
        TransientError: the storage falters.
    """
    file = file or version.engine_file
    engines = _engine_hashes(version.files).keys()
    if file not in engines:
        raise ModelError(f"model {version} has no engine file {file!r}; it has {', '.join(sorted(engines))}.")
    _check_files(version, version.files.keys() - engines)
    return open_engine(file, version.read(file), version.preprocessing)


def check_files(version: ModelVersion) -> None:
    """Check that every file of a version is what was published.

    Raises:
        ModelError: a file is missing or differs.
        TransientError: the storage falters.
    """
    _check_files(version, version.files)


def _check_files(version: ModelVersion, files: Iterable[str]) -> None:
    for file in sorted(files):
        version.read(file)  # And drop it: an engine is some megabytes.


def _engine_hashes(files: Mapping[str, str]) -> dict[str, str]:
    """Those of a version's files and hashes that are engine files."""
    return {name: sha256 for name, sha256 in files.items() if _ENGINE_FILE.fullmatch(name)}


def check_name(name: str) -> None:
    """Refuse a name that no model can have.

    Raises:
        ModelError: it has other characters than small letters, digits, "_" and "-".
    """
    if not NAME.fullmatch(name):
        raise ModelError(f"model name {name!r} is not valid; use small letters, digits, '_' and '-'.")


def _check_names(name: str, engines: Mapping[str, bytes], engine_file: str, others: Mapping[str, bytes]) -> None:
    check_name(name)
    for file in engines:
        if not _ENGINE_FILE.fullmatch(file):
            raise ModelError(
                f"engine file {file!r} is not valid; use small letters, digits and '_', then '.tflite' or '.keras'."
            )
    if engine_file not in engines:
        raise ModelError(f"engine file {engine_file!r} is not one of {sorted(engines)}.")
    for file in others:
        if not _OTHER_FILE.fullmatch(file) or file in (FACTS_FILE, LABELS_FILE):
            raise ModelError(
                f"file {file!r} cannot be kept with a model version; use small letters, digits and '_', then '.json', "
                f"'.png', '.txt' or '.csv', and neither {FACTS_FILE} nor {LABELS_FILE}."
            )


def _check_answers(labels: Sequence[str], temperature: float, metrics: Mapping[str, Any]) -> None:
    if len(set(labels)) != len(labels) or not labels:
        raise ModelError("labels must be distinct and at least one.")
    for label in labels:
        if not label.strip() or not label.isprintable():
            raise ModelError(f"label {label!r} is not valid; it must be one line of text.")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ModelError(f"temperature {temperature!r} is not above 0.")
    for name, value in metrics.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ModelError(f"metric {name!r} is not JSON: {error}.") from error


def _check_thresholds(
    labels: Sequence[str], thresholds: Mapping[str, float | None], target_precision: float | None
) -> None:
    if target_precision is None:
        if thresholds:
            raise ModelError(f"there are {len(thresholds)} thresholds and no target precision that they are for.")
        return
    if not 0 <= target_precision <= 1:
        raise ModelError(f"target precision {target_precision!r} is not a share; it must be from 0 to 1.")
    for label in labels:
        if label not in thresholds:
            raise ModelError(f"label {label!r} has no threshold; give every label one, or None.")
    for label, threshold in thresholds.items():
        if label not in labels:
            raise ModelError(f"the threshold of {label!r} is of no label of the model.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ModelError(f"threshold {threshold!r} of label {label!r} is not valid; it must be from 0 to 1.")


def _content_hash(facts: Mapping[str, Any], engine_hashes: Mapping[str, str], labels: Sequence[str]) -> str:
    """One hash over all that determines a version's answers, and over nothing else."""
    preprocessing = dict(facts["preprocessing"])
    # So that versions from when there was no other interpolation keep their hash.
    if preprocessing["interpolation"] == "bicubic":
        del preprocessing["interpolation"]
    identity = {
        "engines": dict(engine_hashes),
        "labels": list(labels),
        "preprocessing": preprocessing,
        "temperature": facts["temperature"],
        "engine_file": facts["engine_file"],
    }
    # Only where there are any, so that versions from before there were thresholds keep their hash.
    if facts.get("target_precision") is not None:
        identity |= {"thresholds": facts["thresholds"], "target_precision": facts["target_precision"]}
    return hash_of(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode())
