"""The look of every figure: sizes, fonts, colours, line styles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import seaborn as sns
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_theory.errors import check_choice
from rlhf_theory.venues import Venue, venue

# Ink, muted ink and paper are sentinels as well as colours: the report replaces them in the SVG by
# the text and background colours of the page, so that a figure follows light and dark.
INK = "#1b1c1e"
MUTED = "#6c7075"
PAPER = "#ffffff"

# Okabe and Ito's palette, distinguishable under every common colour blindness. Its yellow is left
# out because a thin yellow line cannot be seen on white.
COLORS: dict[str, str] = {
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "ink": INK,
    "muted": MUTED,
}
_SERIES = ("blue", "vermillion", "green", "purple", "orange", "sky")
_LINES: tuple[object, ...] = ("-", (0, (5, 1.6)), (0, (3, 1.2, 1, 1.2)), (0, (1.2, 1.2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")

# Widths in inches of one column and of the full text of a two-column paper (ICML); the report shows
# them at about 1.2 times this size.
_WIDTHS = {"column": 3.25, "text": 6.75}
_ASPECT = 0.72  # height of a panel over its width
_MARGIN = 0.42  # inches for the title and the labels of a panel

_RC: dict[str, object] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.formatter.use_mathtext": False,
    "axes.grid": True,
    "axes.grid.which": "major",
    "axes.labelcolor": INK,
    "axes.labelpad": 3.0,
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=[COLORS[name] for name in _SERIES]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "errorbar.capsize": 0.0,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.hspace": 0.06,
    "figure.constrained_layout.w_pad": 0.05,
    "figure.constrained_layout.wspace": 0.05,
    "figure.dpi": 150,
    "figure.facecolor": PAPER,
    # The one family that comes with matplotlib: figures do not depend on the fonts of a machine.
    "font.family": ["DejaVu Sans"],
    "font.size": 7.5,
    "grid.alpha": 0.11,
    "grid.color": INK,
    "grid.linestyle": "-",
    "grid.linewidth": 0.6,
    "legend.borderaxespad": 0.3,
    "legend.columnspacing": 1.4,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.4,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 0.6,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "rlhf-theory",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.direction": "out",
    "xtick.labelsize": 7.0,
    "xtick.major.size": 2.6,
    "xtick.major.width": 0.6,
    "xtick.minor.size": 1.5,
    "xtick.minor.width": 0.4,
    "ytick.color": INK,
    "ytick.direction": "out",
    "ytick.labelsize": 7.0,
    "ytick.major.size": 2.6,
    "ytick.major.width": 0.6,
    "ytick.minor.size": 1.5,
    "ytick.minor.width": 0.4,
}


@dataclass(frozen=True)
class SeriesStyle:
    """Colour, line and marker of one series: never told apart by colour alone."""

    color: str
    line: object
    marker: str


def series(index: int) -> SeriesStyle:
    """Return the style of series ``index``; the first 24 differ from one another."""
    color = COLORS[_SERIES[index % len(_SERIES)]]
    # Shifted by the number of full turns, so that a colour comes back with another line.
    line = _LINES[(index + index // len(_SERIES)) % len(_LINES)]
    return SeriesStyle(color=color, line=line, marker=_MARKERS[index % len(_MARKERS)])


@contextmanager
def theme() -> Iterator[None]:
    """Draw and save in the style of the project; the caller's own settings come back after it."""
    settings: Any = {**sns.axes_style("ticks"), **_RC}
    with mpl.rc_context(settings):
        yield


@contextmanager
def venue_theme(name: str | None = None) -> Iterator[Venue]:
    """Draw in the style of the project with the sizes of a venue; settings come back after it."""
    chosen = venue(name)
    settings: Any = dict(chosen.settings)
    with theme(), mpl.rc_context(settings):
        yield chosen


def figure(
    ncols: int = 1,
    nrows: int = 1,
    *,
    width: Literal["column", "text"] = "text",
    aspect: float = _ASPECT,
    sharex: bool | Literal["none", "all", "row", "col"] = False,
    sharey: bool | Literal["none", "all", "row", "col"] = False,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, row by row.

    Parameters
    ----------
    ncols, nrows
        Panels across and down.
    width
        One column or the full text of a two-column paper.
    aspect
        Height of a panel over its width, before labels.
    sharex, sharey
        As in ``Figure.subplots``.

    Returns
    -------
    The figure, without a window and outside pyplot, so that it needs no closing; and a flat list of
    ``nrows * ncols`` axes.
    """
    check_choice("width", width, _WIDTHS)
    inches = _WIDTHS[width]
    # Two panels of a text-wide figure are as tall as one of a column: type has one size throughout.
    panel = inches / ncols
    with theme():
        fig = Figure(figsize=(inches, (aspect * panel + _MARGIN) * nrows), layout="constrained")
        grid = fig.subplots(nrows, ncols, squeeze=False, sharex=sharex, sharey=sharey)
    return fig, [grid[i, j] for i in range(nrows) for j in range(ncols)]
