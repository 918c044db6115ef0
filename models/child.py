"""Work that needs TensorFlow, in a process of its own: it takes seconds to load, 800 MB, and gives none of it back.

The child is `python -m MODULE`, whose `main` calls `serve`. It reports on its stdout, one JSON line at a time: steps
while it works, and at the end either what it made or the error that stopped it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from base.errors import AppError, DatasetError, ModelError, TransientError

#: Told what is being done, and the share of the work that lies behind it, 0 to 1.
Progress = Callable[[str, float], None]

# What the work may raise, by name.
_ERRORS: dict[str, type[AppError]] = {each.__name__: each for each in (DatasetError, ModelError, TransientError)}

ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "KERAS_BACKEND": "tensorflow",
    "MPLBACKEND": "agg",
    "COLUMNS": "98",  # Keras's tables are as wide as the terminal, which there is none of.
}


def run_in_child(
    module: str,
    request: Mapping[str, Any],
    *,
    scratch: Path,
    on_progress: Progress,
    keep_open: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Have a module's `serve` answer a request; its process ends when this one does, however that ends.

    Args:
        module: "models.train", say.
        request: JSON types.
        scratch: an existing folder for what libraries write meanwhile.
        on_progress: told of every step.
        keep_open: descriptors that the child keeps as long as it lives, such as those of locks.
        environment: variables that only this work needs.

    Returns:
        What the work returned, as JSON types.

    Raises:
        DatasetError, ModelError, TransientError: as the work raised it.
        ModelError: the process ended without an answer.
    """
    # -P: a folder named `models` where the user happens to be is not ours.
    command = [sys.executable, "-P", "-m", module]
    code_folder = str(Path(__file__).absolute().parents[1])
    python_path = os.pathsep.join(filter(None, [code_folder, os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, **ENVIRONMENT, **(environment or {}), "PYTHONPATH": python_path, "TMPDIR": str(scratch)}
    with tempfile.TemporaryFile("w+", dir=scratch) as errors:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=variables,
            pass_fds=keep_open,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends the child.
        )
        with _ended(child):
            assert child.stdin is not None and child.stdout is not None
            with suppress(BrokenPipeError):  # It ended already; what it left on stderr says why.
                child.stdin.write(json.dumps(request) + "\n")
                child.stdin.flush()
            for line in child.stdout:
                report = json.loads(line)
                if "step" in report:
                    on_progress(report["step"], report["done"])
                elif report.get("kind") == "OSError":
                    raise ModelError(f"{report['error']}. Mend that, and try again; it works in {scratch}.")
                elif "error" in report:
                    raise _ERRORS.get(report["kind"], ModelError)(report["error"])
                else:
                    return report["answer"]
            code = child.wait()
        errors.seek(0)
        raise ModelError(_last_words(module, code, errors.read()))


@contextmanager
def _ended(child: "subprocess.Popen[str]") -> Iterator[None]:
    try:
        yield
    finally:
        child.kill()
        child.communicate()


def _last_words(module: str, code: int, said: str) -> str:
    """What to tell of a child that ended without an answer: what it said, then what that means."""
    # TensorFlow greets, and warns of what does not matter here.
    lines = [line for line in said.strip().splitlines() if not re.match(r"WARNING: All log|[IW]0000 ", line)]
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    why = ", as happens where memory runs out" if code == -signal.SIGKILL else ""
    return "\n".join(
        [*lines[-30:], f"the process of {module} {how}{why}, and gave no answer. Try the same command again."]
    )


def share(on_progress: Progress, begin: float, end: float) -> Progress:
    """The progress of a step that takes a part of the whole, from `begin` to `end`."""
    return lambda step, done: on_progress(step, begin + (end - begin) * done)


def serve(work: Callable[[dict[str, Any], Progress], Any]) -> None:
    """Answer the one request that comes on stdin; what `run_in_child` calls on the other side.

    Args:
        work: from the request to JSON types; what it raises as an AppError is told in its words.
    """

    def end_with_parent() -> None:
        while os.read(0, 1):  # Its end comes when the parent ends, however it does.
            pass
        os._exit(1)

    def report(**fields: Any) -> None:
        reports.write(json.dumps(fields) + "\n")
        reports.flush()

    # Libraries write to stdout as they please; only our reports may reach the parent's pipe.
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(_read_line())
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        answer = work(request, lambda step, done: report(step=step, done=done))
    except AppError as error:
        report(error=str(error), kind=type(error).__name__)
    except OSError as error:  # A full disk, say.
        place = f": {error.filename}" if error.filename else ""
        report(error=f"{error.strerror or error}{place}", kind="OSError")
    else:
        report(answer=answer)


def _read_line() -> bytes:
    """The first line of stdin, without reading ahead: whoever watches for the end reads the descriptor itself."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)
