"""The beat: a tick a minute. It knows no schedule, asks no database and keeps no file, so any number may run."""

from typing import Any

from celery import beat, signals
from celery.schedules import crontab

from base.errors import SetupError, TransientError
from base.logs import get_logger
from base.settings import load_settings
from broker.app import make_app
from broker.messages import LOOK_AT_SCHEDULES
from broker.processes import configure_process_logs
from broker.ticks import send_tick

log = get_logger()

settings = load_settings()
if settings.broker_url is None:
    raise SetupError("TAGMILL_BROKER_URL is not set. Start the beat with 'tagmill beat'.")
app = make_app(settings.broker_url.get_secret_value())
configure_process_logs(settings)
app.conf.update(
    beat_scheduler="producer.beat:TickScheduler",
    beat_schedule={"tick": {"task": LOOK_AT_SCHEDULES, "schedule": crontab()}},
)


class TickScheduler(beat.Scheduler):
    """Celery's own in memory, which leaves the sending to us."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send a tick; where that fails, the next minute has another."""
        try:
            send_tick(self.app)
        except TransientError as error:
            log.warning("broker_away", error=str(error))


@signals.beat_init.connect
def _tell_ready(**_: Any) -> None:
    log.info("beat_ready")
