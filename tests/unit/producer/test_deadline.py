"""Times of day, also where the clocks change."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from base.errors import SetupError
from producer.deadline import next_time

ZURICH = ZoneInfo("Europe/Zurich")


@pytest.mark.parametrize(
    ("now", "text", "expected"),
    [
        ("2026-11-25T22:00+01:00", "06:00", "2026-11-26T06:00+01:00"),
        ("2026-11-26T05:59+01:00", "6:00", "2026-11-26T06:00+01:00"),
        ("2026-11-26T06:00+01:00", "06:00", "2026-11-27T06:00+01:00"),
        ("2026-11-30T23:30+00:00", "00:15", "2026-12-01T23:15+00:00"),  # It is December there.
        ("2026-03-28T22:00+01:00", "06:00", "2026-03-29T06:00+02:00"),  # The night has an hour less,
        ("2026-10-24T22:00+02:00", "06:00", "2026-10-25T06:00+01:00"),  # and this one an hour more.
        ("2026-03-29T01:00+01:00", "02:30", "2026-03-29T03:30+02:00"),  # There is no half past two.
        ("2026-10-25T01:00+02:00", "02:30", "2026-10-25T02:30+02:00"),  # There are two.
        ("2026-10-25T02:45+02:00", "02:30", "2026-10-26T02:30+01:00"),
    ],
)
def test_next_time_of_day_is_found(now: str, text: str, expected: str) -> None:
    found = next_time(text, datetime.fromisoformat(now).timestamp(), ZURICH)

    assert found == datetime.fromisoformat(expected).timestamp()


def test_time_is_the_machines_own_without_a_zone() -> None:
    now = 1_700_000_000.0

    found = datetime.fromtimestamp(next_time("06:00", now, None)).astimezone()

    assert (found.hour, found.minute) == (6, 0)
    assert 0 < found.timestamp() - now <= 25 * 3600


@pytest.mark.parametrize(
    "text", ["", "6", "24:00", "06:60", "06:00:00", "6am", "-1:00", "\N{ARABIC-INDIC DIGIT SIX}:00"]
)
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match=r"is no time of day. Write HH:MM, such as 06:00"):
        next_time(text, 0.0, ZURICH)
