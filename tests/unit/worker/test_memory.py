"""What a process may grow by, in one of its own."""

import sys

import pytest

from tests.processes import run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no such limit elsewhere")

RESIDENT = """
import re
from worker.memory import limit_memory

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

limit_memory(256 * 2**20)
"""


def test_process_grows_to_its_limit_and_not_beyond() -> None:
    said = run_python(
        RESIDENT
        + """
kept = bytearray(200 * 2**20)
try:
    bytearray(100 * 2**20)
except MemoryError:
    print("refused")
"""
    )

    assert said == "refused\n"


def test_memory_of_one_image_is_given_back_before_the_next() -> None:
    said = run_python(
        RESIDENT
        + """
before = resident()
bytearray(30 * 2**20)  # What was freed last is no measure of what is kept.
blocks = [bytearray(16 * 2**20) for _ in range(8)]
pin = bytearray(100_000)  # Lies above them, where the system takes memory back.
del blocks
print(resident() - before)
"""
    )

    assert int(said) < 16
