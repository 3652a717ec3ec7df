"""The sheet of a figure: panels in a grid, shared labels, one legend, sizes of a venue."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from matplotlib.transforms import Bbox

from rlhf_theory.plots import axes
from rlhf_theory.plots.studies.frames import Layout, Panel, Series, arrange
from rlhf_theory.plots.studies.words import where
from rlhf_theory.register import register
from rlhf_theory.studies.plot_specs import PlotFacts, PlotSpec
from rlhf_theory.venues import Venue

_MOST_COLUMNS = 4
_NARROWEST = 1.2  # inches of a panel whose tick labels and title can be read
_LOWEST = 1.15  # inches of height, so that the label of the vertical axis fits
_SIDE = 0.5  # inches for the labels of the vertical axis
_MARGIN = 0.55  # inches for the title and the labels of a panel
_ASPECT, _WIDE_ASPECT = 0.72, 0.42
_NARROW_LABEL, _WIDE_LABEL = 1.3, 2.2  # inches of a line of a legend
_WIDE = 4.5  # inches from which on a single panel is drawn flat
_NARROW_PANEL = 2.0  # inches up to which a logarithmic axis has few labels
_LINE = 1.2  # distance of two lines over the size of type
# Width of a character over the size of type, for DejaVu Sans; bold is wider.
_CHARACTER, _BOLD = 0.58, 0.68


Shared = bool | Literal["none", "all", "row", "col"]
"""Which panels share an axis, as in ``Figure.subplots``."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a figure is drawn by.

    Attributes
    ----------
    spec
        What to draw, and how.
    venue
        Its venue.
    settings
        Flat settings per cell (``Cell.settings()`` by key), for bounds: the frame itself has only
        those that vary.
    """

    spec: PlotSpec
    venue: Venue
    settings: Mapping[str, Mapping[str, Any]] | None = None


T = TypeVar("T")
D = TypeVar("D", bound=Callable[[pd.DataFrame, Options], tuple[Figure, str]])


def kind(
    name: str,
    *,
    title: str,
    options: tuple[str, ...] = (),
    needs: Mapping[str, str] | None = None,
) -> Callable[[D], D]:
    """Return a decorator that makes a function draw a kind of figure.

    Parameters
    ----------
    name
        Its name, in study files and on the command line.
    title, options, needs
        See `PlotFacts`.
    """
    return register("plot", name, more=PlotFacts(title=title, options=options, needs=needs or {}))


def arranged(frame: pd.DataFrame, columns: Sequence[str], options: Options) -> Layout:
    """Return the panels and series of results, `frames.arrange`, as the options divide them."""
    spec = options.spec
    return arrange(
        frame,
        columns,
        metric=spec.metric,
        facet=spec.facet,
        hue=spec.hue,
        settings=options.settings,
    )


def drawable(
    layout: Layout, make: Callable[[Panel, Series], T], what: str, *, lacks: str = ""
) -> tuple[list[list[T]], list[str]]:
    """Return what is drawn of the series of each panel, and notes on series left out.

    Parameters
    ----------
    layout
        Panels and series.
    make
        Returns what is drawn of a series; ``ValueError`` says why it is nothing.
    what, lacks
        Words for what is drawn, and those between the name of a series and its error.

    Raises
    ------
    ValueError
        If nothing can be drawn.
    """
    found, notes = [], []
    for panel in layout.panels:
        items = []
        for series in panel.series:
            try:
                items.append(make(panel, series))
            except ValueError as error:
                name = f"{series.label}{where(series, layout.series)}{lacks}"
                notes.append(f"{name}: {_rounded(str(error))}")
        found.append(items)
    if not any(found):
        message = f"No {what} can be drawn. " + " ".join(notes)
        raise ValueError(message)
    return found, notes


def _rounded(words: str) -> str:
    """Return words with four digits of every number that has a point."""
    return re.sub(r"\d+\.\d+(?:e[-+]?\d+)?", lambda m: f"{float(m[0]):.4g}", words)


def inches_wide(n_panels: int, options: Options) -> float:
    """Return the width of a figure: a column for one panel, the text for several."""
    if options.spec.width is not None:
        return options.venue.column if options.spec.width == "column" else options.venue.text
    return options.venue.column if n_panels == 1 else options.venue.text


def _shape(n_panels: int, inches: float) -> tuple[int, int]:
    """Return rows and columns, evenly filled, for the inches that all panels have together."""
    most = min(_MOST_COLUMNS, max(1, int(inches / _NARROWEST)))
    rows = math.ceil(n_panels / most)
    return rows, math.ceil(n_panels / rows)


def grid(
    titles: Sequence[str],
    options: Options,
    *,
    heights: Sequence[float] | None = None,
    side: float = _SIDE,
    sharex: Shared = "all",
    sharey: Shared = "all",
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with its panels; inside ``style.venue_theme``.

    Parameters
    ----------
    titles
        One per panel; several axes of a panel stand above each other, the title on the first.
    options
        Venue and width.
    heights
        Inches of each of the axes of a panel; None is one of the usual shape.
    side
        Inches to the left of the panels, for the labels of the vertical axis.
    sharex, sharey
        As in ``Figure.subplots``: for several axes in a panel at most ``"row"``.

    Returns
    -------
    The figure, and for every panel its axes.
    """
    inches = inches_wide(len(titles), options)
    rows, columns = _shape(len(titles), inches - side)
    if heights is None:
        flat = len(titles) == 1 and inches >= _WIDE
        heights = [max((_WIDE_ASPECT if flat else _ASPECT) * inches / columns, _LOWEST)]
    parts = len(heights)
    size = mpl.rcParams["axes.titlesize"]
    words = [_filled(title, (inches - side) / columns - 0.1, size, _BOLD) for title in titles]
    # Further lines of a title take no room from the panels.
    high = [
        max(w.count("\n") for w in words[columns * row : columns * (row + 1)])
        for row in range(rows)
    ]
    total = (sum(heights) + _MARGIN * parts) * rows + sum(high) * size * _LINE / 72.0
    fig = Figure(figsize=(inches, total), layout="constrained")
    table = fig.subplots(
        rows * parts,
        columns,
        squeeze=False,
        sharex=sharex,
        sharey=sharey,
        height_ratios=list(heights) * rows,
    )
    panels = []
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        own = [table[row * parts + k, column] for k in range(parts)]
        if number < len(titles):
            panels.append(own)
            continue
        for k, ax in enumerate(own):
            if row and sharex == "all":
                # The panel above is now the lowest of its column.
                table[(row - 1) * parts + k, column].tick_params(labelbottom=True)
            fig.delaxes(ax)
    for title, own in zip(words, panels, strict=True):
        own[0].set_title(title)
    return fig, panels


