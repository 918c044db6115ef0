"""Whether every image comes to exactly one end whatever is killed, cut off or taken away: `make chaos`.

The whole system runs as processes, with a fake engine and a source that grows from run to run, and a monkey does to it
what its seed says. When it has stopped, everything has to complete, `tagmill verify` has to prove every run, and the
rows have to be those that the files ask for. Then `recovery.py` measures how soon work goes on after single faults.

    python -m tests.chaos [--faults N | --seconds S] [--seed SEED] [--database sqlite|postgresql] [--probes TIMES]
"""

import argparse
import itertools
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.arguments import some_seconds, whole_number
from tests.chaos.faults import Fault, faults, hits, inflict
from tests.chaos.oracle import Oracle
from tests.chaos.recovery import recovery
from tests.chaos.system import System, running_system

DATABASES = ("sqlite", "postgresql")

_IMAGES_PER_ROUND = 800
# So short that what hangs for a while loses its lease, and within a minute somebody else has it.
_SETTINGS = {
    "CHAOS_IMAGE_SECONDS": "0.02",
    "TAGMILL_IMAGES_PER_BATCH": "16",
    "TAGMILL_LEASE_SECONDS": "6",
    "TAGMILL_IMAGE_SECONDS": "2",
    "TAGMILL_DISPATCH_SECONDS": "1",
    "TAGMILL_RESEND_SECONDS": "6",
}
_START_SECONDS = 60.0
_SHOWN = 5
_PATIENCE_SECONDS = 6.0
# Connections that are silent are given up after 10 to 20 seconds.
_COMPLETE_SECONDS = 90.0


@dataclass
class Report:
    """What was done, and what came of it."""

    database: str
    seed: int
    done: list[tuple[Fault, float, str | None]] = field(default_factory=list)  #: and when it was over, whom it hit
    back_after: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    runs: int = 0
    images: int = 0
    classified: int = 0
    failed: int = 0
    starts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    complete_seconds: float = 0.0  #: from the last fault until everything was done
    wrong: list[str] = field(default_factory=list)


def storm(folder: Path, database: str, seed: int, *, most: int | None, seconds: float | None) -> Report:
    """Do faults to a system in a new folder until so many are done or so long has passed, and look at what is left."""
    report = Report(database, seed)
    on_postgres = database == "postgresql"
    with running_system(
        folder, seed, on_postgres=on_postgres, images_per_round=_IMAGES_PER_ROUND, settings=_SETTINGS
    ) as system:
        began = time.monotonic()
        system.wait_for_batch(system.workers, _START_SECONDS)
        for fault in itertools.islice(faults(seed, on_postgres=on_postgres), most):
            if seconds is not None and time.monotonic() - began > seconds:
                break
            _do(system, fault, report)
        report.seconds = time.monotonic() - began
        is_complete = system.complete(_COMPLETE_SECONDS)
        report.complete_seconds = time.monotonic() - began - report.seconds
        _look(system, report, is_complete=is_complete)
    return report


def _do(system: System, fault: Fault, report: Report) -> None:
    if fault.is_patient:
        system.wait_for_batch(hits(system, fault), _PATIENCE_SECONDS)
    until = time.monotonic() + _START_SECONDS
    while (hit := inflict(system, fault)) is None:  # Nobody of the kind is there at the moment.
        if time.monotonic() > until:
            report.wrong.append(f"{fault}: there was nobody to do it to for {_START_SECONDS:.0f} s")
            return
        system.wait(0.1)
    report.done.append((fault, time.time() + hit.seconds, hit.worker))
    system.note(f"{fault}, {hit.worker or 'all'}, for {hit.seconds:.1f} s")
    system.wait(fault.pause)


