"""Labelled folders → the splits of a dataset, with every image in one of them at the most.

An image is known by its pixels as the model sees them, so that copies of it, and files that differ in their metadata
alone, count as one. Saved in another size or compressed anew it is another image.
"""

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from base.errors import DatasetError, FailureReason, ImageError
from models.decoding import DecodingLimits, decode
from models.preprocessing import Preprocessing
from models.suffixes import SUFFIXES

VALIDATION_SHARE = 0.2

# What others call the splits.
_OTHER_SPLIT_NAMES = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))


class Split(StrEnum):
    """What the images of a dataset are for; an image that is found in several goes to the last of them."""

    TRAIN = "train"  # The model learns from them.
    VALIDATION = "validation"  # They choose the best epoch, the temperature, the thresholds, and int8 or not.
    TEST = "test"  # Nothing is chosen by them, so that they say how good the model is.


@dataclass(frozen=True, kw_only=True)
class LabelledFile:
    """An image file and what it shows."""

    path: Path
    class_index: int
    split: Split | None  #: None where the dataset leaves that to us


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file that takes no part, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The images of a labelled folder that can be read, each once."""

    labels: tuple[str, ...]  #: in class-index order, which is that of the names
    paths: tuple[Path, ...]  #: N of them
    class_indices: np.ndarray  #: int64 (N,)
    pixels: np.ndarray  #: uint8 (N, S, S, 3), as the model sees them; may be a file mapped into memory
    hashes: tuple[str, ...]  #: N, hex sha256 of each image's pixels
    splits: Mapping[Split, np.ndarray]  #: the positions of each split's images, in the order of their hashes
    content_hash: str  #: hex sha256 of labels, pixels and splits
    left_out: tuple[LeftOut, ...]
    passed_over: int  #: links, devices and files of other kinds


def read_dataset(
    folder: Path,
    preprocessing: Preprocessing,
    limits: DecodingLimits,
    *,
    pixels_file: Path,
    labels: Sequence[str] | None = None,
    is_test: bool = False,
    on_progress: Callable[[str, float], None],
) -> Dataset:
    """Read `folder/label/*.jpg`, or `folder/{train,validation,test}/label/*.jpg`; label folders may hold folders.

    Without a validation split, a fifth of each label's training images becomes it, chosen by their content alone: it is
    the same fifth whatever the files are called and whatever the seed is.

    Args:
        folder: the dataset.
        preprocessing: how the model sees an image.
        limits: larger images are left out.
        pixels_file: where the pixels are kept, as they may not fit into memory; replaced when it exists.
        labels: of a model that is there already, in class-index order; None for those of the folder.
        is_test: nothing is to be chosen by the images, so all are in the split TEST: those of the folder's own
            where it has splits, or else all that it holds.
        on_progress: told how far it is.

    Raises:
        DatasetError: there is no such folder, no two labels in it, a label without an image, two labels that differ
            only in case, or a label that the model does not know.
    """
    found, passed_over = _find(folder, labels, is_test=is_test)
    names = tuple(labels) if labels is not None else tuple(sorted({label for label, _, _ in found}))
    position = {name: index for index, name in enumerate(names)}
    files = [
        LabelledFile(path=path, class_index=position[label], split=split)
        for label, split, paths in found
        for path in paths
    ]
    pixels_file.unlink(missing_ok=True)
    shape = (len(files), preprocessing.size, preprocessing.size, 3)
    pixels = map_file(pixels_file, np.uint8, shape)
    chosen, left_out = _choose(_decode(files, pixels, preprocessing, limits, on_progress), files)
    if not chosen:
        raise DatasetError(f"no image in {folder} can be used; the first: {left_out[0].path}: {left_out[0].reason}.")
    class_indices = np.array([files[index].class_index for index in chosen], np.int64)
    hashes = [chosen[index] for index in chosen]
    # What was left out leaves no gap: each row moves up, never beyond one that is still to be moved.
    for row, index in enumerate(chosen):
        pixels[row] = pixels[index]
    kept_files = [files[index] for index in chosen]
    if is_test:
        splits = {Split.TEST: np.arange(len(chosen), dtype=np.int64)}
    else:
        splits = _split_up(kept_files, hashes, {position[label]: label for label, _, _ in found})
    return Dataset(
        labels=names,
        paths=tuple(file.path for file in kept_files),
        class_indices=class_indices,
        pixels=pixels[: len(chosen)],
        hashes=tuple(hashes),
        splits=splits,
        content_hash=_content_hash(names, hashes, class_indices, splits),
        left_out=tuple(left_out),
        passed_over=passed_over,
    )


def _content_hash(
    labels: Sequence[str], hashes: Sequence[str], class_indices: np.ndarray, splits: Mapping[Split, np.ndarray]
) -> str:
    """Of contents alone, so that other names of the files change nothing."""
    parts = [(str(split), [(hashes[row], int(class_indices[row])) for row in rows]) for split, rows in splits.items()]
    return hashlib.sha256(repr([tuple(labels), *parts]).encode()).hexdigest()


def map_file(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
    """A new array that lies in a file, as it may not fit into memory.

    Raises:
        OSError: the disk has no room for it. Noticed later, that would end the process.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


