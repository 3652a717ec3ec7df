"""The bootstrap over replicas, and the interval that it returns; on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm
from scipy.stats import t as student

from rlhf_theory.arrays import Array, to_numpy
from rlhf_theory.errors import ShapeError, check_probability
from rlhf_theory.randomness import Key

RESAMPLING = Key(seed=0, path=("resampling",))
"""The address of bootstrap weights unless another is given: equal numbers, equal intervals."""

N_RESAMPLES = 2000
"""Enough that the ends of a 95 % interval move by about 2 % of its length between keys."""


@dataclass(frozen=True, eq=False)
class Interval:
    """An estimate with the ends of its interval; floats or arrays of one shape.

    Attributes
    ----------
    value, lower, upper
        Estimate, lower and upper end.
    """

    value: Array
    lower: Array
    upper: Array

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of an interval for one number, as plain floats."""
        return float(self.lower), float(self.upper)

    def at(self, k: int) -> Interval:
        """Return the interval of entry ``k`` of arrays ``(n,)``, in plain floats."""
        return Interval(float(self.value[k]), float(self.lower[k]), float(self.upper[k]))

    def contains(self, truth: Array) -> Array:
        """Return whether ``lower <= truth <= upper``, elementwise."""
        return (self.lower <= truth) & (truth <= self.upper)


# --------------------------------------------------------------------------- resampling


@lru_cache(maxsize=4)
def replica_weights(key: Key, n_replicas: int, n_resamples: int) -> np.ndarray:
    """Return multinomial weights ``(n_resamples, R)``; rows sum to one."""
    draws = key.generator(0).multinomial(
        n_replicas, np.full(n_replicas, 1.0 / n_replicas), size=n_resamples
    )
    weights = draws / n_replicas
    weights.flags.writeable = False
    return weights


def expanded_tail(level: float, n_replicas: int) -> float:
    """Return the probability to cut at each end: nominal, widened for few replicas.

    A percentile interval of a mean is too short by sqrt((R - 1) / R) and uses the normal where the
    t distribution belongs; the widened tail repairs both.

    Source: Hesterberg (2015), The American Statistician 69(4), section 4 (expanded percentile).
    """
    if n_replicas < 2:
        return 0.0
    widened = math.sqrt(n_replicas / (n_replicas - 1))
    quantile = student.ppf(0.5 * (1.0 + level), n_replicas - 1)
    return float(norm.cdf(-widened * quantile))


def resample(
    values: ArrayLike,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    level: float = 0.95,
    key: Key = RESAMPLING,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """Return a bootstrap interval, over replicas, of a function of means.

    Parameters
    ----------
    values
        Shape ``(R, m)``: one row per replica, all of whose numbers are resampled together.
    statistic
        From means over replicas ``(k, m)`` to statistics ``(k, q)``, row by row.
    level
        Nominal coverage, between 0 and 1.
    key
        Address of the resampling weights.
    n_resamples
        Number of resamples.

    Returns
    -------
    Interval of arrays of shape ``(q,)``: the statistic of the plain mean, and expanded percentiles
    of the resampled ones. NaN in a statistic gives NaN ends, and so do infinite values. With one
    replica the ends are the value itself: nothing is known about the spread.

    Raises
    ------
    ValueError
        A level outside (0, 1); ``ShapeError`` without replicas.
    """
    check_probability("level", level)
    table = np.asarray(to_numpy(values), dtype=np.float64)
    if table.ndim != 2 or table.shape[0] == 0:
        message = f"values must have shape (R, m) with R at least 1; got {table.shape}."
        raise ShapeError(message)
    n_replicas = table.shape[0]
    weights = replica_weights(key, n_replicas, n_resamples)
    center = np.asarray(statistic(table.mean(axis=0, keepdims=True)))[0]
    with np.errstate(invalid="ignore"):  # weight zero times infinity
        draws = np.asarray(statistic(weights @ table))
        tail = expanded_tail(level, n_replicas)
        lower, upper = np.quantile(draws, [tail, 1.0 - tail], axis=0)
    return Interval(center, lower, upper)


def resample_means(
    arrays: Sequence[ArrayLike],
    statistic: Callable[..., np.ndarray],
    *,
    level: float = 0.95,
    key: Key = RESAMPLING,
) -> Interval:
    """Return a bootstrap interval for a function of the means of several arrays, kept in shape.

    Parameters
    ----------
    arrays
        Shapes ``(R, ...)`` with one ``R``: replica r of all is resampled together.
    statistic
        From the means of each, ``(k, ...)``, to statistics ``(k, q)``, row by row.
    level, key
        As in `resample`.

    Returns
    -------
    Interval of arrays of shape ``(q,)``.
    """
    tables = [np.asarray(to_numpy(a), dtype=np.float64) for a in arrays]
    if len({t.shape[:1] for t in tables}) != 1:
        message = f"arrays must share R, their first axis; got {[t.shape for t in tables]}."
        raise ShapeError(message)
    flat = [t.reshape(t.shape[0], math.prod(t.shape[1:])) for t in tables]
    ends = np.cumsum([f.shape[1] for f in flat])[:-1]

    def shaped(means: np.ndarray) -> np.ndarray:
        parts = np.split(means, ends, axis=1)
        return statistic(*(p.reshape(-1, *t.shape[1:]) for p, t in zip(parts, tables, strict=True)))

    return resample(np.concatenate(flat, axis=1), shaped, level=level, key=key)
