"""Frames of studies as arrays."""

from __future__ import annotations

import numpy as np
import pandas as pd


def by_replica(part: pd.DataFrame, axis: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of ``axis``, shape ``(T,)``, and a column per replica, ``(R, T)``."""
    wide = part.pivot_table(index="replica", columns=axis, values=column)
    return wide.columns.to_numpy(dtype=float), wide.to_numpy(dtype=float)
