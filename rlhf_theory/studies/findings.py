"""Comparisons, rates and scores over the worlds of a study, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rlhf_theory.evaluation.comparisons import compare_all, holm, to_frame
from rlhf_theory.evaluation.scores import family_scores, normalised_score
from rlhf_theory.evaluation.sequences import confidence_sequence
from rlhf_theory.evaluation.statistics import slope_bootstrap

__all__ = ["comparisons", "rates", "scores"]

Values = Mapping[str, Mapping[str, pd.Series]]
"""By world and learner: one number per replica, by its number."""

ALL_WORLDS = "all worlds"
"""The family of every world in a table of scores."""


def comparisons(values: Values, pairs: Any, level: float, *, anytime: bool = False) -> pd.DataFrame:
    """Return paired comparisons in every world, with Holm's correction over all of them.

    Parameters
    ----------
    values
        By world and learner.
    pairs
        ``"all"``, the name of a baseline, or pairs of names; where a world lacks one of two
        learners the pair is left out, and where a replica of one failed, the replica.
    level
        Coverage of the intervals, and one minus the level of the tests.
    anytime
        Intervals that hold at every number of replicas and for all rows at once, instead of tests.
    """
    groups = [
        (world, replicas, some)
        for world, learners in values.items()
        for replicas, some in _alike(learners, pairs)
    ]
    total = sum(len(some) for _, _, some in groups)
    if total == 0:
        message = "Learners must share a world, and replicas there, to be compared; none do."
        raise ValueError(message)
    # Enough flips that the smallest p-value survives Holm's factor.
    flips = max(10_000, round(10 * total / (1.0 - level)))
    tables = []
    for world, replicas, some in groups:
        names = dict.fromkeys(name for pair in some for name in pair)
        here = {name: values[world][name].loc[replicas].to_numpy(dtype=float) for name in names}
        found = to_frame(compare_all(here, pairs=some, level=level, n_flips=flips))
        tables.append(found.assign(world=world))
    table = pd.concat(tables, ignore_index=True)
    table = table[["world", *[c for c in table.columns if c != "world"]]]
    if anytime:
        return _at_any_time(table, values, 1.0 - (1.0 - level) / total)
    table["adjusted"] = holm(table["p_value"].to_numpy())
    # A winner needs the correction over all worlds.
    table["winner"] = table["winner"].where(table["adjusted"] <= 1.0 - level, None)
    return table


def _at_any_time(table: pd.DataFrame, values: Values, level: float) -> pd.DataFrame:
    """Put confidence sequences in the place of bootstrap intervals and tests."""
    table = table.drop(columns=["p_value", "adjusted"])
    for row in table.index:
        world, first, second = table.loc[row, ["world", "first", "second"]]
        difference = (values[world][first] - values[world][second]).dropna()
        interval = confidence_sequence(difference.sort_index().to_numpy(), level=level)
        low, high = float(interval.lower[-1]), float(interval.upper[-1])
        table.loc[row, ["difference_lower", "difference_upper"]] = low, high
        # Smaller is better.
        table.loc[row, "winner"] = first if high < 0 else second if low > 0 else None
    return table


def _alike(
    learners: Mapping[str, pd.Series], pairs: Any
) -> list[tuple[list[int], list[tuple[str, str]]]]:
    """Return pairs of learners of one world, grouped by the replicas that both have."""
    names = list(learners)
    if pairs == "all":
        wanted = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    elif isinstance(pairs, str):
        wanted = [(a, pairs) for a in names if a != pairs]
    else:
        wanted = list(pairs)
    groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for a, b in wanted:
        if a in learners and b in learners:
            both = tuple(learners[a].index.intersection(learners[b].index))
            groups.setdefault(both, []).append((a, b))
    return [(list(replicas), some) for replicas, some in groups.items() if replicas]


def rates(
    curves: Mapping[tuple[str, str, str], pd.DataFrame],
    window: tuple[float, float] | None,
    level: float,
) -> pd.DataFrame:
    """Return the log-log slope of mean curves.

    Parameters
    ----------
    curves
        By world, learner and metric: a table of replicas by rounds (or numbers of pairs).
    window
        First and last round; None for the last two thirds of the decades.
    level
        Coverage.

    Returns
    -------
    Columns ``world``, ``learner``, ``metric``, ``slope``, ``lower``, ``upper``, ``from``, ``to``
    and ``remark``, which says why a slope is missing.
    """
    rows = []
    for (world, learner, metric), table in curves.items():
        t = table.columns.to_numpy(dtype=float)
        use = _late(t) if window is None else window
        row: dict[str, Any] = {"world": world, "learner": learner, "metric": metric}
        try:
            fit = slope_bootstrap(t, table.to_numpy(), window=use, level=level)
            row |= {"slope": fit.value, "lower": fit.lower, "upper": fit.upper}
            row |= {"from": fit.window[0], "to": fit.window[1], "remark": ""}
        except ValueError as error:
            row |= dict.fromkeys(("slope", "lower", "upper"), np.nan)
            row |= {"from": use[0], "to": use[1], "remark": str(error)}
        rows.append(row)
    return pd.DataFrame(rows)


def _late(t: np.ndarray) -> tuple[float, float]:
    """Return the last two thirds of the decades of positive ``t``."""
    positive = t[t > 0]
    if positive.size == 0:
        return (0.0, 0.0)
    low, high = np.log(positive[0]), np.log(positive[-1])
    # A hair below, so that a point on the edge takes part.
    return (float(np.exp(low + (high - low) / 3.0) * (1 - 1e-12)), float(positive[-1]))


def scores(
    values: Values, reference: Mapping[str, np.ndarray], families: Mapping[str, str], level: float
) -> pd.DataFrame:
    """Return normalised scores per family of worlds, and over all worlds.

    Parameters
    ----------
    values
        By world and learner: the metric in every replica, 0 at the optimum.
    reference
        By world: the metric of pi0, shape ``(R,)``. A world where pi0 is optimal has no score.
    families
        The family of every world.
    level
        Coverage of the intervals.

    Returns
    -------
    Columns of `evaluation.scores.family_scores`.
    """
    table: dict[tuple[str, str], Any] = {}
    for world, learners in values.items():
        for learner, metric in learners.items():
            base = np.asarray(reference[world])
            # No failed replica; and something to learn, which a world whose pi0 is optimal lacks.
            if metric.size == base.size and np.all(base > 0):
                table[world, learner] = normalised_score(metric.to_numpy(dtype=float), base)
    everywhere = dict.fromkeys(families, ALL_WORLDS)
    return pd.concat(
        [
            family_scores(_complete(table, names), names, level=level, together=True)
            for names in (families, everywhere)
        ],
        ignore_index=True,
    )


def _complete(
    table: Mapping[tuple[str, str], Any], families: Mapping[str, str]
) -> dict[tuple[str, str], Any]:
    """Return the scores of learners in families in all whose worlds they have one."""
    members: dict[str, set[str]] = {}
    for world, _ in table:
        members.setdefault(families[world], set()).add(world)
    return {
        (world, learner): value
        for (world, learner), value in table.items()
        if all((other, learner) in table for other in members[families[world]])
    }
