import json
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from base.errors import ModelError, TransientError
from models import folder_storage
from models.check import check_active_version
from models.preprocessing import Preprocessing
from models.registry import Registry, check_files, load_engine
from models.storage import hash_of

LABELS = ("cat", "Hund, groß")
THRESHOLDS = {"cat": 0.75, "Hund, groß": None}


def publish(registry, name="small_cnn", **changes):
    fields = {
        "engines": {"float32.tflite": b"weights"},
        "engine_file": "float32.tflite",
        "labels": LABELS,
        "preprocessing": Preprocessing(),
        "description": "Made for a test.",
        "metrics": {"accuracy": 0.875},
        "built_with": {"keras": "3"},
    }
    return registry.publish(name, **(fields | changes))


def folder_of(version):
    return version.storage.root / version.name / str(version.version)


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "models")


def test_published_version_is_found_as_it_was(registry):
    published = publish(registry, temperature=1.5, preprocessing=Preprocessing(size=128))

    found = registry.find("small_cnn")

    assert found == published
    assert (found.name, found.version, found.labels, found.temperature) == ("small_cnn", 1, LABELS, 1.5)
    assert found.metrics == {"accuracy": 0.875}
    assert found.preprocessing.size == 128


def test_name_alone_means_the_highest_number(registry):
    for _ in range(11):
        publish(registry)

    assert registry.find("small_cnn").version == 11
    assert registry.find("small_cnn:2").version == 2


def test_versions_are_sorted_by_name_and_number(registry):
    for name in ("zebra", "ant", *["zebra"] * 10):
        publish(registry, name)

    assert [str(version) for version in registry.versions()][:3] == ["ant:1", "zebra:1", "zebra:2"]
    assert [version.version for version in registry.versions("zebra")] == list(range(1, 12))


def test_registry_without_folder_is_empty(registry):
    assert registry.versions() == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("small_cnn:3", "no version '3' of 'small_cnn' in {root}; known: 1, 2. Run 'tagmill models list'."),
        ("big_cnn", "no model 'big_cnn' in {root}; known: small_cnn. Run 'tagmill models list'."),
        ("", "'' does not name a model; write NAME or NAME:VERSION"),
        ("a:b", "'a:b' does not name a model"),
        ("small_cnn:", "'small_cnn:' does not name a model"),
        ("small_cnn:01", "'small_cnn:01' does not name a model"),
        ("small_cnn:1:2", "'small_cnn:1:2' does not name a model"),
        ("../small_cnn", "'../small_cnn' does not name a model"),
        ("small_cnn\n", "'small_cnn\\n' does not name a model"),
    ],
)
def test_bad_reference_says_what_there_is(registry, reference, message):
    publish(registry)
    publish(registry)

    with pytest.raises(ModelError, match=re.escape(message.format(root=registry.root))):
        registry.find(reference)


def test_content_hash_ignores_name_number_and_card(registry):
    first = publish(registry)

    other = publish(registry, "other", description="Else.", metrics={}, files={"metrics.json": b"{}"})

    assert other.content_hash == first.content_hash


def test_content_hash_tells_thresholds_apart(registry):
    hashes = [
        publish(registry, target_precision=precision, thresholds=thresholds).content_hash
        for precision, thresholds in (
            (0.9, THRESHOLDS),
            (0.8, THRESHOLDS),
            (0.9, {"cat": 0.5, "Hund, groß": None}),
        )
    ]

    assert len(set(hashes)) == 3


def test_thresholds_are_found_as_they_were(registry):
    published = publish(
        registry, temperature=2, target_precision=1, thresholds={"cat": np.float32(0.75), "Hund, groß": None}
    )

    found = registry.find("small_cnn")

    assert found == published
    assert (found.target_precision, found.thresholds) == (1.0, THRESHOLDS)
    check_files(found)


def test_version_of_the_first_release_is_read(registry):
    """It knew neither thresholds nor another interpolation than bicubic."""
    path = folder_of(publish(registry, preprocessing=Preprocessing(interpolation="bicubic"))) / "version.json"
    facts = json.loads(path.read_text())
    del facts["preprocessing"]["interpolation"]
    path.write_text(json.dumps(facts))

    version = registry.find("small_cnn")

    assert not {"thresholds", "target_precision"} & facts.keys()
    # The hash that the first release gave to these contents.
    assert version.content_hash == "bed20790c79050681e8915a98a516db97a8d66af02f1ab90edd86f487b2a2e4e"
    assert version.preprocessing.interpolation == "bicubic"
    assert (version.target_precision, version.thresholds) == (None, {})
    assert not version.needs_review("cat", 0.1)


def test_other_files_are_kept_and_checked(registry):
    version = publish(registry, files={"metrics.json": b"{}", "confusion.png": b"picture"})

    assert version.read("metrics.json") == b"{}"
    assert "- [confusion.png](confusion.png)\n- [metrics.json](metrics.json)\n" in version.read("card.md").decode()
    (folder_of(version) / "confusion.png").write_bytes(b"another")
    with pytest.raises(ModelError, match=r"confusion\.png differs from what was published"):
        version.read("confusion.png")
    with pytest.raises(ModelError, match=r"confusion\.png differs from what was published"):
        load_engine(version)


