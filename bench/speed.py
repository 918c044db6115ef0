"""How fast it is, what holds it, and how fast others are: `make bench` and `make bench-peers`.

All is measured in one run and on the same files: the parts alone, `tagmill run` as a command, and with `--peers` what
people use today. Everything is measured in turn, and then again, so that whatever slows the machine for a while slows
all alike; of the repeats the median counts. The others take minutes, so the ceiling and int8 are measured again before
each of them.

    python -m bench.speed [FOLDER] [--number N] [--repeats N] [--peers] [--only NAME …]
"""

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from base.folders import make_private_folder
from bench import document
from bench.command import CHECKOUT, Run, other_variables, tagmill_run
from bench.photographs import SIZES, fill, make_photographs, read_photographs
from bench.pictures import draw_bars
from bench.stages import ceiling, decoding_speed, engine_speed
from bench.versions import pretrained_versions
from bench.watched import watch
from models.registry import ModelVersion, Registry
from tests.arguments import whole_number
from tests.conftest import new_database
from tests.servers import postgres_server
from worker.local import cores

MODELS = CHECKOUT / "tagmill-data" / "bench" / "models"
DECODING, MEMORY = "decoding", "memory"
ENGINES = ("int8", "float32")
DATABASES = ("SQLite", "PostgreSQL")

