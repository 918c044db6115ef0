"""The pictures of what was measured, as PNG files, in the colours of models/pictures.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.pictures import BLUE, GREY, ORANGE, new_figure, to_png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GREEN = "#009E73"


def draw_bars(bars: Mapping[str, float], title: str) -> bytes:
    """A bar for each name; ours and the ceilings have colours of their own."""
    figure = new_figure(8, 1.2 + 0.35 * len(bars))
    axes = figure.subplots()
    colours = [GREY if name.startswith("ceiling") else BLUE if "tagmill" in name else ORANGE for name in bars]
    drawn = axes.barh(list(bars), list(bars.values()), color=colours)
    axes.bar_label(drawn, fmt="%.0f", padding=3)
    axes.margins(x=0.1)  # Room for the label of the longest.
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    return to_png(figure)


def draw_curves(images: Sequence[int], panels: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Figures of runs of so many images: title of a panel → name of a curve → its values, one for each run."""
    figure = new_figure(5 * len(panels), 3.6)
    for axes, (title, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for (name, values), colour in zip(curves.items(), (BLUE, ORANGE, _GREEN, GREY), strict=False):
            axes.plot(images, values, marker="o", color=colour, label=name)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.1 * max(map(max, curves.values())))
        axes.set_xlabel("images")
        axes.set_title(title, fontsize=10)
        axes.grid(color="#dddddd")
        axes.legend(fontsize=8)
    return to_png(figure)