def _look(system: System, report: Report, *, is_complete: bool) -> None:
    for worker in system.workers:
        worker.end()
    oracle = Oracle(system)
    if is_complete:
        report.wrong += oracle.complaints(system.rounds)
    else:
        report.wrong.append(f"the last run was not complete after {_COMPLETE_SECONDS:.0f} s")
    if system.trap.exists():
        report.wrong.append("what a strange message holds was run")
    for run_id, *_ in oracle.runs:
        told = system.tagmill("verify", str(run_id))
        if told.returncode:
            words = "\n".join((told.stdout + told.stderr).splitlines()[:_SHOWN])
            report.wrong.append(f"verify {run_id} ends with exit code {told.returncode}: {words}")
    report.runs = len(oracle.runs)
    report.wrong += system.unforeseen()
    report.images = sum(len(change.images) for _, change in system.rounds[-1:])
    report.classified, report.failed = oracle.classified, oracle.failed
    report.starts = {worker.name: worker.starts for worker in system.workers} | {"command": system.command.starts}
    batches = {worker.name: worker.batches() for worker in system.workers}
    for fault, over, hit in report.done:
        of_whom = batches[hit] if hit else itertools.chain.from_iterable(batches.values())
        after = [end - over for begin, end in of_whom if begin > over]
        if after:
            report.back_after[str(fault)].append(min(after))


def show_recovery(folder: Path, database: str, times: int) -> list[str]:
    """Measure how soon work goes on, print it, and return what took too long."""
    wrong: list[str] = []
    print(f"{database}, one fault at a time, with the settings as they come")
    print("\n| fault | times | back at work after, s: median | max | at most |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for probe, seconds in recovery(folder, on_postgres=database == "postgresql", times=times):
        median, longest = statistics.median(seconds), max(seconds)
        print(f"| {probe.name} | {times} | {median:.1f} | {longest:.1f} | {probe.bound:.0f} |", flush=True)
        if longest > probe.bound:
            wrong.append(f"{probe.name}: back at work after {longest:.1f} s, and not {probe.bound:.0f}")
    print()
    return wrong


def show(report: Report) -> None:
    """Print it as tables."""
    done, seconds = len(report.done), report.seconds
    print(f"{report.database}, seed {report.seed}: {done} faults in {seconds:.0f} s")
    print(
        f"complete {report.complete_seconds:.0f} s after the last of them: {report.runs} runs, {report.images:,} images"
    )
    print(f"{report.classified:,} classified, {report.failed:,} failed because their workers were lost each time")
    print("started: " + ", ".join(f"{name} {number} times" for name, number in report.starts.items()))
    print("\n| role | fault | times | next batch after, s: median | max |")
    print("| --- | --- | --- | --- | --- |")
    for name in sorted({str(fault) for fault, _, _ in report.done}):
        times = sum(str(fault) == name for fault, _, _ in report.done)
        after = report.back_after.get(name, [])
        figures = f"{statistics.median(after):.1f} | {max(after):.1f}" if after else " | "
        print(f"| {name.replace(': ', ' | ')} | {times} | {figures} |")
    told = f"{len(report.wrong)} things are wrong" if report.wrong else "0 lost, 0 counted twice"
    print(f"\n{told}\n", flush=True)


def main() -> None:
    """Do it on each database; exits with 1 where anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--faults", type=whole_number(1), metavar="N", help="how many; as many as fit into --seconds without it"
    )
    parser.add_argument("--seconds", type=some_seconds, metavar="S", help="how long; 60 without --faults")
    parser.add_argument("--seed", type=int, default=0, help="another one does other faults to other images")
    parser.add_argument("--database", choices=DATABASES, help="both, one after the other, without it")
    parser.add_argument(
        "--probes", type=whole_number(0), default=2, metavar="TIMES", help="of each single fault; 0 measures none"
    )
    parser.add_argument("--keep", action="store_true", help="leave images, database and logs also where all is well")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # So that what was started is ended.
    seconds = 60.0 if wanted.faults is None and wanted.seconds is None else wanted.seconds
    is_wrong = False
    for database in (wanted.database,) if wanted.database else DATABASES:
        folder = Path(tempfile.mkdtemp(prefix=f"tagmill-chaos-{database}-"))
        report = storm(folder / "home", database, wanted.seed, most=wanted.faults, seconds=seconds)
        show(report)
        wrong = report.wrong
        if wanted.probes:
            wrong = wrong + show_recovery(folder / "probes", database, wanted.probes)
        for line in wrong:
            print(line, file=sys.stderr)
        if wrong or wanted.keep:
            print(f"seed {wanted.seed}: images, database and logs are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
        is_wrong |= bool(wrong)
    sys.exit(is_wrong)
