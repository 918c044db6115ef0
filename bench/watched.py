"""A command and all processes below it, looked at while it runs."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A look takes two milliseconds of a core that those who work want, too.
_LOOK_SECONDS = 1.0

_PARENT, _PROCESS = "worker parent", "worker process"
# What stands in the command line of a process, and what we call it; the first that fits counts.
_ROLES = (
    ("spawn_main", _PROCESS),
    ("resource_tracker", "tracker"),
    ("worker.tasks", _PARENT),
    ("broker.embedded", "broker guard"),
    ("valkey", "broker"),
    ("cli", "command"),
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """The memory of one process at one moment."""

    at: float  #: seconds since 1970
    pid: int
    role: str
    resident_bytes: int
    peak_bytes: int  #: the most it has had by then


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What was seen of a command that has ended well."""

    began_at: float  #: seconds since 1970
    seconds: float
    output: str
    looks: list[list[Look]]  #: one list for each time that we looked

    @property
    def peak_bytes(self) -> int:
        """The most that all of its processes had at one time; what they share is counted for each."""
        return max((sum(one.resident_bytes for one in looks) for looks in self.looks), default=0)

    def peak_of(self, role: str) -> int:
        """The most that one process of a role ever had; 0 where there was none."""
        return max((one.peak_bytes for looks in self.looks for one in looks if one.role == role), default=0)

    def resident(self, role: str, before: float) -> int:
        """What the largest process of a role had when we looked last before a moment; 0 where there was none."""
        sizes = [
            max((one.resident_bytes for one in looks if one.role == role), default=0)
            for looks in self.looks
            if looks and looks[0].at <= before
        ]
        return sizes[-1] if sizes else 0


def watch(
    command: Sequence[str | Path],
    *,
    folder: Path,
    scratch: Path,
    variables: Mapping[str, str],
) -> Watched:
    """Run a command to its end.

    Args:
        command: with its arguments.
        folder: where it is started.
        scratch: an existing folder, for what it says.
        variables: its environment.

    Raises:
        SystemExit: it failed; the message has its last words.
    """
    looks: list[list[Look]] = []
    with (scratch / "stdout").open("w+") as out, (scratch / "stderr").open("w+") as err:
        began_at, began = time.time(), time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            while not _has_ended(process, _LOOK_SECONDS):
                looks.append(_look(process.pid))
            seconds = time.monotonic() - began
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        last_words = (scratch / "stderr").read_text(errors="replace").strip().splitlines()[-8:]
        raise SystemExit(f"bench: {command} ended with {process.returncode}:\n" + "\n".join(last_words))
    return Watched(
        began_at=began_at, seconds=seconds, output=(scratch / "stdout").read_text(errors="replace"), looks=looks
    )


def _has_ended(process: "subprocess.Popen[bytes]", within_seconds: float) -> bool:
    try:
        process.wait(within_seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _look(pid: int) -> list[Look]:
    """Every process from this one down."""
    seen, waiting, at = [], [(pid, "")], time.time()
    while waiting:
        pid, above = waiting.pop()
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            status = Path(f"/proc/{pid}/status").read_text()
            children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        except OSError:  # It has ended.
            continue
        role = next((role for word, role in _ROLES if word in words), "other")
        if role == above == _PARENT:  # A process that was forked has the command line of its parent.
            role = _PROCESS
        waiting += [(int(child), role) for each in children for child in each]
        facts = dict(line.split(":", 1) for line in status.splitlines())
        if "VmRSS" in facts:
            resident, peak = (int(facts[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
            seen.append(Look(at=at, pid=pid, role=role, resident_bytes=resident, peak_bytes=peak))
    return seen
