"""What a producer writes: a run's listing, chunk by chunk, with the cursor that goes with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from results.session import Database
from results.tables import (
    BatchStatus,
    ItemStatus,
    RunStatus,
    batches,
    images,
    items,
    predictions,
    runs,
    staged_images,
)

_KNOWN_PER_QUERY = 5000


class ListingTaken(Exception):
    """Another producer has listed on, or the run has ended: look at the run again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownImage:
    """An image of an earlier listing."""

    image_id: int
    uri: str
    fingerprint: str | None  #: None when it was never looked at
    answered: bool  #: the run's model version has classified these very bytes
    gone: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedImage:
    """An image as the source shows it."""

    uri: str
    fingerprint: str  #: changes when the bytes may have changed
    image_id: int | None = None  #: None when no earlier listing had it


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The part of a listing that is written in one transaction."""

    cursor: str  #: the last URI that it covers
    batches: Sequence[Sequence[ListedImage]]
    skipped: int
    reappeared: Sequence[int] = field(default=())  #: images that were gone and are back, unchanged
    gone: Sequence[int] = field(default=())  #: images that are no longer there
    passed_over: int = 0

    @property
    def listed(self) -> int:
        return self.skipped + sum(len(batch) for batch in self.batches)


def find_known(
    db: Database, *, model_version_id: int | None, first: str, end: str, after: str | None
) -> Iterator[KnownImage]:
    """The images of earlier listings from URI `first` up to, not including, `end`, in URI order, after `after`.

    Args:
        model_version_id: whose answers count; None when it has none yet.
    """
    begin = images.c.uri >= first if after is None or after < first else images.c.uri > after
    yield from _read_known(db, _known(model_version_id).where(images.c.uri < end), begin)


def find_failed(db: Database, run_id: int, *, model_version_id: int, after: str | None) -> Iterator[KnownImage]:
    """The images that failed in a run and are still there, in URI order, after `after`."""
    failed = _known(model_version_id).join(items, items.c.image_id == images.c.id)
    failed = failed.where(items.c.run_id == run_id, items.c.status == ItemStatus.FAILED, images.c.gone_at.is_(None))
    yield from _read_known(db, failed, sa.true() if after is None else images.c.uri > after)


def _known(model_version_id: int | None) -> sa.Select[Any]:
    answered = sa.exists().where(
        predictions.c.image_id == images.c.id,
        predictions.c.model_version_id == model_version_id,
        predictions.c.fingerprint == images.c.fingerprint,
        predictions.c.rank == 1,
    )
    return sa.select(images.c.id, images.c.uri, images.c.fingerprint, images.c.gone_at, answered.label("answered"))


def _read_known(db: Database, known: sa.Select[Any], begin: sa.ColumnElement[bool]) -> Iterator[KnownImage]:
    """A few thousand at a time: no transaction stays open and nothing grows with the catalogue."""
    last = begin
    while True:
        statement = known.where(last).order_by(images.c.uri).limit(_KNOWN_PER_QUERY)
        page = db.read(partial(_fetch, statement))
        for row in page:
            yield KnownImage(
                image_id=row.id,
                uri=row.uri,
                fingerprint=row.fingerprint,
                answered=bool(row.answered),
                gone=row.gone_at is not None,
            )
        if len(page) < _KNOWN_PER_QUERY:
            return
        last = images.c.uri > page[-1].uri


def find_waiting(db: Database, run_id: int) -> Iterator[str]:
    """The URIs of a run's images that have no end yet, in no order; read as they are asked for."""
    statement = (
        sa.select(images.c.uri)
        .join(items, items.c.image_id == images.c.id)
        .where(items.c.run_id == run_id, items.c.status == ItemStatus.PENDING)
    )
    with db.reader.connect() as connection:
        yield from connection.execution_options(yield_per=1000).scalars(statement)


def find_listing(db: Database, run_id: int) -> tuple[str | None, bool]:
    """The cursor of a run's listing, and whether nothing is left to list."""
    statement = sa.select(runs.c.cursor, runs.c.status).where(runs.c.id == run_id)
    row = db.read(lambda connection: connection.execute(statement).one())
    return row.cursor, row.status != RunStatus.LISTING


