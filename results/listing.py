"""What a producer writes: a run's listing, chunk by chunk, with the cursor that goes with it."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from base.fingerprints import MISSING, UNKNOWN
from results.many_rows import Given, ManyRows
from results.session import Database
from results.tables import (
    BatchStatus,
    ItemStatus,
    Priority,
    RunStatus,
    batches,
    images,
    items,
    manifest_rows,
    predictions,
    runs,
    staged_images,
)

_KNOWN_PER_QUERY = 5000
# Written out and not as parameters: only so do databases see that the partial index `ix_images_fingerprint` answers it.
_HAS_BYTES = sa.text(f"images.fingerprint NOT IN ('{MISSING}', '{UNKNOWN}')")


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
    failed: bool = False  #: these very bytes were looked at, and no model version has an answer for them
    left_over: bool = False  #: the last run of the source had no time left for it


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedImage:
    """An image as the source shows it."""

    uri: str
    fingerprint: str  #: changes when the bytes may have changed
    image_id: int | None = None  #: None when no earlier listing had it
    priority: Priority = Priority.NEW


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsChange:
    """What is to be written of a manifest's rows for one image."""

    uri: str
    image_id: int | None  #: None when no earlier listing had it
    written: Mapping[str, str]  #: key to columns as JSON, of the rows that are new or not as they were
    dropped: Sequence[str]  #: keys of the rows that are no longer there


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The part of a listing that is written in one transaction."""

    cursor: str  #: the last URI that it covers
    batches: Sequence[Sequence[ListedImage]]  #: of one priority each
    skipped: int
    new: int = 0
    changed: int = 0
    reappeared: Sequence[int] = field(default=())  #: images that were gone and are back, unchanged
    gone: Sequence[int] = field(default=())  #: images that are no longer there
    passed_over: int = 0
    rows: Sequence[RowsChange] = field(default=())  #: of a manifest, which is the run's source

    @property
    def listed(self) -> int:
        return self.skipped + sum(len(batch) for batch in self.batches)


def find_known(
    db: Database,
    *,
    model_version_id: int | None,
    first: str,
    end: str,
    after: str | None,
    disordered: bool = False,
    out_of_time: int | None = None,
) -> Iterator[KnownImage]:
    """The images of earlier listings from URI `first` up to, not including, `end`, in URI order, after `after`.

    Args:
        model_version_id: whose answers count; None when it has none yet.
        disordered: only those whose URIs have another order than the keys of their objects.
        out_of_time: the run whose cancelled images are left over.
    """
    begin = images.c.uri >= first if after is None or after < first else images.c.uri > after
    known = _known(model_version_id, out_of_time).where(images.c.uri < end)
    if disordered:
        # What `is_in_key_order` says. Of a whole catalogue the index answers it, and no row is read.
        known = known.where(sa.func.replace(images.c.uri, "%2", "").contains("%", autoescape=True))
    yield from _read_known(db, known, begin)


def find_known_among(
    db: Database, uris: Sequence[str], *, model_version_id: int | None, out_of_time: int | None
) -> list[KnownImage]:
    """Those of some thousand images that earlier listings had, in URI order; see `find_known`."""
    statement = _known(model_version_id, out_of_time).where(images.c.uri.in_(uris)).order_by(images.c.uri)
    return [_to_known(row) for row in db.rows(statement)]


def read_rows(db: Database, manifest: str, *, after: str | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The rows of a manifest as they are stored, in no order that matters: URI of the image, key, columns.

    Args:
        after: only of images after that URI.
    """
    place = sa.tuple_(manifest_rows.c.image_id, manifest_rows.c.key)
    rows = (
        sa.select(images.c.uri, manifest_rows.c.key, manifest_rows.c.columns, manifest_rows.c.image_id)
        .join(images, images.c.id == manifest_rows.c.image_id)
        .where(manifest_rows.c.source == manifest, images.c.uri > (after or ""))
        .order_by(manifest_rows.c.image_id, manifest_rows.c.key)
        .limit(_KNOWN_PER_QUERY)
    )
    last: sa.ColumnElement[bool] = sa.true()
    while page := db.rows(rows.where(last)):
        yield from ((row.uri, row.key, row.columns) for row in page)
        last = place > sa.tuple_(page[-1].image_id, page[-1].key)


def find_elsewhere(db: Database, manifest: str, image_ids: Sequence[int]) -> set[int]:
    """Those of some thousand images that another manifest names."""
    if not image_ids:
        return set()
    others = sa.select(manifest_rows.c.image_id).where(
        manifest_rows.c.image_id.in_(image_ids), manifest_rows.c.source != manifest
    )
    return {row.image_id for row in db.rows(others)}


def find_failed(db: Database, run_id: int, *, model_version_id: int, after: str | None) -> Iterator[KnownImage]:
    """The images that failed in a run and are still there, in URI order, after `after`."""
    # Of a host that was down nobody knows whether the answer that the image kept is still that of its bytes.
    was_seen = items.c.fingerprint != UNKNOWN
    failed = _known(model_version_id, where=was_seen).join(items, items.c.image_id == images.c.id)
    failed = failed.where(items.c.run_id == run_id, items.c.status == ItemStatus.FAILED, images.c.gone_at.is_(None))
    yield from _read_known(db, failed, sa.true() if after is None else images.c.uri > after)


def find_out_of_time(db: Database, source: str, *, model_version_id: int | None) -> int | None:
    """The last run of a source with a model version, where that ran out of time; None where it did not."""
    statement = (
        sa.select(runs.c.id, runs.c.out_of_time)
        .where(
            runs.c.source == source,
            runs.c.model_version_id == model_version_id,
            runs.c.retry_of.is_(None),
            runs.c.finished_at.is_not(None),
            # One that somebody cancelled says nothing of what was left over before it.
            sa.or_(runs.c.out_of_time, runs.c.status == RunStatus.COMPLETED),
        )
        .order_by(runs.c.id.desc())
        .limit(1)
    )
    row = db.read(lambda connection: connection.execute(statement).one_or_none())
    return row.id if row is not None and row.out_of_time else None


