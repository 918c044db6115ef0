"""Workers, a producer and somebody who cancels, all at the same time; and a version that is activated meanwhile."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import sqlalchemy as sa

from base.errors import FailureReason
from results import ledger
from results.ledger import Claim, LeaseLost
from results.listing import Chunk, ListedImage, ListingTaken, end_listing, record_chunk
from results.queries import active_models, find_runs, verify_run
from results.runs import RunRequest, cancel_run, close_runs, open_run
from results.session import Database
from results.tables import ItemStatus, items, predictions
from results.versions import activate
from tests.integration.results.test_ledger import answers, claim, due, record
from tests.integration.results.test_ledger_in_any_order import ends_of

CHUNKS, BATCHES_PER_CHUNK, IMAGES_PER_BATCH, WORKERS = 5, 4, 2, 3


class Commotion:
    """One run that is listed and worked on by several threads, until it is stopped.

    Args:
        moment: after so many steps of theirs `reached` is set.
    """

    def __init__(self, db: Database, source: str, *, seed: int, moment: int) -> None:
        self.db, self.source, self.seed, self.moment = db, source, seed, moment
        request = RunRequest(source=source, model="m", model_version=1, content_hash="a" * 64)
        self.run_id = open_run(db, request, holder="test/1").run_id
        self.steps = 0
        self.counting = threading.Lock()
        self.reached, self.stopped = threading.Event(), threading.Event()

    def step(self) -> None:
        with self.counting:
            self.steps += 1
            if self.steps >= self.moment:
                self.reached.set()

    def list(self) -> None:
        cursor = None
        try:
            for chunk in range(CHUNKS):
                uris = [f"{self.source}/{chunk}-{number:02}" for number in range(BATCHES_PER_CHUNK * IMAGES_PER_BATCH)]
                listed = [ListedImage(uri=uri, fingerprint="1-1") for uri in uris]
                cut = [listed[start::BATCHES_PER_CHUNK] for start in range(BATCHES_PER_CHUNK)]
                record_chunk(self.db, self.run_id, cursor=cursor, chunk=Chunk(cursor=uris[-1], batches=cut, skipped=0))
                cursor = uris[-1]
                self.step()
            end_listing(self.db, self.run_id, cursor=cursor)
        except ListingTaken:
            assert self.reached.is_set()

    def work(self, number: int) -> None:
        chance = random.Random(self.seed * 100 + number)
        while not self.stopped.is_set():
            for _, batch_id in ledger.take_due(self.db, room=2, queued=0, resend_seconds=30):
                held = ledger.claim(self.db, batch_id, owner=f"w/{number}", lease_seconds=45)
                self.step()
                if held is not None:
                    self.do_something(held, number, chance)
            close_runs(self.db)
            if find_runs(self.db, self.run_id)[0].finished_at is not None:
                self.reached.set()  # There is nothing more that could be waited for.

    def do_something(self, held: Claim, number: int, chance: random.Random) -> None:
        try:
            if chance.random() < 0.3:
                ledger.extend(self.db, held, lease_seconds=45)
            what = chance.random()
            if what < 0.1:
                ledger.give_back(self.db, held, delay_seconds=0)
            elif what < 0.2:
                ledger.give_back_lost(self.db, f"w/{number}", FailureReason.WORKER_LOST)
            else:
                ledger.finish(self.db, held, *ends_of(held, set(chance.choice(((), (0,))))))
        except LeaseLost:
            assert self.reached.is_set()  # Nobody's lease runs out here: it can only have been cancelled.
        self.step()

    def ends(self) -> tuple[Counter[str], int]:
        """How many images have each end, and how many predictions there are."""

        def read(connection: sa.Connection) -> tuple[Counter[str], int]:
            of_run = sa.select(items.c.status).where(items.c.run_id == self.run_id)
            saved = sa.select(sa.func.count()).where(predictions.c.run_id == self.run_id)
            return Counter(connection.scalars(of_run)), connection.execute(saved).scalar_one()

        return self.db.read(read)


def test_run_that_is_cancelled_at_any_moment_is_proved_and_stays_as_it_is(db: Database) -> None:
    chance = random.Random(7)
    was_cancelled = 0
    for seed in range(10):
        commotion = Commotion(db, f"file:///photos{seed}", seed=seed, moment=chance.randrange(1, 50))
        with ThreadPoolExecutor(WORKERS + 1) as pool:
            going = [pool.submit(commotion.list), *(pool.submit(commotion.work, number) for number in range(WORKERS))]
            commotion.reached.wait(60)
            was_cancelled += cancel_run(db, commotion.run_id)
            at_once = commotion.ends()
            commotion.stopped.set()
            for one in going:
                one.result(60)

        told = f"seed {seed}, cancelled after {commotion.moment} steps"
        assert commotion.ends() == at_once, told
        assert verify_run(db, commotion.run_id).gaps == (), told
        (run,) = find_runs(db, commotion.run_id)
        ends = {
            ItemStatus.CLASSIFIED: run.classified,
            ItemStatus.FAILED: run.failed,
            ItemStatus.CANCELLED: run.cancelled,
        }
        assert +Counter(ends) == at_once[0], told
        assert run.listed == sum(ends.values()), told
    assert was_cancelled >= 5


def test_version_that_is_activated_in_the_middle_of_a_run_is_for_later_ones(db: Database) -> None:
    second = RunRequest(source="file:///photos", model="m", model_version=2, content_hash="b" * 64)
    of_second = record(db, images=1, request=second)
    held = claim(db, due(db)[0])
    ledger.finish(db, held, answers(held, "dog"), [])
    close_runs(db)
    run_id = record(db, images=6, batch=2, source="file:///others")
    before, *rest = due(db)
    held = claim(db, before)
    ledger.finish(db, held, answers(held), [])
    activate(db, "m", 1)

    activate(db, "m", 2)
    for batch_id in rest:
        held = claim(db, batch_id)
        assert (held.model_version, held.content_hash) == (1, "a" * 64)
        ledger.finish(db, held, answers(held), [])
    close_runs(db)

    versions = sa.select(predictions.c.run_id, predictions.c.model_version_id).distinct()
    rows = db.read(lambda connection: connection.execute(versions).all())
    assert len(rows) == 2 and {row.run_id for row in rows} == {run_id, of_second}
    assert (find_runs(db, run_id)[0].model_version, verify_run(db, run_id).gaps) == (1, ())
    assert active_models(db) == {"m": 2}
    record(db, images=1, source="file:///more", request=replace(second, source="file:///more"))
    assert claim(db, due(db)[0]).model_version == 2
