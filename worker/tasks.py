"""The Celery worker: its one task, and what every process of it loads once."""

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from celery import signals

import models.engines.litert  # noqa: F401 (else each process would load it for itself, with its first batch)
from base.errors import AppError, DatabaseError, ModelError, SetupError, TransientError
from base.logs import bound_contextvars, get_logger
from base.settings import Settings, load_settings
from base.stages import Stage, Stopwatch
from broker.app import QUEUE, make_app
from broker.messages import CLASSIFY_BATCH, BatchMessage
from broker.processes import configure_process_logs
from broker.reconnect import Reconnector
from models.classifier import Classifier
from models.decoding import DecodingLimits
from models.registry import open_registry
from results import ledger
from results.runs import fail_run
from results.schema import open_database
from results.session import Database
from worker.classify import classify
from worker.forking import fork_first
from worker.heartbeat import Heartbeat
from worker.identity import worker_id
from worker.memory import limit_memory
from worker.reconciler import Reconciler

log = get_logger()

settings = load_settings()
if settings.broker_url is None:
    raise SetupError("TAGMILL_BROKER_URL is not set. Start workers with 'tagmill worker', or let 'tagmill run' do it.")
app = make_app(settings.broker_url.get_secret_value())
configure_process_logs(settings)
fork_first(app)
app.steps["worker"].add(Reconciler)
app.steps["consumer"].add(Reconnector)

# What this process does with its time.
_watch = Stopwatch()

# A batch that met a fault waits this long before it is sent again.
_FAULT_DELAY_SECONDS = 5.0


@app.task(name=CLASSIFY_BATCH, ignore_result=True)
def classify_batch(**fields: Any) -> None:
    """Classify one batch and save the outcome; running it twice changes nothing."""
    try:
        message = BatchMessage.from_json(fields)
    except ValueError as error:
        log.warning("message_dropped", error=str(error))
        return
    with bound_contextvars(run_id=message.run_id, batch_id=message.batch_id):
        work_on(_database(), message.batch_id, settings)


def work_on(db: Database, batch_id: int, settings: Settings) -> None:
    """Claim a batch, classify it, save the ends of its images; give it back where that is nobody's fault."""
    started = time.monotonic()
    try:
        with _watch.during(Stage.LEDGER):
            held = ledger.claim(db, batch_id, owner=_owner(), lease_seconds=settings.lease_seconds)
    except (TransientError, DatabaseError) as error:
        log.warning("batch_not_claimed", error=str(error))  # The reconciler sends it again.
        return
    if held is None:  # Somebody else has it, or it is done: a duplicate. Or it was split.
        return
    _begin_run(held.run_id)
    try:
        answers, failures = _classify(db, held, settings)
        spent = _watch.take()
        with _watch.during(Stage.SAVING):
            _when_database_is_back(lambda: ledger.finish(db, held, answers, failures, seconds=spent))
    except ledger.LeaseLost:
        log.warning("batch_lost", fence=held.fence)
    except (TransientError, DatabaseError) as error:
        _watch.begin(Stage.LEDGER)
        log.warning("batch_given_back", error=str(error))
        _when_database_is_back(lambda: ledger.give_back(db, held, delay_seconds=_FAULT_DELAY_SECONDS))
    except Exception as error:
        _watch.begin(Stage.LEDGER)
        # No image's fault, or it would be that image's failure: another model version in the registry, a mistake of
        # ours, a schema that is not what it says. Going on would end every image with a reason that is not true.
        message = str(error) if isinstance(error, AppError) else f"{type(error).__name__}: {error}".partition("\n")[0]
        log.exception("run_failed")
        # In this order: nobody may claim the batch before the run is known to have failed.
        _when_database_is_back(lambda: fail_run(db, held.run_id, message))
        _when_database_is_back(lambda: ledger.give_back(db, held, delay_seconds=0))
    else:
        log.info(
            "batch_classified",
            images=len(answers),
            failures=len(failures),
            elapsed_seconds=round(time.monotonic() - started, 3),
            **{
                f"{stage}_seconds": round(seconds, 3)
                for stage, seconds in {**spent, Stage.SAVING: _watch.seconds[Stage.SAVING]}.items()
            },
        )
    finally:
        _watch.begin(Stage.WAITING)


