"""Schedules, as `[[schedule]]` in tagmill.toml tells them: what is run, when, and until when."""

import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from base.errors import SetupError

_LIKE = '[[schedule]] with name = "nightly", cron = "0 2 * * *" and source = "/photos"'


class Schedule(BaseModel):
    """One `[[schedule]]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    name: str  #: what SQL knows it by; unique
    cron: str  #: minute, hour, day of month, month, day of week
    source: str = Field(min_length=1)  #: as `tagmill run` takes it; a path is absolute
    model: str | None = None  #: NAME or NAME:VERSION; None: the pretrained one
    until: str | None = None  #: HH:MM; what is not reached by then is cancelled
    max_failures: str | None = None  #: a number, or a share with `%`
    include: tuple[str, ...] = ()  #: globs; none means the usual suffixes
    exclude: tuple[str, ...] = ()  #: globs
    column: str | None = None  #: of a manifest: the column of the images
    key: str | None = None  #: of a manifest: the column of the products' keys

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return _matching(name, r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "letters, digits, dots, dashes and underscores")

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, cron: str) -> str:
        fields = cron.split()
        if len(fields) != 5:
            raise ValueError(f"{len(fields)} fields; write minute, hour, day of month, month, day of week")
        try:
            CronSim(cron, datetime(2000, 1, 1))  # noqa: DTZ001 (any time will do)
        except CronSimError as error:
            raise ValueError(f"{str(error).lower()}; write minute, hour, day of month, month, day of week") from error
        return " ".join(fields)

    @field_validator("until")
    @classmethod
    def _check_until(cls, until: str | None) -> str | None:
        return None if until is None else _matching(until, r"([01][0-9]|2[0-3]):[0-5][0-9]", "HH:MM, such as 06:00")

    @field_validator("max_failures")
    @classmethod
    def _check_max_failures(cls, most: str | None) -> str | None:
        share = r"[0-9]{1,18}|(100|[0-9]{1,2}(\.[0-9]{1,9})?)%"
        return None if most is None else _matching(most, share, "20, or a share such as 0.5%")

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: str | None) -> str | None:
        form = r"[a-z0-9_-]+(:[1-9][0-9]{0,8})?"
        return None if model is None else _matching(model, form, "NAME or NAME:VERSION")


def parse_schedules(value: Any, *, spelt: str, where: str, folder: Path) -> tuple[Schedule, ...]:
    """The schedules of a file's `[[schedule]]`, or of a variable's JSON.

    Args:
        spelt: the name of the setting in that place.
        where: " in FILE", or nothing for a variable.
        folder: what a source's relative path is meant from.

    Raises:
        SetupError: they are none; the schedule, its value and the place are named.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise SetupError(f"{spelt}={value!r}{where} is no JSON: {error}. Write a list of schedules.") from error
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise SetupError(f"{spelt}={value!r}{where} is no list of schedules. Write {_LIKE}.")
    schedules: dict[str, Schedule] = {}
    for place, table in enumerate(value, 1):
        known_as = repr(table["name"]) if "name" in table else f"number {place}"
        try:
            schedule = Schedule(**table)
        except ValidationError as error:
            raise SetupError(f"schedule {known_as}{where}: {_first(error)}. Correct it.") from error
        if schedule.name in schedules:
            raise SetupError(f"schedule {known_as}{where} is there twice. Give each a name of its own.")
        schedules[schedule.name] = _beside(folder, schedule)
    return tuple(schedules.values())


def _matching(text: str, pattern: str, wanted: str) -> str:
    if not re.fullmatch(pattern, text, re.ASCII):
        raise ValueError(f"write {wanted}")
    return text


def _first(error: ValidationError) -> str:
    """What is wrong first, with its value."""
    first = error.errors()[0]
    key, reason = str(first["loc"][0]), first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "extra_forbidden":
        return f"there is no {key} in a schedule; it has {', '.join(Schedule.model_fields)}"
    # What pydantic calls them is not what a file has.
    reason = {"tuple_type": 'write a list, such as ["*.jpg"]', "string_type": "write text in quotes"}.get(
        first["type"], reason
    )
    return f"{key} {first['input']!r} is not valid: {reason}"


def _beside(folder: Path, schedule: Schedule) -> Schedule:
    if "://" in schedule.source:
        return schedule
    return schedule.model_copy(update={"source": str(folder / os.path.expanduser(schedule.source))})
