"""Intervals over replicas: means, proportions, ratios and slopes, on the host.

Replicas are the only independent units here. Points of one curve are not, so a slope gets its
interval from resampled replicas, never from the residuals of a line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv

from rlhf_theory.arrays import to_numpy
from rlhf_theory.errors import ShapeError, check_probability
from rlhf_theory.evaluation.resampling import RESAMPLING, Interval, resample, resample_means
from rlhf_theory.randomness import Key

__all__ = [
    "RESAMPLING",
    "Interval",
    "Slope",
    "clopper_pearson",
    "line_slope",
    "local_slopes",
    "mean_interval",
    "paired_difference",
    "quantiles",
    "ratio_interval",
    "replica_slopes",
    "resample",
    "resample_means",
    "slope_bootstrap",
    "slopes_between",
]

# Columns resampled at once: resamples times columns doubles are in memory.
_COLUMNS = 2048


@dataclass(frozen=True, eq=False)
class Slope(Interval):
    """The exponent of a power law with its interval.

    Attributes
    ----------
    window
        First and last ``x`` that took part.
    """

    window: tuple[float, float]


def _shaped(interval: Interval, shape: Sequence[int]) -> Interval:
    """Return the interval in ``shape``; floats for the empty shape."""
    if len(shape) == 0:
        return interval.at(0)
    return Interval(*(v.reshape(shape) for v in (interval.value, interval.lower, interval.upper)))


# --------------------------------------------------------------------------- means and proportions


def mean_interval(values: ArrayLike, level: float = 0.95, key: Key = RESAMPLING) -> Interval:
    """Return the mean over replicas with a bootstrap interval.

    Parameters
    ----------
    values
        Shape ``(R, ...)``. The interval is pointwise over the other axes; a column with NaN gets
        NaN.
    level
        Nominal coverage of each interval.
    key
        Address of the resampling weights; equal keys and equal ``R`` resample equal replicas.

    Returns
    -------
    Interval of shape ``values.shape[1:]``; floats for values of shape ``(R,)``.
    """
    table = np.asarray(to_numpy(values), dtype=np.float64)
    if table.ndim == 0:
        message = "values must have shape (R, ...); got a single number."
        raise ShapeError(message)
    shape = table.shape[1:]
    flat = table.reshape(table.shape[0], int(np.prod(shape, dtype=np.int64)))
    parts = [
        resample(flat[:, k : k + _COLUMNS], lambda m: m, level=level, key=key)
        for k in range(0, max(flat.shape[1], 1), _COLUMNS)
    ]
    joined = Interval(
        np.concatenate([p.value for p in parts]),
        np.concatenate([p.lower for p in parts]),
        np.concatenate([p.upper for p in parts]),
    )
    return _shaped(joined, shape)


def quantiles(values: ArrayLike, probs: Sequence[float] = (0.05, 0.5, 0.95)) -> np.ndarray:
    """Return quantiles over replicas, shape ``(len(probs), ...)``, for values ``(R, ...)``.

    They describe the spread of replicas, not the uncertainty of a mean.
    """
    return np.asarray(np.quantile(np.asarray(to_numpy(values), dtype=np.float64), probs, axis=0))


def clopper_pearson(k: ArrayLike, n: ArrayLike, level: float = 0.95) -> Interval:
    """Return a proportion ``k / n`` with its exact binomial interval.

    Parameters
    ----------
    k, n
        Successes and trials, ``0 <= k <= n``, ``n >= 1``; numbers or arrays that broadcast.
    level
        Coverage that is reached whatever the true proportion.

    Returns
    -------
    Interval of floats or arrays; the lower end at ``k = 0`` is 0, the upper at ``k = n`` is 1.

    Source: Clopper and Pearson (1934), Biometrika 26(4).
    """
    check_probability("level", level)
    hits, trials = np.broadcast_arrays(np.asarray(k, float), np.asarray(n, float))
    if not np.all((hits >= 0) & (hits <= trials) & (trials >= 1)):
        message = f"clopper_pearson needs 0 <= k <= n and n >= 1; got k={k!s}, n={n!s}."
        raise ValueError(message)
    tail = 0.5 * (1.0 - level)
    # The beta quantiles degenerate at both edges, where the ends are known.
    lower = np.where(hits > 0, betaincinv(np.maximum(hits, 1.0), trials - hits + 1.0, tail), 0.0)
    upper = np.where(
        hits < trials, betaincinv(hits + 1.0, np.maximum(trials - hits, 1.0), 1.0 - tail), 1.0
    )
    if hits.ndim == 0:
        return Interval(float(hits / trials), float(lower), float(upper))
    return Interval(hits / trials, lower, upper)


# --------------------------------------------------------------------------- comparisons


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(to_numpy(v), dtype=np.float64) for v in (a, b))
    if first.shape != second.shape or first.ndim == 0:
        message = (
            "Paired values need one shape (R, ...), replica by replica; "
            f"got {first.shape} and {second.shape}."
        )
        raise ShapeError(message)
    return first, second


def paired_difference(
    a: ArrayLike, b: ArrayLike, level: float = 0.95, key: Key = RESAMPLING
) -> Interval:
    """Return the mean over replicas of ``a - b``, of shape ``(R, ...)`` both, with its interval."""
    first, second = _pair(a, b)
    return mean_interval(first - second, level=level, key=key)


def ratio_interval(
    a: ArrayLike, b: ArrayLike, level: float = 0.95, key: Key = RESAMPLING
) -> Interval:
    """Return ``mean(a) / mean(b)`` with its interval; replicas of both are resampled together.

    Parameters
    ----------
    a, b
        Shape ``(R, ...)``, paired by replica.
    level, key
        As in `mean_interval`.

    Returns
    -------
    Interval of shape ``a.shape[1:]``. Where the denominator may vanish the ends are not finite.
    """
    first, second = _pair(a, b)

    def quotient(over: np.ndarray, under: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(over / under).reshape(over.shape[0], math.prod(over.shape[1:]))

    found = resample_means([first, second], quotient, level=level, key=key)
    return _shaped(found, first.shape[1:])


# --------------------------------------------------------------------------- slopes


def _log_axis(
    x: ArrayLike, y: ArrayLike, window: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``log x`` and the columns of ``y`` inside the window, checked."""
    at = np.asarray(to_numpy(x), dtype=np.float64)
    table = np.asarray(to_numpy(y), dtype=np.float64)
    if at.ndim != 1 or table.ndim != 2 or table.shape[1] != at.shape[0]:
        message = f"x must have shape (T,) and y (R, T); got {at.shape} and {table.shape}."
        raise ShapeError(message)
    low, high = (-math.inf, math.inf) if window is None else window
    inside = (at >= low) & (at <= high)
    if np.unique(at[inside]).size < 2 or not np.all(at[inside] > 0):
        message = (
            "A slope needs at least two different positive x in the window "
            f"[{low}, {high}]; got {at[inside].tolist()}."
        )
        raise ValueError(message)
    return np.log(at[inside]), table[:, inside]


