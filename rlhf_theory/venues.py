"""Sizes of figures and type for journals and conferences, from tueplots."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from tueplots import bundles

from rlhf_theory.errors import check_choice

# Type and width follow the venue. Its fonts do not: they would have to be on every machine.
_TYPE = (
    "axes.labelsize",
    "axes.titlesize",
    "font.size",
    "legend.fontsize",
    "xtick.labelsize",
    "ytick.labelsize",
)
# The project's own: one column and the full text of a two-column paper.
_COLUMN, _TEXT = 3.25, 6.75


@dataclass(frozen=True)
class Venue:
    """Widths in inches and sizes of type.

    Attributes
    ----------
    name
        As in `names`; empty for the project's own style.
    column, text
        Width of a column and of the whole text; equal where papers have one column.
    settings
        Settings of matplotlib that go over ``plots.style.theme()``.
    """

    name: str = ""
    column: float = _COLUMN
    text: float = _TEXT
    settings: MappingProxyType[str, float] = field(default_factory=lambda: MappingProxyType({}))


def _bundles() -> dict[str, Callable[..., dict[str, Any]]]:
    # Bundles with a dark background would clash with the colours of the theme.
    return {
        name: function
        for name, function in inspect.getmembers(bundles, inspect.isfunction)
        if not name.startswith("_") and "dark" not in name
    }


def names() -> list[str]:
    """Return the names of all venues, such as ``neurips2024``."""
    return sorted(_bundles())


@cache
def venue(name: str | None = None) -> Venue:
    """Return a venue; None is the project's own style.

    Raises
    ------
    ValueError
        An unknown name; the message lists the known ones and the nearest.
    """
    if name is None:
        return Venue()
    known = _bundles()
    check_choice("venue", name, sorted(known))
    make = known[name]
    takes = inspect.signature(make).parameters
    plain: dict[str, object] = {"usetex": False} if "usetex" in takes else {}
    parts = ({"column": "half"}, {"column": "full"}) if "column" in takes else ({}, {})
    column, text = (make(**plain, **part) for part in parts)
    return Venue(
        name=name,
        column=float(column["figure.figsize"][0]),
        text=float(text["figure.figsize"][0]),
        settings=MappingProxyType({key: float(text[key]) for key in _TYPE if key in text}),
    )
