"""Results of a study as panels of series, each with values of shape (R, T)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from rlhf_theory.errors import check_choice, suggestion
from rlhf_theory.plots.studies.tables import Recorded, recorded
from rlhf_theory.studies.places import PLACES, placed

PRIMARY = "the world's metric"
"""Stands for the metric that the column ``metric`` names for each cell."""

_NEEDED = ("cell", "world", "learner", "metric", "replica")
_PLACES = (*_NEEDED, "family", *PLACES, "counted", "place", "labels")
# As many looks as `style.series` tells apart, and as many panels as a page holds.
_MOST_SERIES = 24
_MOST_PANELS = 24


@dataclass(frozen=True, eq=False, kw_only=True)
class Series(Recorded):
    """What one cell has recorded, and how it is shown.

    Attributes
    ----------
    label
        Its name in the figure.
    look
        Number of its style, the same in all panels.
    cell, world
        Key of the cell, and label of its world.
    counted
        What ``place`` counts: ``"round"`` or ``"pairs"``.
    settings
        Flat settings of the cell, as far as they are known.
    """

    label: str
    look: int
    cell: str
    world: str
    counted: str
    settings: Mapping[str, object]

    @property
    def n_replicas(self) -> int:
        """Number of replicas ``R``."""
        return len(self.replicas)


@dataclass(frozen=True, eq=False)
class Panel:
    """One panel: its title, the metric that its series show, and the series."""

    title: str
    metric: str
    series: list[Series]


@dataclass(frozen=True, eq=False)
class Layout:
    """All panels of a figure.

    Attributes
    ----------
    panels
        At least one, none of them empty.
    facet, hue
        Columns that divide panels and series; ``facet`` is None for a single panel.
    notes
        Sentences for the caption about what could not be shown.
    """

    panels: list[Panel]
    facet: str | None
    hue: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def series(self) -> list[Series]:
        """The series of all panels."""
        return [s for panel in self.panels for s in panel.series]


def columns_of(frame: pd.DataFrame) -> list[str]:
    """Return the columns by which a figure can be divided: labels, family and varied settings."""
    names = [str(name) for name in frame]
    fixed = [name for name in ("world", "learner", "family") if name in names]
    return fixed + [name for name in names if "." in name or name == "seed"]


def arrange(
    frame: pd.DataFrame,
    columns: Sequence[str],
    *,
    metric: str | None = None,
    facet: str | None = None,
    hue: str | None = None,
    settings: Mapping[str, Mapping[str, object]] | None = None,
) -> Layout:
    """Divide the results of a study into panels and series.

    Parameters
    ----------
    frame
        One row per cell, replica and point, with the columns of ``StudyResult.to_pandas``.
    columns
        Recorded columns that the figure needs; ``PRIMARY`` stands for ``metric``.
    metric
        A recorded column; None takes the one that each world names.
    facet
        Column that divides panels; None takes the world where there are several (the learner, if
        ``hue`` is about worlds); ``"none"`` is one panel.
    hue
        Column that divides series; None takes the learner (the world, if ``facet`` is about
        learners). Where cells still share panel and label, their labels say what differs.
    settings
        Flat settings per cell, for bounds; the frame has only those that vary.

    Returns
    -------
    Layout. Cells without any value of a needed column are left out, and its notes name them.

    Raises
    ------
    ValueError
        Columns that do not exist, cells that nothing tells apart, too many series or panels,
        different metrics in one panel.
    """
    _check_frame(frame, columns, metric)
    frame = placed(frame)
    cells = _cell_table(frame)
    if metric is not None:
        cells["metric"] = metric
    facet, hues = _division(cells, facet, hue)
    groups = {str(key): part for key, part in frame.groupby("cell", sort=False, observed=True)}
    notes: list[str] = []
    read: dict[str, Recorded] = {}
    lacking: dict[str, list[Any]] = {}
    for cell, about in cells.iterrows():
        names = [about["metric"] if name == PRIMARY else name for name in columns]
        found = recorded(groups[str(cell)], names)
        if isinstance(found, str):
            lacking.setdefault(found, []).append(cell)
            continue
        read[str(cell)] = found
        if found.dropped:
            lost = f"{found.dropped} points that some replicas lack are left out"
            notes.append(f"{_name(cells, cell)}: {lost}.")
    notes = [*_omissions(cells, lacking), *notes]
    if not read:
        message = "Nothing can be drawn. " + " ".join(notes)
        raise ValueError(message)
    known = {cell: {**_varied(groups[cell]), **(settings or {}).get(cell, {})} for cell in read}
    panels = _panels(cells, read, known, facet, hues)
    return Layout(panels, facet, hues, notes)


# --------------------------------------------------------------------------- checks and division


def _check_frame(frame: pd.DataFrame, columns: Sequence[str], metric: str | None) -> None:
    lacking = [name for name in _NEEDED if name not in frame]
    if lacking:
        message = f"The results must have columns {', '.join(_NEEDED)}; {', '.join(lacking)} lack."
        raise ValueError(message)
    if frame.empty:
        message = "There are no results to draw; run the study first."
        raise ValueError(message)
    wanted = [c for c in columns if c != PRIMARY]
    wanted += [metric] if metric is not None else [str(m) for m in frame["metric"].unique()]
    recorded = [
        str(name)
        for name in frame.select_dtypes("number")
        if name not in _PLACES and "." not in str(name)
    ]
    for name in wanted:
        if name not in recorded and name not in frame:
            message = f"metric must be a recorded column, {', '.join(recorded)}; got {name!r}."
            raise ValueError(message + suggestion(name, recorded))


def _cell_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell, by its key, with everything that may divide the figure."""
    cells = frame[["cell", "metric", "counted", *columns_of(frame)]].drop_duplicates("cell")
    for name in ("cell", "metric", "counted", "world", "learner"):
        cells[name] = cells[name].astype(str)
    return cells.set_index("cell").infer_objects()