_Found = list[tuple[str, Split | None, list[Path]]]


def _find(folder: Path, labels: Sequence[str] | None, *, is_test: bool) -> tuple[_Found, int]:
    """Each label folder with its split and its files, sorted; and how many entries were passed over."""
    roots = _split_folders(folder)
    wanted = Split.TEST if is_test else Split.TRAIN
    if None not in roots and wanted not in roots:
        raise DatasetError(
            f"{folder} holds {' and '.join(map(str, roots))} and no {wanted}. "
            f"Add {folder / wanted}, or name one of those folders as the dataset."
        )
    if is_test and None not in roots:
        roots = {wanted: roots[wanted]}
    found: _Found = []
    passed_over = 0
    for split, root in roots.items():
        entries = _entries(root)
        passed_over += sum(not entry.is_dir(follow_symlinks=False) for entry in entries)
        for label_folder in _folders(entries):
            paths: list[Path] = []
            passed_over += _walk(label_folder, paths)
            found.append((_label(label_folder), split, sorted(paths)))
    _check_labels(folder, found, labels)
    return found, passed_over


def _split_folders(folder: Path) -> dict[Split | None, Path]:
    """The folders that hold label folders, by split; the dataset itself where it has no splits."""
    if not folder.is_dir():
        wrong = "is not a folder" if folder.exists() else "does not exist"
        raise DatasetError(f"the dataset {str(folder)!r} {wrong}. Name a folder that holds one folder for each label.")
    entries = _entries(folder)
    for entry in entries:
        if entry.name in set(Split) and entry.is_symlink():
            raise DatasetError(f"{entry.path} is a link, and links are passed over. Put the folder itself there.")
    folders = _folders(entries)
    # A label may be called like a split; its folder then holds images.
    splits = [each for each in folders if each.name in set(Split) and _folders(_entries(each))]
    for each in folders:
        if each not in splits and each.name.lower() in _OTHER_SPLIT_NAMES and _folders(_entries(each)):
            raise DatasetError(
                f"{each} holds folders, as a split does. The splits are called {', '.join(Split)}: rename it."
            )
    if not splits:
        return {None: folder}
    if strangers := [each.name for each in folders if each not in splits]:
        raise DatasetError(
            f"{folder} holds the splits {', '.join(each.name for each in splits)} and beside them {strangers[0]!r}. "
            "Take that away, or put it into a split as a label."
        )
    return {split: folder / split for split in Split if folder / split in splits}


def _folders(entries: Iterable[os.DirEntry[str]]) -> list[Path]:
    """The folders among the entries, without those that are hidden, as tools leave them everywhere."""
    return [
        Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
    ]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be read: {error.strerror}. Mend its permissions, or move it away."
        ) from error


def _walk(folder: Path, paths: list[Path]) -> int:
    """Add the images at any depth below a folder; returns how many entries were passed over."""
    passed_over = 0
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            passed_over += _walk(Path(entry.path), paths)
        elif entry.is_file(follow_symlinks=False) and entry.name.lower().endswith(SUFFIXES):
            paths.append(Path(entry.path))
        else:
            passed_over += 1
    return passed_over


def _label(folder: Path) -> str:
    name = folder.name
    if not name.isprintable() or name != name.strip():
        raise DatasetError(
            f"the folder {name!r} in {folder.parent} is no label: it must be one line of text. Rename it."
        )
    return name


def refuse_alike(labels: Iterable[str], place: str) -> None:
    """Refuse labels that people would take for one.

    Raises:
        DatasetError: two of them differ only in case, or in how a letter is written in Unicode.
    """
    by_key: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        by_key[unicodedata.normalize("NFC", label).casefold()].add(label)
    for alike in by_key.values():
        if len(alike) > 1:
            raise DatasetError(
                f"the labels {' and '.join(map(repr, sorted(alike)))} in {place} differ only in case. Make them one."
            )


