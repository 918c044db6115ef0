"""The broker below the home: there while somebody uses it, gone soon after, whoever is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from base.errors import BrokerError
from broker.embedded import embedded_broker
from tests.processes import is_running, kill, wait_until

_USER = """
import sys
from pathlib import Path
from broker.embedded import embedded_broker
with embedded_broker(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


class User:
    """Another process that uses the broker of a home."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _USER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def begin_to_leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def leave(self) -> None:
        self.begin_to_leave()
        self.process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        assert self.process.stdout is not None
        self.process.stdout.close()


def server_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])  # type: ignore[index]


def guard_pid(home: Path) -> int:
    return int(json.loads((home / "broker" / "address.json").read_text())["guard"])


def answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def push(url: str, value: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.rpush("queue", value)
        client.execute_command("WAITAOF", 1, 0, 5000)  # On disk within a second anyway.


def queued(url: str) -> list[bytes]:
    with redis.Redis.from_url(url) as client:
        found: list[bytes] = client.lrange("queue", 0, -1)  # type: ignore[assignment]
        return found


def test_server_lasts_as_long_as_the_block(tmp_path: Path) -> None:
    with embedded_broker(tmp_path) as url:
        server, guard = server_pid(url), guard_pid(tmp_path)

    assert not answers(url)
    assert not is_running(server)
    assert not is_running(guard)
    assert not (tmp_path / "broker" / "address.json").exists()


def test_server_ends_also_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), embedded_broker(tmp_path) as url:
        raise KeyboardInterrupt

    assert not answers(url)


def test_second_user_joins_and_last_one_stops_it(tmp_path: Path) -> None:
    with User(tmp_path) as other:
        with embedded_broker(tmp_path) as url:
            assert url == other.url
        assert answers(url)
        other.leave()

    assert not answers(url)


def test_first_user_may_leave_before_the_second(tmp_path: Path) -> None:
    with User(tmp_path) as first, User(tmp_path) as second:
        first.leave()

        assert answers(second.url)


def test_users_that_start_together_share_one_server(tmp_path: Path) -> None:
    together = Barrier(4)

    def use(_: int) -> tuple[str, int]:
        together.wait()
        with embedded_broker(tmp_path) as url:
            together.wait()
            return url, server_pid(url)

    with ThreadPoolExecutor(4) as pool:
        seen = set(pool.map(use, range(4)))

    assert len(seen) == 1
    ((url, _),) = seen
    wait_until(lambda: not answers(url))


def test_user_that_comes_while_it_stops_gets_a_server(tmp_path: Path) -> None:
    for _ in range(2):
        with User(tmp_path) as leaving:
            leaving.begin_to_leave()
            with embedded_broker(tmp_path) as url:
                leaving.leave()
                assert answers(url)


def test_messages_are_kept_for_the_next_user(tmp_path: Path) -> None:
    with embedded_broker(tmp_path) as url:
        push(url, "kept")

    with embedded_broker(tmp_path) as url:
        assert queued(url) == [b"kept"]


def test_killed_user_leaves_nothing_running(tmp_path: Path) -> None:
    with User(tmp_path) as user:
        server, guard = server_pid(user.url), guard_pid(tmp_path)
        user.process.kill()

        wait_until(lambda: not is_running(server) and not is_running(guard), seconds=5)


def test_killed_guard_leaves_no_server(tmp_path: Path) -> None:
    with embedded_broker(tmp_path) as url:
        push(url, "kept")
        server = server_pid(url)
        kill(guard_pid(tmp_path), signal.SIGKILL)

        wait_until(lambda: not is_running(server), seconds=5)
        with embedded_broker(tmp_path) as second_url:
            assert queued(second_url) == [b"kept"]


def test_terminated_guard_stops_its_server(tmp_path: Path) -> None:
    with embedded_broker(tmp_path) as url:
        server = server_pid(url)
        kill(guard_pid(tmp_path), signal.SIGTERM)

        assert not is_running(server)


def test_killed_server_is_back_with_its_messages(tmp_path: Path) -> None:
    with embedded_broker(tmp_path) as url:
        push(url, "kept")
        kill(server_pid(url), signal.SIGKILL)

        wait_until(lambda: answers(url), seconds=5)
        assert queued(url) == [b"kept"]


def test_address_left_by_a_server_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    with embedded_broker(tmp_path):
        stale = (tmp_path / "broker" / "address.json").read_text()
    (tmp_path / "broker" / "address.json").write_text(stale)

    with embedded_broker(tmp_path) as new_url:
        assert answers(new_url)


def test_garbage_in_the_address_file_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "address.json").write_text('["half')

    with embedded_broker(tmp_path) as url:
        assert answers(url)


def test_password_is_for_the_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with embedded_broker(tmp_path / "home"):
            folder = tmp_path / "home" / "broker"
            modes = {path.name: path.stat().st_mode & 0o777 for path in [folder.parent, folder, *folder.iterdir()]}
    finally:
        os.umask(before)

    assert (modes["home"], modes["broker"], modes["address.json"], modes["valkey.conf"]) == (0o700, 0o700, 0o600, 0o600)


def test_server_refuses_whoever_has_no_password(tmp_path: Path) -> None:
    with embedded_broker(tmp_path) as url:
        port = redis.connection.parse_url(url)["port"]
        with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_server_answers_on_the_loopback_address_alone(tmp_path: Path) -> None:
    with embedded_broker(tmp_path) as url:
        port = redis.connection.parse_url(url)["port"]
        # Of this machine, too; a server that listens on all addresses would take it.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


def test_ctrl_c_on_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    with embedded_broker(tmp_path) as url:
        sessions = {os.getsid(pid) for pid in (guard_pid(tmp_path), server_pid(url))}

    assert os.getsid(0) not in sessions


@pytest.mark.parametrize(
    "name",
    [
        "with spaces and #",
        "quo\"tes 'and' back\\slashes",
        "line\nfeed",
        os.fsdecode(b"not utf-8 \xff"),
        "/".join(["long" * 50] * 4),  # Longer than what a socket's path may have.
    ],
)
def test_any_folder_can_be_the_home(tmp_path: Path, name: str) -> None:
    with embedded_broker(tmp_path / name) as url:
        push(url, "kept")

    assert list((tmp_path / name / "broker" / "appendonlydir").iterdir())


def test_folder_named_like_our_code_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)

    with embedded_broker(tmp_path / "home") as url:
        assert answers(url)


def test_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(BrokerError, match="Name another folder with TAGMILL_HOME"), embedded_broker(tmp_path / "file"):
        pass


def test_server_that_does_not_start_leaves_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "broker" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "broker" / "appendonlydir" / "appendonly.aof.manifest").write_text("damaged")

    with pytest.raises(BrokerError, match=r"did not start; .*log ends with: .+"), embedded_broker(tmp_path):
        pass
