"""Send what is due, never more than the broker should hold; the reconciler is this, repeated.

Any number of processes may do it at the same time. It has no memory: what is due is a question to SQL.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import redis
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from base.errors import TransientError
from base.logs import get_logger
from base.settings import Settings
from broker.app import QUEUE, redis_of
from broker.messages import CLASSIFY_BATCH, BatchMessage
from results import ledger
from results.session import Database
from results.staging import settle_runs

log = get_logger()


def dispatch(db: Database, app: Celery, settings: Settings) -> int:
    """Send the batches that are due, and settle the runs that are complete or out of time.

    Returns:
        How many messages were sent.

    Raises:
        TransientError: the database or the broker does not answer; nothing is lost by that.
    """
    settle_runs(db)
    # One connection for the count and the messages; a new one each time, so that a broken one heals.
    with broker_errors(), app.connection_for_write() as connection:
        queued = queue_length(connection)
        room = settings.batches_in_queue - queued
        if room <= 0:
            return 0
        due = ledger.take_due(db, room=room, queued=queued, resend_seconds=settings.resend_seconds)
        sent = 0
        try:
            with app.amqp.Producer(connection) as producer:
                for run_id, batch_id in due:
                    message = BatchMessage(run_id=run_id, batch_id=batch_id)
                    app.send_task(CLASSIFY_BATCH, kwargs=asdict(message), producer=producer, retry=False)
                    sent += 1
        finally:
            if sent < len(due):
                ledger.take_back_sent(db, [batch_id for _, batch_id in due[sent:]])
    if due:
        log.debug("batches_sent", batches=len(due), queued=queued)
    return sent


def queue_length(connection: Connection) -> int:
    """Messages that wait in the broker; those that a worker has taken are not among them."""
    return redis_of(connection).llen(QUEUE)


@contextmanager
def broker_errors() -> Iterator[None]:
    """Whatever a broker that is away, full or read-only raises, as TransientError."""
    try:
        yield
    except (redis.RedisError, OperationalError, OSError) as error:
        raise TransientError(f"the broker does not answer: {error}") from error
