"""Pages of sections: text, tables, figures and lists, in the look of the theorem report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_theory.report.parts import downloads, figure_svg, render
from rlhf_theory.report.words import pretty

__all__ = ["Section", "Sheet", "Table", "write_page"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes
    ----------
    columns
        Heads of the columns.
    rows
        Cells, one per column; numbers are written as people write them, NaN and None as a dash.
    caption
        Says what the numbers are: units, estimators, which interval.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def __post_init__(self) -> None:
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            message = f"Rows must have {len(self.columns)} cells, one per column; got {wrong[0]}."
            raise ValueError(message)

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers only."""
        return [all(_is_number(row[k]) for row in self.rows) for k in range(len(self.columns))]

    @property
    def cells(self) -> list[list[str]]:
        """The cells as they are written."""
        return [[_cell(value) for value in row] for row in self.rows]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "–" if missing else pretty(value)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A figure that ``plots.figures.save`` has written.

    Attributes
    ----------
    folder
        Folder of ``STEM.svg``, its numbers and its other formats.
    title
        What is shown, for those who cannot see it.
    caption
        Says what every band is.
    stem
        Name of the files.
    """

    folder: Path
    title: str
    caption: str
    stem: str = "figure"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a page.

    Attributes
    ----------
    name
        Unique on the page: letters, digits and hyphens.
    title
        Its heading.
    text
        Paragraphs.
    facts
        Settings and results, name to value.
    tables, figures
        What is shown.
    remarks
        A list under its own heading: limits, departures, warnings.
    details
        Long things that open on demand, heading to text.
    kicker
        A few words above the heading.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    figures: Sequence[Sheet] = ()
    remarks: Sequence[str] = ()
    remarks_title: str = "Remarks"
    details: Mapping[str, str] = field(default_factory=dict)
    kicker: str = ""


def write_page(
    path: Path,
    title: str,
    facts: Mapping[str, Any],
    sections: Sequence[Section],
    *,
    lead: str = "",
    footer: str = "Written by rlhf-theory.",
) -> Path:
    """Write one self-contained page: light and dark, for phones too, without network.

    Parameters
    ----------
    path
        File to write; its folder exists.
    title
        Heading of the page.
    facts
        What holds for all of it, such as seed and versions.
    sections
        In their order; a figure whose file is missing is left out, with a remark in its place.
    lead
        One paragraph below the heading.
    footer
        Last line.

    Raises
    ------
    ValueError
        If two sections have one name.
    """
    names = [section.name for section in sections]
    if len(set(names)) != len(names):
        message = f"Sections must have different names; got {', '.join(names)}."
        raise ValueError(message)
    shown = [
        {
            "section": section,
            "figures": [
                {
                    "svg": figure_svg(f.folder, f"{section.name}-{k}", f.title, f.stem),
                    "title": f.title,
                    "caption": f.caption,
                    "file": f"{section.name}-{k}",
                    "downloads": downloads(f.folder, f.stem),
                }
                for k, f in enumerate(section.figures)
            ],
        }
        for section in sections
    ]
    return render(
        path,
        "sections.html",
        styles=("page.css", "sections.css"),
        title=title,
        lead=lead,
        facts=[(name, pretty(value)) for name, value in facts.items()],
        sections=shown,
        footer=footer,
    )
