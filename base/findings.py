"""What a check of the set-up found.

It lies in base because broker, models, results and worker all give findings, and models and results do not know each
other.
"""

from dataclasses import dataclass
from enum import StrEnum

from base.errors import AppError

# Leases go by the database's clock alone; the times of logs and files do not, and people compare them.
_CLOCK_WARNING_SECONDS = 2.0
_CLOCK_FAULT_SECONDS = 60.0


class FindingStatus(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # Works, and worse than it could.
    FAULT = "fault"  # Stops something, or loses something one day.


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str  #: what it belongs to: broker, database, …
    status: FindingStatus
    found: str
    mend: str = ""  #: the next step; empty when there is nothing to mend


def ok(check: str, found: str) -> Finding:
    return Finding(check, FindingStatus.OK, found)


def warning(check: str, found: str, mend: str) -> Finding:
    return Finding(check, FindingStatus.WARNING, found, mend)


def fault(check: str, found: str, mend: str) -> Finding:
    return Finding(check, FindingStatus.FAULT, found, mend)


def fault_of(check: str, error: AppError) -> Finding:
    """What an error says: our texts name the value first, and then the next step."""
    text = str(error)
    for end in (". ", "; "):
        found, _, mend = text.partition(end)
        if mend:
            return fault(check, found, mend[0].upper() + mend[1:])
    return fault(check, text, "Mend that, and try again.")


def clock_finding(whose: str, theirs: float, *, before: float, after: float) -> Finding:
    """Compare a server's clock with ours.

    Args:
        whose: "the broker's", say.
        theirs: what it told, in seconds since 1970.
        before: our clock when it was asked.
        after: our clock when it had answered.
    """
    off = max(before - theirs, theirs - after, 0.0)
    if off <= _CLOCK_WARNING_SECONDS:
        return ok("clock", f"this machine's clock and {whose} agree")
    found = f"this machine's clock is {off:,.0f} s {'behind' if theirs > after else 'ahead of'} {whose}"
    bad = fault if off > _CLOCK_FAULT_SECONDS else warning
    return bad("clock", found, "Let NTP (chrony, systemd-timesyncd) set the clocks of all machines.")
