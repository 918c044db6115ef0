"""How a command waits for its run."""

from cli.work import _Speed
from results.queries import RunProgress
from results.tables import RunStatus

NEARLY_DONE = RunProgress(
    run_id=1,
    source="file:///photos",
    model="m",
    model_version=1,
    status=RunStatus.RUNNING,
    listed=1000,
    classified=999,
    reused=0,
    failed=0,
    skipped=0,
    cancelled=0,
    new=1000,
    changed=0,
    passed_over=0,
    gone=0,
    is_listed=True,
    claims=10,
    started_at=0.0,
    finished_at=None,
    now=0.0,
    error=None,
    staged=False,
    held_back=None,
    published_at=None,
    dropped_at=None,
    deadline=None,
    out_of_time=False,
)


class Clock:
    """Stands where it is put."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_looks_are_frequent_at_first_as_a_small_run_is_soon_over() -> None:
    clock = Clock()
    speed = _Speed(clock)

    looks = []
    for clock.now in (0.0, 0.5, 60.0):
        looks.append(speed.seconds_to_next_look(NEARLY_DONE))

    assert looks == [0.02, 0.25, 1.0]


def test_looks_are_frequent_only_while_the_end_comes() -> None:
    clock = Clock()
    speed = _Speed(clock)
    speed.images_per_second = 1000.0

    looks = []
    for clock.now in (60.0, 60.5, 120.0):
        looks.append(speed.seconds_to_next_look(NEARLY_DONE))

    assert looks == [0.02, 0.25, 1.0]
