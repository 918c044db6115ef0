"""Whether a broker is there, and set up so that it keeps its messages."""

import redis
from celery import Celery

from base.errors import BrokerError, TransientError
from broker.app import redis_of
from broker.dispatch import broker_errors


def check_broker(app: Celery) -> None:
    """Ask the broker before anything relies on it.

    Raises:
        BrokerError: it does not answer, or would throw messages away when its memory is full.
    """
    try:
        address = app.connection_for_write().as_uri()  # With the password hidden.
    except (KeyError, ValueError, ImportError) as error:
        # The address is not quoted: what is wrong with it may be a password in the wrong place.
        raise BrokerError(
            "TAGMILL_BROKER_URL is not the address of a broker; write redis://:PASSWORD@HOST:PORT/0, or unset it."
        ) from error
    try:
        with broker_errors(), app.connection_for_write() as connection:
            client = redis_of(connection)
            client.ping()
            policy = _eviction_policy(client)
    except (TransientError, ValueError) as error:
        raise BrokerError(
            f"the broker {address} does not answer: {error.__cause__ or error}. "
            "Start it, correct TAGMILL_BROKER_URL, or unset that for the embedded one."
        ) from error
    if policy not in (None, "noeviction"):
        raise BrokerError(
            f"the broker {address} throws messages away when its memory is full: maxmemory-policy is {policy!r}. "
            "Set it to 'noeviction'."
        )


def _eviction_policy(client: "redis.Redis") -> str | None:
    """None where the server does not tell."""
    try:
        facts = client.info("memory")
    except redis.ResponseError:
        return None
    assert isinstance(facts, dict)
    policy = facts.get("maxmemory_policy")
    return None if policy is None else str(policy)
