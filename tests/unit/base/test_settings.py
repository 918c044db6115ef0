"""Settings come from the environment, are checked at once, and keep their secrets."""

import os
from pathlib import Path

import pytest

from base.errors import SetupError
from base.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TAGMILL_"):
            monkeypatch.delenv(name)


def test_home_is_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert load_settings().home_path == tmp_path / "tagmill-data"
    assert load_settings().models_path == tmp_path / "tagmill-data" / "models"


def test_tilde_is_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TAGMILL_HOME", "~/data")
    monkeypatch.setenv("TAGMILL_MODELS_URL", "~/models")

    assert (load_settings().home_path, load_settings().models_path) == (tmp_path / "data", tmp_path / "models")


def test_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGMILL_BROKER_URL", "")

    assert load_settings().broker_url is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TAGMILL_IMAGES_PER_BATCH", "0"),
        ("TAGMILL_IMAGES_PER_BATCH", "10001"),
        ("TAGMILL_TOP_K", "many"),
        ("TAGMILL_LEASE_SECONDS", "-1"),
        ("TAGMILL_JSON_LOGS", "perhaps"),
    ],
)
def test_value_that_is_not_valid_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SetupError, match=f"^{name}='{value}' is not valid: .* Correct it or unset it.$"):
        load_settings()


@pytest.mark.parametrize("name", ["TAGMILL_LEASE_SECONDS", "TAGMILL_IMAGE_SECONDS", "TAGMILL_DISPATCH_SECONDS"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_time_without_an_end_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SetupError, match=name):
        load_settings()


def test_secrets_are_not_shown() -> None:
    settings = Settings(database_url="postgresql://u:secret@h/n", broker_url="redis://:secret@h", reader_url="secret")

    assert "secret" not in repr(settings) + str(settings)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("/srv/models", "/srv/models"), ("file:///srv/models", "/srv/models"), ("file:///srv/a%20b", "/srv/a b")],
)
def test_registry_is_a_folder(address: str, expected: str) -> None:
    assert Settings(models_url=address).models_path == Path(expected)


def test_registry_of_another_kind_is_refused() -> None:
    with pytest.raises(SetupError, match="is not a folder"):
        _ = Settings(models_url="s3://bucket/models").models_path
