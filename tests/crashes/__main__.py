"""Reads `SCENARIO ROLE all|distinct` from stdin; kills that role at each of its points, and tells what came of it."""

import json
import os
import sys
from pathlib import Path

from models.registry import Registry
from tests.crashes.mill import Mill, publish_model
from tests.crashes.scenarios import SCENARIOS, complaints, make_images


def survey(mill: Mill, folder: Path, name: str, role: str, which: str) -> dict[str, object]:
    """Kill a role of a scenario at each point, one after the other.

    Args:
        which: `all`, or `distinct` for the first of those that have the same name.

    Returns:
        `points`, the names of those that it was killed at, and `faults`, what was wrong afterwards.
    """
    faults = _attempt(mill, folder, name, role, kill_at=0)
    names = mill.points.names()
    chosen = [at for at, point in enumerate(names, 1) if which == "all" or point not in names[: at - 1]]
    for at in [] if faults else chosen:
        found = _attempt(mill, folder, name, role, kill_at=at)
        if mill.points.names()[at - 1 : at] != [names[at - 1]]:
            found.append(f"it came to {mill.points.names()[at - 1 : at]}")
        faults += [f"{role} killed at point {at}, {names[at - 1]}: {fault}" for fault in found]
    return {"points": [names[at - 1] for at in chosen], "faults": faults}


def _attempt(mill: Mill, folder: Path, name: str, role: str, *, kill_at: int) -> list[str]:
    mill.reset(role, kill_at)
    try:
        SCENARIOS[name].play(mill, folder / name)
        return list(complaints(mill, SCENARIOS[name]))
    except AssertionError as error:
        return [str(error)]


def main() -> None:
    folder = Path(sys.argv[1])
    publish_model(Registry(Path(os.environ["TAGMILL_MODELS_URL"])))
    for name, scenario in SCENARIOS.items():
        make_images(folder / name, scenario.ends)
    mill = Mill(folder, os.environ["TAGMILL_BROKER_URL"])
    for line in sys.stdin:
        print(json.dumps(survey(mill, folder, *line.split())), flush=True)


main()
