"""Where time goes: each moment in exactly one stage."""

import time

import pytest

from base.stages import Stage, Stopwatch


def test_stages_share_all_of_the_time() -> None:
    begun = time.perf_counter()
    watch = Stopwatch()
    watch.begin(Stage.FETCHING)
    with watch.during(Stage.LEDGER):
        time.sleep(0.02)
    watch.begin(Stage.SAVING)

    taken = watch.take()

    assert [stage for stage, seconds in taken.items() if seconds] == ["waiting", "fetching", "saving", "ledger"]
    assert 0.02 <= taken[Stage.LEDGER] <= sum(taken.values()) <= time.perf_counter() - begun


def test_interrupted_stage_goes_on_after_an_error() -> None:
    watch = Stopwatch()
    watch.begin(Stage.DECODING)

    with pytest.raises(KeyError), watch.during(Stage.LEDGER):
        raise KeyError

    assert watch.begin(Stage.SAVING) is Stage.DECODING


def test_what_was_taken_is_not_taken_again() -> None:
    watch = Stopwatch()
    watch.begin(Stage.LOADING)
    watch.begin(Stage.INFERENCE)
    watch.take()

    assert watch.take()[Stage.LOADING] == 0.0
