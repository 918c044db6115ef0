"""The connection to the broker, as Celery's consumers and producers get it."""

from typing import Any

import structlog
from kombu import Connection
from kombu.transport import redis

# How long a worker waits, at the most, before it looks again for a broker that is away.
_RECONNECT_SECONDS = 4


log = structlog.get_logger()


class _Channel(redis.Channel):
    """Drops what somebody else put into a queue and is no message at all.

    Left to itself Celery takes the error for a fault of its own, and the worker ends without a word.
    """

    def _brpop_read(self, **options: Any) -> Any:
        held = set(self.qos._delivered or ())
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # The stubs leave it out.
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            log.warning("message_dropped", error=f"it is no message of Celery's: {type(error).__name__}: {error}")
            taken = set(self.qos._delivered or ()) - held
            for tag in taken:
                self.basic_reject(tag, requeue=False)
            if taken:  # Celery has begun with it, and ends; the next worker must not meet it again.
                raise
            return True


class _Transport(redis.Transport):
    Channel = _Channel


class PatientConnection(Connection):
    """Looks for a broker that is away as often after an hour as after a minute.

    Left to itself kombu waits two seconds longer each time, up to half a minute, and Celery has no setting for that.
    """

    def get_transport_cls(self) -> Any:
        found = super().get_transport_cls()
        return _Transport if found is redis.Transport else found

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        return super().ensure_connection(*args, **{"interval_max": _RECONNECT_SECONDS, **options})
