"""One of every odd kind of file among good images: each ends as its kind does, and nobody else notices."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

from tests.acceptance.conftest import Tagmill
from tests.acceptance.test_run import make_many
from tests.corpus.check import check, faults
from tests.corpus.odd_files import CLASSIFIED, KINDS, NOT_LISTED, PASSED_OVER, make_odd_files
from tests.documents import ROOT
from tests.samples import make_jpeg

# When a process of a worker opens the first of the odd files, all have been listed, and some of them change.
MEANWHILE = """
import os, sys
from pathlib import Path

def watch(event, arguments):
    if event == "open" and not seen and b"/odd/" in os.fsencode(str(arguments[0])):
        seen.append(True)
        Path({processes!r}, str(os.getpid())).touch()
        from tests.corpus.odd_files import let_happen
        let_happen(Path({folder!r}))

seen = []
if any(word in " ".join(sys.orig_argv) for word in ("celery_worker", "spawn_main")):
    sys.addaudithook(watch)
"""

VENOM = """
import os, sys

def watch(event, arguments):
    if event == "open" and b"venom" in os.fsencode(str(arguments[0])):
        os._exit(3)

sys.addaudithook(watch)
"""


def test_odd_files_end_as_their_kinds_do_and_good_images_do_not_notice(
    tagmill: Tagmill, finished: Tagmill, photos: Path
) -> None:
    odd = photos / "odd"
    kinds, _ = make_odd_files(odd, large=False)
    processes = sabotage(tagmill, odd)

    facts = tagmill.run(photos, "--workers", "1")

    rows = tagmill.sql(
        "SELECT image_uri, reason AS ending, NULL AS label, NULL AS confidence FROM failures_by_image "
        f"WHERE attempts = 1 UNION ALL SELECT image_uri, '{CLASSIFIED}', label, confidence FROM current_labels"
    )
    ends = {name_below(odd, row): row["ending"] for row in rows if "/odd/" in row["image_uri"]}
    alone = finished.rows()
    good = {name_below(photos, row): (row["label"], row["confidence"]) for row in rows}
    listed = {name: kind for name, kind in kinds.items() if not {PASSED_OVER, NOT_LISTED} & set(kind.ends)}
    assert ends.keys() == listed.keys()
    assert {name: end for name, end in ends.items() if end not in listed[name].ends} == {}
    assert facts["classified"] + facts["failed"] == len(alone) + len(listed)
    assert tagmill.status()["passed_over"] == sum(kind.ends == (PASSED_OVER,) for kind in kinds.values())
    assert {name: (label, float(confidence)) for name, (label, confidence) in good.items() if name in alone} == alone
    assert len(os.listdir(processes)) == 1  # None had to take another's place.
    tagmill("verify")


def sabotage(tagmill: Tagmill, folder: Path) -> Path:
    """Let the files change under the worker; returns the folder where each process of it leaves its number."""
    for name in ("sabotage", "processes"):
        (tagmill.folder / name).mkdir()
    code = MEANWHILE.format(folder=str(folder), processes=str(tagmill.folder / "processes"))
    (tagmill.folder / "sabotage" / "sitecustomize.py").write_text(code)
    tagmill.environment["PYTHONPATH"] = os.pathsep.join([str(tagmill.folder / "sabotage"), str(ROOT)])
    return tagmill.folder / "processes"


def name_below(folder: Path, row: dict[str, str]) -> str:
    return unquote(row["image_uri"].removeprefix(folder.as_uri() + "/"), errors="surrogateescape")


def test_largest_images_stay_within_the_memory_of_a_worker(tmp_path: Path) -> None:
    names = ("largest-transparent.png", "largest.webp")
    kinds = {kind.name: kind for kind in KINDS if kind.name in names}
    for kind in kinds.values():
        kind.make(tmp_path / kind.name)

    ends = list(check(tmp_path, kinds))

    assert sorted(end.name for end in ends) == sorted(names)
    assert faults(ends, kinds) == []


def test_corpus_tells_of_a_file_that_ends_its_process(tmp_path: Path) -> None:
    photos = make_many(tmp_path / "photos", 3)
    (photos / "0001-venom.jpg").write_bytes(make_jpeg())
    (tmp_path / "sabotage").mkdir()
    (tmp_path / "sabotage" / "sitecustomize.py").write_text(VENOM)

    done = subprocess.run(
        [sys.executable, "-m", "tests.corpus", photos],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "sabotage")},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (1, "'0001-venom.jpg': died (exit code 3: ); expected: any reason\n")
    assert "       3  classified" in done.stdout
