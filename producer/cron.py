"""When the five fields of cron come true, in a time zone. Times are whole seconds since 1970.

On the days when clocks change it is as with Debian's cron: a time that is left out comes right after the gap, one that
comes twice is meant once, and what has a star for its hour goes on through both.
"""

from datetime import datetime
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim
from tzlocal import get_localzone

# A schedule of every minute that nobody worked for a week has missed ten thousand.
MOST_COUNTED = 1000


def latest(cron: str, now: float, zone: ZoneInfo | None) -> int | None:
    """The last time at or before now; None where there is none within 50 years.

    Args:
        zone: None for the machine's own.
    """
    found = next(CronSim(cron, _local(int(now) + 1, zone), reverse=True), None)
    return None if found is None else int(found.timestamp())


def following(cron: str, now: float, zone: ZoneInfo | None) -> int | None:
    """The first time after now."""
    found = next(CronSim(cron, _local(int(now), zone)), None)
    return None if found is None else int(found.timestamp())


def count_between(cron: str, after: int, before: int, zone: ZoneInfo | None) -> int:
    """How many times there are between two, which themselves do not count; MOST_COUNTED when there are more."""
    times = (int(found.timestamp()) for found in CronSim(cron, _local(after, zone)))
    return sum(1 for _ in islice(takewhile(lambda time: time < before, times), MOST_COUNTED))


def _local(seconds: int, zone: ZoneInfo | None) -> datetime:
    return datetime.fromtimestamp(seconds, zone or get_localzone())
