"""The pictures of an evaluation, as PNG files. Colours are those of Okabe and Ito, which most people can tell apart."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from models.calibration import BINS, bins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from models.fitting import Epoch
    from models.metrics import Metrics

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"
# More labels than this cannot be read; those with the most mistakes are shown.
_LABELS_SHOWN = 30
_MISTAKES_SHOWN = 16


def draw_pictures(metrics: Metrics, title: str) -> dict[str, bytes]:
    """File name → picture of how good a model version is: confusion, calibration, and what a threshold would cost."""
    return {
        "confusion.png": _draw(_confusion, metrics, title),
        "reliability.png": _draw(_reliability, metrics, title),
        "precision_coverage.png": _draw(_coverage, metrics, title),
    }


def draw_curves(history: Mapping[str, Sequence[Epoch]], title: str) -> bytes:
    """Loss and accuracy of each epoch, on the training and the validation images.

    Args:
        history: step of the training → its epochs; a line parts one step from the next.
        title: over the picture.
    """
    from matplotlib.ticker import MaxNLocator

    epochs = [epoch for step in history.values() for epoch in step]
    numbers = range(1, len(epochs) + 1)
    figure = new_figure(10, 4)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(numbers, [getattr(one, name) for one in epochs], color=BLUE, marker=".", label="training")
        validation = [getattr(one, f"validation_{name}") for one in epochs]
        axes.plot(numbers, validation, color=ORANGE, marker=".", label="validation")
        begin = 0
        for step, its_epochs in history.items():
            if begin and its_epochs:
                axes.axvline(begin + 0.5, color=GREY, linewidth=1)
            if its_epochs and len(history) > 1:
                axes.text(begin + 0.7, 1.01, step, transform=axes.get_xaxis_transform(), color=GREY, fontsize=8)
            begin += len(its_epochs)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0, top=1.02 if name == "accuracy" else None)
        axes.legend()
    figure.suptitle(f"{title}: training")
    return to_png(figure)


def draw_mistakes(
    metrics: Metrics, paths: Sequence[Path], pixels: np.ndarray, shown: Sequence[str], title: str
) -> bytes:
    """The wrong answers that were the surest.

    Args:
        metrics: of B images.
        paths: the B files.
        pixels: uint8 (B, S, S, 3), as the model saw them.
        shown: the B labels that are right.
        title: over the picture.
    """
    wrong = np.flatnonzero(~metrics.is_right)
    worst = wrong[np.argsort(-metrics.best[wrong], kind="stable")][:_MISTAKES_SHOWN]
    columns = min(max(len(worst), 1), 4)
    rows = max(-(-len(worst) // columns), 1)
    figure = new_figure(3 * columns + 0.5, 3.4 * rows + 0.6)
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image in zip(grid, worst, strict=False):
        axes.imshow(pixels[image])
        said = metrics.labels_said[image]
        axes.set_title(
            _plain(f"{_short(said)} {metrics.best[image]:.2f}\nis {_short(shown[image])}\n{_short(paths[image].name)}"),
            fontsize=8,
        )
    told = f"the {len(worst)} surest of {len(wrong)} mistakes" if len(wrong) else "no mistakes"
    figure.suptitle(f"{title}: {told}")
    return to_png(figure)


def _confusion(axes: Axes, metrics: Metrics) -> str:
    mistakes: dict[str, int] = {label.label: 0 for label in metrics.labels}
    for shown, said, images in metrics.confusion:
        if shown != said:
            mistakes[shown] += images
            mistakes[said] += images
    names = list(mistakes)
    if len(names) > _LABELS_SHOWN:
        most = set(sorted(names, key=lambda name: -mistakes[name])[:_LABELS_SHOWN])
        names = [name for name in names if name in most]
    position = {name: index for index, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), int)
    for shown, said, images in metrics.confusion:
        if shown in position and said in position:
            counts[position[shown], position[said]] = images
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = [_plain(_short(name)) for name in names]
    size = 10 if len(names) <= 12 else 6
    axes.set_xticks(range(len(names)), ticks, rotation=90 if len(names) > 6 else 0, fontsize=size + 1)
    axes.set_yticks(range(len(names)), ticks, fontsize=size + 1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=size)
    axes.set(xlabel="predicted", ylabel="shown")
    left_out = len(mistakes) - len(names)
    return "confusion" + (f", the {len(names)} labels with the most mistakes" if left_out else "")


def _reliability(axes: Axes, metrics: Metrics) -> str:
    filled = [(number, rows) for number, rows in enumerate(bins(metrics.best)) if len(rows)]
    centres = [(number + 0.5) / BINS for number, _ in filled]
    accuracies = [metrics.is_right[rows].mean() for _, rows in filled]
    axes.bar(centres, accuracies, width=0.9 / BINS, color=BLUE, label="accuracy of the images in a bin")
    for centre, accuracy, (_, rows) in zip(centres, accuracies, filled, strict=True):
        axes.text(centre, accuracy + 0.01, str(len(rows)), ha="center", fontsize=7)
    axes.plot([0, 1], [0, 1], color=ORANGE, linestyle="--", label="as sure as right")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.06))
    axes.legend(loc="upper left", fontsize=8)
    return f"reliability, calibration error {metrics.expected_calibration_error:.3f}"


def _coverage(axes: Axes, metrics: Metrics) -> str:
    order = np.argsort(-metrics.best, kind="stable")
    precision = np.cumsum(metrics.is_right[order]) / np.arange(1, len(order) + 1)
    coverage = np.arange(1, len(order) + 1) / len(order)
    axes.plot(coverage, precision, color=BLUE)
    axes.set(xlabel="share of the images, the surest first", ylabel="share of them that are right", xlim=(0, 1))
    axes.set_ylim(max(float(precision.min()) - 0.05, 0.0), 1.01)
    axes.grid(color="#dddddd")
    return "precision against coverage"


def _draw(draw: Any, metrics: Metrics, title: str) -> bytes:
    figure = new_figure(7, 6)
    axes = figure.subplots()
    told = draw(axes, metrics)
    axes.set_title(f"{title}: {told} ({metrics.images:,} images)", fontsize=10)
    return to_png(figure)


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches; made directly, as pyplot would keep it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def to_png(figure: Figure) -> bytes:
    """The content of a file, 100 pixels to the inch."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def _short(name: str) -> str:
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    # From the middle: labels, and names of files, begin or end alike.
    return shown if len(shown) <= 24 else f"{shown[:11]}…{shown[-12:]}"


def _plain(text: str) -> str:
    """Text that is not taken for a formula."""
    return text.replace("$", r"\$")
