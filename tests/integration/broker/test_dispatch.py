"""What is due reaches the broker, on real servers, and comes back whatever happens to it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import redis
from celery import Celery

from base.errors import TransientError
from base.settings import Settings
from broker.app import QUEUE, make_app
from broker.dispatch import dispatch
from broker.messages import CLASSIFY_BATCH
from results import ledger
from results.guard import Guard
from results.queries import find_runs
from results.runs import RunRequest
from results.session import Database
from results.tables import RunStatus
from tests.clock import Clock
from tests.integration.results.test_ledger import answers, claim, record
from tests.servers import Valkey, free_port, valkey_server

SETTINGS = Settings(batches_in_queue=3, resend_seconds=30)


@pytest.fixture
def app(valkey: Valkey) -> Celery:
    return make_app(valkey.url)


def queued(valkey: Valkey, name: str = QUEUE) -> int:
    with valkey.client() as client:
        return int(client.llen(name))  # type: ignore[arg-type]


def received(app: Celery, name: str = QUEUE) -> list[tuple[str, dict[str, int]]]:
    """Take every message, as a worker would: its task and its fields."""
    with app.connection_for_read() as connection, connection.SimpleQueue(name) as queue:
        messages = []
        while True:
            try:
                message = queue.get(block=False)
            except queue.Empty:
                return messages
            message.ack()
            messages.append((message.headers["task"], message.payload[1]))


def test_due_batches_are_sent_as_pointers(db: Database, app: Celery) -> None:
    run_id = record(db, images=4, batch=2)

    assert dispatch(db, app, SETTINGS) == 2
    assert received(app) == [
        (CLASSIFY_BATCH, {"run_id": run_id, "batch_id": 1}),
        (CLASSIFY_BATCH, {"run_id": run_id, "batch_id": 2}),
    ]


def test_what_was_sent_is_not_sent_again(db: Database, app: Celery, valkey: Valkey) -> None:
    record(db, images=4, batch=2)

    assert [dispatch(db, app, SETTINGS) for _ in range(3)] == [2, 0, 0]
    assert queued(valkey) == 2


def test_broker_never_holds_more_than_its_bound(db: Database, app: Celery, valkey: Valkey) -> None:
    record(db, images=5, batch=1)

    assert [dispatch(db, app, SETTINGS) for _ in range(2)] == [3, 0]
    with valkey.client() as client:
        client.rpop(QUEUE)  # The first; as long as nobody has claimed its batch, it may be lost.
    assert dispatch(db, app, SETTINGS) == 0
    claim(db, 1)
    assert dispatch(db, app, SETTINGS) == 1
    assert queued(valkey) == 3


def dispatch_together(db: Database, valkey: Valkey, settings: Settings, senders: int = 4) -> int:
    """Several processes' worth of dispatching, at the same moment; how many messages were sent in all."""
    together = Barrier(senders)

    def send(_: int) -> int:
        app = make_app(valkey.url)
        together.wait()
        return dispatch(db, app, settings)

    with ThreadPoolExecutor(senders) as pool:
        return sum(pool.map(send, range(senders)))


def test_several_that_dispatch_together_send_each_batch_once(db: Database, app: Celery, valkey: Valkey) -> None:
    record(db, images=90, batch=1)
    settings = Settings(batches_in_queue=40, resend_seconds=30)

    for waiting in (90, 50, 10, 0):
        sent = dispatch_together(db, valkey, settings)
        assert sent == min(waiting, 40), "and never more than the broker should hold"
        for _, fields in received(app):
            held = claim(db, fields["batch_id"], owner=f"w/{fields['batch_id']}")
            ledger.finish(db, held, answers(held), [])

    assert find_runs(db)[0].classified == 90


