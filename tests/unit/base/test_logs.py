import subprocess
import sys

from broker.processes import CODE_FOLDER

_TWO_PROCESSES = """
import os
from base.logs import configure_logs, get_logger
configure_logs(json_lines=True)
log = get_logger()
os.fork()
for number in range(2000):
    log.info("event", number=number)
"""


def test_lines_of_processes_that_share_a_file_stay_whole_where_python_does_not_buffer() -> None:
    command = [sys.executable, "-u", "-c", _TWO_PROCESSES]
    done = subprocess.run(command, cwd=CODE_FOLDER, check=True, capture_output=True, text=True)

    lines = done.stderr.splitlines()
    assert len(lines) == 4000
    assert all(line.startswith("{") and line.count("{") == 1 for line in lines)
