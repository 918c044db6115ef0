"""What the ledger costs: `make bench-ledger`.

The same photographs are classified by the same code in as many processes, once by a worker, with Celery, Valkey and the
ledger, and once by a plain loop that writes each batch in one transaction; alternately, on SQLite and on PostgreSQL.
A process counts from the end of its first batch, when it has loaded its model, to the end of its last one.

    python -m bench.ledger [--batches N] [--images-per-batch N] [--processes N] [--repeats N] [--engines NAME …]
                           [--databases NAME …] [--models FOLDER] [--output FOLDER]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import SecretStr

from base.folders import make_private_folder
from base.settings import Settings
from bench import document
from bench.command import other_variables
from bench.photographs import fill
from bench.speed import MODELS
from bench.steps import STEPS
from bench.versions import pretrained_versions
from broker.app import QUEUE
from broker.embedded import embedded_broker
from broker.processes import process_variables, worker_command
from demo import PHOTOGRAPHS, foolbox_photographs
from models.registry import ModelVersion, Registry
from results.schema import make_database
from tests.arguments import whole_number
from tests.servers import postgres_server
from worker.identity import worker_environment
from worker.local import cores

_BATCHES, _REPEATS = 16, 5
_ENGINES = ("int8", "float32")
_DATABASES = ("sqlite", "postgresql")
_WAITING = "waiting"
_STEPS = ("claim", "classify", "find_twins", "extend", "finish", _WAITING)

# Process, what it did, when it began and ended, what a core did of that, and how many images that ended.
Step = tuple[int, str, float, float, float, int]


@dataclass(frozen=True)
class Load:
    """What is to be done."""

    batches: int
    images_per_batch: int
    processes: int  #: that share it


def main(load: Load, models: Path, repeats: int, engines: list[str], databases: list[str], output: Path) -> None:
    """Measure, write the figures as JSON, and print tables."""
    machine = document.machine()
    make_private_folder(models.absolute())
    versions = dict(zip(_ENGINES, pretrained_versions(Registry(models.absolute())), strict=True))
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="tagmill-bench-") as name:
        scratch = Path(name)
        originals = [path.read_bytes() for path in sorted(foolbox_photographs().glob(PHOTOGRAPHS))]
        fill(scratch / "photos", originals, load.batches * load.images_per_batch)
        for engine in engines:
            for kind in databases:
                pairs = []
                for number in range(repeats):
                    pairs.append(_measure(scratch, kind, versions[engine], load, number))
                    print(f"bench: {number + 1}/{repeats} {engine} {kind}", file=sys.stderr, flush=True)
                figures.append(
                    {"engine": engine, "database": kind} | asdict(load) | _sum_up(pairs, load.images_per_batch)
                )
    document.save(output, "ledger", {"machine": machine, "figures": figures})
    print("\n\n".join([document.describe(machine), *_tables(figures)]))


def _measure(scratch: Path, kind: str, version: ModelVersion, load: Load, number: int) -> dict[str, list[Step]]:
    """One repeat of both ways, the other one first in every second repeat."""
    ways: list[tuple[str, Callable[[Settings, Path, str, int], None]]] = [("ledger", _with_ledger), ("plain", _without)]
    steps: dict[str, list[Step]] = {}
    for name, way in ways if number % 2 == 0 else reversed(ways):
        home = scratch / "home"
        (home / "steps").mkdir(parents=True)
        with _database(kind) as address:
            settings = Settings(
                home=home,
                database_url=None if address is None else SecretStr(address),
                models_url=version.storage.address,
                images_per_batch=load.images_per_batch,
            )
            way(settings, scratch / "photos", version.name, load.processes)
        steps[name] = _read_steps(home / "steps")
        shutil.rmtree(home)
    return steps


@contextmanager
def _database(kind: str) -> Iterator[str | None]:
    """The address of a new one; None for the file below the home."""
    if kind == "sqlite":
        yield None
        return
    with postgres_server(durable=True) as address:
        yield address


def _with_ledger(settings: Settings, photos: Path, model: str, processes: int) -> None:
    """A worker, and `tagmill run`, which sends to it and waits."""
    make_database(settings)[0].close()
    log_path = settings.home_path / "worker.log"
    with embedded_broker(settings.home_path) as broker, open(log_path, "wb") as log:
        environment = _environment(settings, broker)
        worker = subprocess.Popen(
            worker_command("bench.worker:app", QUEUE, processes, "worker@bench"),
            env=environment | worker_environment("bench"),
            stdout=log,
            stderr=log,
        )
        try:
            run = [sys.executable, "-m", "cli", "run", str(photos), "--model", model, "--json"]
            done = subprocess.run(run, check=False, env=environment, stdout=log, stderr=log)
        finally:
            worker.terminate()
            worker.wait()
    if done.returncode:
        said = log_path.read_text()[-2000:]
        raise SystemExit(f"bench: 'tagmill run' ended with exit code {done.returncode}; mend what it says:\n{said}")


def _without(settings: Settings, photos: Path, model: str, processes: int) -> None:
    """The plain loop, in processes that begin together."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.plain", photos, model, str(share), str(processes)],
            env=_environment(settings, "redis://unused"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for share in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        process.communicate(b"\n")
    if failed := {share: process.returncode for share, process in enumerate(started) if process.returncode}:
        raise SystemExit(f"bench: shares of the plain loop ended with exit codes {failed}; mend what they say above")


def _environment(settings: Settings, broker: str) -> dict[str, str]:
    return other_variables() | process_variables(settings, broker) | {STEPS: str(settings.home_path / "steps")}


def _read_steps(folder: Path) -> list[Step]:
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    return [tuple(json.loads(line)) for line in lines]


def _sum_up(pairs: list[dict[str, list[Step]]], images_per_batch: int) -> dict[str, Any]:
    """The medians of all repeats."""
    found = {way: [_rate(pair[way]) for pair in pairs] for way in ("ledger", "plain")}
    ratios = [ledger / plain for ledger, plain in zip(found["ledger"], found["plain"], strict=True)]
    spent = {way: [_spent(pair[way], images_per_batch) for pair in pairs] for way in found}
    return {
        "ledger_images_per_second": median(found["ledger"]),
        "plain_images_per_second": median(found["plain"]),
        "ratio": median(ratios),
        "ratios": ratios,
        "milliseconds_per_batch": {way: _medians(spent[way], 0) for way in spent},
        "core_milliseconds_per_batch": {way: _medians(spent[way], 1) for way in spent},
    }


def _rate(steps: list[Step]) -> float:
    """Images per second: the sum of what each process did."""
    return sum(images / (ended - began) for began, ended, images in _windows(steps).values())


def _medians(spent: list[dict[str, list[float]]], which: int) -> dict[str, float]:
    return {step: 1000 * median(one[step][which] for one in spent) for step in _STEPS}


def _spent(steps: list[Step], images_per_batch: int) -> dict[str, list[float]]:
    """Seconds of a batch in each step, and those that a core worked; the rest of them is waiting for a message.

    A batch is as many images as a full one has: the last ones of a listing are smaller, and are more.
    """
    windows = _windows(steps)
    batches = sum(images for _, _, images in windows.values()) / images_per_batch
    spent = {step: [0.0, 0.0] for step in _STEPS}
    spent[_WAITING][0] = sum(ended - began for began, ended, _ in windows.values()) / batches
    for process, step, began, ended, worked, _ in steps:
        if process in windows and windows[process][0] <= began < windows[process][1]:
            spent[step][0] += (ended - began) / batches
            spent[step][1] += worked / batches
            if step != "find_twins":  # Which is a part of `classify`.
                spent[_WAITING][0] -= (ended - began) / batches
    return spent


def _windows(steps: list[Step]) -> dict[int, tuple[float, float, int]]:
    """Of each process: the end of its first batch, that of its last, and how many images it had after the first."""
    finished: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for process, step, _, ended, _, images in steps:
        if step == "finish":
            finished[process].append((ended, images))
    return {
        process: (min(ends)[0], max(ends)[0], sum(images for _, images in sorted(ends)[1:]))
        for process, ends in finished.items()
        if len(ends) > 1
    }


def _tables(figures: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield document.table(
        ["engine", "database", "with ledger, img/s", "without", "costs"],
        [
            [
                row["engine"],
                row["database"],
                f"{row['ledger_images_per_second']:.1f}",
                f"{row['plain_images_per_second']:.1f}",
                f"{100 * (1 - row['ratio']):.1f} %",
            ]
            for row in figures
        ],
    )
    for name, what in (
        ("milliseconds_per_batch", "Milliseconds of a batch"),
        ("core_milliseconds_per_batch", "Of a core"),
    ):
        yield f"{what}; find_twins is a part of classify:"
        yield document.table(
            ["engine", "database", "way", *_STEPS],
            [
                [row["engine"], row["database"], way, *(f"{spent[step]:.1f}" for step in _STEPS)]
                for row in figures
                for way, spent in row[name].items()
            ],
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what the ledger costs.")
    parser.add_argument("--batches", type=whole_number(1), default=_BATCHES)
    parser.add_argument("--images-per-batch", type=whole_number(1), default=Settings().images_per_batch)
    parser.add_argument("--repeats", type=whole_number(1), default=_REPEATS)
    parser.add_argument("--engines", nargs="+", choices=_ENGINES, default=_ENGINES)
    parser.add_argument("--databases", nargs="+", choices=_DATABASES, default=_DATABASES)
    parser.add_argument("--processes", type=whole_number(1), default=cores())
    parser.add_argument("--models", type=Path, default=MODELS, help="a registry; made where it is not there")
    parser.add_argument("--output", type=Path, default=document.RESULTS)
    wanted = parser.parse_args()
    if wanted.batches < 2 * wanted.processes:  # The first batch of each process does not count.
        parser.error(f"--batches {wanted.batches} is too few for --processes {wanted.processes}: each needs two")
    load = Load(wanted.batches, wanted.images_per_batch, wanted.processes)
    main(load, wanted.models, wanted.repeats, wanted.engines, wanted.databases, wanted.output)
