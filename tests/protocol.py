"""The protocol of delivery as a small model, and a search of all that can happen in it.

A state is what SQL holds (run, batches, items), what the broker holds, and how far each process is. A step is one
transaction, one message, or one fault. The search goes through every order of steps, with as many faults as a world
allows, and looks at each state for what must never be (`complaints`). Afterwards it looks whether every state still has
a way to the end of the run without a further fault.

The steps carry the names of the functions that they stand for, in `results/` and `broker/dispatch.py`. A mutant is the
same protocol with one mistake.

Source: explicit-state search as in Holzmann, The Model Checker SPIN (1997).
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import NamedTuple


class Mutant(StrEnum):
    """One mistake each."""

    FINISH_WITHOUT_FENCE = auto()  # Whoever holds the batch by now, its end is written.
    FINISH_WITHOUT_COMPARING = auto()  # Not even that it is still leased is looked at.
    FINISH_BATCH_THEN_ITEMS = auto()  # In two transactions.
    FINISH_ITEMS_THEN_BATCH = auto()
    CLAIM_WITHOUT_LEASE = auto()  # What is claimed stays so for ever.
    CLAIM_IGNORES_LEASE = auto()  # What another one holds is taken from it.
    CLAIM_OF_DONE_BATCH = auto()
    EXTEND_WITHOUT_FENCE = auto()
    GIVE_BACK_WITHOUT_FENCE = auto()
    FAULT_COSTS_AN_ATTEMPT = auto()
    CLAIM_IS_NOT_COUNTED = auto()
    THIRD_CLAIM_FAILS_ALL = auto()  # Instead of splitting.
    SPLIT_IN_TWO_STEPS = auto()  # The halves first, and the batch that they came from later.
    CURSOR_BEFORE_ROWS = auto()  # In two transactions.
    ROWS_BEFORE_CURSOR = auto()
    CURSOR_WITHOUT_COMPARING = auto()
    SEND_BEFORE_COMMIT = auto()
    NEVER_SEND_AGAIN = auto()
    SEND_PENDING_ONLY = auto()  # Not what a worker held that is gone.
    SEND_WHAT_IS_HELD = auto()
    SEND_WITHOUT_COUNTING = auto()  # However much the broker holds.
    CLOSE_WHILE_LISTING = auto()
    CANCEL_WITHOUT_FENCE = auto()


class RunStatus(StrEnum):
    LISTING = auto()
    RUNNING = auto()
    COMPLETED = auto()
    CANCELLING = auto()  # `cancelled`, while some of its images have no end.
    CANCELLED = auto()


NOBODY, DEAD, VANISHED = -1, -2, -3  # Of a dead process the parent tells; of one that went with its machine nobody.


class Batch(NamedTuple):
    """A row of `batches`."""

    images: str  #: one letter each
    status: str = "pending"
    fence: int = 0
    attempts: int = 0
    owner: int = NOBODY  #: the worker
    expired: bool = False  #: the lease has run out
    sent: bool = False


class Item(NamedTuple):
    """A row of `items`, and what is true of its image whatever the rows say."""

    listed: int = 0  #: how often it was recorded
    ends: tuple[str, ...] = ()
    losses: int = 0  #: how often a worker was lost that had nothing but it


class Worker(NamedTuple):
    """A worker process."""

    batch: int = -1  #: what it works on
    fence: int = 0
    kept: bool = True  #: its lease has not run out since the claim
    half: str = ""  #: of two steps that should be one, what is to be done yet


class State(NamedTuple):
    status: RunStatus
    cursor: int  #: chunks that are recorded
    batches: tuple[Batch, ...]
    items: tuple[tuple[str, Item], ...]
    queue: tuple[int, ...]  #: messages in the broker, sorted
    producers: tuple[tuple[str, int], ...]  #: (what it is about to do, the cursor that it has read)
    workers: tuple[Worker, ...]
    sending: tuple[int, ...]  #: noted as sent by the dispatch that is at work, and not yet in the broker
    faults: tuple[int, ...]  #: how many are left, as FAULTS
    complaint: str = ""


FAULTS = ("crash", "lose", "repeat", "stall", "away", "cancel")


@dataclass(frozen=True, kw_only=True)
class World:
    """What is searched."""

    chunks: tuple[str, ...]  #: the images of each chunk of the listing, which is one batch here
    poison: str = ""  #: images that end whoever works on them
    producers: int = 1
    workers: int = 2
    room: int = 2  #: messages that the broker may hold
    faults: tuple[int, ...]  #: as FAULTS
    mutant: Mutant | None = None  #: the mistake that is made in it

    def has(self, mutant: Mutant) -> bool:
        return mutant is self.mutant


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a search found."""

    complaint: str  #: empty where all is well
    trace: tuple[str, ...]  #: the steps that led there
    taken: frozenset[str]  #: every step that was taken anywhere


