"""Frames of studies as arrays."""

from __future__ import annotations

import numpy as np
import pandas as pd


def select(frame: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Return the rows that have these values in the columns of these names."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def by_replica(part: pd.DataFrame, axis: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of ``axis``, shape ``(T,)``, and a column per replica, ``(R, T)``.

    There is one row per replica and point, in any order; NaN stays NaN.
    """
    wide = part.pivot_table(index="replica", columns=axis, values=column, dropna=False)
    return wide.columns.to_numpy(dtype=float), wide.to_numpy(dtype=float)
