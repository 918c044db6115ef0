import json
import os
import re
import shutil
import threading

import pytest

from base.errors import ModelError
from models import registry as registry_module
from models.preprocessing import Preprocessing
from models.registry import Registry, load_engine

LABELS = ("cat", "Hund, groß")


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

    assert publish(registry, "other", description="Else.", metrics={}).content_hash == first.content_hash


@pytest.mark.parametrize(
    "change",
    [
        {"engines": {"float32.tflite": b"other"}},
        {"labels": ("cat", "dog")},
        {"labels": LABELS[::-1]},
        {"temperature": 1.25},
        {"preprocessing": Preprocessing(crop=1.0)},
        {"engines": {"float32.tflite": b"weights", "int8.tflite": b"small"}},
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
    ],
)
def test_what_cannot_be_published_is_refused(registry, change, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        publish(registry, **change)

    assert registry.versions() == []


@pytest.mark.parametrize("file", ["float32.tflite", "labels.txt", "card.md"])
def test_altered_file_is_named_and_not_loaded(registry, file):
    version = publish(registry)
    with (version.path / file).open("ab") as content:
        content.write(b"!")

    with pytest.raises(ModelError, match=re.escape(str(version.path / file))):
        load_engine(version)


def test_missing_file_is_named(registry):
    version = publish(registry)
    (version.path / "float32.tflite").unlink()

    with pytest.raises(ModelError, match=r"float32\.tflite"):
        load_engine(version)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.0),
        ("preprocessing", {"size": 224, "crop": 1.0, "mean": 127.0, "scale": 128.0}),
        ("engine_file", "labels.txt"),
        ("files", {}),
    ],
)
def test_altered_description_is_named_and_not_loaded(registry, field, value):
    path = publish(registry).path / "version.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

    with pytest.raises(ModelError, match=r"version\.json differs"):
        load_engine(registry.find("small_cnn"))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"name": "small_cnn", "version": 2}'])
def test_damaged_description_is_named(registry, content):
    path = publish(registry).path / "version.json"
    path.write_text(content)

    with pytest.raises(ModelError, match=re.escape(str(path))):
        registry.find("small_cnn")


def test_folder_under_another_number_is_refused(registry):
    path = publish(registry).path
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

    monkeypatch.setattr(registry_module, "_write", fail)
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
    card = (publish(registry).path / "card.md").read_text()

    assert card.startswith("# small_cnn version 1\n\nMade for a test.")
    assert "| accuracy | 0.875 |" in card and "| keras | 3 |" in card
