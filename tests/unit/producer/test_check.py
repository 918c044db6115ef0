"""What doctor says of the schedules."""

from pathlib import Path

import pytest

from base.findings import Finding, FindingStatus
from base.schedules import Schedule
from base.settings import Settings
from models.registry import Registry
from producer.check import check_schedules
from tests.unit.models.test_registry import publish


@pytest.fixture
def nightly(tmp_path: Path) -> Schedule:
    """A schedule that can be worked off."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    publish(Registry(tmp_path / "models"))
    return Schedule(name="nightly", cron="0 2 1 1 *", source=str(tmp_path / "photos"), model="small_cnn", until="06:00")


def look(tmp_path: Path, schedule: Schedule, broker_url: str | None = "redis://h") -> list[Finding]:
    settings = Settings(
        home=tmp_path,
        models_url=str(tmp_path / "models"),
        schedule=(schedule,),
        broker_url=broker_url,
        timezone="Europe/Zurich",
    )
    return list(check_schedules(settings))


def test_next_time_of_a_schedule_is_told(tmp_path: Path, nightly: Schedule) -> None:
    (found,) = look(tmp_path, nightly)

    assert found.status is FindingStatus.OK
    assert found.found.startswith("'nightly': next at 20") and found.found.endswith("-01-01 02:00 CET until 06:00")


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"source": "/nowhere"}, "'nightly': no folder '/nowhere'"),
        ({"exclude": ("*",)}, "'nightly': no images in file://"),
        ({"model": "other"}, "'nightly': no model 'other'"),
    ],
)
def test_what_keeps_a_schedule_from_running_is_a_fault(
    tmp_path: Path, nightly: Schedule, terms: dict[str, str], message: str
) -> None:
    (found,) = look(tmp_path, nightly.model_copy(update=terms))

    assert (found.status, found.found.startswith(message)) == (FindingStatus.FAULT, True)


def test_schedules_without_a_broker_are_a_warning(tmp_path: Path, nightly: Schedule) -> None:
    found = look(tmp_path, nightly, broker_url=None)

    assert [one.status for one in found] == [FindingStatus.WARNING, FindingStatus.OK]
