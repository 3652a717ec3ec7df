"""Pages of sections: text, tables, figures and lists, in the look of the theorem report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from rlhf_theory.report.parts import Download, downloads, figure_svg, render
from rlhf_theory.report.tables import Table, Tags
from rlhf_theory.report.words import pretty

__all__ = ["Drawing", "Section", "Sheet", "Table", "draw", "write_page"]


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
    tags
        What it is about, for the filters of a study's page.
    """

    folder: Path
    title: str
    caption: str
    stem: str = "figure"
    tags: Tags = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A sheet as the templates show it.

    Attributes
    ----------
    sheet
        Where it comes from.
    svg
        The drawing; None where its file is missing.
    downloads
        Its files.
    """

    sheet: Sheet
    svg: Markup | None
    downloads: tuple[Download, ...]

    @property
    def wide(self) -> bool:
        """Whether it takes the full width: it is wider than one column of a paper."""
        natural = re.search(r"--natural: (\d+)px", self.svg or "")
        return natural is not None and int(natural.group(1)) > 400


def draw(
    sheet: Sheet, key: str, name: str, kinds: Sequence[str] = ("pdf", "svg", "csv")
) -> Drawing:
    """Read a figure and its files.

    Parameters
    ----------
    sheet
        Where it lies.
    key
        Unique on the page, and short: all ids inside the drawing start with it.
    name
        Name to save its files under.
    kinds
        Which files the page holds.
    """
    svg = figure_svg(sheet.folder, key, sheet.title, sheet.stem)
    return Drawing(
        sheet=sheet,
        svg=svg,
        downloads=downloads(sheet.folder, name, sheet.stem, kinds) if svg is not None else (),
    )


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
    facts: Mapping[str, object] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    figures: Sequence[Sheet] = ()
    remarks: Sequence[str] = ()
    remarks_title: str = "Remarks"
    details: Mapping[str, str] = field(default_factory=dict)
    kicker: str = ""


def write_page(
    path: Path,
    title: str,
    facts: Mapping[str, object],
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
                draw(f, f"{section.name}-{k}", f"{section.name}-{k}")
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
