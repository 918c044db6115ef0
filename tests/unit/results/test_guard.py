"""The guard of staged runs, and the failure budget that every run may have."""

import pytest

from base.errors import SetupError
from results.guard import parse_allowed


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
