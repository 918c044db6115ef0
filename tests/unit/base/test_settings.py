"""Settings come from the environment and tagmill.toml, are checked at once, and keep their secrets."""

import os
from pathlib import Path

import pytest

from base.errors import SetupError
from base.settings import Settings, load_settings, settings_with_origins
from docs.settings_table import as_markdown


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TAGMILL_"):
            monkeypatch.delenv(name)


def test_home_is_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert load_settings().home_path == tmp_path / "tagmill-data"
    assert load_settings().models_address == str(tmp_path / "tagmill-data" / "models")


def test_tilde_is_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TAGMILL_HOME", "~/data")
    monkeypatch.setenv("TAGMILL_MODELS_URL", "~/models")

    settings = load_settings()
    assert (settings.home_path, settings.models_workspace) == (tmp_path / "data", tmp_path / "models")


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
    settings = Settings(models_url=address)

    assert (settings.models_address, settings.models_workspace) == (expected, Path(expected))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("s3://my.bucket", "s3://my.bucket"),
        ("gs://bucket/a/models/", "gs://bucket/a/models"),
        ("az://container//models", "az://container/models"),
    ],
)
def test_registry_is_a_bucket(address: str, expected: str, tmp_path: Path) -> None:
    settings = Settings(models_url=address, home=tmp_path)

    assert settings.models_address == expected
    assert settings.models_workspace.parent == tmp_path / "model-cache"
    assert settings.models_workspace != Settings(models_url="s3://other", home=tmp_path).models_workspace


@pytest.mark.parametrize(
    ("address", "quoted"),
    [
        ("ftp://server/models", "'ftp://server/models'"),
        ("http://bucket.example/models", "'http://bucket.example/models'"),
        ("s3://", "'s3://'"),
        ("s3://bucket/../models", "'s3://bucket/../models'"),
        ("s3://bucket/a b", "'s3://bucket/a b'"),
        ("file://server/models", "'file://server/models'"),
        # Somebody's keys, which do not belong there.
        ("s3://key:secret@bucket/models", "'s3://***@bucket/models'"),
        ("az://container?sig=secret", "'az://container?***'"),
    ],
)
def test_registry_of_another_kind_is_refused(address: str, quoted: str) -> None:
    with pytest.raises(SetupError) as raised:
        _ = Settings(models_url=address).models_address

    assert f"TAGMILL_MODELS_URL {quoted} is neither a folder nor a bucket" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; what is written to its tagmill.toml counts."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal() -> str:
    with pytest.raises(SetupError) as raised:
        load_settings()
    return str(raised.value)


def test_file_of_the_current_folder_is_read(folder: Path) -> None:
    (folder / "tagmill.toml").write_text("top_k = 3\njson_logs = true\nlease_seconds = 90\nhome = ''\n")

    settings = load_settings()

    assert (settings.top_k, settings.json_logs, settings.lease_seconds) == (3, True, 90.0)
    assert settings.home_path == folder / "tagmill-data"


def test_named_file_takes_the_place_of_tagmill_toml(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tagmill.toml").write_text("top_k = 3\nimages_per_batch = 4\n")
    (folder / "other.toml").write_text("top_k = 7\n")
    monkeypatch.setenv("TAGMILL_CONFIG", "other.toml")

    assert (load_settings().top_k, load_settings().images_per_batch) == (7, 128)


def test_variable_outranks_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tagmill.toml").write_text("top_k = 3\nbroker_url_file = 'nowhere'\n")
    (folder / "secret").write_text("redis://from-a-file\n")
    monkeypatch.setenv("TAGMILL_TOP_K", "4")

    with pytest.raises(SetupError, match=r"broker_url_file names .*nowhere', which cannot be read"):
        load_settings()
    (folder / "nowhere").write_text("redis://from-toml\n")
    monkeypatch.setenv("TAGMILL_BROKER_URL_FILE", "secret")

    assert load_settings().top_k == 4
    assert load_settings().broker_url.get_secret_value() == "redis://from-a-file"


def test_paths_in_a_file_are_meant_from_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / "mill.toml").write_text(
        "home = 'data'\nmodels_url = '../models'\ndatabase_url = 'sqlite:///a.db'\nbroker_url_file = 'broker'\n"
    )
    (folder / "etc" / "broker").write_text("redis://h\r\n")
    monkeypatch.setenv("TAGMILL_CONFIG", "etc/mill.toml")

    settings = load_settings()

    assert (settings.home_path, settings.models_workspace) == (
        folder / "etc" / "data",
        folder / "etc" / ".." / "models",
    )
    assert settings.database_url.get_secret_value() == f"sqlite:///{folder}/etc/a.db"
    assert settings.broker_url.get_secret_value() == "redis://h"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top_k = 'many'", "top_k='many' in {file} is not valid: Input should be a valid integer"),
        ("timezone = 'Mars/X'", "timezone='Mars/X' in {file} is not valid: it is no time zone; write one such as"),
        ("top_k = true", "top_k='True' in {file} is not valid"),
        ("top_k = [1]", "top_k=[1] in {file} is not valid"),
        ("home = ['a']", "home=['a'] in {file} is not valid"),
        ("broker_url = {password = 'hidden'}", "broker_url in {file} is not valid"),
        ("broker_url_file = ['a']", "broker_url_file names \"['a']\", which cannot be read"),
        ("top_k = ", "{file} is not TOML: Invalid value (at end of document). Correct it"),
        (
            "topk = 3",
            "there is no setting topk, which is set in {file}; the nearest is top_k. Correct it or remove it.",
        ),
        ("TAGMILL_TOP_K = 3", "there is no setting TAGMILL_TOP_K, which is set in {file}; the nearest is top_k"),
        ("broker-url = 'x'", "the nearest is broker_url"),
        ("[elephants]", "there is no table [elephants] in {file}. Settings stand above every table"),
        ("broker_url = 'a'\nbroker_url_file = 'b'", "broker_url and broker_url_file are both set in {file}. Keep one"),
    ],
)
def test_file_that_is_wrong_is_told_in_a_line(folder: Path, text: str, message: str) -> None:
    file = folder / "tagmill.toml"
    file.write_text(text)

    told = refusal()

    assert message.format(file=file) in told
    assert "hidden" not in told


