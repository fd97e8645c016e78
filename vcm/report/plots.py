"""Plots of numbers as SVG, in colours that follow the page: light, dark or printed.

Knows matplotlib; gives the same bytes for the same numbers.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Stands for the colour of the page's text, which the SVG is to take over.
_INK = "#010203"
#: Colours that are told apart on white, on black and by most colour-blind readers (Okabe and Ito, 2008).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999")
#: Most points of a line: finer ones cannot be seen.
_MOST_POINTS = 2000


@dataclass(frozen=True)
class Plot:
    """A plot and what it shows.

    Attributes:
        svg: An <svg> element.
        caption: Below it.
    """

    svg: str
    caption: str


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    axes: tuple[str, str],
    caption: str,
    logarithmic: bool = False,
) -> Plot:
    """Lines over a common axis.

    Args:
        series: Name -> (x, y); values that are no numbers are left out.
        axes: What x and y are, with units.
        caption: Below the plot.
        logarithmic: Whether y is.
    """
    figure, axis = _figure(axes)
    for (name, (x, y)), colour in zip(series.items(), _cycle(len(series)), strict=True):
        every = max(1, len(x) // _MOST_POINTS)
        mark = "o" if len(x) < 40 else None
        axis.plot(
            x[::every],
            y[::every],
            color=colour,
            label=name,
            linewidth=1.4,
            marker=mark,
            markersize=3,
        )
    if logarithmic:
        axis.set_yscale("log")
    if len(series) > 1:
        axis.legend(frameon=False, labelcolor=_INK, fontsize=9)
    return Plot(_as_svg(figure), caption)


def intervals(
    arms: Mapping[str, Mapping[str, tuple[float, float, float]]], label: str, caption: str
) -> Plot:
    """A row per category, and in it a dot with its interval per arm.

    Args:
        arms: Arm -> category -> (value, low, high).
        label: What the values are, with unit.
        caption: Below the plot.
    """
    categories = list(dict.fromkeys(c for values in arms.values() for c in values))
    figure, axis = _figure((label, ""), height=1.0 + 0.36 * len(categories))
    for k, ((name, values), colour) in enumerate(zip(arms.items(), _cycle(len(arms)), strict=True)):
        shift = (k - (len(arms) - 1) / 2) * 0.2
        rows = [categories.index(c) + shift for c in values]
        value, low, high = np.asarray(list(values.values()), dtype=float).reshape(-1, 3).T
        axis.hlines(rows, low, high, color=colour, linewidth=1.6)
        axis.plot(value, rows, "o", color=colour, markersize=4.5, label=name)
    axis.set_yticks(range(len(categories)), categories)
    axis.invert_yaxis()
    if len(arms) > 1:
        axis.legend(frameon=False, labelcolor=_INK, fontsize=9)
    return Plot(_as_svg(figure), caption)


def _cycle(count: int) -> list[str]:
    return [_COLOURS[k % len(_COLOURS)] for k in range(count)]


def _figure(axes: tuple[str, str], height: float = 3.2):  # type: ignore[no-untyped-def]
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axis = figure.subplots()
    axis.patch.set_alpha(0)
    axis.set_xlabel(axes[0], color=_INK)
    axis.set_ylabel(axes[1], color=_INK)
    axis.tick_params(colors=_INK, labelsize=9)
    axis.grid(color=_INK, alpha=0.12, linewidth=0.7)
    for side, spine in axis.spines.items():
        spine.set_color(_INK)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axis


def _as_svg(figure) -> str:  # type: ignore[no-untyped-def]
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vcm"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    whole = out.getvalue()
    svg = whole[whole.index("<svg") :]
    return svg.replace(_INK, "currentColor").strip()
