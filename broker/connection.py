"""The connection to the broker, as Celery's consumers and producers get it."""

from typing import Any

from kombu import Connection

# How long a worker waits, at the most, before it looks again for a broker that is away.
_RECONNECT_SECONDS = 4


class PatientConnection(Connection):
    """Looks for a broker that is away as often after an hour as after a minute.

    Left to itself kombu waits two seconds longer each time, up to half a minute, and Celery has no setting for that.
    """

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        return super().ensure_connection(*args, **{"interval_max": _RECONNECT_SECONDS, **options})
