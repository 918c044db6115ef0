import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from base.errors import ModelError
from models.child import run_in_child, share
from tests.processes import is_running, wait_until

MODULE = "tests.unit.models.child_work"

# Runs the work in a child and is killed meanwhile.
PARENT = f"""
import sys
from pathlib import Path
from models.child import run_in_child
report = lambda *told: print(*told, flush=True)
run_in_child("{MODULE}", {{"do": "hang"}}, scratch=Path(sys.argv[1]), on_progress=report)
"""


def run(tmp_path, request, on_progress=lambda step, done: None):
    return run_in_child(MODULE, request, scratch=tmp_path, on_progress=on_progress)


def test_request_answer_and_steps_come_across(tmp_path):
    steps = []

    answer = run(tmp_path, {"do": "answer", "with": ["ü", 1.5]}, lambda step, done: steps.append((step, done)))

    assert answer == ["ü", 1.5]
    assert steps == [("working", 0.5)]
    assert os.listdir(tmp_path) == []


def test_what_the_work_says_is_wrong_is_told_in_its_words(tmp_path):
    with pytest.raises(ModelError, match=r"^the value 3 is wrong\. Mend it\.$"):
        run(tmp_path, {"do": "refuse"})


@pytest.mark.parametrize(
    ("do", "told"), [("fail", "ZeroDivisionError"), ("die", "was killed by signal 9, as happens where memory runs out")]
)
def test_what_nobody_foresaw_shows_its_last_words(tmp_path, do, told):
    with pytest.raises(ModelError, match=told):
        run(tmp_path, {"do": do})


def test_what_libraries_print_is_no_report(tmp_path):
    assert run(tmp_path, {"do": "print"}) == "answered"


def test_child_ends_with_a_parent_that_is_killed(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline().split()[0])
    assert is_running(child)

    parent.send_signal(signal.SIGKILL)
    parent.communicate()

    wait_until(lambda: not is_running(child))


def test_shares_are_parts_of_the_whole():
    told = []

    share(lambda step, done: told.append(done), 0.2, 0.6)("half", 0.5)

    assert told == [pytest.approx(0.4)]
