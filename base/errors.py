"""The errors of tagmill, one branch per reaction.

AppError
├── ImageError       record a failure, go on with the next image
├── TransientError   give the batch back; it costs no attempt
└── SetupError       stop, and say what to mend
    ├── DatabaseError, BrokerError, SourceError, ModelError, DatasetError
"""

from enum import StrEnum


class FailureReason(StrEnum):
    """Why an image could not be classified; a closed list that people query by."""

    NOT_FOUND = "not_found"  # Listed, and gone when it was fetched.
    FORBIDDEN = "forbidden"  # The source refuses to give it to us.
    UNREADABLE = "unreadable"  # An image of a format we know, whose content is damaged.
    TRUNCATED = "truncated"  # It ends too early; fetching it again from its origin usually helps.
    NOT_AN_IMAGE = "not_an_image"  # No format of images that we know of begins like this.
    UNSUPPORTED_FORMAT = "unsupported_format"  # An image, of a format that is not read.
    TOO_LARGE = "too_large"  # More bytes, pixels or memory than the settings allow.
    TIMEOUT = "timeout"  # Alone in its batch, it kept a worker busy beyond the limit.
    WORKER_LOST = "worker_lost"  # Alone in its batch, it ended the process that worked on it.
    STORAGE_ERROR = "storage_error"  # The source failed to deliver it.


class AppError(Exception):
    """Anything that tagmill itself finds wrong; its text names the value and the next step."""


class ImageError(AppError):
    """One image cannot be classified; its neighbours can."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TransientError(AppError):
    """A server did not answer; the same work is worth trying again."""


class SetupError(AppError):
    """Nothing can go on until somebody mends what the message names."""


class DatabaseError(SetupError):
    """The database is missing, not ours, of another schema, or not to be written."""


class BrokerError(SetupError):
    """The broker does not answer, or is set up so that it would lose messages."""


class SourceError(SetupError):
    """The source does not exist or cannot be listed."""


class ModelError(SetupError):
    """The model version does not exist, or its files are not what the registry lists."""


class DatasetError(SetupError):
    """A dataset does not exist, or nothing can be learnt from it as it is."""
