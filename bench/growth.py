"""How cost grows with the number of images: `make bench-growth`.

Small files and the smallest model there is, so that what is measured is what tagmill itself does for each image. Then
the last run again, with nothing new; and with the pretrained model, one worker process against two.

    python -m bench.growth [IMAGES …] [--repeats N]
"""

import argparse
import ctypes
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from base.folders import make_private_folder
from bench import document
from bench.command import Run, tagmill_run
from bench.photographs import SIZES, fill, make_photographs
from bench.pictures import draw_curves
from bench.speed import MODELS, Figures, medians_of
from bench.versions import mean_colour_version, pretrained_versions
from models.registry import ModelVersion, Registry
from tests.arguments import whole_number
from worker.local import cores

_IMAGES = (1000, 10_000, 100_000)
_SMALL = (64, 48)  # Width and height.
_PHOTOGRAPHS = 1000  # For one process against two.

# Of linux/inotify.h; an event is four numbers and then a name.
_IN_OPEN, _IN_ISDIR, _EVENT_BYTES = 0x20, 0x40000000, 16


def main(options: argparse.Namespace) -> None:
    """Measure, write JSON, picture and table."""
    machine = document.machine()
    make_private_folder(options.models.absolute())
    registry = Registry(options.models.absolute())
    pretrained, _ = pretrained_versions(registry)
    with tempfile.TemporaryDirectory(prefix="tagmill-bench-") as folder:
        scratch = Path(folder)
        found, unchanged = _runs(scratch, mean_colour_version(registry), sorted(set(options.images)), options.repeats)
        scaling = _scaling(scratch, pretrained, options.photographs, options.repeats) if options.photographs else {}
    document.save(
        options.output,
        "growth",
        {"machine": machine, "medians": found, "unchanged": unchanged, "scaling": scaling},
    )
    (options.output / "growth.png").write_bytes(_picture(found))
    paragraphs = [document.describe(machine), *_paragraphs(found, unchanged, scaling)]
    document.rewrite(options.document, "growth", paragraphs)


def _runs(
    scratch: Path, version: ModelVersion, sizes: Sequence[int], repeats: int
) -> tuple[dict[int, Figures], Figures]:
    """Number of images → medians, and what a run costs that finds the largest number unchanged."""
    small = make_photographs(*_SMALL)
    runs: dict[int, list[Figures]] = {size: [] for size in sizes}
    unchanged: Figures = {}
    for _ in range(repeats):
        for size in sizes:
            folder, home = fill(scratch / "small", small, size), scratch / "home"
            runs[size].append(_first_run(folder, home, version))
            print(f"bench: {size} images: {runs[size][-1]}", file=sys.stderr, flush=True)
            if size == sizes[-1]:
                unchanged = _unchanged_run(folder, home, version) | {"images": size}
            shutil.rmtree(home)
            shutil.rmtree(folder)
    return {size: medians_of(figures) for size, figures in runs.items()}, unchanged


def _first_run(folder: Path, home: Path, version: ModelVersion) -> Figures:
    """Everything is new."""
    run = _run(folder, home, version, cores())
    with closing(sqlite3.connect(home / "tagmill.db")) as connection:
        (listing,) = connection.execute("SELECT listed_at - started_at FROM runs").fetchone()
    return {
        "seconds": run.watched.seconds,
        "listing_seconds": listing,
        "working_seconds": run.images / run.images_per_second,
        "command_bytes": run.watched.peak_of("command"),
        "worker_bytes": run.watched.peak_of("worker process"),
    }


def _unchanged_run(folder: Path, home: Path, version: ModelVersion) -> Figures:
    """Nothing is new; how many of the files were opened is counted by the kernel."""
    with _counted_opens(folder) as opens:
        run = _run(folder, home, version, cores())
        opened = opens()
    return {
        "seconds": run.watched.seconds,
        "files_opened": opened,
        "classified": run.images,
        "command_bytes": run.watched.peak_of("command"),
    }


def _scaling(scratch: Path, version: ModelVersion, number: int, repeats: int) -> dict[int, Figures]:
    """Worker processes → images per second, from the first batch taken to the last row committed."""
    folder = fill(scratch / "photographs", make_photographs(*SIZES[0]), number)
    speeds: dict[int, list[Figures]] = {1: [], 2: []}
    for _ in range(repeats):
        for processes, found in speeds.items():
            run = _run(folder, scratch / "home", version, processes)
            found.append({"images_per_second": run.images_per_second})
            print(f"bench: {processes} processes: {found[-1]}", file=sys.stderr, flush=True)
            shutil.rmtree(scratch / "home")
    return {processes: medians_of(found) for processes, found in speeds.items()}


