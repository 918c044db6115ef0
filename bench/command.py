"""`tagmill run` as somebody types it, in a home of its own, with all that can be told of it from outside."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.watched import Watched, watch

CHECKOUT = Path(__file__).absolute().parents[1]
_TAGMILL = [sys.executable, "-m", "cli"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A line of the workers' log; times are seconds since 1970."""

    taken_at: float
    saved_at: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was seen of one `tagmill run`."""

    watched: Watched
    images: int  #: classified by it
    batches: list[Batch]  #: in the order in which they were saved

    @property
    def before_first_batch_seconds(self) -> float:
        """From the start of the command until a worker took the first batch."""
        return self._first_taken_at - self.watched.began_at

    @property
    def images_per_second(self) -> float:
        """From the first batch taken to the last row committed."""
        return self.images / (self.batches[-1].saved_at - self._first_taken_at)

    @property
    def _first_taken_at(self) -> float:
        return min(batch.taken_at for batch in self.batches)

    def saved_at(self, images: int) -> float:
        """When so many images had been classified."""
        done = 0
        for batch in self.batches:
            done += batch.images
            if done >= images:
                return batch.saved_at
        raise SystemExit(f"bench: only {done} of {images} images were classified")


def tagmill_run(
    source: Path,
    home: Path,
    *,
    models: Path,
    model: str,
    database_url: str | None = None,
    processes: int,
) -> Run:
    """Run it.

    Args:
        source: a folder.
        home: it is made where it is not there, and then the run is the first.
        models: the registry.
        database_url: None for SQLite in the home.

    Raises:
        SystemExit: it failed, or an image did.
    """
    home.mkdir(exist_ok=True)
    log = home / "worker.log"
    read = log.stat().st_size if log.exists() else 0
    variables = _variables(database_url, home=home, models_url=models, json_logs="true")
    if database_url is not None:  # On SQLite the command itself does it.
        subprocess.run([*_TAGMILL, "db", "upgrade"], check=True, cwd=CHECKOUT, env=variables, capture_output=True)
    command = [*_TAGMILL, "run", str(source), "--model", model, "--workers", str(processes), "--json"]
    watched = watch(command, folder=CHECKOUT, scratch=home, variables=variables)
    told = json.loads(watched.output)
    if told["failed"]:
        raise SystemExit(f"bench: {told['failed']} images of {source} failed")
    batches = sorted(_batches(log, read), key=lambda batch: batch.saved_at) if log.exists() else []
    return Run(watched=watched, images=told["classified"], batches=batches)


def other_variables() -> dict[str, str]:
    """The environment without settings of ours or of Python: whoever measures has others than what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TAGMILL_", "PYTHON"))}


def _variables(database_url: str | None, **settings: object) -> dict[str, str]:
    """An environment with these settings and no others."""
    given = settings | {"config": os.devnull} | ({"database_url": database_url} if database_url else {})
    return other_variables() | {f"TAGMILL_{name.upper()}": str(value) for name, value in given.items()}


def _batches(log: Path, skipped_bytes: int) -> Iterator[Batch]:
    with log.open() as lines:
        lines.seek(skipped_bytes)
        for line in lines:
            facts = json.loads(line) if line.startswith("{") else {}
            if facts.get("event") == "batch_classified":
                saved_at = datetime.fromisoformat(facts["timestamp"]).timestamp()
                images = facts["images"]
                yield Batch(taken_at=saved_at - facts["elapsed_seconds"], saved_at=saved_at, images=images)
