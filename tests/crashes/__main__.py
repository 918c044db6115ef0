"""Ends a role of a scenario at each of its points, and tells what came of it: `SCENARIO ROLE WHICH` comes from stdin,
and `survey` has the words for it."""

import json
import os
import signal
import sys
from pathlib import Path

from models.registry import Registry
from tests.crashes.mill import Mill, publish_model
from tests.crashes.scenarios import SCENARIOS, complaints, drain, make_images


def survey(mill: Mill, folder: Path, name: str, role: str, which: str) -> dict[str, object]:
    """End a role of a scenario at each point, one after the other.

    Args:
        which: `all` kills it at each, `distinct` at the first of those that have the same name. `asleep` stops it
            there, and it wakes up when all is over; but not in a transaction, for whose locks the others would wait.

    Returns:
        `points`, the names of those that it was ended at, and `complaints`, what was wrong afterwards.
    """
    how = signal.SIGSTOP if which == "asleep" else signal.SIGKILL
    told = _attempt(mill, folder, name, role)
    names = mill.points.names()
    chosen = [at for at, point in enumerate(names, 1) if which == "all" or point not in names[: at - 1]]
    if how is signal.SIGSTOP:
        chosen = [at for at in chosen if not names[at - 1].startswith("before the commit")]
    for at in [] if told else chosen:
        found = _attempt(mill, folder, name, role, at, how)
        met = mill.points.names()[at - 1 : at]
        found += [f"it came to {met}"] if met != [names[at - 1]] else []
        told += [f"{role} ended at point {at}, {names[at - 1]}: {complaint}" for complaint in found]
    return {"points": [names[at - 1] for at in chosen], "complaints": told}


def _attempt(
    mill: Mill, folder: Path, name: str, role: str, end_at: int = 0, how: signal.Signals = signal.SIGKILL
) -> list[str]:
    mill.reset(role, end_at, how)
    scenario = SCENARIOS[name]
    try:
        scenario.play(mill, folder / name)
        mill.wake()
        drain(mill)
        return list(complaints(mill, scenario))
    except AssertionError as error:
        return [str(error)]
    finally:
        mill.end()


def main() -> None:
    folder = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever else is said.
    publish_model(Registry(Path(os.environ["TAGMILL_MODELS_URL"])))
    for name, scenario in SCENARIOS.items():
        make_images(folder / name, scenario.ends)
    mill = Mill(folder, os.environ["TAGMILL_BROKER_URL"])
    for line in sys.stdin:
        print(json.dumps(survey(mill, folder, *line.split())), file=answers, flush=True)


main()