def _division(
    cells: pd.DataFrame, facet: str | None, hue: str | None
) -> tuple[str | None, list[str]]:
    """Return the column of the panels, and those that make up the labels of series."""
    known = columns_of(cells)
    if hue is not None:
        check_choice("hue", hue, known)
    if facet is not None:
        check_choice("facet", facet, ["none", *known])
    if hue is None:
        hue = "world" if str(facet).startswith("learner") else "learner"
    if facet is None:
        other = "learner" if hue.startswith(("world", "family")) else "world"
        facet = other if len(cells[other].unique()) > 1 else "none"
    chosen = [] if facet == "none" else [facet]
    hues = [hue]
    # Cells that share panel and label get what tells them apart into their label.
    for name in known:
        now = [*chosen, *hues]
        if not cells.duplicated(now).any():
            break
        if len(cells.drop_duplicates([*now, name])) > len(cells.drop_duplicates(now)):
            hues.append(name)
    if cells.duplicated([*chosen, *hues]).any():
        message = (
            "Several cells share world, learner and all settings, so that nothing tells their "
            f"curves apart; choose some of the {len(cells)} cells."
        )
        raise ValueError(message)
    return (chosen[0] if chosen else None), hues


def _panels(
    cells: pd.DataFrame,
    read: Mapping[str, Recorded],
    settings: Mapping[str, Mapping[str, object]],
    facet: str | None,
    hues: list[str],
) -> list[Panel]:
    label = pd.Series(
        [", ".join(_words(h, row[h]) for h in hues) for _, row in cells.iterrows()],
        index=cells.index,
    )
    title = pd.Series(
        "" if facet is None else [_words(facet, value) for value in cells[facet]],
        index=cells.index,
    )
    labels = _ordered(cells, label, hues[0])
    titles = _ordered(cells, title, facet)
    for count, most, words in (
        (len(labels), _MOST_SERIES, "series; choose another hue"),
        (len(titles), _MOST_PANELS, "panels; choose another facet"),
    ):
        if count > most:
            message = f"A figure has at most {most} {words}, or draw fewer cells; got {count}."
            raise ValueError(message)
    panels = []
    for name in titles:
        # Those left out keep their style, so that a learner looks the same in all figures.
        keys = [str(cell) for cell in cells.index[title == name] if cell in read]
        if not keys:
            continue
        keys.sort(key=lambda cell: labels.index(label[cell]))
        metrics = list(dict.fromkeys(cells.loc[keys, "metric"]))
        if len(metrics) > 1:
            message = (
                f"Panel {name or 1!r} would mix the metrics {', '.join(metrics)}; give one by "
                "metric=, or facet='world'."
            )
            raise ValueError(message)
        series = [
            _series(cell, cells, str(label[cell]), labels, read[cell], settings[cell])
            for cell in keys
        ]
        panels.append(Panel(name, metrics[0], series))
    return panels


def _series(
    cell: str,
    cells: pd.DataFrame,
    label: str,
    labels: list[str],
    found: Recorded,
    settings: Mapping[str, object],
) -> Series:
    return Series(
        label=label,
        look=labels.index(label),
        cell=cell,
        world=str(cells["world"][cell]),
        counted=str(cells["counted"][cell]),
        settings=settings,
        **vars(found),
    )


def _ordered(cells: pd.DataFrame, words: pd.Series, by: str | None) -> list[str]:
    """Return the words in the order of the study; by value where they stand for numbers."""
    if by is not None and pd.api.types.is_numeric_dtype(cells[by]):
        words = words[cells[by].sort_values(kind="stable").index]
    return [str(word) for word in dict.fromkeys(words)]


def _words(column: str, value: Any) -> str:
    if column in ("world", "learner", "family"):
        return str(value)
    short = column.split(".", 1)[-1]
    if pd.isna(value):
        return f"no {short}"
    plain = isinstance(value, float | np.floating)
    return f"{short} = {value:g}" if plain else f"{short} = {value}"


def _varied(part: pd.DataFrame) -> dict[str, object]:
    """Return the settings of a cell that the frame itself has."""
    return {name: part[name].iloc[0] for name in columns_of(part) if "." in name}


def _omissions(cells: pd.DataFrame, lacking: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return which cells have no value of which column; a learner that never has, by itself."""
    notes = []
    for column, some in lacking.items():
        own = cells.loc[list(some), "learner"]
        never = [
            name for name in own.unique() if (own == name).sum() == (cells["learner"] == name).sum()
        ]
        names = [*never, *(_name(cells, cell) for cell in some if own[cell] not in never)]
        verbs = ("is", "it has") if len(names) == 1 else ("are", "they have")
        notes.append(f"{', '.join(map(str, names))} {verbs[0]} left out: {verbs[1]} no {column}.")
    return notes


def _name(cells: pd.DataFrame, cell: Any) -> str:
    learner = str(cells["learner"][cell])
    several = len(cells["world"].unique()) > 1
    return f"{learner} in {cells['world'][cell]}" if several else learner
