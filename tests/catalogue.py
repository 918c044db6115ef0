"""A small product catalogue after six runs of two models: what the documented queries are asked of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa

from results.session import Database
from results.tables import (
    BatchStatus,
    ItemStatus,
    RunStatus,
    SlotStatus,
    batches,
    images,
    items,
    manifest_rows,
    model_versions,
    predictions,
    runs,
    slots,
)

Labels = Sequence[tuple[str, float]]

_PHOTOS = "file:///photos/"
_STUDIO = "file:///studio/"
_MANIFEST = "file:///shop/catalogue.csv"

# What the manifest says: key, category and price of each product, and its images.
_PRODUCTS = [
    ("A100", "shoes", 90, ["shoes/A100/back.jpg", "shoes/A100/front.jpg", "shoes/A100/on%20foot.jpg"]),
    ("B200", "shoes", 50.5, ["shoes/B200/front.jpg", "shoes/B200/side%2050%2520.jpg"]),
    ("C300", "bags", 40, ["bags/C300/back.jpg", "bags/C300/front.jpg", "bags/C300/strap.jpg"]),
    ("E500", "bags", 45, ["bags/E500/front.jpg"]),  # Gone since.
    ("Z900", "parts", 5, ["bags/C300/zip.jpg"]),
    ("", "shoes", 0, ["shoesold/front.jpg"]),
]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run and the ends of its images."""

    started_at: float
    seconds: float | None  #: None: it still runs
    source: str
    model_version_id: int
    answers: Mapping[str, Labels]
    failures: Mapping[str, str] = field(default_factory=dict)  #: reason
    unsure: frozenset[str] = frozenset()  #: answers that need a review
    reused: int = 0
    skipped: int = 0
    held_back: str | None = None  #: why it was not published at once


def fill(db: Database, *, now: float) -> None:
    """Write it.

    Args:
        now: seconds since 1970. The last run began an hour before, and is not finished; the one before, a day before
            that. The others are of fixed days.
    """

    def work(connection: sa.Connection) -> None:
        versions = [("efficientnet_lite0", 1, True), ("efficientnet_lite0", 2, False), ("shop_labels", 1, True)]
        connection.execute(
            model_versions.insert(),
            [
                {"id": number, "name": name, "version": version, "content_hash": f"{number}" * 64, "active": active}
                for number, (name, version, active) in enumerate(versions, 1)
            ],
        )
        image_ids: dict[str, int] = {}
        for run_id, run in enumerate(_runs(now), 1):
            _write(connection, run_id, run, image_ids)
        _write_slots(connection, now)
        for name in ("bags/D400/front.jpg", "bags/E500/front.jpg"):
            _change(connection, image_ids[_PHOTOS + name], gone_at=_at("2024-11-21 09:00"))
        _change(connection, image_ids[_PHOTOS + "shoes/A100/back.jpg"], fingerprint="changed")
        for key, category, price, names in _PRODUCTS:
            row = {"source": _MANIFEST, "key": key, "columns": {"category": category, "price": price}}
            rows = [row | {"image_id": image_ids[_PHOTOS + name]} for name in names]
            connection.execute(manifest_rows.insert(), rows)

    db.write(work)


def _runs(now: float) -> list[_Run]:
    return [
        _Run(
            started_at=_at("2024-11-18 09:00"),
            seconds=22,
            source=_PHOTOS,
            model_version_id=1,
            answers={
                "bags/C300/back.jpg": [("backpack", 0.61), ("purse", 0.21)],
                "bags/C300/front.jpg": [("backpack", 0.99), ("purse", 0.01)],
                "bags/D400/front.jpg": [("purse", 0.45), ("backpack", 0.44), ("sandal", 0.05)],  # Gone since.
                "shoes/A100/back.jpg": [("running shoe", 0.88), ("sandal", 0.05)],  # Damaged since.
                "shoes/A100/front.jpg": [("running shoe", 0.95), ("sandal", 0.03)],
                "shoes/A100/on%20foot.jpg": [("sandal", 0.42), ("running shoe", 0.4), ("clog", 0.1)],
                "shoes/B200/front.jpg": [("sandal", 0.91), ("clog", 0.05)],
                "shoes/B200/side%2050%2520.jpg": [("clog", 0.25), ("boot", 0.22), ("vase", 0.2), ("sandal", 0.1)],
                "shoesold/front.jpg": [("running shoe", 0.77), ("clog", 0.1)],
            },
            failures={"bags/C300/zip.jpg": "truncated", "bags/E500/front.jpg": "unreadable"},
            unsure=frozenset({"bags/D400/front.jpg", "shoes/B200/side%2050%2520.jpg"}),
            reused=3,
        ),
        _Run(
            started_at=_at("2024-11-21 09:00"),
            seconds=6,
            source=_PHOTOS,
            model_version_id=1,
            answers={"bags/C300/strap.jpg": [("backpack", 0.5), ("purse", 0.3)]},
            failures={"bags/C300/zip.jpg": "truncated", "shoes/A100/back.jpg": "unreadable"},
            unsure=frozenset({"bags/C300/strap.jpg"}),  # Others are less sure; its label asks for more.
            skipped=7,
        ),
        _Run(
            started_at=_at("2024-11-21 10:00"),
            seconds=10,
            source=_PHOTOS,
            model_version_id=2,
            answers={
                "bags/C300/back.jpg": [("backpack", 0.71), ("purse", 0.2)],
                "bags/C300/front.jpg": [("backpack", 0.98), ("purse", 0.02)],
                "bags/C300/strap.jpg": [("backpack", 0.6), ("purse", 0.4)],
                "shoes/A100/front.jpg": [("running shoe", 0.9), ("sandal", 0.1)],
                "shoes/A100/on%20foot.jpg": [("running shoe", 0.55), ("sandal", 0.45)],
                "shoes/B200/front.jpg": [("sandal", 0.95), ("clog", 0.05)],
                "shoes/B200/side%2050%2520.jpg": [("sandal", 0.5), ("clog", 0.45)],
                "shoesold/front.jpg": [("running shoe", 0.8), ("clog", 0.2)],
            },
            failures={"bags/C300/zip.jpg": "truncated", "shoes/A100/back.jpg": "unreadable"},
            unsure=frozenset({"shoes/A100/on%20foot.jpg"}),
        ),
        _Run(
            started_at=_at("2024-11-21 11:00"),
            seconds=40,
            source=_PHOTOS,
            model_version_id=3,
            answers={
                "shoes/B200/front.jpg": [("slipper", 0.8), ("clog", 0.2)],
                "shoes/B200/side%2050%2520.jpg": [("clog", 0.6)],
            },
            skipped=8,
        ),
        _Run(
            started_at=now - 25 * 3600,
            seconds=5,
            source=_STUDIO,
            model_version_id=1,
            answers={"mug%201.jpg": [("coffee mug", 1.0), ("cup", 0.0)]},
            failures={"lamp.jpg": "forbidden"},
            held_back="1 of 2 images failed",  # And published by hand.
        ),
        _Run(
            started_at=now - 3600,
            seconds=None,
            source=_STUDIO,
            model_version_id=1,
            answers={
                "chair.jpg": [("folding chair", 0.35), ("rocking chair", 0.3)],
                "lamp.jpg": [("table lamp", 0.66), ("vase", 0.2)],
            },
            failures={"pot.jpg": "too_large", "urn.jpg": "forbidden", "vase.jpg": "forbidden"},
            skipped=1,
        ),
    ]


