"""The Celery app and its delivery settings. What each is for stands in docs/architecture.md."""

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import redis
    from celery import Celery
    from kombu import Connection

QUEUE = "tagmill.classify"
RUNS_QUEUE = "tagmill.runs"  # What producers work off.


def redis_of(connection: "Connection") -> "redis.Redis":
    """The client behind a connection to the broker, for what Celery has no words for."""
    return cast("redis.Redis", cast("Any", connection.default_channel).client)


def load_celery() -> None:
    """Load what making the app and sending its first message would load, which takes 0.2 s."""
    import celery.app.amqp
    import celery.app.base  # noqa: F401
    import kombu.transport.redis  # noqa: F401

    import broker.connection  # noqa: F401


def make_app(broker_url: str) -> "Celery":
    """The app that producers send with and workers run.

    A message may be lost or repeated whatever is set here; these settings make it rare, and a worker that lost its
    broker come back by itself.
    """
    # Here, so that who only starts a worker need not load them.
    from celery import Celery

    from broker.connection import PatientConnection

    app = Celery("tagmill", broker=broker_url, set_as_current=False)
    app.amqp.Connection = PatientConnection
    app.conf.update(
        task_default_queue=QUEUE,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,  # Progress is what SQL counts.
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # True would repeat a batch that kills its worker for ever.
        task_time_limit=3000,  # The last resort, below the visibility timeout; an image has its own limit.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # A message that waits in one worker could be worked on by another.
        worker_pool_start_method="spawn",  # A forked child would inherit connections and locks.
        worker_proc_alive_timeout=120,  # A child that loads slowly would be killed and started again for ever.
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options={
            # Longer than any batch takes, or it would be delivered again meanwhile.
            "visibility_timeout": 3600,
            # Without these a worker waits for ever on a connection whose other end is gone.
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app
