"""What is killed in the middle of it: each scenario goes on, with new processes, until it has come to its end."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from base.errors import FailureReason
from broker.app import QUEUE, RUNS_QUEUE
from results import ledger
from results.guard import Guard
from results.queries import verify_run
from results.schedules import Slot, skip_slot
from tests.crashes import mill as parts
from tests.crashes.mill import LONG_SECONDS, Mill
from tests.samples import make_jpeg
from worker.identity import worker_id

#: Name of a file → the end that its image has to come to: a label, or why it has none.
RUN = {"0.jpg": "red", "1.jpg": "green", "2.jpg": "blue", "3.jpg": "green", "4.jpg": "red"}
CANCELLED = RUN | {"2.jpg": "cancelled", "3.jpg": "cancelled", "4.jpg": "cancelled"}
STAGED = {"0.jpg": "blue", "1.jpg": "red", "2.jpg": "green"}
LOST = RUN | {"4.jpg": "worker_lost"}

_DEAD = 2**22  # No process has that number: Linux gives lower ones.
_COLOURS = {"red": "red", "green": "lime", "blue": "blue", "cancelled": "black", "worker_lost": "white"}
_LABELS = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Steps that come in the same order each time."""

    play: Callable[[Mill, Path], None]  #: with a folder of images
    ends: Mapping[str, str]
    claims: int = 2  #: of a batch at most: its own, and one more where somebody was killed
    slots: tuple[str, ...] = ()  #: their status, in the end


def run(mill: Mill, source: Path) -> None:
    """`tagmill run`, and a worker."""

    def meanwhile() -> None:
        mill.work()
        mill.clock.pass_by(LONG_SECONDS)

    while not mill.do("producer", partial(parts.run_command, source), meanwhile):
        mill.clock.pass_by(LONG_SECONDS)


def work(mill: Mill, source: Path) -> None:
    """A worker and its reconciler, once the source is listed."""
    parts.record_run(mill.database, source)
    _work_it_off(mill)


def staged(mill: Mill, source: Path) -> None:
    """The same, with answers that are published together."""
    parts.record_run(mill.database, source, Guard())
    _work_it_off(mill)


def lost(mill: Mill, source: Path) -> None:
    """A batch that lost two workers and is split, one whose worker has just died, and an image that is given up."""
    parts.record_run(mill.database, source)
    for _ in range(2):
        for batch_id in (1, 3):
            ledger.claim(mill.database, batch_id, owner="another/1", lease_seconds=45)
        ledger.give_back_lost(mill.database, "another/1", FailureReason.WORKER_LOST)
    ledger.claim(mill.database, 2, owner=f"{worker_id()}/{_DEAD}", lease_seconds=45)
    mill.dead = [_DEAD]
    _work_it_off(mill, slowly=True)


def schedule(mill: Mill, source: Path) -> None:
    """A slot of a schedule, from its time to its end."""
    first = Slot(schedule="nightly", due_at=int(mill.clock.seconds) - 100)
    skip_slot(mill.database, first, "before this schedule was first seen")
    mill.clock.pass_by(120)  # The next is due.
    while not mill.do("producer", parts.produce) or not mill.rows("SELECT 1 FROM slots WHERE status = 'done'"):
        mill.reconcile()
        mill.work()
        mill.clock.pass_by(LONG_SECONDS)


def cancel(mill: Mill, source: Path) -> None:
    """`tagmill cancel` of a run with a batch that is done, one that a worker holds, and one that waits."""
    parts.record_run(mill.database, source)
    parts.work_on(mill.database, 1)
    ledger.claim(mill.database, 2, owner="another/1", lease_seconds=45)
    while _is_open(mill):
        mill.do("producer", partial(parts.cancel_command, 1))
        mill.reconcile()


def fault(mill: Mill, source: Path) -> None:
    """A worker whose registry does not have the model; then it is mended, and the command is given again."""
    parts.record_run(mill.database, source)
    with parts.model_missing():
        mill.reconcile()
        mill.work()
    mill.clock.pass_by(LONG_SECONDS)
    run(mill, source)


def drain(mill: Mill) -> None:
    """Deliver the messages that are left; all images have their end by now."""
    mill.work()
    if mill.waiting(RUNS_QUEUE):
        mill.do("producer", parts.produce)


def _work_it_off(mill: Mill, *, slowly: bool = False) -> None:
    while _is_open(mill):
        mill.reconcile()
        if mill.waiting(QUEUE):
            mill.work(slowly=slowly)
        else:
            mill.clock.pass_by(LONG_SECONDS)