def test_file_that_a_version_has_not_is_refused(registry):
    version = publish(registry)
    (folder_of(version) / "notes.txt").write_text("not published")

    with pytest.raises(ModelError, match=r"has no file 'notes\.txt'; it has card\.md, float32\.tflite, labels\.txt"):
        version.read("notes.txt")
    with pytest.raises(ModelError, match=r"has no engine file 'card\.md'; it has float32\.tflite\."):
        load_engine(version, "card.md")


def test_another_engine_file_is_loaded_when_asked_for(registry):
    version = publish(registry, engines={"float32.tflite": b"weights", "int8.tflite": b"small"})
    (folder_of(version) / "int8.tflite").unlink()

    with pytest.raises(ModelError, match=r"int8\.tflite"):
        load_engine(version, "int8.tflite")


def test_version_is_told_as_json(registry):
    facts = json.loads(json.dumps(publish(registry).to_json()))

    assert (facts["registry"], facts["labels"], facts["preprocessing"]["size"]) == (registry.address, [*LABELS], 224)
    assert "storage" not in facts


def test_storage_that_falters_is_a_passing_fault(registry, monkeypatch):
    version = publish(registry)

    def falter(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Path, "read_bytes", falter)
    with pytest.raises(TransientError, match=r"float32\.tflite cannot be read: Stale file handle"):
        version.read("float32.tflite")


@pytest.mark.parametrize(
    "change",
    [
        {"engines": {"float32.tflite": b"other"}},
        {"labels": ("cat", "dog")},
        {"labels": LABELS[::-1]},
        {"temperature": 1.25},
        {"preprocessing": Preprocessing(crop=1.0)},
        {"preprocessing": Preprocessing(interpolation="bicubic")},
        {"engines": {"float32.tflite": b"weights", "int8.tflite": b"small"}},
        {"engines": {"float32.tflite": b"weights", "model.keras": b"large"}},
        {"target_precision": 0.9, "thresholds": THRESHOLDS},
    ],
)
def test_content_hash_tells_apart_what_answers_differently(registry, change):
    assert publish(registry).content_hash != publish(registry, **change).content_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Big CNN"}, "model name 'Big CNN' is not valid"),
        ({"name": "../up"}, "model name '../up' is not valid"),
        ({"engine_file": "int8.tflite"}, "'int8.tflite' is not one of"),
        ({"engines": {"../x.tflite": b""}, "engine_file": "../x.tflite"}, "engine file '../x.tflite' is not valid"),
        ({"labels": ("cat", "cat")}, "labels must be distinct"),
        ({"labels": ()}, "at least one"),
        ({"labels": ("cat", "two\nlines")}, "label 'two\\nlines' is not valid"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"metrics": {"top_1": float("nan")}}, "metric 'top_1' is not JSON"),
        ({"metrics": {"top_1": object()}}, "metric 'top_1' is not JSON"),
        ({"files": {"a/b.png": b""}}, "file 'a/b.png' cannot be kept"),
        ({"files": {"labels.txt": b""}}, "file 'labels.txt' cannot be kept"),
        ({"files": {"version.json": b""}}, "file 'version.json' cannot be kept"),
        ({"files": {"card.md": b""}}, "file 'card.md' cannot be kept"),
        ({"files": {"int8.tflite": b""}}, "file 'int8.tflite' cannot be kept"),
        ({"thresholds": THRESHOLDS}, "2 thresholds and no target precision"),
        ({"target_precision": 0.9}, "label 'cat' has no threshold"),
        ({"target_precision": 1.5, "thresholds": THRESHOLDS}, "target precision 1.5"),
        ({"target_precision": 0.9, "thresholds": {"cat": 0.5}}, "label 'Hund, groß' has no threshold"),
        ({"target_precision": 0.9, "thresholds": THRESHOLDS | {"dog": 0.5}}, "the threshold of 'dog' is of no label"),
        ({"target_precision": 0.9, "thresholds": THRESHOLDS | {"cat": 1.5}}, "threshold 1.5 of label 'cat'"),
        ({"target_precision": 0.9, "thresholds": THRESHOLDS | {"cat": float("nan")}}, "threshold nan of label 'cat'"),
    ],
)
def test_what_cannot_be_published_is_refused(registry, change, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        publish(registry, **change)

    assert registry.versions() == []


@pytest.mark.parametrize("file", ["float32.tflite", "labels.txt", "card.md"])
def test_altered_file_is_named_and_not_loaded(registry, file):
    version = publish(registry)
    with (folder_of(version) / file).open("ab") as content:
        content.write(b"!")

    with pytest.raises(ModelError, match=re.escape(str(folder_of(version) / file))):
        load_engine(version)


def test_only_doctor_needs_the_other_engine_file(registry):
    version = publish(registry, engines={"float32.tflite": b"weights", "int8.tflite": b"small"})
    (folder_of(version) / "int8.tflite").unlink()

    with pytest.raises(ModelError, match="LiteRT cannot load"):  # So it came to loading.
        load_engine(version)
    assert "int8.tflite" in check_active_version(registry, "small_cnn", 1, version.content_hash).found


def test_missing_file_is_named(registry):
    version = publish(registry)
    (folder_of(version) / "float32.tflite").unlink()

    with pytest.raises(ModelError, match=r"float32\.tflite"):
        load_engine(version)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.0),
        ("preprocessing", Preprocessing(crop=1.0).to_json()),
        ("preprocessing", {"size": 224, "crop": 0.875, "mean": 127.0, "scale": 128.0}),  # Which would mean bicubic.
        ("engine_file", "labels.txt"),
        ("files", {"labels.txt": hash_of(b"cat\nHund, gro\xc3\x9f\n")}),
    ],
)
def test_altered_description_is_named_before_anything_is_done_with_it(registry, field, value):
    path = folder_of(publish(registry)) / "version.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

    with pytest.raises(ModelError, match=r"version\.json differs"):
        registry.find("small_cnn")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"name": "small_cnn", "version": 2}'])