def labels(
    fig: Figure,
    panels: Sequence[Axes],
    x: str | Sequence[str],
    y: str | Sequence[str] | None,
    *,
    side: float = _SIDE,
) -> None:
    """Label the axes: x below every column and y once where all panels agree, else every panel.

    Parameters
    ----------
    fig, panels
        The figure and its panels.
    x, y
        Words for all, or one for every panel; None for no label.
    side
        As in `grid`.
    """
    size = mpl.rcParams["axes.labelsize"]
    below = list(dict.fromkeys([x] if isinstance(x, str) else x))
    beside = [] if y is None else list(dict.fromkeys([y] if isinstance(y, str) else y))
    lowest = {column(ax): ax for ax in panels}
    room = (fig.get_figwidth() - side) / len(lowest) - 0.1
    labelled = lowest.values() if len(below) == 1 else panels
    words = below * len(labelled) if len(below) == 1 else list(x)
    filled = [_filled(word, room, size) for word in words]
    for ax, word in zip(labelled, filled, strict=True):
        ax.set_xlabel(word)
    # Further lines of a label take no room from the panels.
    more = max(word.count("\n") for word in filled)
    more *= 1 if len(below) == 1 else math.ceil(len(panels) / len(lowest))
    fig.set_figheight(fig.get_figheight() + more * size * _LINE / 72.0)
    if len(beside) == 1 and len(panels) > 1:
        fig.supylabel(_filled(beside[0], fig.get_figheight() - 0.4, size), fontsize=size)
    elif beside:
        high = fig.get_figheight() * len(lowest) / len(panels) - 0.4
        own = beside if len(beside) == 1 else list(y or ())
        for ax, word in zip(panels, own, strict=True):
            ax.set_ylabel(_filled(word, high, size))