# Of each size so many: whole batches, a few for each process. Some thousands of the largest would take minutes.
_OF_SIZE = dict(zip(SIZES, (640, 384, 128), strict=True))
_OF_EACH_SIZE = ("decoding", "in full", "tagmill")
_ENGINE_IMAGES = 1000
_MEMORY_IMAGES = 10_000
# Of int8, as float32 takes twice as long: the ceiling, and what is held against it and against the others.
_HELD_AGAINST = (DECODING, "engine int8", *(f"tagmill int8 {database}" for database in DATABASES))


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What people use today."""

    name: str
    script: str  #: in bench/peers/
    python: Path
    package: str  #: whose version is told
    engine_file: str


_OURS, _OTHERS = Path(sys.executable), CHECKOUT / ".venv"
PEERS = (
    Peer(name="Keras loop", script="keras_loop.py", python=_OURS, package="keras", engine_file="model.keras"),
    Peer(
        name="Daft",
        script="daft_frame.py",
        python=_OTHERS / "bench-daft" / "bin" / "python",
        package="daft",
        engine_file="model.keras",
    ),
    Peer(
        name="Ray Data",
        script="ray_data.py",
        python=_OTHERS / "bench-ray" / "bin" / "python",
        package="ray",
        engine_file="model.keras",
    ),
    Peer(name="naive Celery", script="celery_naive.py", python=_OURS, package="celery", engine_file="model.keras"),
    Peer(name="naive Celery int8", script="celery_naive.py", python=_OURS, package="celery", engine_file="int8.tflite"),
)

#: What one measurement gave, by name; and of each measurement the medians of its repeats.
Figures = dict[str, float]
Medians = Mapping[str, Figures]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all measurements share."""

    scratch: Path
    photographs: Path  #: a folder
    number: int  #: of them
    registry: Registry
    versions: Mapping[str, ModelVersion]  #: of each engine
    postgres: str | None  #: the address of a server's superuser

    def decoding(self, folder: Path, *, in_full: bool = False) -> Figures:
        """Decoding alone."""
        paths = sorted(folder.iterdir())
        preprocessing = self.versions["int8"].preprocessing
        speed = decoding_speed(paths, preprocessing, processes=cores(), in_full=in_full)
        return {"images_per_second": speed}

    def engine(self, name: str) -> Figures:
        """An engine file alone."""
        paths, version = sorted(self.photographs.iterdir()), self.versions[name]
        images = min(self.number, _ENGINE_IMAGES)
        return {"images_per_second": engine_speed(version, version.engine_file, paths, images, processes=cores())}

    def tagmill(self, folder: Path, engine: str, database: str = "SQLite") -> Figures:
        """`tagmill run` of a folder."""
        server = self.postgres if database == "PostgreSQL" else None
        with new_database(server) if server else nullcontext() as address:
            run = self._run(folder, engine, address, cores())
        watched = run.watched
        return {
            "seconds": watched.seconds,
            "images_per_second": run.images / watched.seconds,
            "before_first_batch_seconds": run.before_first_batch_seconds,
            "working_images_per_second": run.images_per_second,
            "peak_bytes": watched.peak_bytes,
            "worker_bytes": watched.peak_of("worker process"),
            "command_bytes": watched.peak_of("command"),
        }

    def memory(self, folder: Path, number: int) -> Figures:
        """What a single worker process holds after a tenth of the images, and after all."""
        run = self._run(folder, "int8", None, 1)
        early, late = (run.watched.resident("worker process", run.saved_at(count)) for count in (number // 10, number))
        peak = run.watched.peak_of("worker process")
        return {"images": number, "early_bytes": early, "late_bytes": late, "peak_bytes": peak}

    def peer(self, peer: Peer) -> Figures:
        """One of the others."""
        home = self.scratch / "peer"
        home.mkdir()
        try:
            return self._peer(peer, home)
        finally:
            shutil.rmtree(home)

    def _peer(self, peer: Peer, home: Path) -> Figures:
        database = home / "peer.db"
        model = self.versions["int8"].locate(peer.engine_file)
        # They would report to their makers; and Ray leaves its logs behind.
        variables = other_variables() | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "DO_NOT_TRACK": "true",
            "RAY_TMPDIR": str(home),
        }
        script = CHECKOUT / "bench" / "peers" / peer.script
        watched = watch(
            [peer.python, script, self.photographs, model, database],
            folder=home,
            scratch=home,
            variables=variables,
        )
        with closing(sqlite3.connect(database)) as connection:
            (rows,) = connection.execute("SELECT count(*) FROM predictions").fetchone()
        if rows != self.number:
            raise SystemExit(f"bench: {peer.name} left {rows} rows for {self.number} images")
        return {
            "seconds": watched.seconds,
            "images_per_second": self.number / watched.seconds,
            "peak_bytes": watched.peak_bytes,
        }

    def _run(self, folder: Path, engine: str, database_url: str | None, processes: int) -> Run:
        home = self.scratch / "home"
        model, root = self.versions[engine].name, self.registry.root
        assert root is not None
        try:
            return tagmill_run(folder, home, models=root, model=model, database_url=database_url, processes=processes)
        finally:
            shutil.rmtree(home)


def main(options: argparse.Namespace) -> None:
    """Measure, write JSON, picture and tables."""
    machine = document.machine()
    peers = [peer for peer in PEERS if options.peers]
    for peer in peers:
        machine["packages"][peer.name] = _version(peer)
    make_private_folder(options.models.absolute())
    registry = Registry(options.models.absolute())
    int8, float32 = pretrained_versions(registry)
    contents = read_photographs(options.folder) if options.folder else make_photographs(*SIZES[0])
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tagmill-bench-")))
        wants_postgres = any("PostgreSQL" in name for name in options.only or ["PostgreSQL"])
        bench = Bench(
            scratch=scratch,
            photographs=fill(scratch / "photographs", contents, options.number),
            number=options.number,
            registry=registry,
            versions={"int8": int8, "float32": float32},
            postgres=stack.enter_context(postgres_server(durable=True)) if wants_postgres else None,
        )
        measurements = dict(_measurements(bench, peers))
        if unknown := set(options.only or ()) - {*measurements, MEMORY}:
            there = ", ".join(map(repr, [*measurements, MEMORY]))
            raise SystemExit(f"bench: nothing is named {', '.join(map(repr, sorted(unknown)))}; there are {there}")
        wanted = [name for name in measurements if not options.only or name in options.only]
        again = [name for name in _HELD_AGAINST if name in wanted]
        others = {peer.name for peer in peers}
        in_turn = [one for name in wanted for one in ([*again, name] if name in others else [name])]
        repeats = _measure(measurements, in_turn, options.repeats)
        if not options.only or MEMORY in options.only:
            number = min(_MEMORY_IMAGES, options.number * 4)
            shutil.rmtree(bench.photographs)
            folder = fill(scratch / MEMORY, contents, number)
            repeats |= _measure({MEMORY: partial(bench.memory, folder, number)}, [MEMORY], 1)
    if not repeats:
        raise SystemExit("bench: nothing was measured, and nothing is written; mend what it says above")
    _write(options, machine, repeats)


def _write(options: argparse.Namespace, machine: Mapping[str, Any], repeats: Mapping[str, list[Figures]]) -> None:
    medians = {name: medians_of(figures) for name, figures in repeats.items()}
    what = f"{options.number:,} {'photographs' if options.folder else 'images made in code'}"
    facts = {"machine": machine, "images": what, "repeats": repeats, "medians": medians}
    document.save(options.output, "speed", facts)
    often = "once" if options.repeats == 1 else f"medians of {options.repeats}"
    head = f"{what}, {often}. {document.describe(machine)}"
    peers = [_peers_table(medians, machine["packages"])] if options.peers else []
    if options.only and not options.document:  # A part is not to take the place of all.
        print("\n\n".join([head, *_speed_tables(medians), *peers]))
        return
    (options.output / "speed.png").write_bytes(_picture(medians))
    written = options.document or document.DOCUMENT
    document.rewrite(written, "speed", [head, *_speed_tables(medians)])
    if peers:
        document.rewrite(written, "peers", [head, *peers])


def _measurements(bench: Bench, peers: list[Peer]) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """All that is repeated, by name."""
    yield DECODING, partial(bench.decoding, bench.photographs)
    for engine in ENGINES:
        yield f"engine {engine}", partial(bench.engine, engine)
    for engine in ENGINES:
        for database in DATABASES:
            yield f"tagmill {engine} {database}", partial(bench.tagmill, bench.photographs, engine, database)
    for peer in peers:
        yield peer.name, partial(bench.peer, peer)
    for width, height in SIZES:
        folder = bench.scratch / f"{width}x{height}"

        def made(
            measure: Callable[[Path], Figures], folder: Path = folder, size: tuple[int, int] = (width, height)
        ) -> Figures:
            if not folder.exists():
                fill(folder, make_photographs(*size), min(bench.number, _OF_SIZE[size]))
            return measure(folder)

        near, in_full, run = (f"{folder.name} {name}" for name in _OF_EACH_SIZE)
        yield near, partial(made, bench.decoding)
        yield in_full, partial(made, partial(bench.decoding, in_full=True))
        yield run, partial(made, partial(bench.tagmill, engine="int8"))


def _measure(
    measurements: Mapping[str, Callable[[], Figures]], in_turn: Sequence[str], repeats: int
) -> dict[str, list[Figures]]:
    os.sync()  # What was written just now is not to be written meanwhile.
    found: dict[str, list[Figures]] = {name: [] for name in in_turn}
    failed = set()
    for repeat in range(repeats):
        for name in in_turn:
            try:
                found[name].append(measurements[name]())
            except (Exception, SystemExit) as error:  # noqa: BLE001 (the others took minutes, and are not thrown away for it)
                failed.add(name)
                print(f"bench: {name} is left out: {error!r}", file=sys.stderr, flush=True)
            else:
                print(f"bench: {repeat + 1}/{repeats} {name}: {_brief(found[name][-1])}", file=sys.stderr, flush=True)
    return {name: figures for name, figures in found.items() if name not in failed}


def medians_of(figures: list[Figures]) -> Figures:
    """Of each figure."""
    return {key: median(one[key] for one in figures) for key in figures[0]}


def _brief(figures: Figures) -> str:
    return ", ".join(f"{value / 1e6:.0f} MB" if "bytes" in key else f"{value:.1f}" for key, value in figures.items())


def _version(peer: Peer) -> str:
    code = f"from importlib.metadata import version; print(version({peer.package!r}))"
    if not peer.python.exists():
        raise SystemExit(f"bench: {peer.python} is not there; 'make bench-peers' makes it")
    return subprocess.run([peer.python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _ceilings(medians: Medians) -> dict[str, float]:
    """Of each engine that was measured."""
    if DECODING not in medians:
        return {}
    decoding = medians[DECODING]["images_per_second"]
    measured = [engine for engine in ENGINES if f"engine {engine}" in medians]
    return {engine: ceiling(decoding, medians[f"engine {engine}"]["images_per_second"]) for engine in measured}


def _speed_tables(medians: Medians) -> Iterator[str]:
    ceilings = _ceilings(medians)
    alone = [name for name in (DECODING, *(f"engine {engine}" for engine in ENGINES)) if name in medians]
    rows = [[f"{name}, alone", f"{medians[name]['images_per_second']:.0f}"] for name in alone]
    rows += [[f"ceiling {engine}: one after the other", f"{speed:.0f}"] for engine, speed in ceilings.items()]
    yield document.table([f"{cores()} processes", "images/s"], rows)
    runs = {name: medians[name] for engine in ENGINES for name in medians if name.startswith(f"tagmill {engine}")}
    yield document.table(
        [
            "`tagmill run`",
            "seconds in all",
            "before the first batch, s",
            "from there on, images/s",
            "of the ceiling",
            "a worker process, MB",
            "the command, MB",
            "all, MB",
        ],
        [
            [
                name.removeprefix("tagmill "),
                f"{one['seconds']:.1f}",
                f"{one['before_first_batch_seconds']:.1f}",
                f"{one['working_images_per_second']:.0f}",
                _share(one["working_images_per_second"], ceilings.get(name.split()[1])),
                *(f"{one[key] / 1e6:.0f}" for key in ("worker_bytes", "command_bytes", "peak_bytes")),
            ]
            for name, one in runs.items()
        ],
    )
    sizes = [f"{width}x{height}" for width, height in SIZES]
    sizes = [size for size in sizes if {f"{size} {name}" for name in _OF_EACH_SIZE} <= medians.keys()]
    if sizes:
        yield "Made in code, int8, SQLite, in images per second; the last column holds the third against the second."
        yield document.table(
            [
                "size",
                "decoded near the final size",
                "decoded in full",
                "`tagmill run`, from its first batch on",
                "times",
            ],
            [[size, *_size_row(medians, size)] for size in sizes],
        )
    if MEMORY in medians:
        one = medians[MEMORY]
        early, late = one["early_bytes"] / 1e6, one["late_bytes"] / 1e6
        yield (
            f"A worker process alone holds {early:.0f} MB after {one['images'] / 10:,.0f} images, {late:.0f} MB after "
            f"{one['images']:,.0f} ({late / early - 1:+.1%}), and at most {one['peak_bytes'] / 1e6:.0f} MB."
        )


def _size_row(medians: Medians, size: str) -> Iterator[str]:
    near, in_full = (medians[f"{size} {name}"]["images_per_second"] for name in _OF_EACH_SIZE[:2])
    run = medians[f"{size} {_OF_EACH_SIZE[2]}"]["working_images_per_second"]
    yield from (f"{near:.0f}", f"{in_full:.0f}", f"{run:.0f}", f"{run / in_full:.1f}")


def _share(speed: float, most: float | None) -> str:
    return "" if most is None else f"{speed / most:.0%}"


def _peers_table(medians: Medians, versions: Mapping[str, str]) -> str:
    """Whole processes, their start included."""
    ours = {engine: medians.get(f"tagmill {engine} SQLite") for engine in ENGINES}
    names = [name for name in medians if name in versions or name.startswith("tagmill")]
    return document.table(
        [
            "whole processes",
            "seconds",
            "images/s",
            "all, MB",
            *(f"tagmill {engine} is faster, times" for engine in ours),
        ],
        [
            [
                f"{name} {versions.get(name, '')}".strip(),
                f"{medians[name]['seconds']:.1f}",
                f"{medians[name]['images_per_second']:.1f}",
                f"{medians[name]['peak_bytes'] / 1e6:.0f}",
                *(f"{medians[name]['seconds'] / one['seconds']:.2f}" if one else "" for one in ours.values()),
            ]
            for name in names
        ],
    )


def _picture(medians: Medians) -> bytes:
    bars = {f"ceiling {engine}": speed for engine, speed in _ceilings(medians).items()}
    for name, one in medians.items():
        if "seconds" in one and not name[0].isdigit():
            bars[name] = one["images_per_second"]
    return draw_bars(bars, "images per second of whole processes, start included")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how fast images are classified.")
    parser.add_argument("folder", nargs="?", type=Path, help="with .jpg files; without it images are made in code")
    parser.add_argument("--number", type=whole_number(1), default=3000, help="of images, copies of those in the folder")
    parser.add_argument("--repeats", type=whole_number(1), default=3)
    parser.add_argument("--peers", action="store_true", help="measure what others use, too")
    parser.add_argument("--only", nargs="*", help="names of measurements, as the log has them")
    parser.add_argument("--models", type=Path, default=MODELS, help="a registry; made where it is not there")
    parser.add_argument("--output", type=Path, default=document.RESULTS)
    parser.add_argument(
        "--document", type=Path, help="docs/performance.md; with --only none, and the tables are printed"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main(_options())
