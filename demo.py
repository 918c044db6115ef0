"""The main job on real photographs, as `make demo` shows it: every step is a command that anybody could type.

foolbox's 20 photographs carry the index of their ImageNet class in their names, so the labels can be checked.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from base.folders import make_private_folder

CHECKOUT = Path(__file__).absolute().parent
HOME = Path("tagmill-data", "demo")  # Relative, so that what is printed works at any path.
PHOTOGRAPHS = "imagenet_*.jpg"  # imagenet_NN_CLASS.jpg; other data sets lie beside them.
MODEL = "efficientnet_lite0"
EXPECTED, AT_LEAST = 20, 17
QUERY = "SELECT label, confidence, image_uri FROM current_labels ORDER BY confidence DESC LIMIT 5"


def main() -> int:
    """Run it; the exit code."""
    # Ctrl-C goes to the command, which ends its workers in good order; its exit code ends us.
    signal.signal(signal.SIGINT, lambda signum, frame: None)
    start_afresh(CHECKOUT / HOME)
    folder = foolbox_photographs()
    run = ["run", str(folder), "--include", PHOTOGRAPHS, "--workers", "2"]
    print(f"$ tagmill {shlex.join(run)}", flush=True)
    tagmill(run)
    labels = json.loads(tagmill(["models", "show", MODEL, "--json"], capture=True))["labels"]
    rows = [json.loads(line) for line in tagmill(["results", "--format", "jsonl"], capture=True).splitlines()]
    right = print_labels(rows, labels)
    print(f"\ntop-1: {right} of {len(rows)}")
    print(f'try: TAGMILL_HOME={HOME} .venv/bin/tagmill sql "{QUERY}"')
    if len(rows) != EXPECTED or right < AT_LEAST:
        print(
            f"demo: {right} of {len(rows)} labels are right; expected at least {AT_LEAST} of {EXPECTED}",
            file=sys.stderr,
        )
        return 1
    return 0


def start_afresh(home: Path) -> None:
    """Remove what an earlier demo left, but for the model, which takes a minute to build."""
    make_private_folder(home)
    for entry in home.iterdir():
        if entry.is_dir() and entry.name != "models":
            shutil.rmtree(entry)
        elif not entry.is_dir():
            entry.unlink()


def foolbox_photographs() -> Path:
    """Their folder. foolbox is not imported: what it imports itself is not installed."""
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("demo: foolbox is not installed. Run 'make install'.")
    return Path(spec.submodule_search_locations[0], "data")


def tagmill(arguments: list[str], *, capture: bool = False) -> str:
    """Run a command of tagmill in the demo's home; what it printed, when captured.

    Raises:
        SystemExit: the command failed, with its exit code.
    """
    # The settings of whoever calls are not the demo's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAGMILL_")}
    command = subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        cwd=CHECKOUT,
        env=environment | {"TAGMILL_HOME": str(HOME), "TAGMILL_CONFIG": os.devnull},
        stdout=subprocess.PIPE if capture else None,
        text=True,
    )
    printed, _ = command.communicate()
    if command.returncode != 0:
        print(f"demo: 'tagmill {arguments[0]}' ended with exit code {command.returncode}", file=sys.stderr)
        raise SystemExit(command.returncode if command.returncode > 0 else 1)
    return printed or ""


def print_labels(rows: list[dict[str, object]], labels: list[str]) -> int:
    """Print a line for each photograph; returns how many labels are those of the class in the file's name."""
    right = 0
    print(f"\n{'image':<20}  {'label':<20}  confidence")
    for row in rows:
        name = unquote(str(row["image_uri"])).rpartition("/")[2]
        expected = labels[int(Path(name).stem.split("_")[2])]
        is_right = row["label"] == expected
        right += is_right
        note = "" if is_right else f"  (its name says: {expected})"
        print(f"{name:<20}  {row['label']:<20}  {row['confidence']:10.4f}{note}")
    return right


if __name__ == "__main__":
    sys.exit(main())
