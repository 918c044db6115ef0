"""One of every odd kind of file among good images: each ends as its kind does, and nobody else notices."""

import os
from pathlib import Path
from urllib.parse import unquote

from tests.acceptance.conftest import Tagmill
from tests.acceptance.test_run import make_many
from tests.corpus.check import End, check, faults
from tests.corpus.odd_files import CLASSIFIED, KINDS, NOT_LISTED, PASSED_OVER, Kind, make_odd_files
from tests.documents import ROOT

GOOD = 90

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
if "spawn" in "".join(sys.orig_argv):
    sys.addaudithook(watch)
"""


def test_odd_files_end_as_their_kinds_do_and_good_images_do_not_notice(tagmill: Tagmill, tmp_path: Path) -> None:
    good = make_many(tmp_path / "mixed", GOOD)
    tagmill.run(good)
    alone = tagmill.rows()
    assert len(alone) == GOOD
    kinds, _ = make_odd_files(good / "odd", large=False)
    processes = sabotage(tagmill, good / "odd")

    facts = tagmill.run(good, "--workers", "1", "--all")

    ends = ends_below(tagmill, good / "odd")
    listed = {name: kind for name, kind in kinds.items() if not {PASSED_OVER, NOT_LISTED} & set(kind.ends)}
    assert ends.keys() == listed.keys()
    assert {name: end for name, end in ends.items() if end not in listed[name].ends} == {}
    assert facts["classified"] + facts["failed"] == GOOD + len(listed)
    assert tagmill.status()["passed_over"] == sum(kind.ends == (PASSED_OVER,) for kind in kinds.values())
    assert {name: answer for name, answer in tagmill.rows().items() if name in alone} == alone
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


def ends_below(tagmill: Tagmill, folder: Path) -> dict[str, str]:
    """The end of each image by its name below the folder; nothing was tried twice."""
    rows = tagmill.sql("SELECT image_uri, reason AS ending FROM failures_by_image WHERE attempts = 1")
    rows += tagmill.sql(f"SELECT image_uri, '{CLASSIFIED}' AS ending FROM current_labels")
    prefix = folder.as_uri() + "/"
    return {
        unquote(row["image_uri"].removeprefix(prefix), errors="surrogateescape"): row["ending"]
        for row in rows
        if row["image_uri"].startswith(prefix)
    }


def checked(folder: Path, *names: str) -> tuple[list[End], dict[str, Kind]]:
    kinds = {kind.name: kind for kind in KINDS if kind.name in names}
    for kind in kinds.values():
        kind.make(folder / kind.name)
    return list(check(folder, kinds)), kinds


def test_largest_images_stay_within_the_memory_of_a_worker(tmp_path: Path) -> None:
    ends, kinds = checked(tmp_path, "largest-transparent.png", "largest-cmyk.jpg", "largest.jpg", "1x1.png")

    assert faults(ends, kinds) == []
    assert min(end.peak_bytes for end in ends) < 2**27  # What one needed is given back before the next.
