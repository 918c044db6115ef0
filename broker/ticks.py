"""What producers are told: to look at the schedules, and which slots are theirs to run."""

from collections.abc import Iterable
from dataclasses import asdict

from celery import Celery

from broker.app import RUNS_QUEUE, redis_of
from broker.dispatch import broker_errors
from broker.messages import LOOK_AT_SCHEDULES, RUN_SLOT, SlotMessage


def send_tick(app: Celery) -> bool:
    """Tell a producer to look at the schedules, unless something waits for producers already.

    So the queue stays short where no producer is: a tick that waits says all that another would, and while a slot waits
    no producer has a process to spare that could look.

    Returns:
        Whether one was sent.

    Raises:
        TransientError: the broker does not answer; the next minute has another tick.
    """
    with broker_errors(), app.connection_for_write() as connection:
        if redis_of(connection).llen(RUNS_QUEUE):
            return False
        with app.amqp.Producer(connection) as producer:
            app.send_task(LOOK_AT_SCHEDULES, queue=RUNS_QUEUE, producer=producer, retry=False)
    return True


def send_slots(app: Celery, slots: Iterable[SlotMessage]) -> None:
    """Tell producers which slots wait for them; errors as for `send_tick`."""
    with broker_errors(), app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        for slot in slots:
            app.send_task(RUN_SLOT, kwargs=asdict(slot), queue=RUNS_QUEUE, producer=producer, retry=False)
