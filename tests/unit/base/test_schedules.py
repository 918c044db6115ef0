"""Schedules of a file or a variable: what they say, and what is told of one that is wrong."""

import json
import os
from pathlib import Path

import pytest

from base.errors import SetupError
from base.schedules import Schedule
from base.settings import load_settings

NIGHTLY = {"name": '"nightly"', "cron": '"0 2 * * *"', "source": '"photos"'}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, without any setting."""
    for name in os.environ:
        if name.startswith("TAGMILL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, *tables: dict[str, str]) -> Path:
    file = folder / "tagmill.toml"
    lines = [line for table in tables for line in ("[[schedule]]", *(f"{key} = {text}" for key, text in table.items()))]
    file.write_text("top_k = 3\n" + "\n".join(lines))
    return file


def refusal() -> str:
    with pytest.raises(SetupError) as raised:
        load_settings()
    return str(raised.value)


def test_tables_of_the_file_are_schedules(folder: Path) -> None:
    terms = {"model": '"small_cnn:2"', "until": '"06:00"', "max_failures": "20", "include": '["*.jpg"]'}
    write(folder, NIGHTLY | terms, NIGHTLY | {"name": '"bucket"', "source": '"s3://shop/photos"'})

    settings = load_settings()

    assert settings.top_k == 3
    assert settings.schedule == (
        Schedule(
            name="nightly",
            cron="0 2 * * *",
            source=str(folder / "photos"),
            model="small_cnn:2",
            until="06:00",
            max_failures="20",
            include=("*.jpg",),
        ),
        Schedule(name="bucket", cron="0 2 * * *", source="s3://shop/photos"),
    )


def test_source_is_meant_from_the_files_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    (folder / "etc").mkdir()
    write(folder / "etc", NIGHTLY, NIGHTLY | {"name": '"own"', "source": '"~/photos"'})
    monkeypatch.setenv("TAGMILL_CONFIG", "etc/tagmill.toml")

    assert [one.source for one in load_settings().schedule] == [f"{folder}/etc/photos", "/home/somebody/photos"]


def test_variable_holds_schedules_as_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, NIGHTLY)
    monkeypatch.setenv("TAGMILL_SCHEDULE", json.dumps([{"name": "hourly", "cron": "0 * * * *", "source": "photos"}]))

    assert [(one.name, one.source) for one in load_settings().schedule] == [("hourly", f"{folder}/photos")]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"cron": '"61 * * * *"'}, "cron '61 * * * *' is not valid: bad minute; write minute, hour, day of month"),
        ({"cron": '"0 2 * *"'}, "cron '0 2 * *' is not valid: 4 fields; write minute, hour"),
        ({"cron": '"0 0 2 * * *"'}, "cron '0 0 2 * * *' is not valid: 6 fields; write minute, hour"),
        ({"cron": '"@daily"'}, "cron '@daily' is not valid: 1 fields"),
        ({"cron": '"0 2 30 2 *"'}, "cron '0 2 30 2 *' is not valid: bad day-of-month"),  # Would never come.
        ({"until": '"6:00"'}, "until '6:00' is not valid: write HH:MM, such as 06:00"),
        ({"until": '"24:00"'}, "until '24:00' is not valid"),
        ({"until": "06:00:00"}, "until datetime.time(6, 0) is not valid: write text in quotes"),
        ({"until": '""'}, "until '' is not valid: write HH:MM"),
        ({"max_failures": '""'}, "max_failures '' is not valid: write 20"),
        ({"model": '""'}, "model '' is not valid: write NAME"),
        ({"max_failures": '"120%"'}, "max_failures '120%' is not valid: write 20, or a share such as 0.5%"),
        ({"model": '"Small CNN"'}, "model 'Small CNN' is not valid: write NAME or NAME:VERSION"),
        ({"source": '""'}, "source '' is not valid"),
        ({"include": '"*.jpg"'}, "include '*.jpg' is not valid: write a list, such as [\"*.jpg\"]"),
        ({"name": '"a b"'}, "name 'a b' is not valid: write letters, digits"),
        ({"untill": '"06:00"'}, "there is no untill in a schedule; it has name, cron, source, model, until"),
    ],
)
def test_schedule_that_is_wrong_is_named_with_its_value(folder: Path, terms: dict[str, str], message: str) -> None:
    file = write(folder, NIGHTLY | terms)

    told = refusal()

    assert told.startswith(f"schedule {(NIGHTLY | terms)['name']} in {file}: ".replace('"', "'"))
    assert message in told and told.endswith(". Correct it.")


def test_schedule_without_a_name_is_told_by_its_number(folder: Path) -> None:
    file = write(folder, NIGHTLY, {"cron": '"0 2 * * *"', "source": '"photos"'})

    assert refusal() == f"schedule number 2 in {file}: name is missing. Correct it."


def test_two_schedules_of_one_name_are_refused(folder: Path) -> None:
    file = write(folder, NIGHTLY, NIGHTLY)

    assert refusal() == f"schedule 'nightly' in {file} is there twice. Give each a name of its own."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[schedule]\nname = 'nightly'", "is no list of schedules. Write [[schedule]] with name ="),
        ("schedule = ['nightly']", "schedule=['nightly'] in {file} is no list of schedules"),
        ("schedule = 'nightly'", "schedule='nightly' in {file} is no JSON"),
    ],
)
def test_what_is_no_list_of_schedules_is_refused(folder: Path, text: str, message: str) -> None:
    file = folder / "tagmill.toml"
    file.write_text(text)

    assert message.format(file=file) in refusal()
