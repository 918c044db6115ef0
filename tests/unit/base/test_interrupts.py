import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from base.interrupts import Interrupts


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    interrupts = Interrupts()
    before = signal.signal(signal.SIGINT, interrupts.handle)
    yield interrupts
    signal.signal(signal.SIGINT, before)


def send() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def steps_done(interrupts: Interrupts, *, signals: int) -> int:
    """How many of two steps were done in a block in which so many signals come with the first."""
    done = 1
    with suppress(KeyboardInterrupt), interrupts.wait():
        for _ in range(signals):
            send()
        done += 1
    return done


@pytest.mark.usefixtures("interrupts")
def test_signal_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        send()


def test_signal_waits_for_the_end_of_a_block(interrupts: Interrupts) -> None:
    assert steps_done(interrupts, signals=1) == 2


def test_signal_that_waited_interrupts(interrupts: Interrupts) -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.wait():
        send()


def test_second_signal_waits_for_nothing(interrupts: Interrupts) -> None:
    assert steps_done(interrupts, signals=2) == 1


def test_way_out_is_not_interrupted_again(interrupts: Interrupts) -> None:
    with suppress(KeyboardInterrupt):
        send()

    assert steps_done(interrupts, signals=0) == 2


def test_signal_that_was_dropped_is_noticed(interrupts: Interrupts) -> None:
    interrupts.check()
    with suppress(KeyboardInterrupt):  # As Python does in a finalizer.
        send()

    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
