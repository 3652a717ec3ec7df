"""A figure of a study with its caption: as files, and in notebooks."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rlhf_theory.plots.figures import figure_bytes, plotted_numbers
from rlhf_theory.store import write_atomic

_ALWAYS = ("pdf", "svg")


@dataclass(frozen=True, eq=False)
class StudyFigure:
    """A figure and what it shows.

    Attributes
    ----------
    fig
        A matplotlib figure, laid out.
    caption
        Says what lines and bands are, over how many replicas, and what could not be shown.
    """

    fig: Figure
    caption: str

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the figure, the plotted numbers and the caption next to each other.

        Parameters
        ----------
        path
            ``"figures/regret"`` writes ``regret.pdf``, ``regret.svg``, ``regret.csv`` and
            ``regret.txt`` into ``figures``, which is made if it is missing. The suffix of a
            graphics format may be given, and one that is not among these, such as ``.png``, is
            written too. Any other dot belongs to the name.

        Returns
        -------
        The files.
        """
        target = Path(path)
        given = target.suffix[1:].lower()
        known = self.fig.canvas.get_supported_filetypes()
        stem = target.stem if given in {*known, "csv", "txt"} else target.name
        kinds = [*_ALWAYS, *([given] if given in known and given not in _ALWAYS else [])]
        target.parent.mkdir(parents=True, exist_ok=True)
        contents = {kind: figure_bytes(self.fig, kind) for kind in kinds}
        contents["csv"] = (
            self.numbers().to_csv(index=False, lineterminator="\n", float_format="%.10g").encode()
        )
        contents["txt"] = (self.caption + "\n").encode()
        files = []
        for kind, content in contents.items():
            file = target.parent / f"{stem}.{kind}"
            write_atomic(file, content)
            files.append(file)
        return files

    def numbers(self) -> pd.DataFrame:
        """Return the plotted numbers: ``panel, series, x, y, lower, upper``, one row per point."""
        table = plotted_numbers(self.fig)
        # Names are broken into lines for the eye only.
        places = table["x"].map(lambda x: x.replace("\n", " ") if isinstance(x, str) else x)
        return table.assign(panel=table["panel"].astype(str).str.replace("\n", " "), x=places)

    def _repr_svg_(self) -> str:
        """Return the figure for notebooks."""
        return figure_bytes(self.fig, "svg").decode()

    def _repr_html_(self) -> str:
        """Return the figure above its caption, for notebooks."""
        svg = self._repr_svg_()
        svg = svg[svg.index("<svg") :]
        words = html.escape(self.caption)
        return f"<figure>{svg}<figcaption>{words}</figcaption></figure>"
