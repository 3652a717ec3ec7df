"""Simultaneous bands: intervals that hold along a whole curve at once; on the host."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm
from scipy.stats import t as student

from rlhf_theory.arrays import to_numpy
from rlhf_theory.errors import ShapeError, check_probability

# The weights of `resample`: a band and an interval under one key resample equal replicas.
from rlhf_theory.evaluation.resampling import N_RESAMPLES, RESAMPLING, Interval, replica_weights
from rlhf_theory.evaluation.statistics import mean_interval
from rlhf_theory.randomness import Key

# Below this a resample is too often a single replica repeated for its spread to mean anything.
_FEWEST = 4
# Columns resampled at once: resamples times columns doubles are in memory.
_COLUMNS = 2048


def _largest_errors(
    centred: np.ndarray, error: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest studentised error along the curve in every resample, ``(k,)`` twice.

    Parameters
    ----------
    centred
        Values minus their means, shape ``(R, T)``, no column of zeros.
    error
        Standard errors of the means, shape ``(T,)``.
    weights
        Shape ``(k, R)``; rows sum to one.

    Returns
    -------
    Divided by ``error``, and divided by the standard error of the resample itself.
    """
    fixed = np.zeros(weights.shape[0])
    own = np.zeros(weights.shape[0])
    for first in range(0, centred.shape[1], _COLUMNS):
        # In units of the errors, squared until the end and in place: few passes over large tables.
        part = centred[:, first : first + _COLUMNS] / error[first : first + _COLUMNS]
        shift = weights @ part
        shift *= shift
        squared = weights @ (part * part)
        squared -= shift
        squared /= part.shape[0] - 1
        # A resample that draws one value only has no spread of its own; rounding leaves some.
        squared[squared <= 1e-12] = 1.0
        fixed = np.maximum(fixed, shift.max(axis=1))
        own = np.maximum(own, (shift / squared).max(axis=1))
    return np.sqrt(fixed), np.sqrt(own)


def _critical(
    table: np.ndarray, mean: np.ndarray, error: np.ndarray, level: float, key: Key
) -> float:
    """Return how many standard errors the band is wide, for one curve ``(R, T)`` that varies."""
    n_replicas = table.shape[0]
    if n_replicas < _FEWEST:
        return math.inf
    weights = replica_weights(key, n_replicas, N_RESAMPLES)
    fixed, own = _largest_errors(table - mean, error, weights)
    # With fixed errors the supremum is that of a Gaussian curve, shrunk by sqrt((R - 1) / R) as in
    # `resample`. Errors are estimated from R replicas: exchange normal for t margins.
    gaussian = math.sqrt(n_replicas / (n_replicas - 1)) * float(np.quantile(fixed, level))
    margins = float(student.isf(norm.sf(gaussian), n_replicas - 1))
    # Own errors follow skewed data, where the mean and its error go astray together; they say
    # little where a column takes few values. Neither is safe alone.
    return max(margins, float(np.quantile(own, level)))


def simultaneous_band(values: ArrayLike, level: float = 0.95, key: Key = RESAMPLING) -> Interval:
    r"""Return the mean curve with a band that holds all of it at once.

    .. math:: \bar y_t \pm c\, s_t / \sqrt{R}, \qquad
              P\Bigl(\max_t \frac{|\bar y_t - E y_t|}{s_t / \sqrt{R}} \le c\Bigr) \approx
              \text{level}

    The critical value c is common to all points and comes from a bootstrap over replicas of the
    maximum: the larger of two quantiles, one with the standard errors of the data and t margins,
    one with the standard errors of each resample (bootstrap-t).

    Parameters
    ----------
    values
        Shape ``(R, ..., T)``: the last axis is the curve; every curve gets a band of its own.
    level
        Nominal probability that the band holds the whole curve.
    key
        Address of the resampling weights, those of `mean_interval` under the same key.

    Returns
    -------
    Interval of shape ``values.shape[1:]``. Points where all replicas agree are exact: their ends
    are the value, also with one replica; a curve with NaN or infinite values has NaN ends. With two
    or three replicas the other ends are infinite, with four to seven the band is many times as long
    as pointwise intervals: so few replicas do not determine a whole curve. An event that no replica
    has met is in no bootstrap.

    Source: Montiel Olea and Plagborg-Møller (2019), Journal of Applied Econometrics 34(1) (the
    sup-t band); Efron and Tibshirani (1993), section 12.5
    (bootstrap-t); the t margins are ours.
    """
    check_probability("level", level)
    table = np.asarray(to_numpy(values), dtype=np.float64)
    if table.ndim < 2 or table.shape[0] == 0:
        message = f"values must have shape (R, ..., T) with R at least 1; got {table.shape}."
        raise ShapeError(message)
    n_replicas, shape = table.shape[0], table.shape[1:]
    curves = table.reshape(n_replicas, math.prod(shape[:-1]), shape[-1])
    ends = np.full((2, *curves.shape[1:]), math.nan)
    with np.errstate(invalid="ignore"):
        mean = curves.mean(axis=0)
    for k in range(curves.shape[1]):
        curve = curves[:, k]
        if not np.all(np.isfinite(curve)):
            continue
        varies = np.ptp(curve, axis=0) > 0
        # The mean of equal numbers may be off by rounding; the number itself is not.
        mean[k] = np.where(varies, mean[k], curve[0])
        half = np.zeros(shape[-1])
        if varies.any():
            moving = curve[:, varies]
            error = moving.std(axis=0, ddof=1) / math.sqrt(n_replicas)
            half[varies] = _critical(moving, mean[k, varies], error, level, key) * error
        ends[:, k] = mean[k] - half, mean[k] + half
    return Interval(mean.reshape(shape), ends[0].reshape(shape), ends[1].reshape(shape))


def ratio_to_bound(
    values: ArrayLike,
    bound: ArrayLike,
    *,
    level: float = 0.95,
    simultaneous: bool = True,
    key: Key = RESAMPLING,
) -> Interval:
    """Return the curve of measured over bound: a constant where the bound has the right rate.

    Parameters
    ----------
    values
        Measured curves, shape ``(R, T)``.
    bound
        Shape ``(T,)``, shared by the replicas, or ``(R, T)``, one per replica. Positive; an
        infinite bound gives the ratio 0 (NaN for an infinite value).
    level, key
        As in `simultaneous_band`.
    simultaneous
        Whether the ends hold along the whole curve; otherwise at each point alone, as in
        `mean_interval`.

    Returns
    -------
    Interval of shape ``(T,)``: the mean over replicas of value over bound; for a shared bound that
    is the mean curve over the bound. An upper end below 1 says that the mean keeps the bound, not
    that every replica does.
    """
    table = np.asarray(to_numpy(values), dtype=np.float64)
    right = np.asarray(to_numpy(bound), dtype=np.float64)
    if table.ndim != 2 or right.shape not in (table.shape, table.shape[1:]):
        message = (
            "values must have shape (R, T) and bound (T,) or (R, T); "
            f"got {table.shape} and {right.shape}."
        )
        raise ShapeError(message)
    if not np.all(right > 0):
        message = f"bound must be positive; its smallest value is {np.min(right):.3g}."
        raise ValueError(message)
    band = simultaneous_band if simultaneous else mean_interval
    with np.errstate(invalid="ignore"):
        ratio = table / right
    return band(ratio, level=level, key=key)
