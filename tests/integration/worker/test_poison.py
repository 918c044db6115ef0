"""Images among 64 that end, hang or starve every process that looks at them, on both databases."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from results.listing import Chunk, ListedImage, end_listing, record_chunk
from results.queries import find_runs, verify_run
from results.runs import RunRequest, open_run
from results.session import Database
from tests.processes import run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process has no limit of memory elsewhere")

IMAGES = 64


@pytest.fixture
def work(
    db: Database, database_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[int, str]], dict[str, tuple[str, int]]]:
    """Works on one batch of 64 images, some of which are poison; what failed, with its reason and its attempts."""
    monkeypatch.setenv("TAGMILL_BROKER_URL", "redis://127.0.0.1:1/0")

    def work_on(poison: dict[int, str]) -> dict[str, tuple[str, int]]:
        listed = []
        for number in range(IMAGES):
            path = tmp_path / f"{number:02}.jpg"
            path.write_text(poison.get(number, f"an image, number {number}"))
            listed.append(ListedImage(uri=path.as_uri(), fingerprint="5-1"))
        request = RunRequest(source=tmp_path.as_uri(), model="m", model_version=1, content_hash="a" * 64)
        run_id = open_run(db, request, holder="test/1").run_id
        record_chunk(db, run_id, cursor=None, chunk=Chunk(cursor=listed[-1].uri, batches=[listed], skipped=0))
        end_listing(db, run_id, cursor=listed[-1].uri)

        run_python("from tests.poisoned_worker import main; main()", database_address)

        (run,) = find_runs(db, run_id)
        assert (run.status, run.classified, run.failed) == ("completed", IMAGES - len(poison), len(poison))
        assert verify_run(db, run_id).gaps == ()
        query = sa.text("SELECT image_uri, reason, attempts FROM failures_by_image")
        failed = db.read(lambda connection: connection.execute(query).all())
        return {(tmp_path / row.image_uri.rpartition("/")[2]).read_text(): (row.reason, row.attempts) for row in failed}

    return work_on


def test_image_that_kills_its_process_fails_after_14_attempts(
    work: Callable[[dict[int, str]], dict[str, tuple[str, int]]],
) -> None:
    # Two each in a batch of 64, 32, 16, 8, 4, 2 and alone.
    assert work({17: "kills"}) == {"kills": ("worker_lost", 14)}


def test_every_kind_of_poison_fails_with_its_reason(
    work: Callable[[dict[int, str]], dict[str, tuple[str, int]]],
) -> None:
    # Next to each other, so that most batches hold several; what only meets the limit in Python costs no attempt.
    failed = work({60: "hogs", 61: "kills", 62: "hogs in C", 63: "hangs"})

    assert {image: reason for image, (reason, _) in failed.items()} == {
        "kills": "worker_lost",
        "hogs in C": "worker_lost",
        "hangs": "timeout",
        "hogs": "too_large",
    }
    assert all(attempts <= 15 for _, attempts in failed.values())
