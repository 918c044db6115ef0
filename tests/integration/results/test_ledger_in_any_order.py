"""The ledger's own SQL in any order of steps and faults, with a clock and a broker that the test moves.

`tests/unit/results/test_protocol.py` searches a model of the protocol in full; here hypothesis drives the real one.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from base.errors import FailureReason
from results import ledger
from results.ledger import Answer, Claim, Failure, LeaseLost
from results.listing import Chunk, ListedImage, ListingTaken, end_listing, find_listing, record_chunk
from results.queries import find_runs, verify_run
from results.runs import RunRequest, cancel_run, close_runs, open_run
from results.session import Database
from results.tables import ItemStatus, RunStatus, images, items, predictions
from tests.clock import Clock

_LEASE = 45.0
_RESEND = 30.0
_ROOM = 3
_WORKERS = 3
_ROUNDS = 200  # Far more than it takes to end what three claims each could not.
_PICK = st.integers(0, 99)  # Which of those that there are.

_numbers = itertools.count()


@dataclass
class Process:
    """A worker process; one that dies is followed by another of the same worker."""

    worker: int
    number: int = field(default_factory=lambda: next(_numbers))
    held: Claim | None = None
    held_until: float = 0.0  #: when its lease runs out
    is_lost: bool = False  #: somebody else has what it held

    @property
    def owner(self) -> str:
        return f"w{self.worker}/{self.number}"


class Ledger(RuleBasedStateMachine):
    """One run, from its listing to the end of each of its images."""

    db: Database
    clock: Clock
    may_cancel: bool

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[int] = []
        self.processes = [Process(worker) for worker in range(_WORKERS)]
        self.ends: dict[int, tuple[str, str | None]] = {}  # Of each image that was saved: status, and label.
        self.losses: Counter[int] = Counter()  # Of each image: how often what held it died, or lost its lease.
        self.lost_claims: Counter[int] = Counter()  # The same of each batch.
        self.is_listed = self.cancelled = False

    @initialize(sizes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3))
    def begin(self, sizes: list[list[int]]) -> None:
        """A listing of some chunks, each of some batches of so many images."""
        source = f"file:///photos{next(_numbers)}"
        request = RunRequest(source=source, model="m", model_version=1, content_hash="a" * 64)
        self.run_id = open_run(self.db, request, holder="test/1").run_id
        names = (f"{source}/{number:04}.jpg" for number in itertools.count())
        self.chunks: list[Chunk] = []
        for batch_sizes in sizes:
            batches = [[ListedImage(uri=next(names), fingerprint="10-1") for _ in range(size)] for size in batch_sizes]
            self.chunks.append(Chunk(cursor=batches[-1][-1].uri, batches=batches, skipped=0))
        self.list_on(behind=False)
        self.dispatch(_ROOM, seconds=0.0)

    # Without this condition and the next most of the steps would do nothing.
    @precondition(lambda self: not self.is_listed)
    @rule(behind=st.booleans())
    def list_on(self, behind: bool) -> None:
        """A producer records the next chunk; one that is behind, a chunk that is recorded, and nothing happens."""
        cursor, _ = find_listing(self.db, self.run_id)
        cursors = [None, *(chunk.cursor for chunk in self.chunks)]
        place = cursors.index(cursor) - (1 if behind else 0)
        if place < 0:
            return
        try:
            if place < len(self.chunks):
                record_chunk(self.db, self.run_id, cursor=cursors[place], chunk=self.chunks[place])
            else:
                end_listing(self.db, self.run_id, cursor=cursor)
                self.is_listed = True
        except ListingTaken:
            assert behind or self.cancelled

    @precondition(lambda self: len(self.queue) < _ROOM)
    @rule(arrive=st.integers(0, _ROOM), seconds=st.sampled_from([0.0, 6.0, 31.0, 46.0]))
    def dispatch(self, arrive: int, seconds: float) -> None:
        """Later, send what is due; the sender may die before all of it has arrived."""
        self.clock.pass_by(seconds)
        close_runs(self.db)
        room = max(_ROOM - len(self.queue), 0)
        due = ledger.take_due(self.db, room=room, queued=len(self.queue), resend_seconds=_RESEND) if room else []
        assert len(due) <= room
        self.queue += [batch_id for _, batch_id in due][:arrive]

    @precondition(lambda self: self.queue)
    @rule(which=_PICK)
    def lose_message(self, which: int) -> None:
        self.queue.pop(which % len(self.queue))

    @precondition(lambda self: self.queue)
    @rule(which=_PICK)
    def repeat_message(self, which: int) -> None:
        self.queue.append(self.queue[which % len(self.queue)])

    @precondition(lambda self: self.queue and self.idle())
    @rule(which=_PICK, whose=_PICK)
    def claim(self, which: int, whose: int) -> None:
        process = self.idle()[whose % len(self.idle())]
        batch_id = self.queue.pop(which % len(self.queue))
        process.held = ledger.claim(self.db, batch_id, owner=process.owner, lease_seconds=_LEASE)
        process.held_until = self.clock.seconds + _LEASE
        process.is_lost = False
        self.note_taken_over(batch_id, process)
        assert process.held is None or self.lost_claims[batch_id] < ledger.CLAIMS_LEFT_UNANSWERED
        self.note_given_up()

    @precondition(lambda self: self.busy())
    @rule(whose=_PICK)
    def extend(self, whose: int) -> None:
        with self.work_of(whose) as (process, held):
            ledger.extend(self.db, held, lease_seconds=_LEASE)
            process.held_until = self.clock.seconds + _LEASE

    @precondition(lambda self: self.busy())
    @rule(whose=_PICK, failing=st.sets(st.integers(0, 3)), twice=st.booleans())
    def finish(self, whose: int, failing: set[int], twice: bool) -> None:
        """Save the ends of a batch, of which some are failures; again, where the answer of the commit was lost."""
        with self.work_of(whose) as (process, held):
            answers, failures = ends_of(held, failing)
            ledger.finish(self.db, held, answers, failures)
            for answer in answers:
                self.note_end(answer.image_id, ItemStatus.CLASSIFIED, answer.labels[0][0])
            for failure in failures:
                self.note_end(failure.image_id, ItemStatus.FAILED, None)
            if twice:
                ledger.finish(self.db, held, answers, failures)
            process.held = None

    @precondition(lambda self: self.busy())
    @rule(whose=_PICK)
    def give_back(self, whose: int) -> None:
        """The database or the registry was away."""
        with self.work_of(whose) as (process, held):
            ledger.give_back(self.db, held, delay_seconds=5.0)
            process.held = None

    @precondition(lambda self: self.busy())
    @rule(whose=_PICK, parent_lives=st.booleans())
    def die(self, whose: int, parent_lives: bool) -> None:
        process = self.busy()[whose % len(self.busy())]
        self.note_loss(process)
        self.processes[process.worker] = Process(process.worker)
        if parent_lives:
            ledger.give_back_lost(self.db, process.owner, FailureReason.WORKER_LOST)

    @precondition(lambda self: self.busy())
    @rule(whose=_PICK, then=st.sampled_from(["extend", "finish", "give_back"]), others_finish=st.booleans())
    def wake_up_late(self, whose: int, then: str, others_finish: bool) -> None:
        """A worker stalls until others have taken what it held, and then goes on as if nothing had happened."""
        process = self.busy()[whose % len(self.busy())]
        self.dispatch(_ROOM, seconds=_LEASE + 1)
        while self.queue and self.idle():
            self.claim(0, 0)
        while others_finish and len(self.busy()) > 1:
            self.finish(1 if self.busy()[0] is process else 0, failing=set(), twice=False)
        place = self.busy().index(process)
        if then == "finish":
            self.finish(place, failing=set(), twice=False)
        elif then == "extend":
            self.extend(place)
        else:
            self.give_back(place)

    @precondition(lambda self: self.may_cancel and self.ends and not self.cancelled)
    @rule()
    def cancel(self) -> None:
        self.cancelled = self.is_listed = cancel_run(self.db, self.run_id)

    @invariant()
    def ends_stay_as_they_were_saved(self) -> None:
        if not hasattr(self, "run_id"):
            return
        found = {row.image_id: (row.status, row.label) for row in rows_of(self.db, self.run_id)}
        assert {image_id: found[image_id] for image_id in self.ends} == self.ends
        others = {status for image_id, (status, _) in found.items() if image_id not in self.ends}
        assert others <= {ItemStatus.PENDING, ItemStatus.CANCELLED}

    def teardown(self) -> None:
        """Without a further fault the run comes to its end, and everything is proved."""
        if not hasattr(self, "run_id"):
            return
        while not self.is_listed:
            self.list_on(behind=False)
        rounds = itertools.count()
        while find_runs(self.db, self.run_id)[0].finished_at is None:
            assert next(rounds) < _ROUNDS, "the run does not end"
            self.dispatch(_ROOM, seconds=_LEASE + 1)
            while self.busy():
                self.finish(0, failing=set(), twice=False)
            if self.queue:
                self.claim(0, 0)
        (run,) = find_runs(self.db, self.run_id)
        assert run.status is (RunStatus.CANCELLED if self.cancelled else RunStatus.COMPLETED)
        assert verify_run(self.db, self.run_id).gaps == ()
        self.ends_stay_as_they_were_saved()
        listed = sum(len(batch) for chunk in self.chunks for batch in chunk.batches)
        assert self.cancelled or (run.listed == listed == len(self.ends))
        self.queue.clear()

    def idle(self) -> list[Process]:
        return [process for process in self.processes if process.held is None]

    def busy(self) -> list[Process]:
        return [process for process in self.processes if process.held is not None]

    @contextmanager
    def work_of(self, whose: int) -> Iterator[tuple[Process, Claim]]:
        """What a process holds; one that has lost its lease drops it, which it cannot while it renews that in time."""
        process = self.busy()[whose % len(self.busy())]
        assert process.held is not None
        try:
            yield process, process.held
        except LeaseLost:
            assert self.cancelled or self.clock.seconds > process.held_until
            process.held = None

    def note_end(self, image_id: int, status: ItemStatus, label: str | None) -> None:
        assert image_id not in self.ends
        self.ends[image_id] = (status, label)

    def note_taken_over(self, batch_id: int, process: Process) -> None:
        """A claim takes nothing from a process whose lease has not run out."""
        for other in self.busy():
            if other is not process and other.held and other.held.batch_id == batch_id:
                has_run_out = self.clock.seconds > other.held_until
                assert process.held is None or has_run_out
                if has_run_out:
                    self.note_loss(other)

    def note_loss(self, process: Process) -> None:
        if process.held is not None and not process.is_lost:
            process.is_lost = True
            self.lost_claims[process.held.batch_id] += 1
            self.losses.update(image.image_id for image in process.held.images)

    def note_given_up(self) -> None:
        """A claim may have ended an image that was alone in its batch, and whose workers were lost."""
        for row in rows_of(self.db, self.run_id):
            if row.status == ItemStatus.FAILED and row.reason == FailureReason.WORKER_LOST:
                self.ends.setdefault(row.image_id, (ItemStatus.FAILED, None))
                assert self.losses[row.image_id] >= ledger.CLAIMS_LEFT_UNANSWERED


def ends_of(held: Claim, failing: set[int]) -> tuple[list[Answer], list[Failure]]:
    """A label for each image that names it, and so tells when it got that of a neighbour."""
    answers: list[Answer] = []
    failures: list[Failure] = []
    for place, image in enumerate(held.images):
        if place in failing:
            reason = FailureReason.UNREADABLE
            failures.append(
                Failure(image_id=image.image_id, fingerprint=image.fingerprint, reason=reason, message="broken")
            )
        else:
            content_hash = image.image_id.to_bytes(32, "big")
            labels = [(f"{image.uri} by {held.fence}", 0.75), ("something", 0.25)]
            answers.append(
                Answer(image_id=image.image_id, fingerprint=image.fingerprint, content_hash=content_hash, labels=labels)
            )
    return answers, failures


def rows_of(db: Database, run_id: int) -> list[Any]:
    """Each image of a run with its end, and its label where it has one."""
    label = sa.and_(predictions.c.image_id == images.c.id, predictions.c.rank == 1)
    statement = (
        sa.select(items.c.image_id, items.c.status, items.c.reason, predictions.c.label)
        .select_from(items.join(images).outerjoin(predictions, label))
        .where(items.c.run_id == run_id)
    )
    return list(db.read(lambda connection: connection.execute(statement).all()))


@pytest.mark.parametrize("may_cancel", [False, True], ids=["to the end", "cancelled"])
def test_no_order_of_steps_loses_or_doubles_an_image(db: Database, clock: Clock, may_cancel: bool) -> None:
    machine = type("Machine", (Ledger,), {"db": db, "clock": clock, "may_cancel": may_cancel})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=(30 if db.is_sqlite else 10) // (1 + may_cancel),
            stateful_step_count=50,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # What was written cannot be taken back, so a shorter example may not be one.
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
