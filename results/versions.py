"""The model versions that runs have used: which one is active, and how the answers of two differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from base.errors import ModelError
from results.queries import in_source
from results.session import Database
from results.tables import images, model_versions, predictions

# Named of each kind of flip, for people to look at.
_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many of the images that exist have answers of two model versions, as they are now."""

    both: int
    only_from: int
    only_to: int


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Images that one model version gives the one label, and the other the other."""

    label_from: str
    label_to: str
    images: int
    samples: tuple[str, ...]  #: URIs of the first few of them


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What another model version says of the same images."""

    compared: int  #: images that exist and have answers of both, as they are now
    flipped: int  #: of the compared, those whose labels differ
    only_from: int  #: images with an answer of the first version only
    only_to: int
    mean_confidence_from: float | None  #: over the compared images; None where there are none
    mean_confidence_to: float | None
    needs_review_from: int  #: of the compared images
    needs_review_to: int
    kinds: int  #: of flips, of which `flips` holds the most frequent
    flips: tuple[Flip, ...]  #: the most frequent first


def activate(db: Database, model: str, version: int) -> int:
    """Make `current_labels` show the answers of a model version, and no longer those of another of its name.

    Returns:
        The version that was active before; the same one where there is nothing to do.

    Raises:
        ModelError: no run has used that version.
    """

    def work(connection: sa.Connection) -> int:
        # Locked in one order, so that commands that meet wait for each other, and not so that workers, whose rows
        # refer to these, would have to wait.
        known = (
            sa.select(model_versions)
            .where(model_versions.c.name == model)
            .order_by(model_versions.c.id)
            .with_for_update(key_share=True)
        )
        rows = connection.execute(known).all()
        chosen = next((row for row in rows if row.version == version), None)
        if chosen is None:
            raise _not_used(connection, db, model, version)
        before = next(row for row in rows if row.active)  # The first version of a name is active at once.
        if not chosen.active:
            # In this order: the index that allows one active version of a name is looked at for every statement.
            connection.execute(model_versions.update().where(model_versions.c.id == before.id).values(active=False))
            connection.execute(model_versions.update().where(model_versions.c.id == chosen.id).values(active=True))
        return int(before.version)

    return db.write(work)


def count_coverage(db: Database, version_from: tuple[str, int], version_to: tuple[str, int]) -> Coverage:
    """Count the images that have answers of one of two model versions, or of both.

    Args:
        version_from: name and version of the first.
        version_to: of the second.

    Raises:
        ModelError: no run has used one of them.
    """

    def work(connection: sa.Connection) -> Coverage:
        answers = _answers(connection, db, version_from, version_to)
        row = connection.execute(sa.select(*answers.coverage).select_from(answers.joined).where(answers.wanted)).one()
        return Coverage(both=row.both, only_from=row.only_from, only_to=row.only_to)

    return db.read(work)


def compare_versions(
    db: Database,
    version_from: tuple[str, int],
    version_to: tuple[str, int],
    *,
    source: str | None = None,
    most_flips: int = 20,
) -> Difference:
    """Compare the answers that two model versions have given to the images that exist, as they are now.

    Args:
        version_from: name and version of the first.
        version_to: of the second.
        source: the URI of a folder or of one image; None: all there are.
        most_flips: how many kinds are told; all are counted.

    Raises:
        ModelError: no run has used one of them.
    """

    def work(connection: sa.Connection) -> Difference:
        answers = _answers(connection, db, version_from, version_to, source)
        counts = connection.execute(
            sa.select(*answers.coverage, *answers.comparison).select_from(answers.joined).where(answers.wanted)
        ).one()
        flips = connection.execute(_flips(answers, most_flips)).all()
        return Difference(
            compared=counts.both,
            flipped=counts.flipped,
            only_from=counts.only_from,
            only_to=counts.only_to,
            mean_confidence_from=counts.confidence_from,
            mean_confidence_to=counts.confidence_to,
            needs_review_from=counts.needs_review_from,
            needs_review_to=counts.needs_review_to,
            kinds=flips[0].kinds if flips else 0,
            flips=tuple(_read_flip(row) for row in flips),
        )

    return db.read(work)


