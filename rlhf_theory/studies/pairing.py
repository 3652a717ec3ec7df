"""Which numbers of two learners are compared: those at equal labels, rounds or pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from rlhf_theory.evaluation.comparisons import pairs_of
from rlhf_theory.evaluation.equal_labels import LabelCurves, last_common
from rlhf_theory.studies.ends import last_rows
from rlhf_theory.studies.places import placed

By = Literal["labels", "rounds", "pairs"]
BY: tuple[By, ...] = ("labels", "rounds", "pairs")
_COUNTED = {"rounds": "round", "pairs": "pairs"}

Names = Sequence[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two learners of one world, replica by replica.

    Attributes
    ----------
    world, first, second
        Labels.
    replicas
        Numbers of the replicas that both have.
    both
        The metric of the first and of the second, shape ``(2, R)``.
    at
        Where both are, shape ``(R,)``: labels, or a round or a number of pairs.
    """

    world: str
    first: str
    second: str
    replicas: list[int]
    both: np.ndarray
    at: np.ndarray


@dataclass(frozen=True, eq=False)
class History:
    """What a learner has recorded of a metric in a world.

    Attributes
    ----------
    replicas
        Their numbers, shape ``(R,)``.
    curves
        The metric against labels.
    """

    replicas: pd.Index
    curves: LabelCurves


Histories = Mapping[str, Mapping[str, History]]
"""By world and learner."""


def history(part: pd.DataFrame, metric: str) -> History:
    """Return the history of one cell; rows in which the metric is NaN were not recorded."""
    table = placed(part[part[metric].notna()])
    wide = [
        table.pivot_table(index="replica", columns="place", values=n) for n in ("labels", metric)
    ]
    return History(wide[0].index, LabelCurves(*(part.to_numpy(dtype=float) for part in wide)))


def _together(
    histories: Sequence[History], at: float | None
) -> tuple[pd.Index, list[LabelCurves], np.ndarray]:
    """Return the replicas that all have, their curves there, and their numbers of labels ``at``.

    None takes the last number that all have, in every replica of its own.
    """
    shared = histories[0].replicas
    for one in histories[1:]:
        shared = shared.intersection(one.replicas)
    curves = [h.curves.rows(h.replicas.get_indexer(shared)) for h in histories]
    count = last_common(curves) if at is None else np.full(len(shared), float(at))
    return shared, curves, count


def at_equal_labels(
    histories: Histories, pairs: str | Names, at: float | None
) -> tuple[list[Pair], list[str]]:
    """Return learners at equal numbers of labels, and why others are left out.

    Parameters
    ----------
    histories
        By world and learner.
    pairs
        As in `pairs_of`; where a world lacks one of two learners the pair is left out.
    at
        Number of labels. None: in every replica the last that both have.
    """
    found, left = [], []
    for world, learners in histories.items():
        for a, b in pairs_of(list(learners), pairs):
            if a not in learners or b not in learners:
                continue
            shared, curves, count = _together([learners[a], learners[b]], at)
            if shared.empty:
                continue
            values = np.stack([curve.at(count) for curve in curves])
            if np.isnan(values).any():
                left.append(f"{a} and {b} in {world} ({_ranges(a, b, curves)})")
            else:
                found.append(Pair(world, a, b, list(shared), values, count))
    return found, left


def at_last_common(learners: Mapping[str, History]) -> dict[str, pd.Series]:
    """Return the metric of learners of one world at the last number of labels that all have.

    Left out are those that lack a replica which others have, and those that have no results yet
    where the first one ends.
    """
    most = max(len(one.replicas) for one in learners.values())
    whole = {name: one for name, one in learners.items() if len(one.replicas) == most}
    shared, curves, count = _together(list(whole.values()), None)
    values = {name: curve.at(count) for name, curve in zip(whole, curves, strict=True)}
    return {
        name: pd.Series(value, index=shared)
        for name, value in values.items()
        if len(shared) and not np.isnan(value).any()
    }


def _ranges(a: str, b: str, curves: Sequence[LabelCurves]) -> str:
    """Say between which numbers of labels all replicas of two learners have results."""
    words = []
    for name, curve in zip((a, b), curves, strict=True):
        first, last = curve.first(), curve.last()
        some = not np.isnan(first).any()
        span = f"{first.max():.0f} to {last.min():.0f} labels" if some else "not always a label"
        words.append(f"{name}: {span}")
    return ", ".join(words)


def at_equal_places(
    curves: pd.DataFrame, metric: str, by: By, pairs: str | Names, at: float | None
) -> tuple[list[Pair], list[str]]:
    """Return learners of one world at the same round, or from the same number of pairs.

    Parameters
    ----------
    curves
        Results of the world, see `StudyResult.to_pandas`.
    metric
        A recorded column.
    by
        ``"rounds"`` takes learners that play rounds, ``"pairs"`` those of offline data.
    pairs
        As in `pairs_of`.
    at
        The last recorded round or number of pairs at or before it is taken; None for the end.
    """
    ends = last_rows(curves, metric, at)
    here = ends[ends["counted"] == _COUNTED[by]]
    found = []
    series = {
        str(name): part.set_index("replica")[metric].sort_index()
        for name, part in here.groupby("learner", sort=False)
    }
    world = str(curves["world"].iloc[0])
    for a, b in pairs_of(list(series), pairs):
        if a in series and b in series:
            both = series[a].index.intersection(series[b].index)
            values = np.stack([series[n].loc[both].to_numpy(dtype=float) for n in (a, b)])
            count = np.full(len(both), float(here["place"].iloc[0]))
            if len(both):
                found.append(Pair(world, a, b, list(both), values, count))
    counted = placed(curves)
    other = dict.fromkeys(counted.loc[counted["counted"] != _COUNTED[by], "learner"])
    asked = other if isinstance(pairs, str) else {name for pair in pairs for name in pair}
    left = [f"{name} in {world} (not by {by})" for name in other if name in asked]
    return found, left