def test_several_that_dispatch_together_replace_each_lost_message_once(
    db: Database, app: Celery, valkey: Valkey, clock: Clock
) -> None:
    record(db, images=30, batch=1)
    settings = Settings(batches_in_queue=40, resend_seconds=30)
    dispatch(db, app, settings)
    with valkey.client() as client:
        client.flushall()
    clock.pass_by(settings.resend_seconds / 6 + 1)

    assert dispatch_together(db, valkey, settings) == 30
    assert sorted(fields["batch_id"] for _, fields in received(app)) == list(range(1, 31))


def test_staged_run_is_published_by_whoever_dispatches(db: Database, app: Celery) -> None:
    request = RunRequest(source="file:///photos", model="m", model_version=1, content_hash="a" * 64, guard=Guard())
    run_id = record(db, request=request)
    held = claim(db)
    ledger.finish(db, held, answers(held), [])

    dispatch(db, app, SETTINGS)

    assert find_runs(db, run_id)[0].publication == "published"


def test_nothing_is_sent_after_the_deadline(db: Database, app: Celery, clock: Clock) -> None:
    request = RunRequest(
        source="file:///photos", model="m", model_version=1, content_hash="a" * 64, deadline=clock.seconds
    )
    record(db, request=request)

    assert dispatch(db, app, SETTINGS) == 0


def test_finished_run_is_closed(db: Database, app: Celery) -> None:
    run_id = record(db)
    held = claim(db)
    ledger.finish(db, held, answers(held), [])

    assert dispatch(db, app, SETTINGS) == 0
    assert find_runs(db, run_id)[0].status is RunStatus.COMPLETED


def test_messages_that_were_flushed_are_sent_again(db: Database, app: Celery, valkey: Valkey, clock: Clock) -> None:
    record(db, images=2, batch=1)
    dispatch(db, app, SETTINGS)
    with valkey.client() as client:
        client.flushall()
    clock.pass_by(SETTINGS.resend_seconds / 6 + 1)

    assert dispatch(db, app, SETTINGS) == 2


def test_broker_that_is_away_takes_nothing_from_the_database(db: Database, valkey: Valkey) -> None:
    record(db, images=2, batch=1)
    nowhere = make_app(f"redis://127.0.0.1:{free_port()}/0")

    with pytest.raises(TransientError, match="the broker does not answer"):
        dispatch(db, nowhere, SETTINGS)

    assert dispatch(db, make_app(valkey.url), SETTINGS) == 2


def test_full_broker_leaves_the_batches_due(db: Database, app: Celery, valkey: Valkey) -> None:
    record(db, images=2, batch=1)
    with valkey.client() as client:
        client.config_set("maxmemory", "1")

        with pytest.raises(TransientError, match="maxmemory"):
            dispatch(db, app, SETTINGS)

        client.config_set("maxmemory", "0")
    assert dispatch(db, app, SETTINGS) == 2


def test_broker_lost_half_way_leaves_the_rest_due(
    db: Database, app: Celery, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(db, images=3, batch=1)
    send = app.send_task
    sent = []

    def send_one_then_fail(*args: object, **options: object) -> object:
        if sent:
            raise redis.ConnectionError("cut off")
        sent.append(send(*args, **options))
        return sent[0]

    monkeypatch.setattr(app, "send_task", send_one_then_fail)
    with pytest.raises(TransientError, match="cut off"):
        dispatch(db, app, SETTINGS)
    monkeypatch.undo()

    assert dispatch(db, app, SETTINGS) == 2
    assert sorted(fields["batch_id"] for _, fields in received(app)) == [1, 2, 3]


def test_broker_that_was_restarted_is_used_again(db: Database, tmp_path: Path) -> None:
    record(db, images=1)
    with valkey_server(tmp_path) as first:
        app, port = make_app(first.url), redis.connection.parse_url(first.url)["port"]
        dispatch(db, app, SETTINGS)
        with first.client() as client:
            client.delete(QUEUE)
    ledger.take_back_sent(db, [1])

    with valkey_server(tmp_path, port=port):
        assert dispatch(db, app, SETTINGS) == 1