Step = tuple[str, bool, State]  # Its name, whether it is a fault, and the state after it.

# A fence is only ever compared with one of a few claims before, and what counts without end has no end of states.
_FENCES = 8
_LEFT_UNANSWERED = 2  # As CLAIMS_LEFT_UNANSWERED of the ledger.


def search(world: World) -> Verdict:
    """Go through everything that can happen in a world."""
    first = State(
        status=RunStatus.LISTING,
        cursor=0,
        batches=(),
        items=tuple((image, Item()) for image in "".join(world.chunks)),
        queue=(),
        producers=(("", 0),) * world.producers,
        workers=(Worker(),) * world.workers,
        sending=(),
        faults=world.faults,
    )
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    before: dict[State, list[State]] = {}  # By steps that are no faults.
    ended: list[State] = []
    taken: set[str] = set()
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        complaint = state.complaint or next(complaints(world, state), "")
        if complaint:
            return Verdict(complaint=complaint, trace=_trace(came_from, state), taken=frozenset(taken))
        if state.status in (RunStatus.COMPLETED, RunStatus.CANCELLED):
            ended.append(state)
        for name, is_fault, after in steps(world, state):
            taken.add(name)
            if after not in came_from:
                came_from[after] = (state, name)
                waiting.append(after)
            if not is_fault:
                before.setdefault(after, []).append(state)
    stuck = _without_a_way(came_from, before, ended)
    complaint = "" if stuck is None else "the run never ends"
    return Verdict(complaint=complaint, trace=_trace(came_from, stuck or first), taken=frozenset(taken))


def _without_a_way(
    came_from: dict[State, tuple[State, str] | None], before: dict[State, list[State]], ended: list[State]
) -> State | None:
    """A state from which the run cannot end without a further fault; the first that the search came to."""
    good, waiting = set(ended), deque(ended)
    while waiting:
        for state in before.get(waiting.popleft(), ()):
            if state not in good:
                good.add(state)
                waiting.append(state)
    return next((state for state in came_from if state not in good), None)


