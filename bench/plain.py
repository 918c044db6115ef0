"""What a worker does without a ledger: it classifies its share of a folder, and writes each batch once.

    python -m bench.plain FOLDER MODEL SHARE SHARES

`bench.ledger` starts it, and a line on stdin lets it begin. Settings come from the environment, as for a worker.
"""

import os
import sys
from pathlib import Path

import sqlalchemy as sa

from base.settings import load_settings
from bench.steps import STEPS, Steps
from models.classifier import Classifier
from models.decoding import DecodingLimits
from models.registry import open_registry
from results.ledger import ClaimedImage
from results.session import Database, database_url
from worker.classify import classify

_ANSWERS = sa.Table(
    "answers",
    sa.MetaData(),
    sa.Column("uri", sa.Text, primary_key=True),
    sa.Column("rank", sa.Integer, primary_key=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("confidence", sa.Double, nullable=False),
)


def main(folder: Path, model: str, share: int, shares: int) -> None:
    """Classify every so manieth batch."""
    settings = load_settings()
    steps = Steps(Path(os.environ[STEPS]))
    database = Database(database_url(settings))
    if share == 0:
        database.write(_ANSWERS.metadata.create_all)
    uris = [path.as_uri() for path in sorted(folder.iterdir())]
    batches = [
        uris[first : first + settings.images_per_batch] for first in range(0, len(uris), settings.images_per_batch)
    ]
    limits = DecodingLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    classifier = Classifier(open_registry(settings).find(model), limits=limits)
    print("ready", flush=True)
    sys.stdin.readline()
    for batch in batches[share::shares]:
        images = [ClaimedImage(image_id=number, uri=uri, fingerprint="") for number, uri in enumerate(batch)]
        with steps.step("classify"):
            answers, _ = classify(
                classifier,
                images,
                top_k=settings.top_k,
                max_bytes=settings.max_image_bytes,
                find_twins=lambda content_hashes: {},
                on_progress=lambda: None,
            )
        rows = [
            {"uri": batch[answer.image_id], "rank": rank, "label": label, "confidence": confidence}
            for answer in answers
            for rank, (label, confidence) in enumerate(answer.labels, start=1)
        ]
        with steps.step("finish", len(batch)):
            database.write(lambda connection, rows=rows: connection.execute(_ANSWERS.insert(), rows))  # type: ignore[misc]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
