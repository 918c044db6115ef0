"""Every setting, read once by the entry points and passed on as an argument; docs/settings.md is made from them.

A variable outranks a line of tagmill.toml, and that the default. A secret may stand in a file that either names.
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args
from urllib.parse import unquote_to_bytes
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from base.buckets import BucketAccess
from base.errors import SetupError
from base.schedules import Schedule, parse_schedules

#: The variable that names the file; `--config` sets it.
CONFIG_VARIABLE = "TAGMILL_CONFIG"
CONFIG_FILE = "tagmill.toml"

# What tests are started with, and what Kubernetes tells every pod of a Service that is named tagmill, or tagmill-web.
_OF_OTHERS = re.compile(r"TAGMILL_(TEST_\w+|(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?))")

_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?", re.ASCII)
_BUCKET_URL = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]+(/(?!\.{1,2}(/|$))[A-Za-z0-9._=-]*)*", re.ASCII)


class Settings(BaseModel):
    """The settings of one process."""

    # A traceback would show all values, those of secrets too, where one is wrong.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    home: Path = Field(
        Path("tagmill-data"),
        description="The folder of database, models and embedded broker, where no address names others.",
    )
    database_url: SecretStr | None = Field(
        None, description="`postgresql://…` or `sqlite:////PATH`. Without it: SQLite in the home."
    )
    reader_url: SecretStr | None = Field(
        None, description="PostgreSQL only: the role that `tagmill sql` reads as, `postgresql://…`."
    )
    broker_url: SecretStr | None = Field(
        None, description="`redis://…`; `run` then starts no workers. Without it: a Valkey in the home."
    )
    models_url: str | None = Field(
        None,
        description="The model registry: a folder, or `s3://BUCKET/PREFIX`, `gs://…` or `az://…`. "
        "Without it: the folder `models` in the home.",
    )

    bucket_endpoint: str | None = Field(
        None,
        description="Sources in buckets: `https://…` or `http://…` of a server that is compatible with their cloud's. "
        "`--endpoint` outranks it; workers elsewhere need it, too.",
    )
    bucket_requester_pays: bool = Field(
        False, description="Sources in S3: what is read is charged to us, as some buckets demand."
    )
    bucket_user_project: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9.:-]+$",
        description="Sources in Google Cloud Storage: the project that what is read is charged to, where a bucket "
        "demands one.",
    )
    allow_private_urls: bool = Field(
        False,
        description="URLs of a manifest may lead to this machine, its network and its cloud's own services, too. "
        "Workers elsewhere need it, too.",
    )

    images_per_batch: PositiveInt = Field(
        128,
        le=10_000,
        description="At most so many images travel in one message and are saved in one transaction; "
        "the last batches of a listing are smaller.",
    )
    batches_in_queue: PositiveInt = Field(
        1000, le=10_000, description="Messages that the broker holds at most, however large the run."
    )
    lease_seconds: float = Field(
        45.0, gt=0, le=86_400, description="A worker that shows no progress for so long loses its batch."
    )
    dispatch_seconds: float = Field(
        10.0, gt=0, le=86_400, description="How often each worker looks for batches that are due, and sends them."
    )
    resend_seconds: float = Field(
        30.0, gt=0, le=86_400, description="A message that nobody took for so long is taken for lost."
    )

    image_seconds: float = Field(
        20.0,
        gt=0,
        le=57_000,
        description="One image may keep a worker busy for so long; two seconds more fit into two thirds of the lease.",
    )
    max_image_bytes: int = Field(100 * 2**20, gt=0, le=2**40, description="Larger files fail as `too_large`.")
    max_image_pixels: int = Field(100_000_000, gt=0, le=2**40, description="Images of more pixels do, too.")
    memory_bytes: int = Field(
        768 * 2**20, ge=64 * 2**20, le=2**50, description="What one image may make a worker process grow by."
    )

    top_k: PositiveInt = Field(5, le=1000, description="Labels that are kept for each image.")

    schedule: tuple[Schedule, ...] = Field(
        (),
        description="Tables `[[schedule]]`, which `tagmill producer` works off; in the variable a JSON list of them.",
    )
    timezone: str | None = Field(
        None, description="Of schedules and `--until`, such as `Europe/Zurich`. Without it: the machine's own."
    )
    guard_max_shrink: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Staged runs: the share by which fewer images than by the last published run may be listed.",
    )
    guard_max_label_shift: float = Field(
        0.2, ge=0, le=1, description="Staged runs: the share of the source's images by which its labels may shift."
    )
    guard_max_confidence_drop: float = Field(
        0.1, ge=0, le=1, description="Staged runs: how much lower the mean confidence may be."
    )
    json_logs: bool = Field(False, description="Logs as JSON, one object a line, instead of columns.")

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, timezone: str | None) -> str | None:
        if timezone is not None and timezone not in available_timezones():
            raise ValueError("it is no time zone; write one such as Europe/Zurich")
        return timezone

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        # The lease is renewed after a third of it at the latest, and then not until the image at hand is done.
        if self.image_seconds + 2 > self.lease_seconds * 2 / 3:
            raise ValueError(
                f"TAGMILL_IMAGE_SECONDS={self.image_seconds:g} is too long for TAGMILL_LEASE_SECONDS="
                f"{self.lease_seconds:g}: raise the lease to {(self.image_seconds + 2) * 1.5:g} or more"
            )
        if self.bucket_endpoint is not None and not _ENDPOINT.fullmatch(self.bucket_endpoint):
            raise ValueError(
                f"TAGMILL_BUCKET_ENDPOINT {without_secrets(self.bucket_endpoint)!r} is no address of a server: write "
                "https://HOST or http://HOST:PORT; who goes there is told by the variables of its cloud"
            )
        try:
            str(self.home.expanduser()).encode()
        except (UnicodeEncodeError, RuntimeError) as error:
            wrong = "is not UTF-8" if isinstance(error, UnicodeEncodeError) else "names a user who is not there"
            raise ValueError(f"TAGMILL_HOME={str(self.home)!r} {wrong}: name another folder") from error
        return self

    def with_endpoint(self, endpoint: str | None) -> Self:
        """The same with what `--endpoint` says.

        Raises:
            SetupError: it is no address.
        """
        if endpoint is None:
            return self
        if not _ENDPOINT.fullmatch(endpoint):
            raise SetupError(
                f"--endpoint {without_secrets(endpoint)!r} is no address of a server. Write https://HOST or "
                "http://HOST:PORT; who goes there is told by the variables of its cloud."
            )
        return self.model_copy(update={"bucket_endpoint": endpoint})

    @property
    def zone(self) -> ZoneInfo | None:
        """The time zone that schedules and `--until` are meant in; None is the machine's own, for `datetime`, too."""
        return None if self.timezone is None else ZoneInfo(self.timezone)

    @property
    def bucket_access(self) -> BucketAccess:
        """How sources in buckets, and on the web, are reached."""
        return BucketAccess(
            endpoint=self.bucket_endpoint,
            requester_pays=self.bucket_requester_pays,
            user_project=self.bucket_user_project,
            private_urls=self.allow_private_urls,
        )

    @property
    def home_path(self) -> Path:
        """The home as an absolute path, so that a worker started elsewhere means the same folder."""
        return self.home.expanduser().absolute()

    @property
    def models_address(self) -> str:
        """The registry: the absolute path of a folder, or the URL of a bucket without a slash at its end.

        Raises:
            SetupError: `models_url` is neither.
        """
        if self.models_url is None:
            return str(self.home_path / "models")
        if self.models_url.startswith("file:///"):
            return os.fsdecode(unquote_to_bytes(self.models_url.removeprefix("file://")))
        if "://" not in self.models_url:
            return str(Path(os.path.expanduser(self.models_url)).absolute())
        if not _BUCKET_URL.fullmatch(self.models_url):
            raise SetupError(
                f"TAGMILL_MODELS_URL {without_secrets(self.models_url)!r} is neither a folder nor a bucket. Name a "
                "folder, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX; who goes there is told by "
                "the variables of its cloud, such as AWS_ACCESS_KEY_ID."
            )
        scheme, _, place = self.models_url.partition("://")
        return f"{scheme}://{'/'.join(filter(None, place.split('/')))}"

    @property
    def models_workspace(self) -> Path:
        """Where this machine keeps what it needs of the registry: the folder itself, or a bucket's cache in the home.

        Raises:
            SetupError: as `models_address`.
        """
        address = self.models_address
        if "://" not in address:
            return Path(address)
        return self.home_path / "model-cache" / hashlib.sha256(address.encode()).hexdigest()[:16]

    def variables(self) -> dict[str, str]:
        """The environment that gives another process these very settings, whatever it inherits; secrets in plain."""
        variables = {variable(key): "" for key in SECRET_FILES} | {CONFIG_VARIABLE: os.devnull}
        for name in Settings.model_fields:
            value = getattr(self, name)
            plain = value.get_secret_value() if isinstance(value, SecretStr) else value
            variables[variable(name)] = "" if plain is None else str(plain)
        schedules = [one.model_dump(mode="json") for one in self.schedule]
        return variables | {variable("schedule"): json.dumps(schedules)}


