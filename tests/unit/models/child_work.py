"""What test_child.py has done in a process of its own."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from base.errors import ModelError
from models.child import serve


def work(request: dict[str, Any], on_progress: Callable[[str, float], None]) -> Any:
    if request["do"] == "answer":
        on_progress("working", 0.5)
        return request["with"]
    if request["do"] == "refuse":
        raise ModelError("the value 3 is wrong. Mend it.")
    if request["do"] == "fail":
        return 1 // 0
    if request["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if request["do"] == "hang":
        on_progress(str(os.getpid()), 0.0)
        time.sleep(60)
    print("a library greets")
    print("and warns", file=sys.stderr)
    return "answered"


if __name__ == "__main__":
    serve(work)
