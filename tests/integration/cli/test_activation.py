"""`tagmill models activate` and `tagmill models diff`, as a person and a script read them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from results.queries import active_models
from results.schema import upgrade
from results.session import Database
from tests.integration.cli.test_main import tagmill
from tests.integration.results.test_versions import answer


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A home's database: of three images, the second version has answered two, and both of those otherwise."""
    database = Database(sa.URL.create("sqlite", database=str(tmp_path / "tagmill.db")))
    upgrade(database)
    answer(database, ("m", 1), {"a.jpg": ("cat", 0.75), "b.jpg": ("dog", 0.5), "c.jpg": ("cat", 1.0)})
    answer(database, ("m", 2), {"a.jpg": ("dog", 0.5), "b.jpg": ("cat", 0.5)}, unsure={"a.jpg"})
    yield database
    database.close()


def test_activation_tells_what_was_shown_and_what_is_missing(db: Database, tmp_path: Path) -> None:
    ended = tagmill(tmp_path, "models", "activate", "m:2")

    back = "'tagmill models activate m:1' switches back"
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr.splitlines() == [
        "current_labels shows m:2 now; before, it was m:1",
        "images with an answer: 2 of m:2, 3 of m:1",
        f"1 images have no answer until 'tagmill run SOURCE --model m:2' has classified them; {back}",
    ]
    assert active_models(db) == {"m": 2}


def test_activation_that_loses_no_image_warns_of_none(db: Database, tmp_path: Path) -> None:
    tagmill(tmp_path, "models", "activate", "m:2")

    ended = tagmill(tmp_path, "models", "activate", "m:1", "--json")

    assert "no answer until" not in ended.stderr
    assert json.loads(ended.stdout) == {
        "model": "m",
        "version": 1,
        "previous_version": 2,
        "images": 3,
        "images_before": 2,
    }


def test_version_that_is_active_already_is_told(db: Database, tmp_path: Path) -> None:
    ended = tagmill(tmp_path, "models", "activate", "m:1", "--json")

    assert (ended.returncode, ended.stderr) == (0, "m:1 is active already\n")
    facts = json.loads(ended.stdout)
    assert (facts["version"], facts["previous_version"], facts["images"], facts["images_before"]) == (1, 1, 3, 3)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("m", "'m' does not name a model version; write NAME:VERSION"),
        ("m:", "'m:' does not name a model version"),
        ("m:0", "'m:0' does not name a model version"),
        ("m:1.5", "'m:1.5' does not name a model version"),
        ("M:1", "'M:1' does not name a model version"),
        ("caf\udce9:1", "does not name a model version"),
        ("m:3", "known: m:1, m:2. Run 'tagmill run SOURCE --model m:3' first."),
        ("other:1", "no run has used model 'other:1' in"),
    ],
)
@pytest.mark.parametrize("words", [["activate"], ["diff", "m:1"]])
def test_reference_that_names_no_used_version_is_refused(
    db: Database, tmp_path: Path, words: list[str], reference: str, message: str
) -> None:
    ended = tagmill(tmp_path, "models", *words, reference)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("tagmill: ")
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert active_models(db) == {"m": 1}


def test_home_without_a_database_has_no_version_to_activate(tmp_path: Path) -> None:
    assert "'tagmill run SOURCE' makes one" in tagmill(tmp_path, "models", "activate", "m:1").stderr
    assert list(tmp_path.iterdir()) == []


def test_difference_is_told_in_facts_and_flips(db: Database, tmp_path: Path) -> None:
    ended = tagmill(tmp_path, "models", "diff", "m:1", "m:2")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert [tuple(re.split("  +", line)) for line in ended.stdout.splitlines()[:8]] == [
        ("compared", "2"),
        ("flipped", "2 (100.0%)"),
        ("only m:1", "1"),
        ("mean confidence of m:1", "0.6250"),
        ("needs review by m:1", "0"),
        ("only m:2", "0"),
        ("mean confidence of m:2", "0.5000"),
        ("needs review by m:2", "1"),
    ]
    assert [line.split() for line in ended.stdout.splitlines()[9:]] == [
        ["images", "label_from", "label_to", "for", "example"],
        ["------", "----------", "--------", "-" * len("file:///photos/a.jpg")],
        ["1", "cat", "dog", "file:///photos/a.jpg"],
        ["1", "dog", "cat", "file:///photos/b.jpg"],
    ]


def test_difference_says_how_many_kinds_are_left_out(db: Database, tmp_path: Path) -> None:
    ended = tagmill(tmp_path, "models", "diff", "m:1", "m:2", "--limit", "1")

    assert "b.jpg" not in ended.stdout
    assert ended.stderr == "1 more kinds of flips; --limit 2 shows all\n"


def test_difference_is_told_in_json(db: Database, tmp_path: Path) -> None:
    ended = tagmill(tmp_path, "models", "diff", "m:1", "m:2", "--source", "file:///photos/a.jpg", "--json")

    assert json.loads(ended.stdout) == {
        "model_from": "m:1",
        "model_to": "m:2",
        "source": "file:///photos/a.jpg",
        "compared": 1,
        "flipped": 1,
        "only_from": 0,
        "only_to": 0,
        "mean_confidence_from": 0.75,
        "mean_confidence_to": 0.5,
        "needs_review_from": 0,
        "needs_review_to": 1,
        "kinds": 1,
        "flips": [{"label_from": "cat", "label_to": "dog", "images": 1, "samples": ["file:///photos/a.jpg"]}],
    }


def test_versions_without_a_common_image_are_told_apart(db: Database, tmp_path: Path) -> None:
    ended = tagmill(tmp_path, "models", "diff", "m:1", "m:2", "--source", "/photos/c.jpg")

    assert ended.returncode == 0
    assert ended.stdout.splitlines()[:3] == [
        "compared                0",
        "flipped                 0",
        "only m:1                1",
    ]
    assert "no image has answers of both; 'tagmill run SOURCE --model m:2'" in ended.stderr