def _write(connection: sa.Connection, run_id: int, run: _Run, image_ids: dict[str, int]) -> None:
    ended_at = None if run.seconds is None else run.started_at + run.seconds
    waiting = 2 if ended_at is None else 0
    ends = len(run.answers) + len(run.failures)
    connection.execute(
        runs.insert().values(
            id=run_id,
            source=run.source.removesuffix("/"),
            include="[]",
            model_version_id=run.model_version_id,
            status=RunStatus.RUNNING if waiting else RunStatus.COMPLETED,
            listed=run.skipped + ends + waiting,
            skipped=run.skipped,
            started_at=run.started_at,
            listed_at=run.started_at,
            finished_at=ended_at,
            deadline=run.started_at + 7200 if waiting else None,
            staged=run.held_back is not None,
            held_back=run.held_back,
            published_at=ended_at if run.held_back else None,
        )
    )
    batch = {"run_id": run_id, "status": BatchStatus.DONE, "size": ends, "reused": run.reused}
    batch |= {"classified": len(run.answers), "failed": len(run.failures)}
    batch_id = connection.execute(batches.insert().values(batch).returning(batches.c.id)).scalar_one()
    if waiting:
        connection.execute(batches.insert().values(run_id=run_id, status=BatchStatus.PENDING, size=waiting))
    for name in [*run.answers, *run.failures]:
        image_id = _image(connection, run.source + name, image_ids)
        item = {"run_id": run_id, "image_id": image_id, "batch_id": batch_id, "fingerprint": "first", "attempts": 1}
        item |= {"finished_at": ended_at or run.started_at}
        if name in run.failures:
            item |= {"status": ItemStatus.FAILED, "reason": run.failures[name], "message": "what was found"}
        else:
            item |= {"status": ItemStatus.CLASSIFIED}
            needs_review = name in run.unsure
            _write_labels(connection, run.answers[name], run.model_version_id, item, needs_review=needs_review)
        connection.execute(items.insert().values(item))


def _write_slots(connection: sa.Connection, now: float) -> None:
    """Two nights of the studio: one that was held back, and one that is still going."""
    minute = int(now) // 60 * 60
    of = [
        (minute - 25 * 3600, SlotStatus.FAILED, 5, "1 of 2 images failed"),
        (minute - 3600, SlotStatus.RUNNING, 6, None),
    ]
    names = ("due_at", "status", "run_id", "message")
    connection.execute(slots.insert(), [{"schedule": "nightly"} | dict(zip(names, one, strict=True)) for one in of])


def _image(connection: sa.Connection, uri: str, image_ids: dict[str, int]) -> int:
    if uri not in image_ids:
        new = images.insert().values(uri=uri, fingerprint="first").returning(images.c.id)
        image_ids[uri] = connection.execute(new).scalar_one()
    return image_ids[uri]


def _write_labels(
    connection: sa.Connection,
    labels: Labels,
    model_version_id: int,
    item: Mapping[str, object],
    *,
    needs_review: bool,
) -> None:
    row = {name: item[name] for name in ("run_id", "image_id", "fingerprint")}
    row |= {"model_version_id": model_version_id, "classified_at": item["finished_at"]}
    rows = [
        row | {"rank": rank, "label": label, "confidence": confidence, "needs_review": needs_review and rank == 1}
        for rank, (label, confidence) in enumerate(labels, 1)
    ]
    connection.execute(predictions.insert(), rows)


def _change(connection: sa.Connection, image_id: int, **values: object) -> None:
    connection.execute(images.update().where(images.c.id == image_id).values(**values))


def _at(time: str) -> float:
    return datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp()
