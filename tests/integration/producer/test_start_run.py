"""One command at a time runs a source."""

import os
import subprocess
import sys
import time

import pytest

from base.errors import SetupError
from producer import start_run as start_run_module
from producer.start_run import holder, holding, start_run
from results.runs import RunRequest, SourceHeld, find_hold, hold_run, open_run
from results.session import Database
from tests.clock import Clock

REQUEST = RunRequest(source="file:///photos", model="m", model_version=1, content_hash="a" * 64)


def test_command_that_was_killed_is_taken_over_at_once(db: Database) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    of_ended = holder().replace(f"/{os.getpid()}#", f"/{ended.pid}#")
    open_run(db, REQUEST, holder=of_ended)
    waits: list[SourceHeld] = []

    run = start_run(db, REQUEST, on_wait=waits.append)

    assert (run.run_id, run.resumed, waits) == (1, True, [])


def test_command_elsewhere_that_renews_its_hold_is_left_alone(db: Database, clock: Clock) -> None:
    open_run(db, REQUEST, holder="elsewhere/1#2-3")

    def renew(_: SourceHeld) -> None:
        clock.pass_by(2)
        hold_run(db, 1, "elsewhere/1#2-3")

    with pytest.raises(SetupError, match=r"file:///photos is being run: run 1, by elsewhere/1. Wait"):
        start_run(db, REQUEST, on_wait=renew)


def test_command_elsewhere_that_is_silent_is_taken_over(db: Database, clock: Clock) -> None:
    open_run(db, REQUEST, holder="elsewhere/1#2-3")

    assert start_run(db, REQUEST, on_wait=lambda _: clock.pass_by(60)).run_id == 1


def test_number_of_a_process_elsewhere_says_nothing_here(db: Database, clock: Clock) -> None:
    """Two containers may share a host's name, and each has a process 1."""
    open_run(db, REQUEST, holder=holder().partition("/")[0] + "/999999999#of-another-space")
    waits: list[SourceHeld] = []

    def wait(held: SourceHeld) -> None:
        waits.append(held)
        clock.pass_by(60)

    start_run(db, REQUEST, on_wait=wait)

    assert len(waits) == 1


def test_run_is_held_while_its_listing_waits(db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_run_module, "_RENEW_SECONDS", 0.01)
    begun = clock.seconds
    run = start_run(db, REQUEST, on_wait=lambda _: None)

    with holding(db, run.run_id):
        clock.pass_by(25)
        for _ in range(1000):
            held = find_hold(db, REQUEST.source)
            if held is not None and held.held_until > begun + 50:
                break
            time.sleep(0.01)
        assert held is not None and held.held_until > begun + 50

    assert find_hold(db, REQUEST.source) is None