def _is_open(mill: Mill) -> bool:
    return bool(mill.rows("SELECT 1 FROM runs WHERE finished_at IS NULL OR (staged AND published_at IS NULL)"))


SCENARIOS = {
    "run": Scenario(play=run, ends=RUN),
    "work": Scenario(play=work, ends=RUN),
    "staged": Scenario(play=staged, ends=STAGED),
    "schedule": Scenario(play=schedule, ends=STAGED, slots=("skipped", "done")),
    "cancel": Scenario(play=cancel, ends=CANCELLED),
    "fault": Scenario(play=fault, ends=RUN),
    "lost": Scenario(play=lost, ends=LOST, claims=3),
}


def make_images(folder: Path, ends: Mapping[str, str]) -> None:
    """An image of one colour for each end; those of the same colour are twins."""
    folder.mkdir()
    for name, end in ends.items():
        (folder / name).write_bytes(make_jpeg(colour=_COLOURS[end]))


def complaints(mill: Mill, scenario: Scenario) -> Iterator[str]:
    """What is not as it has to be in the end, seen by `verify` and in plain SQL that has nothing of its code."""
    for (run_id,) in mill.rows("SELECT id FROM runs ORDER BY id"):
        gaps = verify_run(mill.database, run_id).gaps
        yield from (f"verify: run {run_id}: {gap.what} {gap.image_uri}" for gap in gaps)
    yield from _wrong_ends(mill, scenario)
    yield from _wrong_answers(mill, scenario)
    yield from _wrong_batches(mill, scenario)
    if _is_open(mill):
        yield "a run has not ended"
    slots = tuple(status for (status,) in mill.rows("SELECT status FROM slots ORDER BY due_at"))
    if slots != scenario.slots:
        yield f"the slots are {slots}, and not {scenario.slots}"
    for queue in (QUEUE, RUNS_QUEUE):
        if waiting := mill.waiting(queue):
            yield f"{waiting} messages are left in {queue}"
    for event in ("reconciler_failed", "slot_broke", "raised unexpected"):
        if event in mill.log():
            yield f"{event}: {mill.log()[-1500:]}"


def _wrong_ends(mill: Mill, scenario: Scenario) -> Iterator[str]:
    """One end for each image, over all runs."""
    found: dict[str, list[str]] = {}
    for uri, status, reason in mill.rows(
        "SELECT uri, items.status, reason FROM images LEFT JOIN items ON items.image_id = images.id"
    ):
        found.setdefault(uri.rpartition("/")[2], []).append(reason or status)
    wanted = {name: ["classified" if end in _LABELS else end] for name, end in scenario.ends.items()}
    if found != wanted:
        yield f"the ends are {found}, and not {wanted}"


def _wrong_answers(mill: Mill, scenario: Scenario) -> Iterator[str]:
    """Its own label for each image, and each of its predictions once."""
    labelled = {name: end for name, end in scenario.ends.items() if end in _LABELS}
    shown = sorted(
        (uri.rpartition("/")[2], label) for uri, label in mill.rows("SELECT image_uri, label FROM current_labels")
    )
    if shown != sorted(labelled.items()):
        yield f"current_labels shows {shown}, and not {labelled}"
    ranks = sorted(
        (uri.rpartition("/")[2], rank)
        for uri, rank in mill.rows("SELECT uri, rank FROM predictions JOIN images ON images.id = image_id")
    )
    if ranks != sorted((name, rank) for name in labelled for rank in (1, 2, 3)):
        yield f"the predictions are {ranks}"
    if staged := mill.rows("SELECT * FROM staged_predictions"):
        yield f"answers are still kept apart: {staged}"


def _wrong_batches(mill: Mill, scenario: Scenario) -> Iterator[str]:
    """Done, held by nobody, claimed no more often than somebody was killed, and counting what there is."""
    for row in mill.rows(
        "SELECT id, status, owner, lease_until, attempts FROM batches "
        f"WHERE status <> 'done' OR owner IS NOT NULL OR lease_until IS NOT NULL OR attempts > {scenario.claims} "
        "OR attempts < 0 OR fence < attempts"
    ):
        yield f"batch {row}"
    if scenario.claims == 2 and (split := mill.rows("SELECT id FROM batches WHERE size = 0")):
        yield f"batches were split without a reason: {split}"
    if wrong := mill.rows(
        "SELECT batches.id, size, (SELECT count(*) FROM items WHERE batch_id = batches.id) FROM batches "
        "WHERE size <> (SELECT count(*) FROM items WHERE batch_id = batches.id) "
        "OR (size > 0 AND size <> classified + failed + cancelled)"
    ):
        yield f"batches that do not count their images: {wrong}"
