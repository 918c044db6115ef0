"""What several photographs say of one product, on both databases."""

from collections.abc import Mapping, Sequence

import pytest
import sqlalchemy as sa

from results.session import Database
from results.tables import RunStatus, images, manifest_rows, model_versions, predictions, runs

Product = tuple[str, float, int, float, bool, bool]


def fill(db: Database, shown: Mapping[str, Sequence[tuple[str, float]]], unsure: str = "") -> None:
    """Write an image for each (label, confidence) of a product, named `KEY-LABEL-CONFIDENCE`."""
    run = {"source": "s", "include": "[]", "model_version_id": 1, "status": RunStatus.COMPLETED, "started_at": 0}

    def work(connection: sa.Connection) -> None:
        version = {"id": 1, "name": "m", "version": 1, "content_hash": "a" * 64, "active": True}
        connection.execute(model_versions.insert().values(version))
        run_id = connection.execute(runs.insert().values(run).returning(runs.c.id)).scalar_one()
        for key, answers in shown.items():
            for number, (label, confidence) in enumerate(answers):
                uri = f"file:///{key}-{number}-{label}"
                image = images.insert().values(uri=uri, fingerprint="1").returning(images.c.id)
                image_id = connection.execute(image).scalar_one()
                answer = {"image_id": image_id, "model_version_id": 1, "fingerprint": "1", "rank": 1, "label": label}
                answer |= {"confidence": confidence, "run_id": run_id, "classified_at": 0}
                answer |= {"needs_review": label == unsure}
                connection.execute(predictions.insert().values(answer))
                # Named by two manifests, and voting once.
                for source in ("file:///a.csv", "file:///b.csv"):
                    row = {"source": source, "image_id": image_id, "key": key, "columns": {}}
                    connection.execute(manifest_rows.insert().values(row))

    db.write(work)


def products(db: Database) -> dict[str, Product]:
    names = "key, label, confidence, images, agreement, conflict, needs_review"
    found = db.read(lambda connection: connection.execute(sa.text(f"SELECT {names} FROM current_products")).all())
    return {
        row.key: (row.label, round(row.confidence, 6), row.images, row.agreement, bool(row.conflict), bool(row[-1]))
        for row in found
    }


@pytest.mark.parametrize(
    ("answers", "product"),
    [
        ([("boot", 0.75)], ("boot", 0.75, 1, 1.0, False, False)),
        ([("boot", 0.75), ("boot", 0.25)], ("boot", 0.5, 2, 1.0, False, False)),
        # One that is sure against two that are not, and against two that are sure enough.
        ([("boot", 0.9), ("clog", 0.3), ("clog", 0.4)], ("boot", 0.3, 3, 1 / 3, True, True)),
        ([("boot", 0.9), ("clog", 0.5), ("clog", 0.6)], ("clog", 1.1 / 3, 3, 2 / 3, True, True)),
        # As much for both, but for the last digit: 0.1 + 0.2 is a little more than 0.3.
        ([("clog", 0.1), ("clog", 0.2), ("boot", 0.3)], ("boot", 0.1, 3, 1 / 3, True, True)),
        ([("Zori", 0.5), ("boot", 0.5)], ("Zori", 0.25, 2, 0.5, True, True)),
    ],
)
def test_photographs_vote_by_their_confidence(
    db: Database, answers: Sequence[tuple[str, float]], product: Product
) -> None:
    fill(db, {"A1": answers, "B2": [("vase", 1.0)]})

    found = products(db)

    assert found["A1"][:2] == (product[0], round(product[1], 6))
    assert found["A1"][2:] == pytest.approx(product[2:])
    assert found["B2"] == ("vase", 1.0, 1, 1.0, False, False)


def test_image_that_needs_a_review_makes_its_product_need_one(db: Database) -> None:
    fill(db, {"A1": [("boot", 0.5), ("boot", 0.9)], "B2": [("vase", 0.9)]}, unsure="boot")

    assert {key: found[-1] for key, found in products(db).items()} == {"A1": True, "B2": False}


def test_images_that_are_gone_or_of_no_product_do_not_vote(db: Database) -> None:
    fill(db, {"A1": [("boot", 0.5), ("clog", 0.9)], "": [("vase", 0.9)]})
    db.write(lambda c: c.execute(images.update().where(images.c.uri.endswith("clog")).values(gone_at=1)))

    assert products(db) == {"A1": ("boot", 0.5, 1, 1.0, False, False)}


def test_one_product_is_found_by_an_index(db: Database) -> None:
    """Not by going through all: a page that shows a product asks for it whenever somebody looks."""
    fill(db, {f"A{number}": [("boot", 0.5)] for number in range(300)})
    explain = "EXPLAIN QUERY PLAN" if db.is_sqlite else "EXPLAIN"
    if not db.is_sqlite:
        db.write(lambda connection: connection.exec_driver_sql("ANALYZE"))

    statement = sa.text(f"{explain} SELECT * FROM current_products WHERE key = 'A7'")
    plan = [row[-1] for row in db.read(lambda connection: connection.execute(statement).all())]

    assert any("ix_manifest_rows_key" in line for line in plan)
    assert not any("SCAN manifest_rows" in line or "Seq Scan on manifest_rows" in line for line in plan)
