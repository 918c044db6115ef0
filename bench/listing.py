"""How the producer copes with very many images: `make bench-listing`.

A store that makes up its keys is listed into SQLite, with a broker and without workers, while another process reads the
database and the length of the queue. Then the same catalogue is listed again, with rows as if all of it had been
answered. The same for local folders. Each figure is of a fresh process.

    python -m bench.listing [KEYS …] [--output FILE]
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import redis

from broker.app import QUEUE
from broker.embedded import embedded_broker
from tests.arguments import whole_number

_SIZES = (10_000, 100_000, 1_000_000)
_FILES = 100_000
_RESULTS = Path(__file__).parent / "results" / "listing.json"
_LOOK_SECONDS = 0.02

# What the workers would have left, had they classified everything that was listed.
_ANSWERED = """
UPDATE images SET fingerprint = (SELECT fingerprint FROM items WHERE items.run_id = 1 AND items.image_id = images.id);
INSERT INTO predictions (image_id, model_version_id, fingerprint, rank, label, confidence, content_hash, run_id,
                         classified_at)
WITH ranks(rank) AS (VALUES (1), (2), (3), (4), (5))
SELECT image_id, 1, fingerprint, rank, 'label ' || (image_id % 1000 + rank), 0.5 / rank,
       CASE WHEN rank = 1 THEN randomblob(32) END, run_id, 0
FROM items CROSS JOIN ranks ORDER BY image_id, rank;
UPDATE items SET status = 'classified', finished_at = 0;
UPDATE batches SET status = 'done', classified = size;
UPDATE runs SET status = 'completed', finished_at = 0;
"""
_COUNTED = ("images", "items", "batches", "predictions")
# Each is what somebody would ask meanwhile.
_QUESTIONS = (
    "SELECT * FROM run_summary ORDER BY run_id DESC LIMIT 1",
    "SELECT * FROM current_labels LIMIT 20",
)


def main(sizes: list[int], output: Path) -> None:
    """Measure, print a table, and write the figures as JSON."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="tagmill-bench-") as scratch:
        with _store() as url:
            for size in sizes:
                rows += _measure(Path(scratch) / f"home-{size}", f"s3://keys-{size}/photos", size, url)
        for name, folders in (("one folder", 1), ("1,000 folders", 1000)):
            files = min(_FILES, max(sizes))
            folder = _make_files(Path(scratch) / "files", files, folders)
            rows += _measure(Path(scratch) / "home", str(folder), files, None, name)
            shutil.rmtree(folder)
    _print(rows)
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(rows, indent=2) + "\n")


def _measure(home: Path, source: str, images: int, store: str | None, name: str = "bucket") -> list[dict[str, Any]]:
    """All new, and then nothing new."""
    home.mkdir()
    what = {"source": name, "images": images}
    try:
        with embedded_broker(home) as broker:
            new = what | {"catalogue": "new"} | _list(home, source, broker, store)
            print(json.dumps(new), file=sys.stderr, flush=True)
            with closing(sqlite3.connect(home / "tagmill.db")) as connection:
                connection.executescript(_ANSWERED)
            unchanged = what | {"catalogue": "unchanged"} | _list(home, source, broker, store)
            print(json.dumps(unchanged), file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(home)
    return [new, unchanged]


def _list(home: Path, source: str, broker: str, store: str | None) -> dict[str, Any]:
    """List a source in a process of its own, and look on."""
    ours = {"TAGMILL_CONFIG": os.devnull, "TAGMILL_HOME": str(home), "TAGMILL_BROKER_URL": broker}
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1"}
    if store is not None:
        ours["TAGMILL_BUCKET_ENDPOINT"] = store
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TAGMILL_", "AWS_"))}
    before, bodies = _rows(home / "tagmill.db", *_COUNTED), _bodies(store)
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.measured", source], env=kept | keys | ours, stdout=subprocess.PIPE, text=True
    )
    seen = _look_on(process, home / "tagmill.db", broker)
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"listing {source} ended with {process.returncode}")
    rows = _rows(home / "tagmill.db", *_COUNTED) - before
    told: dict[str, Any] = json.loads(out)
    return told | seen | {"rows_written": rows, "bodies": _bodies(store) - bodies}


def _look_on(process: "subprocess.Popen[str]", database: Path, broker: str) -> dict[str, Any]:
    """What another process sees of it: when the first row comes, how long an answer takes, how long the queue gets."""
    began = time.monotonic()
    before = _rows(database, "items")
    first_row: float | None = None
    longest_queue, longest_wait = 0, 0.0
    with redis.Redis.from_url(broker) as client:
        while process.poll() is None:
            longest_queue = max(longest_queue, int(client.llen(QUEUE)))
            asked = time.monotonic()
            if first_row is None and _rows(database, "items") > before:
                first_row = asked - began
            if _ask(database):
                longest_wait = max(longest_wait, time.monotonic() - asked)
            time.sleep(_LOOK_SECONDS)
    return {"first_row_seconds": first_row, "longest_queue": longest_queue, "longest_wait_seconds": longest_wait}


def _ask(database: Path) -> bool:
    """Whether there was an answer; there is none before the tables are made."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            for question in _QUESTIONS:
                connection.execute(question).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "unable to open" in str(error):
            return False
        raise
    return True


def _rows(database: Path, *tables: str) -> int:
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)  # noqa: S608
    except sqlite3.OperationalError:
        return 0


def _bodies(store: str | None) -> int:
    if store is None:
        return 0
    with urlopen(f"{store}/bodies") as answer:  # noqa: S310 (our own server)
        return int(answer.read())


@contextmanager
def _store() -> Iterator[str]:
    server = subprocess.Popen([sys.executable, "-m", "bench.store"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()


def _make_files(folder: Path, files: int, folders: int) -> Path:
    for number in range(folders):
        (folder / f"{number:04}").mkdir(parents=True)
    for number in range(files):
        (folder / f"{number % folders:04}" / f"{number:06}.jpg").write_bytes(b"x")
    return folder


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("source", "images", "catalogue", "s", "CPU s", "s/million", "peak MB", "first row, s", "longest queue")
    print("| " + " | ".join([*columns, "reader waits, s"]) + " |")
    print("| --- " * (len(columns) + 1) + "|")
    for row in rows:
        first = "" if row["first_row_seconds"] is None else f"{row['first_row_seconds']:.1f}"
        print(
            f"| {row['source']} | {row['images']:,} | {row['catalogue']} | {row['seconds']:.1f} | "
            f"{row['cpu_seconds']:.1f} | {row['seconds'] / row['images'] * 1e6:.0f} | {row['peak_bytes'] / 1e6:.0f} | "
            f"{first} | {row['longest_queue']} | {row['longest_wait_seconds']:.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure listings.")
    parser.add_argument("keys", nargs="*", type=whole_number(1), default=_SIZES)
    parser.add_argument("--output", type=Path, default=_RESULTS)
    wanted = parser.parse_args()
    main(list(wanted.keys), wanted.output)
