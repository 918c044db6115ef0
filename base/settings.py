"""Every setting, read once from the environment by the entry points and passed on as an argument."""

import os
from pathlib import Path
from typing import Self
from urllib.parse import unquote_to_bytes

from pydantic import Field, PositiveInt, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from base.errors import SetupError


class Settings(BaseSettings):
    """Settings from TAGMILL_* variables; an empty variable counts as not set."""

    model_config = SettingsConfigDict(
        env_prefix="TAGMILL_", env_ignore_empty=True, frozen=True, extra="ignore", allow_inf_nan=False
    )

    home: Path = Path("tagmill-data")  # Database, models and embedded broker, where no address names others.
    database_url: SecretStr | None = None  # None: SQLite below home.
    reader_url: SecretStr | None = None  # PostgreSQL only: the role that `tagmill sql` reads as.
    broker_url: SecretStr | None = None  # None: the embedded Valkey below home.
    models_url: str | None = None  # None: the folder `models` below home.

    images_per_batch: PositiveInt = Field(64, le=10_000)
    # The broker holds no more messages than this, however large the run.
    batches_in_queue: PositiveInt = Field(1000, le=10_000)
    # A worker that shows no progress for this long loses its batch.
    lease_seconds: float = Field(45.0, gt=0, le=86_400)
    dispatch_seconds: float = Field(10.0, gt=0, le=86_400)  # How often what is due is looked up and sent.
    resend_seconds: float = Field(30.0, gt=0, le=86_400)  # A message that nobody took for this long is taken for lost.

    image_seconds: float = Field(20.0, gt=0, le=57_000)  # One image may keep a worker busy for this long.
    max_image_bytes: int = Field(100 * 2**20, gt=0, le=2**40)
    max_image_pixels: int = Field(100_000_000, gt=0, le=2**40)
    memory_bytes: int = Field(768 * 2**20, ge=64 * 2**20, le=2**50)  # What one image may make a worker process grow by.

    top_k: PositiveInt = Field(5, le=1000)
    json_logs: bool = False  # One JSON object per line instead of columns.

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        # The lease is renewed after a third of it at the latest, and then not until the image at hand is done.
        if self.image_seconds + 2 > self.lease_seconds * 2 / 3:
            raise ValueError(
                f"TAGMILL_IMAGE_SECONDS={self.image_seconds:g} is too long for TAGMILL_LEASE_SECONDS="
                f"{self.lease_seconds:g}: raise the lease to {(self.image_seconds + 2) * 1.5:g} or more"
            )
        try:
            str(self.home).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"TAGMILL_HOME={str(self.home)!r} is not UTF-8: name another folder") from error
        return self

    @property
    def home_path(self) -> Path:
        """The home as an absolute path, so that a worker started elsewhere means the same folder."""
        return self.home.expanduser().absolute()

    @property
    def models_path(self) -> Path:
        """The folder of the registry.

        Raises:
            SetupError: `models_url` is an address of another kind than a folder.
        """
        if self.models_url is None:
            return self.home_path / "models"
        if "://" in self.models_url and not self.models_url.startswith("file:///"):
            raise SetupError(
                f"TAGMILL_MODELS_URL {self.models_url!r} is not a folder; name a folder that every worker can read."
            )
        if self.models_url.startswith("file://"):
            return Path(os.fsdecode(unquote_to_bytes(self.models_url.removeprefix("file://"))))
        return Path(self.models_url).expanduser().absolute()


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SetupError: a variable holds a value that its setting does not take.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise SetupError(f"{first['msg'].removeprefix('Value error, ')}.") from error
        name = f"TAGMILL_{first['loc'][0]}".upper()
        raise SetupError(f"{name}={first['input']!r} is not valid: {first['msg']}. Correct it or unset it.") from error