@functools.lru_cache(maxsize=1)  # So that it is done where the run is another than that of the last batch.
def _begin_run(run_id: int) -> None:
    """The time between two runs is nobody's."""
    _watch.take()


def _classify(db: Database, held: ledger.Claim, settings: Settings) -> tuple[list[ledger.Answer], list[ledger.Failure]]:
    def extend() -> None:
        ledger.extend(db, held, lease_seconds=settings.lease_seconds)

    # The stopwatch is the main thread's; while a model is loaded another thread extends.
    def extend_meanwhile() -> None:
        with _watch.during(Stage.LEDGER):
            extend()

    heartbeat = Heartbeat(
        extend_meanwhile,
        lease_seconds=settings.lease_seconds,
        image_seconds=settings.image_seconds,
    )
    with _watch.during(Stage.LOADING):
        classifier = _classifier(held, lambda: _renewed(extend, every_seconds=settings.lease_seconds / 3))

    def find_twins(content_hashes: Any) -> dict[bytes, list[tuple[str, float]]]:
        with heartbeat.paused(), _watch.during(Stage.LEDGER):
            return ledger.find_twins(db, held, content_hashes)

    with heartbeat.running():
        return classify(
            classifier,
            held.images,
            top_k=held.top_k,
            max_bytes=settings.max_image_bytes,
            access=settings.bucket_access,
            find_twins=find_twins,
            on_progress=heartbeat.beat,
            watch=_watch,
        )


@contextmanager
def _renewed(extend: Callable[[], object], *, every_seconds: float) -> Iterator[None]:
    """Keep a lease while a model is loaded, which a bucket far away makes last: that is no fault of the images."""
    loaded = threading.Event()

    def renew() -> None:
        while not loaded.wait(every_seconds):
            with suppress(AppError, ledger.LeaseLost):  # The next beat meets that, too.
                extend()

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        loaded.set()
        renewer.join()


def _when_database_is_back(save: Callable[[], object]) -> None:
    """Save, for as long as that takes: the claim is ours until somebody else's fence outdates it.

    Giving up would let the lease run out, and that costs the images an attempt for no fault of theirs.
    """
    while True:
        try:
            save()
            return
        except (TransientError, DatabaseError) as error:
            log.warning("database_away", error=str(error))
            time.sleep(1.0)


@functools.cache
def _database() -> Database:
    return open_database(settings)


#: Those that this process has loaded, by name, version and content hash.
_classifiers: dict[tuple[str, int, str], Classifier] = {}


def _classifier(held: ledger.Claim, renewed: Callable[[], AbstractContextManager[None]]) -> Classifier:
    """That of a batch; of several model versions that a worker may serve, each is loaded on first use.

    Args:
        renewed: keeps the batch while a block lasts.

    Raises:
        ModelError: the version is not in the registry, or not the one that the run was begun with.
    """
    key = (held.model, held.model_version, held.content_hash)
    if key not in _classifiers:
        with renewed():  # A thread, which would take a millisecond of each batch.
            _classifiers[key] = _load_classifier(*key)
    return _classifiers[key]


def _load_classifier(name: str, version: int, content_hash: str) -> Classifier:
    registry = open_registry(settings)
    found = registry.find(f"{name}:{version}")
    if found.content_hash != content_hash:
        raise ModelError(
            f"model {found} in {registry.address} has contents {found.content_hash[:12]}, the run needs "
            f"{content_hash[:12]}. Set TAGMILL_MODELS_URL to the registry that the run used."
        )
    limits = DecodingLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    classifier = Classifier(found, limits=limits, watch=_watch)
    limit_memory(settings.memory_bytes)
    return classifier


def _owner() -> str:
    return f"{worker_id()}/{os.getpid()}"


@signals.worker_ready.connect
def _tell_ready(sender: Any, **_: Any) -> None:
    log.info("worker_ready", processes=sender.controller.concurrency, queue=QUEUE)
