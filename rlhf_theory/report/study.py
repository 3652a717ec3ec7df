"""The page of a study: summary, comparisons, figures, failures, and where it all comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_theory.report.filters import facets
from rlhf_theory.report.parts import Download, download, render
from rlhf_theory.report.sections import Drawing, Sheet, draw
from rlhf_theory.report.tables import Table, Tags
from rlhf_theory.report.words import pretty

_WITH_PDF = 24
"""Figures up to which their PDF files are part of the page."""

_NO_PDF = (
    f"The page has more than {_WITH_PDF} figures, so it holds them as SVG and numbers; their PDF "
    "files are in the folder of the study."
)

_KINDS = {"world": "World", "family": "Family", "learner": "Learner", "plot": "Plot"}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A block of replicas that did not finish.

    Attributes
    ----------
    block
        What failed, for people: ``easy, GSHF, replicas 0 to 63``.
    error
        The error in one line.
    traceback
        All of it.
    attempts
        How often it was tried.
    tags
        What it is about, for the filters.
    """

    block: str
    error: str
    traceback: str = ""
    attempts: int = 1
    tags: Tags = field(default_factory=dict)


@dataclass(frozen=True)
class _TablePart:
    name: str
    title: str
    table: Table
    files: tuple[Download, ...]


@dataclass(frozen=True)
class _Invocation:
    title: str
    text: str


def write_study_page(
    path: Path,
    *,
    name: str,
    title: str,
    facts: Mapping[str, object],
    lead: str = "",
    tables: Mapping[str, Table] | None = None,
    figures: Sequence[Sheet] = (),
    remarks: Sequence[str] = (),
    cells: Table | None = None,
    failures: Sequence[Failure] = (),
    study_toml: str = "",
    resolved: Mapping[str, object] | None = None,
    provenance: Sequence[Mapping[str, object]] = (),
) -> Path:
    """Write the self-contained page of a study; return its path.

    What is shown is searched by words and filtered by what it is about: the tags ``world``,
    ``family``, ``learner`` and ``plot`` of figures, of rows of tables, and of failures. What has no
    tag of a kind is about all of them. Without scripts it is a plain page with everything on it.

    Parameters
    ----------
    path
        File to write; its folder exists.
    name, title, lead
        Name of the study, heading of the page (empty: the name), the paragraph below it.
    facts
        What holds for all of it: cells, replicas, how many finished and failed, versions.
    tables
        Heading to table, in their order; `tables.table_of` makes one of a data frame. A table
        without rows is left out.
    figures
        In their order; one whose file is missing is left out, with a remark in its place.
    remarks
        What a reader should know before the figures, such as one that could not be drawn.
    cells
        One row per cell: settings and state.
    failures
        Blocks that did not finish, with their tracebacks.
    study_toml
        The study file as given; empty for a study made in Python.
    resolved
        Every setting after defaults and changes: plain data.
    provenance
        One entry per invocation, oldest first: plain data; ``start`` and ``command`` are its head.

    Raises
    ------
    ValueError
        If two tables have headings that differ in nothing but case and punctuation.
    """
    parts = [_table_part(head, table, name) for head, table in (tables or {}).items() if table.rows]
    names = [part.name for part in parts]
    if len(set(names)) != len(names):
        message = f"Tables must have different headings; got {', '.join(p.title for p in parts)}."
        raise ValueError(message)
    cells_part = _table_part("Cells", cells, name) if cells is not None and cells.rows else None
    # Two fifths of a figure's share of the page are its PDF, which the folder has too.
    few = len(figures) <= _WITH_PDF
    kinds = ("pdf", "svg", "csv") if few else ("svg", "csv")
    drawings = [
        draw(sheet, f"f{k}", f"{_slug(name)}-{k}-{_slug(sheet.title)}"[:60].rstrip("-"), kinds)
        for k, sheet in enumerate(figures, start=1)
    ]
    if not few:
        remarks = [*remarks, _NO_PDF]
    return render(
        path,
        "study.html",
        styles=("page.css", "sections.css", "study.css"),
        name=name,
        title=title or name,
        lead=lead,
        facts=[(fact, pretty(value)) for fact, value in facts.items()],
        choices=facets(_KINDS, _all_tags(parts, cells_part, drawings, failures)),
        tables=parts,
        figures=drawings,
        remarks=remarks,
        cells=cells_part,
        failures=failures,
        study_toml=study_toml.strip("\n"),
        resolved=_json(resolved) if resolved else "",
        sources=_sources(study_toml, resolved, name),
        provenance=[_invocation(entry) for entry in provenance],
    )


def _table_part(title: str, table: Table, study: str) -> _TablePart:
    name = f"table-{_slug(title)}"
    content = table.to_csv().encode()
    file = download("csv", content, f"{_slug(study)}-{_slug(title)}", "table (csv)")
    return _TablePart(name, title, table, (file,))


def _slug(text: str) -> str:
    """Return a text as part of a file name or an id: lower-case letters, digits, hyphens.

    Examples
    --------
    >>> _slug("Scores, per family of worlds")
    'scores-per-family-of-worlds'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "study"


def _all_tags(
    parts: Sequence[_TablePart],
    cells: _TablePart | None,
    drawings: Sequence[Drawing],
    failures: Sequence[Failure],
) -> Iterator[Tags]:
    for part in [*parts, *([cells] if cells is not None else [])]:
        yield from part.table.tags
    yield from (d.sheet.tags for d in drawings)
    yield from (f.tags for f in failures)


def _sources(toml: str, resolved: Mapping[str, object] | None, name: str) -> tuple[Download, ...]:
    found = []
    if toml:
        found.append(download("toml", toml.encode(), _slug(name), "study file (toml)"))
    if resolved:
        content = (_json(resolved) + "\n").encode()
        found.append(
            download("json", content, f"{_slug(name)}-resolved", "resolved settings (json)")
        )
    return tuple(found)


def _invocation(entry: Mapping[str, object]) -> _Invocation:
    command = entry.get("command", "")
    words = " ".join(map(str, command)) if isinstance(command, list | tuple) else str(command)
    head = [text for text in (str(entry.get("start", "")), words) if text]
    return _Invocation(", ".join(head) or "Invocation", _json(entry))


def _json(content: Mapping[str, object]) -> str:
    # Paths, dates and the like as text: this is for people to read.
    return json.dumps(content, indent=2, ensure_ascii=False, default=str)
