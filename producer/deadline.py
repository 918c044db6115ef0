"""Times of day, as people say them."""

import re
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from base.errors import SetupError


def parse_time(text: str) -> time:
    """
    Raises:
        SetupError: it is no time of day.
    """
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text, re.ASCII)
    if match is None:
        raise SetupError(f"{text!r} is no time of day. Write HH:MM, such as 06:00.")
    return time(int(match[1]), int(match[2]))


def next_time(text: str, now: float, zone: ZoneInfo | None) -> float:
    """When it is that time of day next, in seconds since 1970.

    Where the clocks go forward over it, it is as long after midnight as on other days; where they go back over it, it
    is the first of the two.

    Args:
        text: `HH:MM`.
        now: seconds since 1970.
        zone: whose time of day; None: the machine's own.

    Raises:
        SetupError: `text` is no time of day.
    """
    at = parse_time(text)
    today = datetime.fromtimestamp(now, zone).date()
    first, second = (datetime.combine(today + timedelta(days=days), at, zone).timestamp() for days in range(2))
    return first if first > now else second
