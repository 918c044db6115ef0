"""Everything that can happen to three images, two workers and a broker that loses and repeats; and what mistakes do."""

import functools
from dataclasses import replace

import pytest

from tests.protocol import FAULTS, Mutant, Verdict, World, search


def world(*chunks: str, workers: int = 1, producers: int = 1, poison: str = "", **faults: int) -> World:
    allowed = tuple(faults.pop(fault, 0) for fault in FAULTS)
    assert not faults
    return World(chunks=chunks, workers=workers, producers=producers, poison=poison, faults=allowed)


WORLDS = {
    "two workers, of which one is late or dies": world("ab", workers=2, crash=1, lose=1, repeat=1, stall=1),
    "two chunks": world("a", "b", crash=2, lose=1),
    "two producers": world("a", "b", producers=2, crash=1),
    "a database that is away": world("ab", workers=2, repeat=1, stall=1, away=1),
    "a database that is away again and again": world("a", away=3),
    "an image that ends whoever works on it": world("ap", poison="p", crash=1, lose=1),
    "a run that is cancelled": world("a", "b", workers=2, crash=1, stall=1, cancel=1),
    "workers that keep dying": world("ab", crash=3),
}

# Of each mistake, the world that shows it and what is seen there.
CAUGHT = {
    Mutant.FINISH_WITHOUT_FENCE: ("two workers, of which one is late or dies", "a batch was taken from who held it"),
    Mutant.FINISH_WITHOUT_COMPARING: ("two workers, of which one is late or dies", "a ended twice"),
    Mutant.FINISH_BATCH_THEN_ITEMS: ("two chunks", "batch 0 is done, and an image of it has no end"),
    Mutant.FINISH_ITEMS_THEN_BATCH: ("two workers, of which one is late or dies", "a ended twice"),
    Mutant.CLAIM_WITHOUT_LEASE: ("workers that keep dying", "the run never ends"),
    Mutant.CLAIM_IGNORES_LEASE: ("two workers, of which one is late or dies", "a batch was taken from who held it"),
    Mutant.CLAIM_OF_DONE_BATCH: ("two workers, of which one is late or dies", "a ended twice"),
    Mutant.CLAIM_IS_NOT_COUNTED: ("an image that ends whoever works on it", "the run never ends"),
    Mutant.EXTEND_WITHOUT_FENCE: (
        "two workers, of which one is late or dies",
        "a lease was renewed by who had lost it",
    ),
    Mutant.GIVE_BACK_WITHOUT_FENCE: ("a database that is away", "a batch was taken from who held it"),
    Mutant.FAULT_COSTS_AN_ATTEMPT: (
        "a database that is away again and again",
        "a failed, and 0 workers were lost with it alone",
    ),
    Mutant.THIRD_CLAIM_FAILS_ALL: ("workers that keep dying", "a failed, and 0 workers were lost with it alone"),
    Mutant.SPLIT_IN_TWO_STEPS: ("workers that keep dying", "the run never ends"),
    Mutant.CURSOR_BEFORE_ROWS: ("two chunks", "the run is complete, and a is not recorded"),
    Mutant.ROWS_BEFORE_CURSOR: ("two chunks", "a is recorded twice"),
    Mutant.CURSOR_WITHOUT_COMPARING: ("two producers", "a is recorded twice"),
    Mutant.SEND_BEFORE_COMMIT: ("two chunks", "a message has no batch"),
    Mutant.NEVER_SEND_AGAIN: ("two chunks", "the run never ends"),
    Mutant.SEND_PENDING_ONLY: ("workers that keep dying", "the run never ends"),
    Mutant.SEND_WHAT_IS_HELD: ("two chunks", "a message is sent for what somebody holds"),
    Mutant.SEND_WITHOUT_COUNTING: ("two chunks", "the broker holds more than it should"),
    Mutant.CLOSE_WHILE_LISTING: ("two chunks", "the run is complete, and a is not recorded"),
    Mutant.CANCEL_WITHOUT_FENCE: ("a run that is cancelled", "a ended twice"),
}


@functools.cache
def found_in(name: str) -> Verdict:
    return search(WORLDS[name])


@pytest.mark.parametrize("name", WORLDS)
def test_no_order_of_steps_and_faults_breaks_the_protocol(name: str) -> None:
    verdict = found_in(name)

    assert (verdict.complaint, verdict.trace) == ("", ())


@pytest.mark.parametrize("mutant", Mutant)
def test_protocol_with_this_mistake_is_caught(mutant: Mutant) -> None:
    name, complaint = CAUGHT[mutant]

    assert search(replace(WORLDS[name], mutant=mutant)).complaint == complaint


def test_every_step_of_the_protocol_is_taken_somewhere() -> None:
    taken = {step for name in WORLDS for step in found_in(name).taken}

    assert taken >= {
        "producer 0 lists",
        "record_chunk",
        "ListingTaken",
        "end_listing",
        "take_due",
        "send_task",
        "worker 1 claims",
        "worker 1 finishes",
        "extend",
        "give_back",
        "give_back_lost",
        "LeaseLost",
        "close_runs",
        "cancel_run",
        "_cancel_piece",
        "the lease of a dead worker runs out",
        "a worker stalls until its lease runs out",
        "a message is lost",
        "a message is repeated",
        "worker 0 vanishes",
        "worker 0 is killed by an image",
        "dispatch dies",
        "producer 0 dies",
    }