def _run(folder: Path, home: Path, version: ModelVersion, processes: int) -> Run:
    registry = Path(version.storage.address)
    return tagmill_run(folder, home, models=registry, model=version.name, processes=processes)


@contextmanager
def _counted_opens(folder: Path) -> Iterator[Callable[[], int]]:
    """Count how often files of a folder are opened meanwhile, as `inotify(7)` tells it; ask once."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(folder), _IN_OPEN) < 0:
        raise OSError(ctypes.get_errno(), "inotify cannot watch the folder")
    try:
        next(folder.iterdir()).open().close()  # One that must be seen.
        yield lambda: _read_opens(watch) - 1
    finally:
        os.close(watch)


def _read_opens(watch: int) -> int:
    """The opens that the kernel has noted of files; it stops noting after some thousands."""
    opens = 0
    while True:
        try:
            events = os.read(watch, 2**20)
        except BlockingIOError:
            return opens
        while events:
            _, mask, _, length = struct.unpack_from("iIII", events)
            opens += bool(mask & _IN_OPEN) and not mask & _IN_ISDIR
            events = events[_EVENT_BYTES + length :]


def _paragraphs(found: Mapping[int, Figures], unchanged: Figures, scaling: Mapping[int, Figures]) -> Iterator[str]:
    rows: list[list[str]] = []
    before: int | None = None
    for number, one in found.items():
        further = ["", ""]
        if before is not None:
            further = [f"{_further(found, before, number, key):.3f}" for key in ("listing_seconds", "working_seconds")]
        timed = [f"{one[key]:.1f}" for key in ("seconds", "listing_seconds", "working_seconds")]
        held = [f"{one[key] / 1e6:.0f}" for key in ("command_bytes", "worker_bytes")]
        rows.append([f"{number:,}", *timed, *further, *held])
        before = number
    yield document.table(
        [
            "images",
            "seconds in all",
            "listing, s",
            "first batch to last row, s",
            "listing, ms for each further image",
            "first batch to last row, ms for each further image",
            "command, MB",
            "a worker process, MB",
        ],
        rows,
    )
    images, seconds = unchanged["images"], unchanged["seconds"]
    yield (
        f"The run of {images:,.0f} images again, with nothing new: {seconds:.1f} s, which are {images / seconds:,.0f} "
        f"images a second, {unchanged['files_opened']:.0f} files opened, {unchanged['command_bytes'] / 1e6:.0f} MB."
    )
    if not scaling:
        return
    alone, together = (scaling[processes]["images_per_second"] for processes in (1, 2))
    yield (
        f"One worker process with the pretrained model: {alone:.0f} images a second; two: {together:.0f}, which are "
        f"{together / alone:.2f} times as many."
    )


def _further(found: Mapping[int, Figures], fewer: int, more: int, key: str) -> float:
    """Milliseconds that each image costs by which one run is larger than another."""
    return (found[more][key] - found[fewer][key]) / (more - fewer) * 1000


def _picture(found: Mapping[int, Figures]) -> bytes:
    def curve(key: str, of_each: float) -> list[float]:
        return [one[key] * of_each for one in found.values()]

    def each(key: str) -> list[float]:
        return [one[key] / images * 1000 for images, one in found.items()]

    return draw_curves(
        list(found),
        {
            "ms for each image": {
                "whole command": each("seconds"),
                "first batch to last row": each("working_seconds"),
                "listing": each("listing_seconds"),
            },
            "peak memory, MB": {
                "command": curve("command_bytes", 1e-6),
                "a worker process": curve("worker_bytes", 1e-6),
            },
        },
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how cost grows with the number of images.")
    parser.add_argument("images", nargs="*", type=whole_number(1), default=_IMAGES)
    parser.add_argument(
        "--photographs", type=whole_number(0), default=_PHOTOGRAPHS, help="for one process against two; 0 for none"
    )
    parser.add_argument("--repeats", type=whole_number(1), default=3, help="of each")
    parser.add_argument("--models", type=Path, default=MODELS, help="a registry; made where it is not there")
    parser.add_argument("--output", type=Path, default=document.RESULTS)
    parser.add_argument("--document", type=Path, default=document.DOCUMENT)
    return parser.parse_args()


if __name__ == "__main__":
    main(_options())
