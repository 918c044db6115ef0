"""Whether the schedules can be worked off, and when each is due next."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from base.errors import AppError
from base.findings import Finding, fault_of, ok, warning
from base.schedules import Schedule
from base.settings import Settings
from producer import cron
from producer.schedules import open_scheduled
from producer.sources import check_not_empty


def check_schedules(settings: Settings) -> Iterator[Finding]:
    """Tell of each schedule when it is due next, or what would keep it from running."""
    if settings.schedule and settings.broker_url is None:
        yield warning(
            "schedules",
            "there are some, and no broker that 'tagmill producer' and 'tagmill beat' could share",
            "Set TAGMILL_BROKER_URL, and start both.",
        )
    for schedule in settings.schedule:
        try:
            source, _ = open_scheduled(settings, schedule)
            check_not_empty(source)
        except AppError as error:
            found = fault_of("schedules", error)
            yield Finding(found.check, found.status, f"{schedule.name!r}: {found.found}", found.mend)
        else:
            yield ok("schedules", f"{schedule.name!r}: {_next_time(schedule, settings)}")


def _next_time(schedule: Schedule, settings: Settings) -> str:
    due_at = cron.following(schedule.cron, time.time(), settings.zone)
    if due_at is None:
        return "never"
    until = f" until {schedule.until}" if schedule.until else ""
    return f"next at {datetime.fromtimestamp(due_at, UTC).astimezone(settings.zone):%Y-%m-%d %H:%M %Z}{until}"