def column(ax: Axes) -> int:
    """Return the number of the column in which a panel stands."""
    place = ax.get_subplotspec()
    return 0 if place is None else place.colspan.start


def _filled(words: str, inches: float, size: float, character: float = _CHARACTER) -> str:
    """Return words in lines that fit a width at a size of type in points; words stay whole."""
    most = max(8, int(inches * 72.0 / (size * character)))
    # A difference is not broken at its sign.
    whole = words.replace(" − ", "\u00a0−\u00a0").replace(" ≥ ", "\u00a0≥\u00a0")
    return textwrap.fill(whole, most, break_long_words=False).replace("\u00a0", " ")


def wrapped(label: str, fig: Any) -> str:
    """Return a label in lines of which two fit next to each other below the figure."""
    inches = _WIDE_LABEL if fig.get_figwidth() >= _WIDE else _NARROW_LABEL
    return _filled(label, inches, mpl.rcParams["legend.fontsize"])


def legend(fig: Figure, panels: Sequence[Axes]) -> None:
    """Place one legend below all panels."""
    axes.legend(fig, panels)


def few_ticks(ax: Axes, which: str = "x", most: int = 4) -> None:
    """Put few round numbers on a linear axis, so that they stay apart in narrow panels."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]))


def settle(fig: Any) -> None:
    """Lay the figure out and fix its type, which would follow the settings of whoever saves it."""
    sizes = {"x": mpl.rcParams["xtick.labelsize"], "y": mpl.rcParams["ytick.labelsize"]}
    for ax in fig.axes:
        for name in ("x", "y"):
            ax.tick_params(axis=name, which="both", labelsize=sizes[name])
    fig.draw_without_rendering()
    changed = False
    for ax in fig.axes:
        narrow = ax.get_position().width * fig.get_figwidth() < _NARROW_PANEL
        changed |= _label_logs(ax.xaxis, (1.0, 3.0) if narrow else (1.0, 2.0, 5.0))
        changed |= _label_logs(ax.yaxis, (1.0, 2.0, 5.0))
    if changed:
        # What the ticks need depends on the sizes of panels, and these on the ticks.
        fig.draw_without_rendering()
    fig.set_layout_engine("none")
    # The layout puts the label of all panels at half the height of the sheet, legend and all.
    box = Bbox.union([ax.get_position() for ax in fig.axes])
    for text in fig.texts:
        text.set_y(0.5 * (box.y0 + box.y1))


def _label_logs(axis: Axis, digits: tuple[float, ...]) -> bool:
    """Label these digits on a logarithmic axis of one to two decades; return whether it is one.

    There may be a single power of ten there, which says nothing, and no room for many labels.
    """
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() != "log" or not 8.0 < high / low < 100.0:
        return False
    axis.set_major_locator(LogLocator(subs=digits, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: axes.number(value)))
    return True


def positive_range(values: Sequence[np.ndarray]) -> float:
    """Return largest over smallest of all numbers; 0 if one of them is not positive."""
    numbers = np.concatenate([np.ravel(v) for v in values]) if values else np.empty(0)
    numbers = numbers[np.isfinite(numbers)]
    if numbers.size == 0 or numbers.min() <= 0:
        return 0.0
    return float(numbers.max() / numbers.min())
