"""What a worker's connection makes of what somebody else put into the queue."""

from typing import Any

import pytest
from kombu import Queue

from broker.app import QUEUE, make_app, redis_of
from tests.servers import Valkey


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "null", '{"body": 1}', b"\xff", "[" * 100_000])
def test_what_is_no_message_is_dropped(valkey: Valkey, text: str | bytes) -> None:
    app, got = make_app(valkey.url), []
    with app.connection_for_write() as connection:
        redis_of(connection).lpush(QUEUE, text)
        connection.Producer().publish(1, routing_key=QUEUE, serializer="json")
        with connection.Consumer(Queue(QUEUE), callbacks=[lambda body, message: got.append(body)]):
            while not got:
                connection.drain_events(timeout=5)

    assert got == [1]


def test_message_that_celery_fails_at_comes_once(valkey: Valkey) -> None:
    app, got = make_app(valkey.url), []

    def refuse(body: Any, message: Any) -> None:
        got.append(body)
        raise TypeError("unhashable type: 'list'")

    for sent in (1, 2):
        with app.connection_for_write() as connection:
            connection.Producer().publish(sent, routing_key=QUEUE, serializer="json")
            with connection.Consumer(Queue(QUEUE), callbacks=[refuse]), pytest.raises(TypeError):
                connection.drain_events(timeout=5)

    with app.connection_for_write() as connection:
        assert (got, redis_of(connection).llen(QUEUE)) == ([1, 2], 0)
