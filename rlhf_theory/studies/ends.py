"""Where the curves of a study end: the rows that summaries and comparisons are about."""

from __future__ import annotations

import pandas as pd

from rlhf_theory.studies.places import placed


def last_rows(curves: pd.DataFrame, metric: str | None, at: float | None) -> pd.DataFrame:
    """Return one row per cell and replica: the last that all cells of a world have.

    While a study is extended, blocks may end at different rounds; what is compared must have been
    played equally long. What a round reports belongs to the policy that played it, so reports end
    one round earlier than metrics.

    Parameters
    ----------
    curves
        The table of `StudyResult.to_pandas`.
    metric
        A recorded column; rows without a value do not count. None: all rows.
    at
        Largest round or number of pairs; None for the end.

    Returns
    -------
    The rows, with the columns ``counted`` and ``place`` of `places.placed`.

    Raises
    ------
    ValueError
        If nothing was recorded at or before ``at``.
    """
    table = placed(curves if metric is None else curves[curves[metric].notna()])
    if at is not None:
        first, table = table["place"].min(), table[table["place"] <= at]
        if table.empty:
            message = f"at must be at least {first:g}, the first that is recorded; got {at}."
            raise ValueError(message)
    group = ["world", "counted"]
    rows = table.drop_duplicates(["cell", "replica"]).groupby(group, observed=True).size()
    here = table.groupby([*group, "place"], observed=True).size().rename("rows").reset_index()
    all_of_them = rows.reindex(pd.MultiIndex.from_frame(here[group])).to_numpy()
    full = here.loc[here["rows"].to_numpy() == all_of_them]
    ends = full.groupby(group, observed=True)["place"].max()
    end = ends.reindex(pd.MultiIndex.from_frame(table[group])).to_numpy()
    last: pd.DataFrame = table.loc[table["place"].to_numpy() == end]
    return last.reset_index(drop=True)