def find_answered(db: Database, model_version_id: int, fingerprints: Collection[str]) -> dict[str, set[bytes]]:
    """Which of some fingerprints are those of images that a model version has answered.

    Returns:
        Fingerprint to the content hashes of its images: a file's fingerprint does not tell its bytes.
    """
    answers = predictions.join(images, images.c.id == predictions.c.image_id)
    statement = (
        sa.select(images.c.fingerprint, predictions.c.content_hash)
        .select_from(answers)
        .where(
            images.c.fingerprint.in_(fingerprints),
            _HAS_BYTES,
            predictions.c.fingerprint == images.c.fingerprint,
            predictions.c.model_version_id == model_version_id,
            predictions.c.rank == 1,
        )
        .distinct()
    )
    found: dict[str, set[bytes]] = {}
    for row in db.rows(statement):
        found.setdefault(row.fingerprint, set()).add(bytes(row.content_hash))
    return found


def _known(
    model_version_id: int | None, out_of_time: int | None = None, where: sa.ColumnElement[bool] | None = None
) -> sa.Select[Any]:
    answer = sa.exists().where(
        predictions.c.image_id == images.c.id,
        predictions.c.fingerprint == images.c.fingerprint,
        predictions.c.rank == 1,
    )
    of_version: sa.ColumnElement[bool] = answer.where(predictions.c.model_version_id == model_version_id)
    if where is not None:
        of_version = sa.and_(of_version, where)
    # In one column, so that the second question is asked only where the answer to the first is no.
    answered_by = sa.case((of_version, "version"), (answer, "another"), else_="none")
    left_over: sa.ColumnElement[bool] = sa.false()
    if out_of_time is not None:
        left_over = sa.exists().where(
            items.c.run_id == out_of_time, items.c.image_id == images.c.id, items.c.status == ItemStatus.CANCELLED
        )
    return sa.select(
        images.c.id,
        images.c.uri,
        images.c.fingerprint,
        images.c.gone_at,
        answered_by.label("answered_by"),
        left_over.label("left_over"),
    )


def _read_known(db: Database, known: sa.Select[Any], begin: sa.ColumnElement[bool]) -> Iterator[KnownImage]:
    """A few thousand at a time: no transaction stays open and nothing grows with the catalogue."""
    last = begin
    while True:
        statement = known.where(last).order_by(images.c.uri).limit(_KNOWN_PER_QUERY)
        page = db.rows(statement)
        yield from map(_to_known, page)
        if len(page) < _KNOWN_PER_QUERY:
            return
        last = images.c.uri > page[-1].uri


def _to_known(row: sa.Row[Any]) -> KnownImage:
    image_id, uri, fingerprint, gone_at, answered_by, left_over = tuple(row)
    return KnownImage(
        image_id=image_id,
        uri=uri,
        fingerprint=fingerprint,
        answered=answered_by == "version",
        gone=gone_at is not None,
        failed=answered_by == "none" and fingerprint is not None,
        left_over=bool(left_over),
    )


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
                new=runs.c.new + chunk.new,
                changed=runs.c.changed + chunk.changed,
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
        _write_batches(connection, run_id, chunk.batches, image_ids)
        if chunk.rows:
            _write_rows(connection, run_id, chunk.rows, image_ids)

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


def _write_batches(
    connection: sa.Connection, run_id: int, cut: Sequence[Sequence[ListedImage]], image_ids: Mapping[str, int]
) -> None:
    """Batches that wait to be sent, and an item without an end for each of their images."""
    rows = []
    for batch in cut:
        batch_id = connection.execute(
            batches.insert()
            .values(run_id=run_id, status=BatchStatus.PENDING, size=len(batch), priority=batch[0].priority)
            .returning(batches.c.id)
        ).scalar_one()
        rows += [
            (run_id, image_ids[image.uri], batch_id, image.fingerprint, ItemStatus.PENDING.value) for image in batch
        ]
    _ITEMS.execute(connection, rows)


def _insert_items(_: str, given: Given) -> sa.Insert:
    return items.insert().from_select(list(given), sa.select(*given.values()))


_ITEMS = ManyRows(
    {name: items.c[name].type for name in ("run_id", "image_id", "batch_id", "fingerprint", "status")}, _insert_items
)


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


def _write_rows(
    connection: sa.Connection, run_id: int, changes: Sequence[RowsChange], image_ids: Mapping[str, int]
) -> None:
    """Bring the rows of a run's manifest up to date."""
    source = connection.execute(sa.select(runs.c.source).where(runs.c.id == run_id)).scalar_one()
    dropped, written = [], []
    for change in changes:
        image_id = image_ids[change.uri] if change.image_id is None else change.image_id
        dropped += [{"dropped_image": image_id, "dropped_key": key} for key in change.dropped]
        written += [
            {"source": source, "image_id": image_id, "key": key, "columns": json.loads(columns)}
            for key, columns in change.written.items()
        ]
    if dropped:
        row = (
            manifest_rows.c.source == source,
            manifest_rows.c.image_id == sa.bindparam("dropped_image"),
            manifest_rows.c.key == sa.bindparam("dropped_key"),
        )
        connection.execute(manifest_rows.delete().where(*row), dropped)
    if written:
        insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(manifest_rows)
        key = [column.name for column in manifest_rows.primary_key]
        changed = {"columns": insert.excluded.columns}
        connection.execute(insert.on_conflict_do_update(index_elements=key, set_=changed), written)


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
