"""What has to hold before a staged run is published; pure, the figures come from `staging.py`."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from base.errors import SetupError

# With fewer answers than this, a few images that change are a large share of all, and tell nothing.
FEWEST_ANSWERS = 10


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What has to hold before a staged run is published."""

    max_failures: str | None = None  #: a number, or a share of the listed with `%`; None: as many as fail
    max_shrink: float = 0.2  #: share by which fewer images may be listed than by the last published run of the source
    max_label_shift: float = 0.2  #: share of the images that may have changed from some labels to others, net
    max_confidence_drop: float = 0.1  #: of the mean confidence


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The counts of a run."""

    run_id: int
    listed: int
    failed: int
    is_complete: bool  #: the listing came to its end


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What `current_labels` shows of a source and model."""

    labels: dict[str, int]  #: label to images
    mean_confidence: float  #: 0 where there are no answers

    @property
    def answers(self) -> int:
        return sum(self.labels.values())


def check_listing(guard: Guard, run: Listed, last: Listed | None) -> Iterator[str]:
    """Why a run is not to be published, as its counts say.

    Args:
        last: the last published run of the same source; None where there is none.
    """
    allowed = parse_allowed(guard.max_failures)(run.listed)
    if run.failed > allowed:
        yield f"{run.failed:,} of {run.listed:,} images failed, and {int(allowed):,} may"
    # What was not listed when the time was up is not missing.
    if last is None or not last.listed or not run.is_complete:
        return
    shrink = 1 - run.listed / last.listed
    if _exceeds(shrink, guard.max_shrink):
        yield (
            f"{run.listed:,} images listed, and {last.listed:,} by run {last.run_id}: "
            f"{_percent(shrink)} are missing, and {_percent(guard.max_shrink)} may be"
        )


def check_answers(guard: Guard, before: Shown, after: Shown) -> Iterator[str]:
    """Why a run is not to be published, as `current_labels` says before and after that.

    The labels shift by the share of the images that leave theirs and are not made up for: images that are added shift
    nothing, and so a catalogue may grow. An image that loses its answer has left its label.
    """
    if before.answers < FEWEST_ANSWERS:
        return
    lost = {label: images - after.labels.get(label, 0) for label, images in before.labels.items()}
    shift = sum(images for images in lost.values() if images > 0) / before.answers
    if _exceeds(shift, guard.max_label_shift):
        most = max(lost, key=lambda label: (lost[label], label))
        yield (
            f"labels shift by {_percent(shift)} of {before.answers:,} images, and {_percent(guard.max_label_shift)} "
            f"may ({most!r}: {before.labels[most]:,} before, {after.labels.get(most, 0):,} after{_gain(before, after)})"
        )
    drop = before.mean_confidence - after.mean_confidence
    if after.answers and _exceeds(drop, guard.max_confidence_drop):
        yield (
            f"mean confidence falls from {before.mean_confidence:.2f} to {after.mean_confidence:.2f}, "
            f"and {guard.max_confidence_drop:g} may be lost"
        )


def parse_allowed(text: str | None) -> Callable[[int], Fraction | float]:
    """From the listed images to the failures that are allowed among them.

    Raises:
        SetupError: `text` is neither a number nor a share.
    """
    if text is None:
        return lambda listed: float("inf")
    match = re.fullmatch(r"(\d{1,18})|(\d{1,3}(?:\.\d{1,9})?)%", text, re.ASCII)
    if match is None or (match[2] is not None and Fraction(match[2]) > 100):
        raise SetupError(f"--max-failures {text!r} is neither a number nor a share of up to 100%; write 20, or 0.5%.")
    if match[1] is not None:
        most = int(match[1])
        return lambda listed: most
    share = Fraction(match[2]) / 100  # Exactly: 29 % of 100 images are 29, and not 28.999….
    return lambda listed: share * listed


def _exceeds(share: float, limit: float) -> bool:
    """Whether it is more, and not only for the way that computers count: 29 of 100 are no more than 0.29."""
    return share > limit + 1e-9


def _gain(before: Shown, after: Shown) -> str:
    gained = {label: images - before.labels.get(label, 0) for label, images in after.labels.items()}
    most = max(gained, key=lambda label: (gained[label], label), default=None)
    if most is None or gained[most] <= 0:
        return ""
    return f"; {most!r}: {before.labels.get(most, 0):,} before, {after.labels[most]:,} after"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
