"""The recorded numbers of one cell as tables of shape (R, T); nothing is dropped unsaid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True, eq=False)
class Recorded:
    """What one cell has recorded.

    Attributes
    ----------
    place
        Rounds or numbers of pairs, shape ``(T,)``, increasing.
    replicas
        Their numbers, shape ``(R,)``, increasing.
    tables
        Columns by name, each ``(R, T)``, without NaN.
    labels
        Labels used, mean over replicas, shape ``(T,)``; NaN where they were not recorded.
    dropped
        Number of points that some replicas had and others lacked.
    """

    place: np.ndarray
    replicas: np.ndarray
    tables: dict[str, np.ndarray]
    labels: np.ndarray
    dropped: int


def recorded(part: pd.DataFrame, names: Iterable[str]) -> Recorded | str:
    """Return the tables of a cell; the name of a column instead that has no values.

    Parameters
    ----------
    part
        Rows of the cell, `studies.places.placed`.
    names
        Columns that are needed. A point that no replica has of a column was never recorded; one
        that some replicas lack is dropped for all and counted.

    Raises
    ------
    ValueError
        Two rows for one replica and round (or number of pairs).
    """
    place, column = np.unique(part["place"].to_numpy(dtype=float), return_inverse=True)
    replicas, row = np.unique(part["replica"].to_numpy(), return_inverse=True)
    if len(part) != len(np.unique(row * len(place) + column)):
        message = f"Cell {part['cell'].iloc[0]} has several rows for the same replica and place."
        raise ValueError(message)

    def table(name: str) -> np.ndarray:
        values = np.full((len(replicas), len(place)), np.nan)
        if name in part:
            values[row, column] = part[name].to_numpy(dtype=float)
        return values

    tables = {name: table(name) for name in dict.fromkeys(names)}
    missing = {name: np.isnan(values) for name, values in tables.items()}
    for name, none in missing.items():
        if none.all():
            return name
    some = np.any([none.any(axis=0) for none in missing.values()], axis=0)
    if some.all():
        return " and ".join(tables) + " at any point that all replicas share"
    every = np.any([none.all(axis=0) for none in missing.values()], axis=0)
    chosen = {name: values[:, ~some] for name, values in tables.items()}
    labels = table("labels")[:, ~some].mean(axis=0)
    return Recorded(place[~some], replicas, chosen, labels, int((some & ~every).sum()))