def _line(log_x: np.ndarray) -> np.ndarray:
    """Return the weights by which least squares reads a slope off values at ``log_x``."""
    centred = log_x - log_x.mean()
    return np.asarray(centred / (centred @ centred))


def line_slope(log_x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the statistic, for `resample`, of the slope of curves ``(k, T)`` in log-log.

    It has shape ``(k, 1)``, by least squares against ``log_x`` ``(T,)``, and is NaN or infinite
    where a curve is not positive.
    """
    line = _line(log_x)

    def slope(means: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log(means) @ line)[:, None]

    return slope


def _check_positive_mean(mean: np.ndarray) -> None:
    if not np.all(mean > 0):
        message = (
            "A slope in log-log needs a mean curve that is positive and finite in the window; "
            f"its smallest value is {np.min(mean):.3g}."
        )
        raise ValueError(message)


def slope_bootstrap(
    x: ArrayLike,
    y: ArrayLike,
    key: Key = RESAMPLING,
    *,
    window: tuple[float, float] | None = None,
    level: float = 0.95,
) -> Slope:
    r"""Fit ``mean(y) ~ x^slope`` and resample replicas for its interval.

    The estimate is the least-squares slope of :math:`\log` of the mean curve against
    :math:`\log x`. It estimates the slope of the *expected* curve in the window; where lower-order
    terms matter that is not the exponent of the limit, see `local_slopes`.

    Parameters
    ----------
    x
        Shape ``(T,)``, positive in the window.
    y
        Shape ``(R, T)``: one curve per replica, whose points are resampled together.
    key
        Address of the resampling weights.
    window
        Smallest and largest ``x`` that take part; None for all. Choose it before looking.
    level
        Nominal coverage.

    Returns
    -------
    Slope of floats.

    Raises
    ------
    ValueError
        Fewer than two points in the window, or a mean curve that is not positive there.
    """
    log_x, table = _log_axis(x, y, window)
    _check_positive_mean(table.mean(axis=0))
    fit = resample(table, line_slope(log_x), level=level, key=key).at(0)
    return Slope(fit.value, fit.lower, fit.upper, (math.exp(log_x[0]), math.exp(log_x[-1])))


def replica_slopes(
    x: ArrayLike, y: ArrayLike, *, window: tuple[float, float] | None = None
) -> np.ndarray:
    """Return the log-log slope of every replica's own curve, shape ``(R,)``; for ``mean_interval``.

    NaN for a replica whose curve is not positive in the window. The mean of these slopes is not the
    slope of the mean curve: rare large replicas count less.
    """
    log_x, table = _log_axis(x, y, window)
    fits = np.all(table > 0, axis=1)
    slopes = np.full(table.shape[0], math.nan)
    slopes[fits] = np.log(table[fits]) @ _line(log_x)
    return slopes


def slopes_between(
    x: np.ndarray, span: int
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return where the slopes of curves over ``x`` are, and the function that takes them.

    Parameters
    ----------
    x
        Positive points, shape ``(T,)``.
    span
        Distance of the points between which a slope is taken, ``1 .. T - 1``.

    Returns
    -------
    Geometric middles of the points, shape ``(T - span,)``, and a function from curves ``(k, T)`` to
    their log-log slopes ``(k, T - span)``, which are NaN or infinite where a curve is not positive:
    a statistic for `resample`.
    """
    log_x = np.log(x)
    rise = log_x[span:] - log_x[:-span]

    def slopes(means: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(means)
            return np.asarray((logs[:, span:] - logs[:, :-span]) / rise)

    return np.exp(0.5 * (log_x[span:] + log_x[:-span])), slopes


def local_slopes(
    x: ArrayLike,
    y: ArrayLike,
    key: Key = RESAMPLING,
    *,
    span: int = 1,
    level: float = 0.95,
) -> tuple[np.ndarray, Interval]:
    """Return the slope of the log mean curve between points that are ``span`` apart.

    Parameters
    ----------
    x, y, key, level
        As in `slope_bootstrap`.
    span
        Distance of the points, at least 1; larger is smoother.

    Returns
    -------
    Geometric middles of the points, shape ``(T - span,)``, and an Interval of that shape.
    """
    log_x, table = _log_axis(x, y, None)
    if not 1 <= span < log_x.size:
        message = f"span must lie in 1 .. {log_x.size - 1} for {log_x.size} points; got {span}."
        raise ValueError(message)
    _check_positive_mean(table.mean(axis=0))
    middle, slopes = slopes_between(np.asarray(to_numpy(x), dtype=np.float64), span)
    return middle, resample(table, slopes, level=level, key=key)