def without_secrets(address: str) -> str:
    """An address for anybody's eyes: only the place, without who goes there and by which password."""
    hidden = re.sub(r"://.*@", "://***@", address, flags=re.DOTALL)
    return re.sub(r"(://[^?]*\?).*", r"\1***", hidden, flags=re.DOTALL)


def variable(key: str) -> str:
    return f"TAGMILL_{key}".upper()


# `database_url_file` → `database_url`, and so on.
SECRET_FILES = {
    f"{name}_file": name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)
}


@dataclass(frozen=True)
class _Given:
    """A value that somebody wrote, and where."""

    value: Any
    key: str  #: as it is spelt there
    origin: str  #: for people
    is_secret_file: bool = False  #: the value is only the path of it


@dataclass(frozen=True)
class _Place:
    """Where people write settings: the environment, or a file."""

    file: Path | None

    def spell(self, key: str) -> str:
        return variable(key) if self.file is None else key

    def __str__(self) -> str:
        return "the environment" if self.file is None else str(self.file)


def load_settings() -> Settings:
    """Read the environment and tagmill.toml.

    Raises:
        SetupError: a name is unknown, a value is not one that its setting takes, or a file cannot be read.
    """
    return settings_with_origins()[0]


def settings_with_origins() -> tuple[Settings, dict[str, str]]:
    """The settings, and where each comes from in words; errors as for `load_settings`."""
    # Only what counts in the end is read: who outranks a secret file may not be allowed to read it.
    written = _from_file() | _from_environment()
    given = {name: _read_secret(one) if one.is_secret_file else one for name, one in written.items()}
    try:
        settings = Settings(**{name: one.value for name, one in given.items()})
    except ValidationError as error:
        raise SetupError(_wrong_value(error, given)) from error
    return settings, {name: given[name].origin if name in given else "default" for name in Settings.model_fields}