def test_file_that_is_named_and_missing_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGMILL_CONFIG", "no.toml")

    assert f"the settings in {folder}/no.toml cannot be read: No such file or directory. Mend that" in refusal()


def test_file_that_is_no_text_is_told(folder: Path) -> None:
    (folder / "tagmill.toml").write_bytes(b'home = "\xff"')

    assert "tagmill.toml is not TOML" in refusal()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("TAGMILL_TOPK", "; the nearest is TAGMILL_TOP_K"),
        ("TAGMILL_DATABASE_URI", "; the nearest is TAGMILL_DATABASE_URL"),
        ("TAGMILL_BROKER_URL_FILES", "; the nearest is TAGMILL_BROKER_URL_FILE"),
        ("TAGMILL_ELEPHANTS", ""),
    ],
)
def test_unknown_variable_is_refused(name: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "3")

    assert refusal() == f"there is no setting {name}, which is set in the environment{hint}. Correct it or remove it."


@pytest.mark.parametrize(
    "name",
    [
        "TAGMILL_SERVICE_HOST",
        "TAGMILL_SERVICE_PORT",
        "TAGMILL_WEB_SERVICE_PORT_HTTP",
        "TAGMILL_PORT",
        "TAGMILL_PORT_6379_TCP",
        "TAGMILL_WEB_PORT_6379_TCP_ADDR",
        "_TAGMILL_WORKER_ID",
        "TAGMILL_TEST_DATABASE_URL",
    ],
)
def test_variable_of_others_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")

    assert load_settings() == Settings()


def test_no_setting_has_a_name_that_kubernetes_gives() -> None:
    given = [f"{name}{end}" for name in Settings.model_fields for end in ("", "_file")]

    assert not [name for name in given if name.endswith(("_port", "_service_host")) or "_port_" in name]


@pytest.mark.parametrize("setting", ["database_url", "reader_url", "broker_url"])
def test_secret_is_the_content_of_a_file(setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("postgresql://u: p@h/n\n")
    monkeypatch.setenv(f"TAGMILL_{setting}_file".upper(), str(tmp_path / "secret"))

    settings, origins = settings_with_origins()

    assert getattr(settings, setting).get_secret_value() == "postgresql://u: p@h/n"
    assert str(tmp_path / "secret") in origins[setting]


def test_secret_and_its_file_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGMILL_BROKER_URL", "redis://h")
    monkeypatch.setenv("TAGMILL_BROKER_URL_FILE", "/run/secrets/broker")

    message = "TAGMILL_BROKER_URL and TAGMILL_BROKER_URL_FILE are both set in the environment. Keep one of them."
    assert refusal() == message


def test_secret_file_that_is_empty_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("\n")
    monkeypatch.setenv("TAGMILL_DATABASE_URL_FILE", str(tmp_path / "secret"))

    assert "which is empty. Write the address into it" in refusal()


def test_user_who_is_not_there_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGMILL_HOME", "~nobody-of-that-name/data")

    assert "names a user who is not there" in refusal()


def test_origin_of_every_setting_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tagmill.toml").write_text("images_per_batch = 4\n")
    monkeypatch.setenv("TAGMILL_TOP_K", "4")

    origins = settings_with_origins()[1]

    assert list(origins) == list(Settings.model_fields)
    assert (origins["top_k"], origins["home"]) == ("TAGMILL_TOP_K", "default")
    assert origins["images_per_batch"] == str(folder / "tagmill.toml")


def test_documented_table_is_what_the_code_makes() -> None:
    committed = Path(__file__).parents[3] / "docs" / "settings.md"

    assert committed.read_text() == as_markdown(), "run 'make settings'"
