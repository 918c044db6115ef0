"""`tagmill models` and `tagmill predict`."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from models.registry import Registry
from tests.acceptance.conftest import Tagmill


def test_pretrained_model_is_built_by_the_command_that_needs_it(tagmill: Tagmill, foolbox_photos: list[Path]) -> None:
    tagmill.environment["TAGMILL_MODELS_URL"] = str(tagmill.home / "models")
    assert "no models in" in tagmill("models", "list").stderr

    # Interrupted while it builds, it leaves nothing; two at a time build it once.
    interrupted = tagmill.start("models", "build")
    tagmill.wait_for("the build", lambda: bool(tagmill.processes("models.pretrained")))
    interrupted.send_signal(signal.SIGINT)
    interrupted.communicate(timeout=30)
    assert interrupted.returncode == 130
    assert tagmill("models", "list").stdout.count("efficientnet_lite0") == 0
    both = [tagmill.start("predict", foolbox_photos[0], "--json"), tagmill.start("models", "build")]
    told = [process.communicate(timeout=180) for process in both]

    assert [process.returncode for process in both] == [0, 0], told
    assert f"efficientnet_lite0:1 is in {tagmill.home / 'models'} now" in told[1][1]
    assert tagmill("models", "build").stderr == f"efficientnet_lite0:1 is in {tagmill.home / 'models'}, as before\n"
    (version,) = json.loads(tagmill("models", "list", "--json").stdout)
    assert (version["model"], version["version"], version["labels"]) == ("efficientnet_lite0", 1, 1000)


def test_card_has_the_figures_of_the_gate(tagmill: Tagmill) -> None:
    card = tagmill("models", "show", "efficientnet_lite0").stdout

    figures = dict(line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| "))
    assert float(figures["int8 agreement"]) >= 0.97
    assert float(figures["int8 accuracy"]) >= float(figures["float32 accuracy"]) - 0.005


def test_second_version_is_shown_once_it_is_activated(
    tagmill: Tagmill, tmp_path: Path, foolbox_photos: list[Path], pretrained_registry: Registry
) -> None:
    versions = tmp_path / "models" / "efficientnet_lite0"
    shutil.copytree(pretrained_registry.root / "efficientnet_lite0" / "1", versions / "1")
    shutil.copytree(versions / "1", versions / "2")  # The same files by another number, and so the same answers.
    facts = json.loads((versions / "2" / "version.json").read_text())
    (versions / "2" / "version.json").write_text(json.dumps(facts | {"version": 2}))
    tagmill.environment["TAGMILL_MODELS_URL"] = str(versions.parent)
    (tmp_path / "photos").mkdir()
    for photo in foolbox_photos[:3]:
        shutil.copy(photo, tmp_path / "photos")
    first = tagmill.run(tmp_path / "photos", "--model", "efficientnet_lite0:1")
    assert (first["active"], len(first["labels"])) == (True, 3)

    second = tagmill("run", tmp_path / "photos", "--model", "efficientnet_lite0:2", "--json")

    facts = json.loads(second.stdout)
    assert (facts["classified"], facts["active"], facts["labels"]) == (3, False, [])
    assert second.stderr.endswith(
        "current_labels still shows efficientnet_lite0:1; 'tagmill models activate efficientnet_lite0:2' switches\n"
    )
    assert "3 of efficientnet_lite0:2, 3 of" in tagmill("models", "activate", "efficientnet_lite0:2").stderr
    again = tagmill.run(tmp_path / "photos", "--model", "efficientnet_lite0:2")
    assert (again["skipped"], again["active"], again["labels"]) == (3, True, first["labels"])
    compared = json.loads(tagmill("models", "diff", "efficientnet_lite0:1", "efficientnet_lite0:2", "--json").stdout)
    assert (compared["compared"], compared["flipped"]) == (3, 0)


def test_predict_says_what_a_run_says(finished: Tagmill, foolbox_photos: list[Path]) -> None:
    told = json.loads(finished("predict", *foolbox_photos[:3], "--json").stdout)

    rows = finished.rows()
    for photo, facts in zip(foolbox_photos[:3], told, strict=True):
        best = facts["predictions"][0]
        assert (best["label"], best["confidence"]) == (
            rows[photo.name][0],
            pytest.approx(rows[photo.name][1], abs=1e-9),
        )


def test_confidences_over_all_labels_sum_to_1(tagmill: Tagmill, foolbox_photos: list[Path]) -> None:
    (facts,) = json.loads(tagmill("predict", foolbox_photos[0], "--top-k", "1000", "--json").stdout)

    confidences = [prediction["confidence"] for prediction in facts["predictions"]]
    assert len(confidences) == 1000
    assert sum(confidences) == pytest.approx(1, abs=1e-5)


def test_image_that_cannot_be_predicted_is_told_beside_the_others(
    tagmill: Tagmill, tmp_path: Path, foolbox_photos: list[Path], pretrained_registry: Registry
) -> None:
    (tmp_path / "notes.txt").write_text("no image")

    done = tagmill("predict", tmp_path / "notes.txt", tmp_path / "nowhere.jpg", foolbox_photos[0], code=1)

    assert "notes.txt: not_an_image:" in done.stderr
    assert "nowhere.jpg: not_found:" in done.stderr
    assert str(foolbox_photos[0]) in done.stdout
    assert not tagmill.home.exists()