def _from_environment() -> dict[str, _Given]:
    variables = {name.upper(): value for name, value in os.environ.items() if name.upper().startswith("TAGMILL_")}
    written = {
        name.removeprefix("TAGMILL_").lower(): value
        for name, value in variables.items()
        if name != CONFIG_VARIABLE and not _OF_OTHERS.fullmatch(name)
    }
    return _take(written, _Place(None))


def _from_file() -> dict[str, _Given]:
    """What stands in the file that is named, or else in tagmill.toml of the current folder, where there is one."""
    named = os.environ.get(CONFIG_VARIABLE)
    path = Path(os.path.expanduser(named or CONFIG_FILE))
    if not named and not path.exists():
        return {}
    path = path.absolute()
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise SetupError(
            f"the settings in {path} cannot be read: {error.strerror}. "
            "Mend that, or name another file with --config or TAGMILL_CONFIG."
        ) from error
    except ValueError as error:  # tomllib's own, and what is no text.
        raise SetupError(
            f"{path} is not TOML: {error}. Correct it; a line is NAME = VALUE, and text stands in quotes."
        ) from error
    # As text, so that a value means in the file what it means in a variable: `true` is no number there.
    written = {key: value if isinstance(value, dict | list) else str(value) for key, value in table.items()}
    return _take(written, _Place(path))


