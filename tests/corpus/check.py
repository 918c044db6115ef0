"""Whether every file of a folder comes to an end, in a process as a worker's is: `python -m tests.corpus [FOLDER]`.

Without a folder, one of every odd kind is made, and mutations of real files. Each file has to be classified or to fail
with a reason, in time, must not end the process, and may not make it larger than `PEAK_BYTES`. One of a known kind has
to end as its kind does, and has a limit of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from base.errors import FailureReason
from base.settings import Settings
from producer.folder import Folder
from producer.sources import Found
from tests.arguments import whole_number
from tests.corpus.mutations import mutations
from tests.corpus.odd_files import CLASSIFIED, NOT_LISTED, PASSED_OVER, Kind, let_happen, make_odd_files
from tests.documents import ROOT

#: How large a process may become by an image of which nothing is known: by what the settings allow, and its own size.
PEAK_BYTES = Settings().memory_bytes + 128 * 2**20
#: The process ended before it answered, which costs a worker's process too.
DIED = "died"

_SHOWN = 5
_LAST_WORDS = 2000


@dataclass(frozen=True, kw_only=True)
class End:
    """What came of a file."""

    name: str  #: below the folder
    end: str  #: `classified`, a reason, `passed over`, `not listed` or `died`
    told: str = ""  #: the label or the message
    seconds: float = 0.0
    peak_bytes: int = 0  #: of the whole process


class Examiner:
    """The process that looks at the files, started again when one ends it."""

    def __init__(self) -> None:
        # libtiff writes what it thinks of each damaged file; only the last words of a process that died matter.
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed on leaving)
        self._process = self._start()

    def examine(self, name: str, uri: str) -> End:
        """Have it look at one."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(uri + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if line:
            return End(name=name, **json.loads(line))
        code = self._process.wait()
        self._stop()
        self._said.seek(0)
        said = self._said.read()[-_LAST_WORDS:]
        self._process = self._start()
        return End(name=name, end=DIED, told=f"exit code {code}: {said}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._said.close()

    def _stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.corpus.examiner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            cwd=ROOT,
        )


def check(folder: Path, kinds: Mapping[str, Kind]) -> Iterator[End]:
    """What comes of each image that the folder lists, and of what it passes over, in the order of their URIs."""
    source = Folder(str(folder))
    # All of them first, as between a listing and a worker minutes may lie.
    listed = [(_name(found.uri, source.uri), found) for found in source.walk()]
    let_happen(folder, kinds.values())
    with Examiner() as examiner:
        for name, found in listed:
            if isinstance(found, Found):
                yield examiner.examine(name, found.uri)
            else:
                yield End(name=name, end=PASSED_OVER)
    for name in kinds.keys() - {name for name, _ in listed} - {name.partition("/")[0] for name, _ in listed}:
        yield End(name=name, end=NOT_LISTED)


def faults(ends: Iterable[End], kinds: Mapping[str, Kind]) -> list[str]:
    """What should have ended otherwise, one line each."""
    allowed = (CLASSIFIED, PASSED_OVER, *FailureReason)
    lines: list[str] = []
    for end in ends:
        kind = kinds.get(end.name)
        expected = kind.ends if kind else allowed
        if end.end not in expected:
            wanted = ", ".join(kind.ends) if kind else "any reason"
            lines.append(f"{end.name!r}: {end.end} ({end.told}); expected: {wanted}")
        if end.peak_bytes > (kind.peak_bytes if kind else PEAK_BYTES):
            lines.append(f"{end.name!r}: {end.end}, and made the process {end.peak_bytes / 2**20:.0f} MiB large")
    return lines


def _name(uri: str, root: str) -> str:
    return unquote(uri.removeprefix(root + "/"), errors="surrogateescape").rstrip("/")


def _print(ends: list[End]) -> None:
    for reason, number in Counter(end.end for end in ends).most_common():
        print(f"{number:8,}  {reason}")
    print("the slowest:")
    for end in sorted(ends, key=lambda end: -end.seconds)[:_SHOWN]:
        print(f"{end.seconds:8.2f} s    {end.end:20} {end.name!r}")
    print("the largest memory:")
    for end in sorted(ends, key=lambda end: -end.peak_bytes)[:_SHOWN]:
        print(f"{end.peak_bytes / 2**20:8.0f} MiB  {end.end:20} {end.name!r}")


def main() -> None:
    """Check a folder; exits with 1 where something ends otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="of files of any kind; without it, ours are made")
    parser.add_argument("--mutations", type=whole_number(0), default=2000, metavar="N", help="made without a folder")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other mutations")
    wanted = parser.parse_args()
    if wanted.folder is not None and not wanted.folder.is_dir():
        parser.error(f"no folder {str(wanted.folder)!r}; name another with DIR=")
    kinds: Mapping[str, Kind] = {}
    with tempfile.TemporaryDirectory(prefix="tagmill-corpus-") as scratch:
        if wanted.folder is None:
            folder = Path(scratch) / "corpus"
            folder.mkdir()
            kinds, not_made = make_odd_files(folder)
            (folder / "mutations").mkdir()
            for mutation in mutations(wanted.mutations, wanted.seed):
                (folder / "mutations" / mutation.name).write_bytes(mutation.encoded)
            for name, why in not_made.items():
                print(f"not made: {name!r}: {why}")
        else:
            folder = wanted.folder
        ends = list(check(folder, kinds))
    _print(ends)
    wrong = faults(ends, kinds)
    print(f"{len(ends):,} files, {len(wrong)} of them otherwise than they should")
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)
