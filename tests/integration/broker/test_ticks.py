"""Ticks and slots reach the queue of runs, on a real server, and never fill it."""

from dataclasses import asdict

import pytest
from celery import Celery

from base.errors import TransientError
from broker.app import QUEUE, RUNS_QUEUE, make_app
from broker.messages import LOOK_AT_SCHEDULES, RUN_SLOT, SlotMessage
from broker.ticks import send_slots, send_tick
from tests.integration.broker.test_dispatch import queued, received
from tests.servers import Valkey, free_port

SLOT = SlotMessage(schedule="nightly", due_at=1_700_000_000)


@pytest.fixture
def app(valkey: Valkey) -> Celery:
    return make_app(valkey.url)


def test_tick_goes_to_the_queue_of_runs(app: Celery, valkey: Valkey) -> None:
    assert send_tick(app)

    assert received(app, RUNS_QUEUE) == [(LOOK_AT_SCHEDULES, {})]
    assert queued(valkey, QUEUE) == 0


def test_ticks_that_nobody_takes_do_not_pile_up(app: Celery, valkey: Valkey) -> None:
    other = make_app(valkey.url)

    sent = sum(send_tick(beat) for _ in range(250) for beat in (app, other))

    assert (sent, queued(valkey, RUNS_QUEUE)) == (1, 1)


def test_slot_is_sent_as_a_pointer(app: Celery) -> None:
    send_slots(app, [SLOT])

    ((task, fields),) = received(app, RUNS_QUEUE)
    assert (task, SlotMessage.from_json(fields)) == (RUN_SLOT, SLOT)


@pytest.mark.parametrize("changes", [{"schedule": 1}, {"due_at": "noon"}])
def test_message_of_somebody_else_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a slot message has"):
        SlotMessage.from_json(asdict(SLOT) | changes)


def test_broker_that_is_away_is_told() -> None:
    nowhere = make_app(f"redis://127.0.0.1:{free_port()}/0")

    with pytest.raises(TransientError, match="the broker does not answer"):
        send_tick(nowhere)