def _check_labels(folder: Path, found: _Found, known: Sequence[str] | None) -> None:
    refuse_alike((label for label, _, _ in found), str(folder))
    for label, split, paths in found:
        if not paths:
            raise DatasetError(
                f"the label {label!r}{f' of {split}' if split else ''} in {folder} has no image. "
                f"Add some ({', '.join(SUFFIXES)}), or remove the folder."
            )
    labels = sorted({label for label, _, _ in found})
    if known is not None:
        if unknown := [label for label in labels if label not in known]:
            raise DatasetError(
                f"the model has no label {unknown[0]!r}, which is a folder of {folder}; it knows "
                f"{_some(known)}. Rename the folder, or take it out."
            )
        if not labels:
            raise DatasetError(f"{folder} holds no folder of images. Each label is one: {folder}/LABEL/*.jpg.")
        return
    if len(labels) < 2:
        has = f"only the label {labels[0]!r}" if labels else "no folder of images"
        raise DatasetError(f"{folder} holds {has}. A classifier needs two labels or more: {folder}/LABEL/*.jpg.")
    trained = {label for label, split, _ in found if split in (None, Split.TRAIN)}
    if without := [label for label in labels if label not in trained]:
        raise DatasetError(
            f"the label {without[0]!r} in {folder} has no training image. Add {folder}/train/{without[0]}."
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _decode(
    files: Sequence[LabelledFile],
    pixels: np.ndarray,
    preprocessing: Preprocessing,
    limits: DecodingLimits,
    on_progress: Callable[[str, float], None],
) -> Iterator[str | ImageError]:
    """Fill the rows of `pixels`; yields the hash of each, or why there is none."""
    for index, file in enumerate(files):
        if index % 64 == 0:
            on_progress(f"reading images: {index:,} of {len(files):,}", index / len(files))
        try:
            pixels[index] = decode(_read(file.path, limits), preprocessing, limits)
        except ImageError as error:
            yield error
        else:
            yield hashlib.sha256(pixels[index].tobytes()).hexdigest()


def _read(path: Path, limits: DecodingLimits) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)  # One more, and decoding says that it is too large.
    except OSError as error:
        raise ImageError(FailureReason.UNREADABLE, str(error.strerror)) from error


def _choose(
    outcomes: Iterable[str | ImageError], files: Sequence[LabelledFile]
) -> tuple[dict[int, str], list[LeftOut]]:
    """The position of each image that takes part → its hash, in order; and the files that do not.

    Of copies the one in the split that comes last is kept, as nothing may be learnt from what is to be a test. An image
    that stands under two labels teaches nothing, and none of its copies is kept.
    """
    left_out: list[LeftOut] = []
    copies: dict[str, list[int]] = defaultdict(list)
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, ImageError):
            left_out.append(LeftOut(path=files[index].path, reason=f"{outcome.reason}: {outcome}"))
        else:
            copies[outcome].append(index)
    chosen: dict[int, str] = {}
    order = [None, *Split]
    for content, indices in copies.items():
        kept = max(indices, key=lambda index: (order.index(files[index].split), -index))
        contradicts = len({files[index].class_index for index in indices}) > 1
        if not contradicts:
            chosen[kept] = content
        for index in indices:
            if contradicts:
                other = next(each for each in indices if files[each].class_index != files[index].class_index)
                reason = f"the same image has another label as {files[other].path}"
            else:
                reason = f"the same image as {files[kept].path}"
            if contradicts or index != kept:
                left_out.append(LeftOut(path=files[index].path, reason=reason))
    return dict(sorted(chosen.items())), sorted(left_out, key=lambda each: each.path)


def _split_up(
    files: Sequence[LabelledFile], hashes: Sequence[str], labels: Mapping[int, str]
) -> dict[Split, np.ndarray]:
    rows: dict[Split, list[int]] = {split: [] for split in Split}
    has_validation = any(file.split is Split.VALIDATION for file in files)
    for class_index, label in labels.items():
        of_label = [row for row, file in enumerate(files) if file.class_index == class_index]
        for split in (Split.VALIDATION, Split.TEST):
            rows[split] += [row for row in of_label if files[row].split is split]
        if has_validation and not any(files[row].split is Split.VALIDATION for row in of_label):
            raise DatasetError(
                f"the label {label!r} has no image for validation that can be read. Add some to its folder in "
                f"{Split.VALIDATION}, or leave that split out, and a fifth of the others is taken."
            )
        # By content, so that another order of the files, or another name, changes nothing.
        learnt = sorted(
            (row for row in of_label if files[row].split in (None, Split.TRAIN)), key=lambda row: hashes[row]
        )
        kept_back = max(1, round(VALIDATION_SHARE * len(learnt))) if not has_validation else 0
        if len(learnt) - kept_back < 1:
            raise DatasetError(
                f"the label {label!r} has {len(learnt)} image{'' if len(learnt) == 1 else 's'} to learn from that can "
                "be read, copies counted once. Add some: it needs one for training and one for validation."
            )
        rows[Split.VALIDATION] += learnt[:kept_back]
        rows[Split.TRAIN] += learnt[kept_back:]
    return {split: np.array(sorted(some, key=lambda row: hashes[row]), np.int64) for split, some in rows.items()}
