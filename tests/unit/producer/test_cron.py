"""When the fields of cron come true, on ordinary days and on those when clocks change."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from producer import cron
from tests.processes import run_python

ZURICH = ZoneInfo("Europe/Zurich")


def utc(time: str) -> int:
    return int(datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp())


def times(fields: str, first: str, last: str, zone: ZoneInfo) -> list[str]:
    """All there are between two times, the last of them included, in UTC."""
    found, now = [], utc(first)
    while (time := cron.following(fields, now, zone)) is not None and time <= utc(last):
        found.append(f"{datetime.fromtimestamp(time, UTC):%H:%M}")
        now = time
    return found


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-11-26 01:59:59", "2026-11-25 02:00"),
        ("2026-11-26 02:00:00", "2026-11-26 02:00"),  # The minute itself counts.
        ("2026-11-26 23:00:00", "2026-11-26 02:00"),
    ],
)
def test_latest_time_is_at_or_before_now(now: str, expected: str) -> None:
    assert cron.latest("0 2 * * *", utc(now) + 0.9, ZoneInfo("UTC")) == utc(expected)


def test_time_zone_says_what_two_oclock_is() -> None:
    assert cron.latest("0 2 * * *", utc("2026-11-26 12:00"), ZURICH) == utc("2026-11-26 01:00")


def test_without_a_zone_it_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")

    code = "import sys; from producer import cron; print(cron.following('0 2 * * *', int(sys.argv[1]), None))"

    # In a process of its own, as a process asks for its zone once.
    assert int(run_python(code, utc("2026-11-26 12:00"))) == utc("2026-11-26 20:30")


def test_time_that_the_clocks_leave_out_comes_after_the_gap() -> None:
    # On this day 01:59 in Zurich, which is 00:59 in UTC, is followed by 03:00.
    assert times("30 2 * * *", "2026-03-29 00:00", "2026-03-30 12:00", ZURICH) == ["01:00", "00:30"]
    assert cron.latest("30 2 * * *", utc("2026-03-29 12:00"), ZURICH) == utc("2026-03-29 01:00")


def test_time_that_comes_twice_is_meant_once() -> None:
    # On this day 02:59 in Zurich, which is 00:59 in UTC, is followed by 02:00.
    assert times("30 2 * * *", "2026-10-25 00:00", "2026-10-26 12:00", ZURICH) == ["00:30", "01:30"]
    assert cron.latest("30 2 * * *", utc("2026-10-25 01:45"), ZURICH) == utc("2026-10-25 00:30")


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_every_half_hour_goes_on_through_the_change(day: str) -> None:
    found = times("*/30 * * * *", f"{day} 00:00", f"{day} 03:00", ZURICH)

    assert found == ["00:30", "01:00", "01:30", "02:00", "02:30", "03:00"]


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_latest_time_never_steps_back(day: str) -> None:
    """So nothing is run twice, whatever a look in between finds."""
    looks = [cron.latest("*/7 * * * *", now, ZURICH) for now in range(utc(f"{day} 00:00"), utc(f"{day} 03:00"), 60)]

    assert looks == sorted(looks)


def test_times_between_two_are_counted() -> None:
    first, last = utc("2026-11-26 02:00"), utc("2026-11-26 05:00")

    assert cron.count_between("0 * * * *", first, last, ZURICH) == 2
    assert cron.count_between("0 2 * * *", first, last, ZURICH) == 0


def test_counting_ends_somewhere() -> None:
    week = 7 * 24 * 3600

    assert cron.count_between("* * * * *", 0, week, ZURICH) == cron.MOST_COUNTED