def _take(written: Mapping[str, Any], place: _Place) -> dict[str, _Given]:
    """The settings that stand in one place, those too whose files are only named there."""
    given: dict[str, _Given] = {}
    for key, value in written.items():
        if value == "":
            continue
        name = SECRET_FILES.get(key, key)
        if name not in Settings.model_fields:
            raise SetupError(_unknown(key, value, place))
        if name in given:
            raise SetupError(
                f"{place.spell(name)} and {place.spell(name)}{'_FILE' if place.file is None else '_file'} are both set "
                f"in {place}. Keep one of them."
            )
        given[name] = _give(key, value, place)
    return given


def _give(key: str, value: Any, place: _Place) -> _Given:
    spelt = place.spell(key)
    if key == "schedule":
        folder, where = (Path.cwd(), "") if place.file is None else (place.file.parent, f" in {place}")
        schedules = parse_schedules(value, spelt=spelt, where=where, folder=folder)
        return _Given(schedules, spelt, spelt if place.file is None else str(place))
    meant = value if place.file is None else _beside(place.file.parent, key, value)
    if key in SECRET_FILES:
        return _Given(str(meant), spelt, f"{meant}, which {spelt} names in {place}", is_secret_file=True)
    return _Given(meant, spelt, spelt if place.file is None else str(place))


def _unknown(key: str, value: Any, place: _Place) -> str:
    known = [*Settings.model_fields, *SECRET_FILES]
    if isinstance(value, dict):
        return f"there is no table [{key}] in {place}. Settings stand above every table, as NAME = VALUE."
    nearest = difflib.get_close_matches(key.lower().replace("-", "_").removeprefix("tagmill_"), known, n=1)
    hint = f"; the nearest is {place.spell(nearest[0])}" if nearest else ""
    return f"there is no setting {place.spell(key)}, which is set in {place}{hint}. Correct it or remove it."


def _beside(folder: Path, key: str, value: Any) -> Any:
    """A path of the file is meant from the file's folder, wherever the command is started."""
    if not isinstance(value, str) or value.startswith("~"):
        return value
    if key in SECRET_FILES or key == "home" or (key == "models_url" and "://" not in value):
        return str(folder / value)
    if key == "database_url" and (relative := re.fullmatch(r"(sqlite[^/]*:///)([^/~:].*)", value)):
        return f"{relative[1]}{folder / relative[2]}"
    return value


def _read_secret(given: _Given) -> _Given:
    path = given.value
    shown = without_secrets(path)  # It may be the address itself, in the wrong place.
    try:
        secret = Path(os.path.expanduser(path)).read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SetupError(
            f"{given.key} names {shown!r}, which cannot be read: {reason}. "
            "Name the file that holds the address, or remove it."
        ) from error
    if not secret:
        raise SetupError(f"{given.key} names {shown!r}, which is empty. Write the address into it, or remove it.")
    return _Given(secret, given.key, given.origin)


def _wrong_value(error: ValidationError, given: Mapping[str, _Given]) -> str:
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"{reason}."
    name = str(first["loc"][0])
    one = given[name]
    value = "" if name in SECRET_FILES.values() else f"={first['input']!r}"
    where = "" if one.origin == one.key else f" in {one.origin}"
    return f"{one.key}{value}{where} is not valid: {reason}. Correct it or unset it."