class _Answers:
    """Every image that exists, each beside its answers of two model versions, or NULLs."""

    def __init__(self, connection: sa.Connection, id_from: int, id_to: int, source: str | None) -> None:
        self.from_, self.to = predictions.alias("answer_from"), predictions.alias("answer_to")
        self.joined = images.outerjoin(self.from_, _is_answer(self.from_, id_from)).outerjoin(
            self.to, _is_answer(self.to, id_to)
        )
        exists = images.c.gone_at.is_(None)
        self.wanted = exists if source is None else sa.and_(exists, in_source(connection, images.c.uri, source))
        self.both = sa.and_(self.from_.c.rank.is_not(None), self.to.c.rank.is_not(None))
        self.is_flip = self.from_.c.label != self.to.c.label  # NULL, unless there are both.

    @property
    def coverage(self) -> Sequence[sa.ColumnElement[int]]:
        has_from, has_to = (answer.c.rank.is_not(None) for answer in (self.from_, self.to))
        return (
            _count(self.both, "both"),
            _count(sa.and_(has_from, ~has_to), "only_from"),
            _count(sa.and_(has_to, ~has_from), "only_to"),
        )

    @property
    def comparison(self) -> Sequence[sa.ColumnElement[Any]]:
        return (
            _count(self.is_flip, "flipped"),
            sa.func.avg(self.from_.c.confidence).filter(self.both).label("confidence_from"),
            sa.func.avg(self.to.c.confidence).filter(self.both).label("confidence_to"),
            _count(sa.and_(self.both, self.from_.c.needs_review), "needs_review_from"),
            _count(sa.and_(self.both, self.to.c.needs_review), "needs_review_to"),
        )


def _answers(
    connection: sa.Connection,
    db: Database,
    version_from: tuple[str, int],
    version_to: tuple[str, int],
    source: str | None = None,
) -> _Answers:
    return _Answers(connection, _find(connection, db, *version_from), _find(connection, db, *version_to), source)


def _is_answer(answer: sa.FromClause, model_version_id: int) -> sa.ColumnElement[bool]:
    return sa.and_(
        answer.c.image_id == images.c.id,
        answer.c.fingerprint == images.c.fingerprint,
        answer.c.model_version_id == model_version_id,
        answer.c.rank == 1,
    )


def _count(condition: sa.ColumnElement[bool], name: str) -> sa.ColumnElement[int]:
    return sa.func.count().filter(condition).label(name)


def _flips(answers: _Answers, most: int) -> sa.Select[Any]:
    """Each kind of flip; only images whose labels differ are sorted, and only the first kinds leave the database."""
    label_from, label_to, uri = answers.from_.c.label, answers.to.c.label, images.c.uri
    place = sa.func.row_number().over(partition_by=(label_from, label_to), order_by=uri)
    flip = (
        sa.select(uri, label_from.label("label_from"), label_to.label("label_to"), place.label("place"))
        .select_from(answers.joined)
        .where(answers.wanted, answers.is_flip)
        .subquery()
    )
    samples = (
        sa.func.max(sa.case((flip.c.place == place, flip.c.uri))).label(f"sample_{place}")
        for place in range(1, _SAMPLES + 1)
    )
    return (
        sa.select(
            flip.c.label_from,
            flip.c.label_to,
            sa.func.count().label("images"),
            sa.func.count().over().label("kinds"),
            *samples,
        )
        .group_by(flip.c.label_from, flip.c.label_to)
        .order_by(sa.desc("images"), flip.c.label_from, flip.c.label_to)
        .limit(most)
    )


def _read_flip(row: sa.Row[Any]) -> Flip:
    samples = (getattr(row, f"sample_{place}") for place in range(1, _SAMPLES + 1))
    return Flip(
        label_from=row.label_from,
        label_to=row.label_to,
        images=row.images,
        samples=tuple(uri for uri in samples if uri is not None),
    )


def _find(connection: sa.Connection, db: Database, model: str, version: int) -> int:
    wanted = sa.and_(model_versions.c.name == model, model_versions.c.version == version)
    row = connection.execute(sa.select(model_versions.c.id).where(wanted)).one_or_none()
    if row is None:
        raise _not_used(connection, db, model, version)
    return int(row.id)


def _not_used(connection: sa.Connection, db: Database, model: str, version: int) -> ModelError:
    used = sa.select(model_versions.c.name, model_versions.c.version)
    rows = connection.execute(used.order_by(model_versions.c.name, model_versions.c.version)).all()
    known = ", ".join(f"{row.name}:{row.version}" for row in rows) or "none"
    return ModelError(
        f"no run has used model {f'{model}:{version}'!r} in {db}; known: {known}. "
        f"Run 'tagmill run SOURCE --model {model}:{version}' first."
    )
