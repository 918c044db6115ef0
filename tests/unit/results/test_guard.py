"""The guard of staged runs, and the failure budget that every run may have."""

import pytest

from base.errors import SetupError
from results.guard import FEWEST_ANSWERS, Guard, Listed, Shown, check_answers, check_listing, parse_allowed


@pytest.mark.parametrize(
    ("text", "listed", "allowed"),
    [
        ("0", 100, 0),
        ("20", 100, 20),
        ("9%", 10, 0),
        ("10%", 10, 1),
        ("29%", 100, 29),  # Which is 28.999… to a computer that counts in halves.
        ("0.5%", 1000, 5),
        ("100%", 7, 7),
    ],
)
def test_budget_is_a_number_or_a_share_of_the_listed(text: str, listed: int, allowed: int) -> None:
    most = parse_allowed(text)(listed)

    assert allowed <= most < allowed + 1


@pytest.mark.parametrize("text", ["x", "", "-1", "1.5", "101%", "x%", "%", "1e3", "5 %"])
def test_budget_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match=r"neither a number nor a share of up to 100%; write 20, or 0.5%"):
        parse_allowed(text)


def shown(mean_confidence: float = 0.9, **labels: int) -> Shown:
    return Shown(labels=labels, mean_confidence=mean_confidence)


def refused(before: Shown, after: Shown) -> bool:
    return list(check_answers(Guard(), before, after)) != []


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (shown(cat=50, dog=50), False),
        (shown(cat=30, dog=70), False),  # A fifth, which is the limit.
        (shown(cat=29, dog=71), True),
        (shown(cat=50, dog=50, bird=900), False),  # It grows.
        (shown(cat=30, dog=49), True),  # 21 of 100 have no answer any more.
        (shown(bird=100), True),
        (shown(), True),
    ],
)
def test_labels_shift_by_what_they_lose(after: Shown, expected: bool) -> None:
    assert refused(shown(cat=50, dog=50), after) is expected


@pytest.mark.parametrize(("confidence", "expected"), [(0.8, False), (0.79, True), (0.99, False)])
def test_mean_confidence_may_fall_by_its_limit(confidence: float, expected: bool) -> None:
    assert refused(shown(cat=100), shown(confidence, cat=100)) is expected


def test_few_answers_tell_nothing() -> None:
    assert not refused(shown(cat=FEWEST_ANSWERS - 1), shown(0.1, dog=FEWEST_ANSWERS - 1))


@pytest.mark.parametrize(("listed", "expected"), [(71, False), (70, True), (0, True), (500, False)])
def test_listing_may_shrink_by_its_limit(listed: int, expected: bool) -> None:
    run = Listed(run_id=2, listed=listed, failed=0, is_complete=True)
    last = Listed(run_id=1, listed=100, failed=0, is_complete=True)

    assert (list(check_listing(Guard(max_shrink=0.29), run, last)) != []) is expected


@pytest.mark.parametrize("last_listed", [None, 0])
def test_first_listing_has_nothing_to_shrink_from(last_listed: int | None) -> None:
    run = Listed(run_id=2, listed=0, failed=0, is_complete=True)
    last = None if last_listed is None else Listed(run_id=1, listed=last_listed, failed=0, is_complete=True)

    assert list(check_listing(Guard(), run, last)) == []
