"""A broker that would lose messages, or is not there, is refused before anything relies on it."""

import pytest

from base.errors import BrokerError
from broker.app import make_app
from broker.check import check_broker
from tests.servers import Valkey, free_port


def refusal(url: str) -> str:
    with pytest.raises(BrokerError) as raised:
        check_broker(make_app(url))
    return str(raised.value)


def test_broker_that_keeps_its_messages_is_accepted(valkey: Valkey) -> None:
    check_broker(make_app(valkey.url))


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_broker_that_throws_messages_away_is_refused(valkey: Valkey, policy: str) -> None:
    with valkey.client() as client:
        client.config_set("maxmemory-policy", policy)

    assert f"maxmemory-policy is {policy!r}. Set it to 'noeviction'." in refusal(valkey.url)


def test_broker_that_does_not_tell_its_policy_is_accepted(valkey: Valkey) -> None:
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")

    check_broker(make_app(valkey.url))


def test_wrong_password_is_told_and_not_shown(valkey: Valkey) -> None:
    message = refusal(f"redis://:not-the-password@{valkey.url.rpartition('@')[2]}")

    assert "does not answer" in message
    assert "WRONGPASS" in message or "invalid username-password" in message
    assert "not-the-password" not in message


def test_missing_password_is_told(valkey: Valkey) -> None:
    assert "Authentication required" in refusal(f"redis://{valkey.url.rpartition('@')[2]}")


def test_broker_that_is_not_there_is_told() -> None:
    port = free_port()

    message = refusal(f"redis://:secret-word@127.0.0.1:{port}/0")

    assert f"redis://:**@127.0.0.1:{port}/0 does not answer" in message
    assert "correct TAGMILL_BROKER_URL" in message
    assert "secret-word" not in message


@pytest.mark.parametrize(
    "url", ["nonsense://x", "redis://127.0.0.1:port/0", "redis://:pass/word@127.0.0.1/0", "redis://:a@h?password=b"]
)
def test_address_that_is_none_is_told(url: str) -> None:
    assert "TAGMILL_BROKER_URL" in refusal(url)


@pytest.mark.parametrize("url", ["redis//:secret-word@127.0.0.1/0", "amqp://u:secret-word@127.0.0.1"])
def test_address_of_another_kind_is_refused_without_quoting_it(url: str) -> None:
    message = refusal(url)

    assert "is not the address of a broker" in message
    assert "secret-word" not in message
