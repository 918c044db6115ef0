"""What the programs of `bench` and `tests` refuse before they begin, as they would measure nothing or for ever."""

import subprocess
import sys

import pytest

from tests.documents import ROOT


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("tests.chaos --faults 0", "argument --faults: not '0', but a whole number of at least 1"),
        ("tests.chaos --seconds nan", "argument --seconds: not 'nan', but a number of seconds above 0"),
        ("bench.ledger --batches 3 --processes 2", "--batches 3 is too few for --processes 2: each needs two"),
    ],
)
def test_number_that_measures_nothing_is_refused(command: str, told: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 2
    assert told in done.stderr
