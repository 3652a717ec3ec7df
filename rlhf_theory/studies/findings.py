"""Comparisons, rates and scores over the worlds of a study, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rlhf_theory.errors import check_probability
from rlhf_theory.evaluation.comparisons import (
    compare_all,
    holm,
    sign_flip_test,
    tied_difference,
    to_frame,
)
from rlhf_theory.evaluation.scores import family_scores, normalised_score
from rlhf_theory.evaluation.sequences import confidence_sequence
from rlhf_theory.evaluation.statistics import slope_bootstrap
from rlhf_theory.studies.pairing import Pair

Values = Mapping[str, Mapping[str, pd.Series]]
"""By world and learner: one number per replica, by its number."""

ALL_WORLDS = "all worlds"
"""The family of every world in a table of scores."""


def comparisons(
    pairs: Sequence[Pair], by: str, level: float, *, anytime: bool = False
) -> pd.DataFrame:
    """Return paired comparisons, with Holm's correction over all of them.

    Parameters
    ----------
    pairs
        What is compared, of any number of worlds; at least one.
    by
        What ``at`` of the pairs counts.
    level
        Coverage of the intervals, and one minus the level of the tests.
    anytime
        Intervals that hold at every number of replicas and for all rows at once, instead of tests.
    """
    check_probability("level", level)
    tables: list[pd.DataFrame] = []
    differences: list[pd.DataFrame] = []
    for pair in pairs:
        one, two = pair.both
        # The tests of all pairs come below, together.
        found = compare_all({pair.first: one, pair.second: two}, level=level, n_flips=1)
        where = float(pair.at.mean())
        tables.append(to_frame(found).assign(world=pair.world, by=by, at=where))
        differences.append(pd.DataFrame({0: tied_difference(one, two)}, index=pair.replicas))
    table = pd.concat(tables, ignore_index=True)
    ahead = ["world", "first", "second", "by", "at"]
    table = table[[*ahead, *[c for c in table.columns if c not in ahead]]]
    if anytime:
        return _at_any_time(table, differences, 1.0 - (1.0 - level) / len(table))
    table["p_value"] = _p_values(differences, level)
    table["adjusted"] = holm(table["p_value"].to_numpy())
    table["winner"] = _winners(table, table["adjusted"] <= 1.0 - level)
    return table


def _p_values(differences: list[pd.DataFrame], level: float) -> np.ndarray:
    """Return the p-value of every pair; pairs with the same replicas share their sign flips."""
    total = sum(part.shape[1] for part in differences)
    # Enough that the smallest p-value survives Holm's factor; more would only take time.
    flips = int(np.clip(10 * total / (1.0 - level), 10_000, 100_000))
    groups: dict[tuple[int, ...], list[int]] = {}
    for k, part in enumerate(differences):
        groups.setdefault(tuple(part.index), []).append(k)
    found: dict[int, np.ndarray] = {}
    for members in groups.values():
        stacked = np.concatenate([differences[k].to_numpy() for k in members], axis=1)
        p = sign_flip_test(stacked, n_flips=flips)
        ends = np.cumsum([differences[k].shape[1] for k in members])
        found |= dict(zip(members, np.split(p, ends[:-1]), strict=True))
    return np.concatenate([found[k] for k in range(len(differences))])


def _winners(table: pd.DataFrame, decided: pd.Series | np.ndarray) -> pd.Series:
    """Return the better learner of every decided pair, else None; smaller is better."""
    lean = table["difference"].to_numpy(dtype=float)
    names = np.where(lean < 0, table["first"].to_numpy(), table["second"].to_numpy())
    names = names.astype(object)
    names[~(np.asarray(decided) & (np.abs(lean) > 0))] = None
    return pd.Series(names, index=table.index, dtype=object)


def _at_any_time(
    table: pd.DataFrame, differences: list[pd.DataFrame], level: float
) -> pd.DataFrame:
    """Put confidence sequences in the place of bootstrap intervals and tests."""
    columns = [part[name] for part in differences for name in part.columns]
    ends = []
    for column in columns:
        values = column.sort_index().to_numpy()
        if not np.isfinite(values).all():  # then nothing is known of the mean
            ends.append((-np.inf, np.inf))
            continue
        interval = confidence_sequence(values, level=level)
        ends.append((float(interval.lower[-1]), float(interval.upper[-1])))
    table = table.drop(columns=["p_value", "adjusted"])
    table[["difference_lower", "difference_upper"]] = ends
    decided = (table["difference_upper"] < 0) | (table["difference_lower"] > 0)
    table["winner"] = _winners(table, decided)
    return table


def rates(
    curves: Mapping[tuple[str, str, str], pd.DataFrame],
    window: tuple[float, float] | None,
    level: float,
) -> pd.DataFrame:
    """Return the log-log slope of mean curves.

    Parameters
    ----------
    curves
        By world, learner and metric: a table of replicas by numbers of labels, which increase.
    window
        First and last number; None for the last two thirds of the decades.
    level
        Coverage.

    Returns
    -------
    Columns ``world``, ``learner``, ``metric``, ``slope``, ``lower``, ``upper``, ``from``, ``to``
    and ``remark``, which says why a slope is missing.
    """
    rows = []
    for (world, learner, metric), table in curves.items():
        at = table.columns.to_numpy(dtype=float)
        use = _late(at) if window is None else window
        row: dict[str, object] = {"world": world, "learner": learner, "metric": metric}
        try:
            fit = slope_bootstrap(at, table.to_numpy(), window=use, level=level)
            row |= {"slope": fit.value, "lower": fit.lower, "upper": fit.upper}
            row |= {"from": fit.window[0], "to": fit.window[1], "remark": ""}
        except ValueError as error:
            row |= dict.fromkeys(("slope", "lower", "upper"), np.nan)
            row |= {"from": use[0], "to": use[1], "remark": str(error)}
        rows.append(row)
    return pd.DataFrame(rows)


def _late(at: np.ndarray) -> tuple[float, float]:
    """Return the last two thirds of the decades of positive points."""
    positive = at[at > 0]
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
        By world: the metric of pi0, shape ``(R,)``. A world where pi0 is optimal has no score, nor
        one that is not here.
    families
        The family of every world.
    level
        Coverage of the intervals.

    Returns
    -------
    Columns of `evaluation.scores.family_scores`.
    """
    table: dict[tuple[str, str], ArrayLike] = {}
    for world, learners in values.items():
        for learner, metric in learners.items() if world in reference else ():
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
    table: Mapping[tuple[str, str], ArrayLike], families: Mapping[str, str]
) -> dict[tuple[str, str], ArrayLike]:
    """Return the scores of learners in families in all whose worlds they have one."""
    members: dict[str, set[str]] = {}
    for world, _ in table:
        members.setdefault(families[world], set()).add(world)
    return {
        (world, learner): value
        for (world, learner), value in table.items()
        if all((other, learner) in table for other in members[families[world]])
    }
