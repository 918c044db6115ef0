"""What the Celery app does where the broker is away."""

import pytest
from kombu.exceptions import OperationalError

from broker.app import make_app


def test_broker_that_is_away_is_looked_for_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda seconds: None)
    waits: list[float] = []

    with pytest.raises(OperationalError, match="refused"):
        make_app("redis://127.0.0.1:1/0").connection_for_read().ensure_connection(
            lambda error, seconds: waits.append(seconds), max_retries=10
        )

    assert len(waits) == 10
    assert max(waits) <= 5