def _trace(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    names: list[str] = []
    while (step := came_from[state]) is not None:
        state, name = step
        names.append(name)
    return tuple(reversed(names))


def complaints(world: World, state: State) -> Iterator[str]:
    """What must never be, in any state."""
    for image, item in state.items:
        if len(item.ends) > 1:
            yield f"{image} ended twice"
        if item.listed > 1:
            yield f"{image} is recorded twice"
        if item.ends == ("failed",) and item.losses < _LEFT_UNANSWERED:
            yield f"{image} failed, and {item.losses} workers were lost with it alone"
        if state.status in (RunStatus.COMPLETED, RunStatus.CANCELLED) and item.listed and not item.ends:
            yield f"the run is over, and {image} has no end"
        if state.status is RunStatus.COMPLETED and not item.listed:
            yield f"the run is complete, and {image} is not recorded"
    items = dict(state.items)
    for number, batch in enumerate(state.batches):
        if batch.status == "done" and not all(items[image].ends for image in batch.images):
            yield f"batch {number} is done, and an image of it has no end"
    if any(number >= len(state.batches) for number in state.queue):
        yield "a message has no batch"
    # What the broker itself repeats is not ours.
    if len(state.queue) > world.room + world.faults[FAULTS.index("repeat")]:
        yield "the broker holds more than it should"


def steps(world: World, state: State) -> Iterator[Step]:
    """Every step that may come next."""
    for number in range(len(state.producers)):
        yield from _producer_steps(world, state, number)
    for number in range(len(state.workers)):
        yield from _worker_steps(world, state, number)
    yield from _dispatch_steps(world, state)
    yield from _cancel_steps(world, state)
    yield from _clock_steps(world, state)
    yield from _broker_steps(state)


def _producer_steps(world: World, state: State, number: int) -> Iterator[Step]:
    """`record_listing`: look for the cursor, list, `record_chunk`; at the end `end_listing`."""
    doing, cursor = state.producers[number]
    if state.status is not RunStatus.LISTING:
        return
    if not doing:
        yield f"producer {number} lists", False, _producer(state, number, "record", state.cursor)
        return
    if (crashed := _spend(state, "crash")) is not None:
        yield f"producer {number} dies", True, _producer(crashed, number, "", 0)
    idle = _producer(state, number, "", 0)
    if doing == "cursor":  # The rows are there.
        yield "the cursor follows", False, idle._replace(cursor=cursor + 1)
        return
    if doing == "rows":  # The cursor is there.
        yield "the rows follow", False, _record(world, idle, cursor)
        return
    if doing == "commit":  # The message is there.
        yield "record_chunk", False, _record(world, idle, cursor)._replace(cursor=cursor + 1)
        return
    if cursor != state.cursor and not world.has(Mutant.CURSOR_WITHOUT_COMPARING):
        yield "ListingTaken", False, idle
    elif cursor >= len(world.chunks):
        yield "end_listing", False, idle._replace(status=RunStatus.RUNNING)
    elif world.has(Mutant.ROWS_BEFORE_CURSOR):
        yield "rows", False, _record(world, _producer(state, number, "cursor", cursor), cursor)
    elif world.has(Mutant.CURSOR_BEFORE_ROWS):
        yield "cursor", False, _producer(state, number, "rows", cursor)._replace(cursor=cursor + 1)
    elif world.has(Mutant.SEND_BEFORE_COMMIT):
        sent = _producer(state, number, "commit", cursor)
        yield "send", False, sent._replace(queue=tuple(sorted((*state.queue, len(state.batches)))))
    else:
        yield "record_chunk", False, _record(world, idle, cursor)._replace(cursor=cursor + 1)


def _record(world: World, state: State, chunk: int) -> State:
    images = world.chunks[chunk]
    state = state._replace(batches=(*state.batches, Batch(images)))
    return _change_items(state, images, lambda item: item._replace(listed=item.listed + 1))


def _worker_steps(world: World, state: State, number: int) -> Iterator[Step]:
    worker = state.workers[number]
    if worker.half:
        yield from _second_halves(state, number)
    elif worker.batch < 0:
        for message in sorted(set(state.queue)):
            queue = list(state.queue)
            queue.remove(message)
            yield f"worker {number} claims", False, _claim(world, state._replace(queue=tuple(queue)), number, message)
    else:
        yield from _work_steps(world, state, number)


def _claim(world: World, state: State, number: int, message: int) -> State:
    """`ledger.claim`: take the batch, split it, give up its only image, or drop the message."""
    if message >= len(state.batches) or state.status not in (RunStatus.LISTING, RunStatus.RUNNING):
        return state
    batch = state.batches[message]
    is_free = batch.status == "pending" or batch.expired
    is_free |= batch.status == "leased" and world.has(Mutant.CLAIM_IGNORES_LEASE)
    is_free |= batch.status == "done" and world.has(Mutant.CLAIM_OF_DONE_BATCH)
    if not is_free:
        return state
    if batch.status == "leased" and batch.owner not in (DEAD, VANISHED):
        state = _lose(state, batch.images)  # It lives, and does not count as living.
    batch = batch._replace(
        status="leased",
        fence=(batch.fence + 1) % _FENCES,
        attempts=batch.attempts + (not world.has(Mutant.CLAIM_IS_NOT_COUNTED)),
        owner=number,
        expired=False,
        sent=False,
    )
    if batch.attempts > _LEFT_UNANSWERED:
        return _isolate(world, state, number, message, batch)
    return _worker(_batch(state, message, batch), number, Worker(message, batch.fence))


def _isolate(world: World, state: State, number: int, message: int, batch: Batch) -> State:
    done = batch._replace(status="done", owner=NOBODY)
    if len(batch.images) == 1 or world.has(Mutant.THIRD_CLAIM_FAILS_ALL):
        return _end(_batch(state, message, done), batch.images, "failed")
    middle = len(batch.images) // 2
    halves = tuple(Batch(images) for images in (batch.images[:middle], batch.images[middle:]))
    if world.has(Mutant.SPLIT_IN_TWO_STEPS):
        state = _batch(state, message, batch)._replace(batches=(*_batch(state, message, batch).batches, *halves))
        return _worker(state, number, Worker(message, batch.fence, half="split"))
    state = _batch(state, message, done._replace(images=""))
    return state._replace(batches=(*state.batches, *halves))


def _work_steps(world: World, state: State, number: int) -> Iterator[Step]:
    worker = state.workers[number]
    batch = state.batches[worker.batch]
    is_ours = batch.status == "leased" and batch.fence == worker.fence
    idle = _worker(state, number, Worker())
    if any(image in world.poison for image in batch.images):
        yield f"worker {number} is killed by an image", False, _worker_dies(state, number, DEAD)
        return
    yield f"worker {number} finishes", False, _finish(world, state, number)
    if worker.kept and not is_ours:
        # Nobody may take a batch from who renews its lease in time, but who cancels the run.
        if state.status in (RunStatus.LISTING, RunStatus.RUNNING):
            yield "worker looks", False, state._replace(complaint="a batch was taken from who held it")
    elif batch.expired and (is_ours or world.has(Mutant.EXTEND_WITHOUT_FENCE)) and batch.status == "leased":
        renewed = _batch(state, worker.batch, batch._replace(expired=False))
        if not is_ours:
            renewed = renewed._replace(complaint="a lease was renewed by who had lost it")
        yield "extend", False, renewed
    if (away := _spend(state, "away")) is not None:
        yield "give_back", True, _give_back(world, _worker(away, number, Worker()), worker, batch)
    if (crashed := _spend(state, "crash")) is not None:
        yield f"worker {number} dies", True, _worker_dies(crashed, number, DEAD)
        yield f"worker {number} vanishes", True, _worker_dies(crashed, number, VANISHED)
    if not is_ours and not world.has(Mutant.FINISH_WITHOUT_COMPARING):
        yield "LeaseLost", False, idle


def _finish(world: World, state: State, number: int) -> State:
    """`ledger.finish`."""
    worker = state.workers[number]
    batch = state.batches[worker.batch]
    idle = _worker(state, number, Worker())
    is_leased = batch.status == "leased" or world.has(Mutant.FINISH_WITHOUT_COMPARING)
    without_fence = world.has(Mutant.FINISH_WITHOUT_FENCE) or world.has(Mutant.FINISH_WITHOUT_COMPARING)
    if not is_leased or (batch.fence != worker.fence and not without_fence):
        return idle
    done = batch._replace(status="done", owner=NOBODY, expired=False)
    if world.has(Mutant.FINISH_BATCH_THEN_ITEMS):
        return _worker(_batch(state, worker.batch, done), number, worker._replace(half="items"))
    if world.has(Mutant.FINISH_ITEMS_THEN_BATCH):
        return _worker(_end(state, batch.images, "classified"), number, worker._replace(half="batch"))
    return _end(_batch(idle, worker.batch, done), batch.images, "classified")


def _second_halves(state: State, number: int) -> Iterator[Step]:
    worker = state.workers[number]
    batch = state.batches[worker.batch]
    idle = _worker(state, number, Worker())
    if worker.half == "items":
        yield "items", False, _end(idle, batch.images, "classified")
    elif worker.half == "batch":
        yield "batch", False, _batch(idle, worker.batch, batch._replace(status="done", owner=NOBODY))
    else:
        split = batch._replace(status="done", owner=NOBODY, images="")
        yield "the batch is split", False, _batch(idle, worker.batch, split)
    if (crashed := _spend(state, "crash")) is not None:
        yield f"worker {number} dies", True, _worker(crashed, number, Worker())


def _worker_dies(state: State, number: int, owner: int) -> State:
    """A process ends with what it held, and another is started in its place."""
    worker = state.workers[number]
    batch = state.batches[worker.batch]
    if batch.status == "leased" and batch.fence == worker.fence:
        state = _batch(_lose(state, batch.images), worker.batch, batch._replace(owner=owner))
    return _worker(state, number, Worker())


def _give_back(world: World, state: State, worker: Worker, batch: Batch) -> State:
    """`ledger.give_back`: a fault that is none of the images'."""
    is_ours = batch.status == "leased" and batch.fence == worker.fence
    if not is_ours and not (world.has(Mutant.GIVE_BACK_WITHOUT_FENCE) and batch.status == "leased"):
        return state
    attempts = batch.attempts - (not world.has(Mutant.FAULT_COSTS_AN_ATTEMPT))
    freed = batch._replace(status="pending", attempts=attempts, owner=NOBODY, expired=False, sent=False)
    return _batch(state, worker.batch, freed)


def _clock_steps(world: World, state: State) -> Iterator[Step]:
    """Leases run out, and parents give back what their processes held."""
    for number, batch in enumerate(state.batches):
        if batch.status != "leased":
            continue
        if batch.owner == DEAD:
            freed = batch._replace(status="pending", owner=NOBODY, expired=False, sent=False)
            if not world.has(Mutant.CLAIM_WITHOUT_LEASE):
                yield "give_back_lost", False, _batch(state, number, freed)
        if batch.expired or world.has(Mutant.CLAIM_WITHOUT_LEASE):
            continue
        expired = _batch(state, number, batch._replace(expired=True))
        if batch.owner in (DEAD, VANISHED):
            yield "the lease of a dead worker runs out", False, expired
        elif (stalled := _spend(expired, "stall")) is not None:
            late = _note_late(stalled, number)
            yield "a worker stalls until its lease runs out", True, late


def _note_late(state: State, batch: int) -> State:
    """Note with the worker that holds a batch that its lease has run out."""
    held = state.batches[batch]
    workers = tuple(
        worker._replace(kept=False) if worker.batch == batch and worker.fence == held.fence else worker
        for worker in state.workers
    )
    return state._replace(workers=workers)


def _dispatch_steps(world: World, state: State) -> Iterator[Step]:
    """`dispatch`: `close_runs`, `take_due`, and a message for each."""
    is_listed = state.status is RunStatus.RUNNING or (
        world.has(Mutant.CLOSE_WHILE_LISTING) and state.status is RunStatus.LISTING
    )
    if is_listed and all(batch.status == "done" for batch in state.batches):
        yield "close_runs", False, state._replace(status=RunStatus.COMPLETED)
    if state.sending:
        queue = tuple(sorted((*state.queue, state.sending[0])))
        yield "send_task", False, state._replace(queue=queue, sending=state.sending[1:])
        if (crashed := _spend(state, "crash")) is not None:
            yield "dispatch dies", True, crashed._replace(sending=())
        return
    due = _due(world, state)
    if due and state.status in (RunStatus.LISTING, RunStatus.RUNNING):
        batches = tuple(
            batch._replace(sent=True) if number in due else batch for number, batch in enumerate(state.batches)
        )
        held = any(batches[number].status == "leased" and not batches[number].expired for number in due)
        complaint = "a message is sent for what somebody holds" if held else ""
        yield "take_due", False, state._replace(batches=batches, sending=due, complaint=complaint)


def _due(world: World, state: State) -> tuple[int, ...]:
    room = world.room - len(state.queue)
    if world.has(Mutant.SEND_WITHOUT_COUNTING):
        room = len(state.batches)
    ready = [number for number, batch in enumerate(state.batches) if _is_ready(world, batch)]
    waiting = sum(state.batches[number].sent for number in ready)
    looks_lost = len(state.queue) < waiting and not world.has(Mutant.NEVER_SEND_AGAIN)
    looks_lost = looks_lost or world.has(Mutant.SEND_WITHOUT_COUNTING)
    due = [number for number in ready if not state.batches[number].sent or looks_lost]
    return tuple(due[: max(room, 0)])


def _is_ready(world: World, batch: Batch) -> bool:
    if batch.status == "leased":
        if world.has(Mutant.SEND_WHAT_IS_HELD):
            return True
        return batch.expired and not world.has(Mutant.SEND_PENDING_ONLY)
    return batch.status == "pending"


def _cancel_steps(world: World, state: State) -> Iterator[Step]:
    """`cancel_run`, then `close_runs` of whoever comes by: batch by batch."""
    if state.status in (RunStatus.LISTING, RunStatus.RUNNING):
        if (cancelled := _spend(state, "cancel")) is not None:
            yield "cancel_run", True, cancelled._replace(status=RunStatus.CANCELLING)
        return
    if state.status is not RunStatus.CANCELLING:
        return
    left = [number for number, batch in enumerate(state.batches) if batch.status != "done"]
    if not left:
        yield "cancelled", False, state._replace(status=RunStatus.CANCELLED)
    for number in left[:1]:
        batch = state.batches[number]
        if world.has(Mutant.CANCEL_WITHOUT_FENCE):  # Nor is the batch ended, only its images.
            ended = all(dict(state.items)[image].ends for image in batch.images)
            freed = batch if not ended else batch._replace(status="done")
            yield "_cancel_piece", False, _end_pending(_batch(state, number, freed), batch.images)
        else:
            done = batch._replace(status="done", fence=batch.fence + 1, owner=NOBODY, expired=False, sent=False)
            yield "_cancel_piece", False, _end_pending(_batch(state, number, done), batch.images)


def _broker_steps(state: State) -> Iterator[Step]:
    """What a broker does to messages."""
    for message in sorted(set(state.queue)):
        queue = list(state.queue)
        queue.remove(message)
        if (lost := _spend(state, "lose")) is not None:
            yield "a message is lost", True, lost._replace(queue=tuple(queue))
        if (repeated := _spend(state, "repeat")) is not None:
            yield "a message is repeated", True, repeated._replace(queue=tuple(sorted((*state.queue, message))))


def _spend(state: State, fault: str) -> State | None:
    index = FAULTS.index(fault)
    left = state.faults[index]
    return state._replace(faults=(*state.faults[:index], left - 1, *state.faults[index + 1 :])) if left else None


def _producer(state: State, number: int, doing: str, cursor: int) -> State:
    return state._replace(producers=(*state.producers[:number], (doing, cursor), *state.producers[number + 1 :]))


def _worker(state: State, number: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:number], worker, *state.workers[number + 1 :]))


def _batch(state: State, number: int, batch: Batch) -> State:
    return state._replace(batches=(*state.batches[:number], batch, *state.batches[number + 1 :]))


def _change_items(state: State, images: str, change: Callable[[Item], Item]) -> State:
    return state._replace(
        items=tuple((image, change(item) if image in images else item) for image, item in state.items)
    )


def _end(state: State, images: str, end: str) -> State:
    return _change_items(state, images, lambda item: item._replace(ends=(*item.ends, end)))


def _end_pending(state: State, images: str) -> State:
    return _change_items(state, images, lambda item: item if item.ends else item._replace(ends=("cancelled",)))


def _lose(state: State, images: str) -> State:
    """A worker was lost that held these; more than twice is no news."""
    if len(images) > 1:
        return state
    return _change_items(state, images, lambda item: item._replace(losses=min(item.losses + 1, _LEFT_UNANSWERED)))
