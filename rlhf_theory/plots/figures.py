"""Figures as files: vector graphics, the plotted numbers, the caption."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rlhf_theory.plots import curves
from rlhf_theory.plots.style import theme
from rlhf_theory.store import write_atomic

_COLUMNS = ["panel", "series", "x", "y", "lower", "upper"]


def plotted_numbers(fig: Figure) -> pd.DataFrame:
    """Return the numbers in a figure: one row per point.

    Columns ``panel`` (the title of the panel, or its number), ``series`` (the label), ``x``, ``y``,
    and ``lower`` and ``upper`` where there is a band or an interval.
    """
    tables = [
        table.assign(panel=ax.get_title(loc="left") or ax.get_title() or str(number))
        for number, ax in enumerate(fig.axes, start=1)
        for table in [*curves.noted(ax), *_other_lines(ax)]
    ]
    tables = [table.astype({"x": object}) if "x" in table else table for table in tables]
    if not tables:
        return pd.DataFrame(columns=_COLUMNS)
    return pd.concat(tables, ignore_index=True).reindex(columns=_COLUMNS)


def _other_lines(ax: Axes) -> list[pd.DataFrame]:
    """Return the lines that were drawn into a panel without the help of ``curves``."""
    return [
        _line_table(line)
        for line in ax.get_lines()
        if not curves.is_noted(line) and line.get_transform() == ax.transData
    ]


def _line_table(line: Line2D) -> pd.DataFrame:
    x, y = line.get_data()
    label = str(line.get_label())
    series = "" if label.startswith("_") else label
    return pd.DataFrame({"series": series, "x": np.asarray(x), "y": np.asarray(y)})


def figure_bytes(fig: Figure, kind: str) -> bytes:
    """Return the figure as a file of ``kind`` (svg, pdf or png), the same bytes every time."""
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    stream = io.BytesIO()
    with theme():
        fig.savefig(stream, format=kind, metadata=dates.get(kind))
    return stream.getvalue()


def save(
    fig: Figure,
    folder: Path,
    caption: str,
    stem: str = "figure",
    kinds: tuple[str, ...] = ("svg", "pdf"),
) -> None:
    """Write the figure, its numbers (``STEM.csv``) and its caption (``caption.txt``).

    Parameters
    ----------
    fig
        The figure.
    folder
        An existing folder.
    caption
        Says what every band is.
    stem
        Name of the files.
    kinds
        Graphics formats.
    """
    with theme():
        # Laid out once for all formats: finding the layout takes longer than writing a file.
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
    for kind in kinds:
        write_atomic(folder / f"{stem}.{kind}", figure_bytes(fig, kind))
    numbers = plotted_numbers(fig).to_csv(index=False, lineterminator="\n", float_format="%.10g")
    write_atomic(folder / f"{stem}.csv", numbers.encode())
    write_atomic(folder / "caption.txt", (caption.strip() + "\n").encode())
