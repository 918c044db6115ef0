"""What travels through the broker."""

import json
from dataclasses import asdict

import pytest

from broker.messages import BatchMessage


def test_message_survives_json() -> None:
    message = BatchMessage(run_id=7, batch_id=2**40)

    assert BatchMessage.from_json(json.loads(json.dumps(asdict(message)))) == message


def test_field_of_a_newer_sender_is_ignored() -> None:
    assert BatchMessage.from_json({"run_id": 7, "batch_id": 8, "hint": "x"}) == BatchMessage(run_id=7, batch_id=8)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"run_id": 7},
        {"run_id": "7", "batch_id": 8},
        {"run_id": 7, "batch_id": None},
        {"run_id": 7, "batch_id": 8.0},
    ],
)
def test_message_of_somebody_else_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="has the numbers run_id and batch_id"):
        BatchMessage.from_json(fields)
