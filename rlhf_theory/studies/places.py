"""Where on its curve a row of results stands: at a round, or at a number of pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd

PLACES = ("round", "pairs")
"""Columns of every table of results: a row of an online learner has the first, else the second."""


def placed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of results with two columns more: ``counted`` and ``place``.

    ``counted`` says which of `PLACES` a row has, ``place`` its value there, a float.

    Raises
    ------
    ValueError
        If the table has neither column, or a row has not exactly one of the two.
    """
    found = [name for name in PLACES if name in frame]
    if not found:
        message = f"Results must have a column {' or '.join(PLACES)}; got {list(frame)}."
        raise ValueError(message)
    values = np.stack([frame[name].to_numpy(dtype=float, na_value=np.nan) for name in found])
    here = ~np.isnan(values)
    if not np.all(here.sum(axis=0) == 1):
        message = f"Every row of results must have one of {', '.join(PLACES)}; some have not."
        raise ValueError(message)
    counted = pd.Categorical(np.asarray(found)[np.argmax(here, axis=0)], categories=found)
    return frame.assign(counted=counted, place=np.where(here, values, 0.0).sum(axis=0))


def without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table without those of `PLACES` that no row has: whole numbers for people."""
    empty = [name for name in PLACES if name in frame and frame[name].isna().all()]
    frame = frame.drop(columns=empty)
    whole = [name for name in PLACES if name in frame]
    return frame.astype({n: "Int64" if frame[n].isna().any() else "int64" for n in whole})