def test_damaged_description_is_named(registry, content):
    path = folder_of(publish(registry)) / "version.json"
    path.write_text(content)

    with pytest.raises(ModelError, match=re.escape(str(path))):
        registry.find("small_cnn")


@pytest.mark.parametrize("field", ["interpolation", "size"])
def test_damaged_preprocessing_is_named(registry, field):
    path = folder_of(publish(registry)) / "version.json"
    facts = json.loads(path.read_text())
    facts["preprocessing"][field] = "x"
    path.write_text(json.dumps(facts))

    with pytest.raises(ModelError, match=rf"{re.escape(str(path))}: .*'x'.* is not valid.* Restore that model version"):
        registry.find("small_cnn")


@pytest.mark.parametrize("file", ["../float32.tflite", "/etc/passwd.txt", "a/b.png", ""])
def test_description_with_a_path_is_refused(registry, file):
    path = folder_of(publish(registry)) / "version.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"files": facts["files"] | {file: "0" * 64}}))

    with pytest.raises(ModelError, match=re.escape(f"version.json names a file {file!r}")):
        registry.find("small_cnn")


def test_folder_under_another_number_is_refused(registry):
    path = folder_of(publish(registry))
    shutil.copytree(path, path.parent / "7")

    with pytest.raises(ModelError, match="describes small_cnn:1"):
        registry.find("small_cnn")


def test_file_that_is_no_model_is_refused(registry):
    with pytest.raises(ModelError, match="LiteRT cannot load the model"):
        load_engine(publish(registry))


def test_publisher_that_fails_leaves_nothing(registry, monkeypatch):
    publish(registry)

    def fail(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_storage, "write_file", fail)
    with pytest.raises(ModelError, match="No space left"):
        publish(registry)

    assert sorted(os.listdir(registry.root / "small_cnn")) == [".publish.lock", "1"]


def test_leftover_of_a_killed_publisher_is_cleared_and_never_listed(registry):
    leftover = registry.root / "small_cnn" / ".unfinished-abc"
    leftover.mkdir(parents=True)
    (leftover / "float32.tflite").write_bytes(b"half")

    assert registry.versions() == []
    assert publish(registry).version == 1
    assert not leftover.exists()


def test_publishers_at_the_same_time_get_numbers_of_their_own(registry):
    threads = [threading.Thread(target=publish, args=(registry,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [version.version for version in registry.versions("small_cnn")] == list(range(1, 9))


def test_root_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    registry = Registry(tmp_path / "file")

    with pytest.raises(ModelError, match=re.escape(str(registry.root))):
        publish(registry)
    with pytest.raises(ModelError, match=re.escape(str(registry.root))):
        registry.versions()


def test_card_tells_people_what_was_measured(registry):
    metrics = {"top_1": 0.875, "passed": True, "per_label": {"cat": 0.5}}
    card = publish(registry, metrics=metrics).read("card.md").decode()

    assert "| pixels | 224 x 224, smaller with hamming, larger with bicubic |" in card
    assert card.startswith(
        "# small_cnn version 1\n\nMade for a test.\n\n| fact | value |\n| --- | --- |\n| content hash"
    )
    assert "| top 1 | 0.875 |\n| passed | True |\n| keras | 3 |\n" in card
    assert "per" not in card.partition("| top 1")[2]
    assert "Thresholds" not in card and "Files" not in card


def test_card_has_the_thresholds(registry):
    labels = ("cat", "a | b")
    card = publish(registry, labels=labels, target_precision=0.9, thresholds={"cat": 0.75, "a | b": None}).read(
        "card.md"
    )

    assert "| target precision | 0.9 |" in card.decode()
    assert "| label | threshold |\n| --- | --- |\n| cat | 0.75 |\n| a \\| b | none |\n" in card.decode()
