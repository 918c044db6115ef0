"""Doctor's checks do not get into each other's way, and what it shows is for anybody's eyes."""

import threading
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from base.errors import SetupError
from base.findings import Finding, FindingStatus, clock_finding, fault_of, ok
from base.schedules import Schedule
from cli.doctor import ask_all, show


def test_check_that_does_not_end_is_a_fault() -> None:
    never = threading.Event()

    def stuck() -> Iterator[Finding]:
        yield ok("stuck", "began")
        never.wait()

    found = ask_all({"stuck": stuck, "quick": lambda: [ok("quick", "done")]}, quiet=True, seconds=0.2)
    never.set()

    assert [(one.check, one.found) for one in found] == [
        ("stuck", "began"),
        ("stuck", "no answer within 0.2 s"),
        ("quick", "done"),
    ]
    assert found[1].status is FindingStatus.FAULT


def test_check_that_breaks_leaves_the_others() -> None:
    def broken() -> Iterator[Finding]:
        raise ZeroDivisionError("of ours")
        yield

    found = ask_all({"broken": broken, "well": lambda: [ok("well", "done")]}, quiet=True)

    assert [(one.check, one.status) for one in found] == [
        ("broken", FindingStatus.FAULT),
        ("well", FindingStatus.OK),
    ]
    assert found[0].found == "ZeroDivisionError: of ours"


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("postgresql://tagmill:pass@db.example/tagmill", "postgresql://***@db.example/tagmill"),
        ("postgresql://db.example/tagmill?user=u&password=pass", "postgresql://db.example/tagmill?***"),
        ("redis://:pa/ss@w?rd@broker.example:6379/0", "redis://***@broker.example:6379/0"),
        ("rediss://pass@broker.example", "rediss://***@broker.example"),
        ("redis://:pa\nss@h", "redis://***@h"),
        ("sqlite:////srv/tagmill.db", "sqlite:////srv/tagmill.db"),
        ("just-a-password", "***"),  # In the wrong place.
    ],
)
def test_only_the_place_of_a_secret_address_is_shown(secret: str, shown: str) -> None:
    assert show(SecretStr(secret)) == shown


@pytest.mark.parametrize(
    ("theirs", "status", "found"),
    [
        (1001.0, FindingStatus.OK, "agree"),
        (1003.9, FindingStatus.OK, "agree"),  # The answer took two seconds; the clock may be right.
        (1030.0, FindingStatus.WARNING, "28 s behind"),
        (4602.0, FindingStatus.FAULT, "3,600 s behind"),
        (940.0 - 3540, FindingStatus.FAULT, "3,600 s ahead of"),
    ],
)
def test_clock_is_wrong_by_more_than_the_answer_took(theirs: float, status: FindingStatus, found: str) -> None:
    finding = clock_finding("the broker's", theirs, before=1000.0, after=1002.0)

    assert finding.status is status
    assert found in finding.found


@pytest.mark.parametrize(
    ("text", "found", "mend"),
    [
        ("no model 'x' in /m. Run 'tagmill models list'.", "no model 'x' in /m", "Run 'tagmill models list'."),
        ("it cannot be written; check its owner.", "it cannot be written", "Check its owner."),
        ("nothing works.", "nothing works.", "Mend that, and try again."),
    ],
)
def test_next_step_of_an_error_is_how_to_mend_it(text: str, found: str, mend: str) -> None:
    finding = fault_of("model", SetupError(text))

    assert (finding.found, finding.mend) == (found, mend)


def test_schedules_are_shown_by_name() -> None:
    assert (
        show((Schedule(name="one", cron="* * * * *", source="/a"), Schedule(name="two", cron="* * * * *", source="/b")))
        == "one, two"
    )
