"""A part that is started elsewhere has the settings of the command that starts it."""

import os
from pathlib import Path

import pytest

from base.schedules import Schedule
from base.settings import Settings, load_settings
from broker.processes import process_variables


def restarted(monkeypatch: pytest.MonkeyPatch, folder: Path, variables: dict[str, str]) -> Settings:
    """The settings as it reads them, in a folder that has a tagmill.toml of its own."""
    (folder / "tagmill.toml").write_text("top_k = 99\n")
    monkeypatch.chdir(folder)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TAGMILL_"):
            monkeypatch.delenv(name)


def test_part_has_every_setting_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(
        home=tmp_path / "home",
        database_url="postgresql+psycopg://u:p%40ss@h/n",
        reader_url="postgresql://r:secret@h/n",
        broker_url="redis://:pass@h/0",
        models_url=str(tmp_path / "models"),
        bucket_endpoint="http://store.example:9000",
        bucket_requester_pays=True,
        bucket_user_project="our-project",
        allow_private_urls=True,
        images_per_batch=7,
        batches_in_queue=8,
        lease_seconds=100.5,
        dispatch_seconds=1.25,
        resend_seconds=2.5,
        image_seconds=30.5,
        max_image_bytes=9,
        max_image_pixels=10,
        memory_bytes=2**27,
        top_k=3,
        schedule=(Schedule(name="nightly", cron="0 2 * * *", source="/photos", until="06:00", include=("*.jpg",)),),
        timezone="Europe/Zurich",
        guard_max_shrink=0.3,
        guard_max_label_shift=0.4,
        guard_max_confidence_drop=0.5,
        json_logs=True,
    )
    defaults = Settings()
    assert all(getattr(given, name) != getattr(defaults, name) for name in Settings.model_fields), (
        "give it a value here"
    )

    assert restarted(monkeypatch, tmp_path, process_variables(given, "redis://:pass@h/0")) == given


def test_part_reads_no_file_of_the_command_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.toml").write_text("top_k = 3\n")
    (tmp_path / "secret").write_text(f"sqlite:///{tmp_path}/named.db\n")
    monkeypatch.setenv("TAGMILL_CONFIG", str(tmp_path / "other.toml"))
    monkeypatch.setenv("TAGMILL_DATABASE_URL_FILE", str(tmp_path / "secret"))
    variables = process_variables(load_settings(), "redis://h/0")
    (tmp_path / "other.toml").unlink()
    (tmp_path / "secret").unlink()

    settings = restarted(monkeypatch, tmp_path, variables)

    assert (settings.top_k, settings.broker_url.get_secret_value()) == (3, "redis://h/0")
    assert settings.database_url.get_secret_value() == f"sqlite:///{tmp_path}/named.db"
