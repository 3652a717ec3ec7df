"""Paired comparisons of learners on the replicas that they share; one test level for all pairs.

Replica r of every learner met the same contexts and label noise, so learners are compared replica
by replica; on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rlhf_theory.arrays import to_numpy
from rlhf_theory.errors import ShapeError, check_choice, check_probability
from rlhf_theory.evaluation.resampling import RESAMPLING, Interval
from rlhf_theory.evaluation.statistics import clopper_pearson, mean_interval, ratio_interval
from rlhf_theory.randomness import Key

# Signs held at once: flips times replicas doubles are in memory.
_SIGNS = 2**22


# --------------------------------------------------------------------------- tests


def _no_nan(name: str, table: np.ndarray) -> None:
    """Raise unless every number of ``table`` ``(R, ...)`` is a number; name the replicas."""
    missing = np.isnan(table).reshape(table.shape[0], -1).any(axis=1)
    if missing.any():
        rows = np.flatnonzero(missing)
        message = (
            f"{name} must not contain NaN; got it in {rows.size} of {missing.size} replicas "
            f"(first: {', '.join(map(str, rows[:5]))}). A learner that failed in a replica has the "
            "worst value there (inf), or the replica is dropped for all learners alike."
        )
        raise ValueError(message)


def _ranked(table: np.ndarray) -> np.ndarray:
    """Return differences ``(R, m)`` with each infinite one replaced by a number that outweighs all.

    Above twice the sum of the finite ones, the net number of infinities decides first and the
    finite sum second.
    """
    finite = np.where(np.isfinite(table), table, 0.0)
    total = np.abs(finite).sum(axis=0)
    outweighs = np.where(total > 0, 4.0 * total, 1.0)
    return np.where(np.isfinite(table), table, np.sign(table) * outweighs)


def _enumerated(n_replicas: int) -> np.ndarray:
    """Return all patterns of signs with a first plus, ``(2^(R-1), R)``; the others mirror them."""
    patterns = np.arange(2 ** (n_replicas - 1))[:, None]
    return 1.0 - 2.0 * ((patterns >> np.arange(n_replicas)) & 1)


def sign_flip_test(
    differences: ArrayLike, *, n_flips: int = 10_000, key: Key = RESAMPLING
) -> float | np.ndarray:
    """Test whether paired differences are symmetric around 0, two-sided, by their mean.

    Under the hypothesis every replica's difference is as likely as its negative. The p-value is the
    share of sign patterns whose mean is at least as far from 0 as the one seen.

    Parameters
    ----------
    differences
        Shape ``(R, ...)``, one test per column. Zeros take part and count for neither side; all
        zeros give 1. An infinite difference outweighs all finite ones together, and two infinite
        ones are equal: the p-value is the limit as they grow. NaN is refused.
    n_flips
        All patterns are enumerated if there are no more than this (``R <= 13`` by default), which
        makes the test exact; otherwise this many are drawn, the same for all columns.
    key
        Address of the drawn signs.

    Returns
    -------
    p-values of shape ``differences.shape[1:]``; a float for ``(R,)``. At least ``2^(1-R)`` if
    enumerated, at least ``1 / (n_flips + 1)`` if drawn: the pattern seen counts as one draw, so
    that the level holds for every ``n_flips``.

    Source: Phipson and Smyth (2010), Statistical Applications in Genetics and Molecular Biology
    9(1), for the pattern that counts.
    """
    table = np.asarray(to_numpy(differences), dtype=np.float64)
    if table.ndim == 0 or table.shape[0] == 0:
        message = f"differences must have shape (R, ...) with R at least 1; got {table.shape}."
        raise ShapeError(message)
    if n_flips < 1:
        message = f"n_flips must be at least 1; got {n_flips}."
        raise ValueError(message)
    _no_nan("differences", table)
    n_replicas = table.shape[0]
    flat = _ranked(table.reshape(n_replicas, math.prod(table.shape[1:])))
    # Patterns that are equal in exact arithmetic must count as equal: sums are rounded.
    least = np.abs(flat.sum(axis=0)) - 1e-12 * np.abs(flat).sum(axis=0)
    if 2**n_replicas <= n_flips:
        p = (np.abs(_enumerated(n_replicas) @ flat) >= least).mean(axis=0)
    else:
        generator = key.child("sign flips").generator(0)
        hits = np.zeros(flat.shape[1])
        step = max(1, _SIGNS // n_replicas)
        for first in range(0, n_flips, step):
            size = (min(step, n_flips - first), n_replicas)
            signs = 1.0 - 2.0 * generator.integers(0, 2, size=size, dtype=np.int8)
            hits += (np.abs(signs @ flat) >= least).sum(axis=0)
        p = (1.0 + hits) / (1.0 + n_flips)
    return float(p[0]) if table.ndim == 1 else p.reshape(table.shape[1:])


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return p-values adjusted for their number, so that all can be read at one level.

    Rejecting where the adjusted value is at most alpha makes any false rejection at all have
    probability at most alpha, whatever the dependence of the tests.

    Parameters
    ----------
    p_values
        Shape ``(m,)``, each in ``[0, 1]``; ``m = 0`` gives an empty array, ``m = 1`` the value.

    Returns
    -------
    Array of shape ``(m,)``, in the order given: at least ``p``, at most 1, and in the order of the
    p-values.

    Source: Holm (1979), Scandinavian Journal of Statistics 6(2).
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        message = f"p_values must have shape (m,); got {p.shape}."
        raise ShapeError(message)
    if not np.all((p >= 0) & (p <= 1)):
        message = f"p_values must lie in [0, 1]; got {p[~((p >= 0) & (p <= 1))].tolist()}."
        raise ValueError(message)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((p.size - np.arange(p.size)) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def probability_better(
    a: ArrayLike, b: ArrayLike, *, smaller_is_better: bool = True, level: float = 0.95
) -> Interval:
    """Return how often ``a`` is better than ``b``, ties half, with its interval.

    Parameters
    ----------
    a, b
        Shape ``(R,)`` each, paired by replica; infinite values compare as usual, NaN is refused.
    smaller_is_better
        Whether small values are good (gaps, regret) or large ones.
    level
        Coverage. Without ties the interval is the exact binomial one and reaches it always; a tie
        has less spread than a win or a loss, so with ties it is longer than it need be.

    Returns
    -------
    Interval of floats.
    """
    first, second = _columns({"a": a, "b": b}).values()
    good, bad = (first < second), (first > second)
    wins = good if smaller_is_better else bad
    ties = ~(good | bad)
    return clopper_pearson(float(wins.sum() + 0.5 * ties.sum()), first.size, level=level)


# --------------------------------------------------------------------------- comparisons


@dataclass(frozen=True, eq=False, kw_only=True)
class PairedComparison:
    """Two learners compared replica by replica.

    Attributes
    ----------
    first, second
        Names of the learners.
    n_replicas
        Number of pairs.
    difference
        Mean over replicas of first minus second, with its bootstrap interval for this pair alone
        (not adjusted for the number of pairs). Ends are infinite where some difference is.
    ratio
        Mean of the first over mean of the second; NaN unless both are finite, not negative, and the
        second is somewhere positive.
    better
        Probability that the first is better in a replica, ties half, with its exact interval.
    p_value, adjusted
        Of the two-sided sign-flip test on the mean difference, and after Holm over all pairs.
    winner
        The better one on average if ``adjusted`` is at most one minus the level, else None.
    """

    first: str
    second: str
    n_replicas: int
    difference: Interval
    ratio: Interval
    better: Interval
    p_value: float
    adjusted: float
    winner: str | None


def _columns(values: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Return the values of each learner as ``(R,)`` with one R, no NaN."""
    columns = {k: np.asarray(to_numpy(v), dtype=np.float64) for k, v in values.items()}
    shapes = {k: v.shape for k, v in columns.items()}
    if len(set(shapes.values())) > 1 or any(len(s) != 1 or s[0] == 0 for s in shapes.values()):
        message = (
            f"values must have one shape (R,) with R at least 1, paired by replica; got {shapes}."
        )
        raise ShapeError(message)
    for name, column in columns.items():
        _no_nan(f"values of {name!r}", column)
    return columns


