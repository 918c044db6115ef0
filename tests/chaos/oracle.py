"""What the database has to hold at the end: plain SQL, and none of our queries, compared with the files."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from typing import Any

from tests.chaos.catalogue import COLOURS, Change
from tests.chaos.system import System

# What an image may fail with that is fine: each time it was tried, its worker was killed or kept from going on.
_LOST = ("worker_lost", "timeout")
_SHOWN = 10

Rounds = Iterable[tuple[int, Change]]

_RUNS = """
SELECT id, status, listed, skipped, new, changed, gone, passed_over, finished_at IS NOT NULL AND listed_at IS NOT NULL
FROM runs ORDER BY id
"""
_ITEMS = """
SELECT items.run_id, images.uri, items.image_id, items.fingerprint, items.status, items.reused, items.reason
FROM items JOIN images ON images.id = items.image_id ORDER BY items.run_id
"""
_BATCHES = """
SELECT run_id, sum(size), sum(classified), sum(reused), sum(failed), sum(cancelled),
       sum(CASE WHEN status = 'done' THEN 0 ELSE 1 END)
FROM batches GROUP BY run_id
"""
_PREDICTIONS = """
SELECT image_id, fingerprint, rank, label, content_hash FROM predictions ORDER BY image_id, fingerprint, rank
"""
_DOUBLED = """
SELECT count(*) FROM (
    SELECT 1 FROM predictions GROUP BY image_id, model_version_id, fingerprint, rank HAVING count(*) > 1
) AS doubled
"""
_CURRENT = "SELECT image_uri, label FROM current_labels"


class Oracle:
    """What a database holds."""

    def __init__(self, system: System) -> None:
        self.runs, items, batches, predictions, [[self._doubled]], self._current = system.ask(
            _RUNS, _ITEMS, _BATCHES, _PREDICTIONS, _DOUBLED, _CURRENT
        )
        self._items = {run_id: list(rows) for run_id, rows in groupby(items, lambda row: row[0])}
        self._batches = {row[0]: row[1:] for row in batches}
        self._answers = {
            key: [(row[2], row[3], None if row[4] is None else bytes(row[4])) for row in rows]
            for key, rows in groupby(predictions, lambda row: (row[0], row[1]))
        }

    @property
    def failed(self) -> int:
        """Images that failed because their workers were lost, over all runs."""
        return sum(row[4] == "failed" for rows in self._items.values() for row in rows)

    @property
    def classified(self) -> int:
        """Images that were classified, over all runs."""
        return sum(row[4] == "classified" for rows in self._items.values() for row in rows)

    def complaints(self, rounds: Rounds) -> Iterator[str]:
        """What is not as it should be, one line each.

        Args:
            rounds: what the source held, and the number of the last run over it.
        """
        if self._doubled:
            yield f"{self._doubled} predictions are there twice"
        first, failed = 0, frozenset[str]()
        change: Change | None = None
        for last, change in rounds:
            # A command that is killed between the end of its run and its own begins another one, which finds nothing.
            due = change.new | change.changed | (failed & change.images.keys())
            # Numbers are left out where a server crashed.
            for number, run in enumerate(run for run in self.runs if first <= run[0] <= last):
                yield from _limited(f"run {run[0]}", self._run_complaints(run, change, due, is_first=number == 0))
                failed = frozenset(row[1] for row in self._items.get(run[0], []) if row[4] == "failed")
                due = failed
            first = last + 1
        if change is not None:
            yield from _limited("current_labels", self._current_complaints(change, failed))
        yield from (f"run {run[0]} is there, and no command told of it" for run in self.runs if run[0] >= first)

    def _run_complaints(
        self, run: tuple[Any, ...], change: Change, due: frozenset[str], *, is_first: bool
    ) -> Iterator[str]:
        run_id, status, listed, skipped, *counts, passed_over, is_finished = run
        items = self._items.get(run_id, [])
        uris = Counter(row[1] for row in items)
        if status != "completed" or not is_finished:
            yield f"it is {status}"
        if (listed, skipped, passed_over) != (len(change.images), len(change.images) - len(due), 0):
            yield f"{listed} listed, {skipped} skipped, of {len(change.images)} images with {len(due)} to look at"
        yield from (f"{uri} is lost" for uri in due - uris.keys())
        yield from (f"{uri} was not to be looked at" for uri in uris.keys() - due)
        yield from (f"{uri} has {number} ends" for uri, number in uris.items() if number != 1)
        wanted = [len(change.new), len(change.changed), len(change.gone)] if is_first else None
        if wanted is not None and counts != wanted:
            yield f"new, changed and gone are {counts}, and not {wanted}"
        ends = Counter(row[4] for row in items)
        of_batches = (len(items), ends["classified"], sum(bool(row[5]) for row in items), ends["failed"], 0, 0)
        if self._batches.get(run_id, (0,) * 6) != of_batches:
            yield f"its batches count {self._batches.get(run_id)}, and its images {of_batches}"
        for _, uri, image_id, fingerprint, end, _, reason in items:
            if end == "classified":
                yield from self._answer_complaints(uri, image_id, fingerprint, change)
            elif end != "failed" or reason not in _LOST:
                yield f"{uri} is {end}, {reason}"

    def _answer_complaints(self, uri: str, image_id: int, fingerprint: str, change: Change) -> Iterator[str]:
        answer = self._answers.get((image_id, fingerprint), [])
        if [rank for rank, _, _ in answer] != [1, 2, 3] or {label for _, label, _ in answer} != set(COLOURS):
            yield f"{uri} has the answer {answer}"
        elif (answer[0][1], answer[0][2]) != change.images[uri]:
            yield f"{uri} is {answer[0][1]} or of other bytes, and should be {change.images[uri].colour}"

    def _current_complaints(self, change: Change, failed: frozenset[str]) -> Iterator[str]:
        shown = sorted(self._current)
        yield from (f"{uri} is there twice" for (uri, _), (other, _) in pairwise(shown) if uri == other)
        labels: dict[str, str] = dict(shown)
        yield from (f"{uri} is gone and shown" for uri in labels.keys() - change.images.keys())
        for uri, image in change.images.items():
            if uri not in failed and labels.get(uri) != image.colour:
                yield f"{uri} is shown as {labels.get(uri)}, and is {image.colour}"


def _limited(what: str, lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number == _SHOWN:
            yield f"{what}: and more"
            return
        yield f"{what}: {line}"
