"""A process that is forked has nothing of its parent that could harm it."""

import sys

import pytest

from broker.processes import fixed_variables
from tests.processes import run_python
from tests.servers import Valkey

# The worker ends by itself, as who started it is another process than it is told.
_WORKER = """
import os, sys

def describe():
    with os.scandir("/proc/self/fd") as files:
        links = [os.readlink(file.path) for file in files]
    connections = sum(link.startswith("socket:") or ".db" in link for link in links)
    print("forked", len(os.listdir("/proc/self/task")), connections, flush=True)

os.register_at_fork(before=describe)
from broker.celery_worker import main
main("worker.tasks:app", "tagmill.classify", "2", "test@here")
"""

_ELSEWHERE = """
import worker.forking
from types import SimpleNamespace
worker.forking.sys = SimpleNamespace(platform="darwin")
from worker.tasks import app
app.Worker(hostname="test@here", queues=["q"], quiet=True)
print(app.conf.worker_pool_start_method)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere none is forked")
def test_worker_has_one_thread_and_no_connection_when_it_forks(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in fixed_variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TAGMILL_BROKER_URL", valkey.url)
    monkeypatch.setenv("_TAGMILL_WORKER_PARENT", "1")

    told = run_python(_WORKER).splitlines()

    assert [line for line in told if line.startswith("forked")] == ["forked 1 0"] * 2


def test_worker_is_made_where_none_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGMILL_BROKER_URL", "redis://127.0.0.1:1/0")

    assert run_python(_ELSEWHERE).splitlines()[0] == "spawn"