def pairs_of(names: Sequence[str], pairs: str | Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return pairs: of all ``names`` for ``"all"``, of every other one with a name, or as given."""
    if pairs == "all":
        return list(combinations(names, 2))
    if isinstance(pairs, str):
        return [(name, pairs) for name in names if name != pairs]
    return list(pairs)


def _checked(names: Sequence[str], pairs: str | Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs of names that are compared; ``ValueError`` for one that is not there."""
    if isinstance(pairs, str):
        check_choice("pairs", pairs, ("all", *names))
    chosen = pairs_of(names, pairs)
    for pair in chosen:
        for name in pair:
            check_choice("a name in pairs", name, names)
        if pair[0] == pair[1]:
            message = f"A pair needs two different learners; got {pair[0]!r} twice."
            raise ValueError(message)
    return chosen


def tied_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return first minus second; equal infinities tie."""
    with np.errstate(invalid="ignore"):
        return np.where(first == second, 0.0, first - second)


def _difference_interval(differences: np.ndarray, level: float, key: Key) -> Interval:
    if np.all(np.isfinite(differences)):
        return mean_interval(differences, level=level, key=key)
    with np.errstate(invalid="ignore"):
        return Interval(float(differences.mean()), -math.inf, math.inf)


def _ratio(first: np.ndarray, second: np.ndarray, level: float, key: Key) -> Interval:
    both = np.stack([first, second])
    if not np.all(np.isfinite(both) & (both >= 0)) or not second.any():
        return Interval(math.nan, math.nan, math.nan)
    # A resample in which the second vanishes has an infinite ratio, which is what the end then is.
    with np.errstate(invalid="ignore"):
        return ratio_interval(first, second, level=level, key=key)


def compare_all(
    values: Mapping[str, ArrayLike],
    *,
    pairs: str | Iterable[tuple[str, str]] = "all",
    level: float = 0.95,
    smaller_is_better: bool = True,
    n_flips: int = 10_000,
    key: Key = RESAMPLING,
) -> list[PairedComparison]:
    """Compare learners in pairs on the replicas that they share.

    Parameters
    ----------
    values
        By name of the learner: one number per replica, shape ``(R,)``. Replica r of all learners
        must come from the same random numbers. ``inf`` is allowed (a gap may be infinite); two
        equal infinities tie. NaN is refused.
    pairs
        ``"all"``: every pair, in the order of ``values``; a name: every other learner against this
        one; or the pairs themselves, first against second.
    level
        Nominal coverage of each interval; ``1 - level`` is the level of the tests.
    smaller_is_better
        Whether small values are good (gaps, regret) or large ones.
    n_flips, key
        As in `sign_flip_test`; the key also addresses the bootstrap.

    Returns
    -------
    One comparison per pair. Holm's correction is over the pairs of this call: choose them before
    looking.
    """
    check_probability("level", level)
    columns = _columns(values)
    chosen = _checked(list(columns), pairs)
    if not chosen:
        return []
    table = np.stack([tied_difference(columns[a], columns[b]) for a, b in chosen], axis=1)
    p_values = np.asarray(sign_flip_test(table, n_flips=n_flips, key=key))
    adjusted = holm(p_values)
    # Lexicographic for infinities, as in the test: never inf - inf.
    lean = np.sign(_ranked(table).sum(axis=0)) * (-1.0 if smaller_is_better else 1.0)
    result = []
    for k, (a, b) in enumerate(chosen):
        first, second = columns[a], columns[b]
        decided = bool(adjusted[k] <= 1.0 - level) and lean[k] != 0
        result.append(
            PairedComparison(
                first=a,
                second=b,
                n_replicas=first.size,
                difference=_difference_interval(table[:, k], level, key),
                ratio=_ratio(first, second, level, key),
                better=probability_better(
                    first, second, smaller_is_better=smaller_is_better, level=level
                ),
                p_value=float(p_values[k]),
                adjusted=float(adjusted[k]),
                winner=(a if lean[k] > 0 else b) if decided else None,
            )
        )
    return result


def to_frame(comparisons: Iterable[PairedComparison]) -> pd.DataFrame:
    """Return comparisons as a table, one row each.

    An interval ``x`` fills the columns ``x``, ``x_lower`` and ``x_upper``.
    """
    rows = []
    for c in comparisons:
        row: dict[str, object] = {"first": c.first, "second": c.second, "n_replicas": c.n_replicas}
        for name, interval in (
            ("difference", c.difference),
            ("ratio", c.ratio),
            ("better", c.better),
        ):
            row |= {name: float(interval.value)}
            row |= dict(zip((f"{name}_lower", f"{name}_upper"), interval.ends, strict=True))
        rows.append(row | {"p_value": c.p_value, "adjusted": c.adjusted, "winner": c.winner})
    return pd.DataFrame(rows)