def record_chunk(db: Database, run_id: int, *, cursor: str | None, chunk: Chunk) -> None:
    """Write a chunk of the listing: counts, batches, their items, and the new cursor.

    Args:
        cursor: where the listing stood before; a chunk is written only once, by whoever comes first.

    Raises:
        ListingTaken: the run's cursor is another one, or the run has ended.
    """

    def work(connection: sa.Connection) -> None:
        run = connection.execute(
            runs.update()
            .where(
                runs.c.id == run_id,
                runs.c.status == RunStatus.LISTING,
                runs.c.cursor.is_not_distinct_from(cursor),
            )
            .values(
                cursor=chunk.cursor,
                listed=runs.c.listed + chunk.listed,
                skipped=runs.c.skipped + chunk.skipped,
                passed_over=runs.c.passed_over + chunk.passed_over,
                gone=runs.c.gone + len(chunk.gone),
            )
            .returning(runs.c.id, runs.c.staged)
        ).one_or_none()
        if run is None:
            found = connection.execute(sa.select(runs.c.cursor).where(runs.c.id == run_id)).scalar_one()
            if found == chunk.cursor:  # An earlier try of this very chunk was committed.
                return
            raise ListingTaken(f"run {run_id}: the cursor is {found!r}")
        now = connection.execute(sa.select(db.now)).scalar_one()
        _note_gone(connection, chunk.gone, now, run=run)
        _note_gone(connection, chunk.reappeared, None, run=run)
        image_ids = _image_ids(connection, chunk, run)
        rows = []
        for batch in chunk.batches:
            batch_id = connection.execute(
                batches.insert()
                .values(run_id=run_id, status=BatchStatus.PENDING, size=len(batch))
                .returning(batches.c.id)
            ).scalar_one()
            rows += [
                {
                    "run_id": run_id,
                    "image_id": image_ids[image.uri],
                    "batch_id": batch_id,
                    "fingerprint": image.fingerprint,
                    "status": ItemStatus.PENDING,
                }
                for image in batch
            ]
        if rows:
            connection.execute(items.insert(), rows)

    db.write(work)


def end_listing(db: Database, run_id: int, *, cursor: str | None) -> None:
    """Note that the listing is complete: from now on the run ends when its last batch does.

    Raises:
        ListingTaken: another producer has listed on, or the run has ended.
    """

    def work(connection: sa.Connection) -> None:
        ended = connection.execute(
            runs.update()
            .where(
                runs.c.id == run_id,
                runs.c.status == RunStatus.LISTING,
                runs.c.cursor.is_not_distinct_from(cursor),
            )
            .values(status=RunStatus.RUNNING, listed_at=db.now)
        ).rowcount
        if not ended:
            listed_at = connection.execute(sa.select(runs.c.listed_at).where(runs.c.id == run_id)).scalar_one()
            if listed_at is None:
                raise ListingTaken(f"run {run_id}")

    db.write(work)


def _fetch(statement: sa.Select[Any], connection: sa.Connection) -> Sequence[sa.Row[Any]]:
    return connection.execute(statement).all()


def _note_gone(connection: sa.Connection, image_ids: Sequence[int], when: float | None, *, run: sa.Row[Any]) -> None:
    """Note that images are gone, or are back; of a staged run apart, until it is published."""
    if run.staged and image_ids:
        rows = [{"run_id": run.id, "image_id": image_id, "gone_at": when} for image_id in sorted(image_ids)]
        connection.execute(staged_images.insert(), rows)
        return
    # In pieces: a statement takes some tens of thousands of values at most.
    for start in range(0, len(image_ids), 1000):
        piece = sorted(image_ids)[start : start + 1000]
        connection.execute(images.update().where(images.c.id.in_(piece)).values(gone_at=when))


def _image_ids(connection: sa.Connection, chunk: Chunk, run: sa.Row[Any]) -> dict[str, int]:
    """The number of each image that needs work; an image that is new gets one."""
    wanted = [image for batch in chunk.batches for image in batch]
    found = {image.uri: image.image_id for image in wanted if image.image_id is not None}
    new = [{"uri": image.uri} for image in wanted if image.image_id is None]
    if new:
        insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(images)
        # Another run may list the same image at the same time, or have listed it as part of another source.
        upsert = insert.on_conflict_do_update(index_elements=["uri"], set_={"gone_at": images.c.gone_at})
        returned = connection.execute(upsert.returning(images.c.uri, images.c.id, images.c.gone_at), new).all()
        found |= {row.uri: row.id for row in returned}
        _note_gone(connection, [row.id for row in returned if row.gone_at is not None], None, run=run)
    return found
