"""Confidence sequences: intervals for a mean that hold at every number of replicas at once.

Whoever adds replicas until an interval is small enough looks at the data many times. The intervals
here survive that; those of ``statistics`` do not. On the host.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import lambertw

from rlhf_theory.arrays import to_numpy
from rlhf_theory.errors import ShapeError, check_positive, check_probability
from rlhf_theory.evaluation.resampling import Interval

# Largest bet of the empirical-Bernstein sequence, as in the paper; 1 would be infinite.
_LARGEST_BET = 0.5


def _rows(values: ArrayLike) -> np.ndarray:
    table = np.asarray(to_numpy(values), dtype=np.float64)
    if table.ndim == 0 or table.shape[0] == 0:
        message = f"values must have shape (R, ...) with R at least 1; got {table.shape}."
        raise ShapeError(message)
    return table


def _mixture_scale(best_at: float, alpha: float) -> float:
    """Return the variance of the mixture that is tightest at ``best_at`` replicas.

    With u = 1 + n g the squared width is u / (u - 1) (log u - 2 log alpha); its derivative vanishes
    where u - log u = 1 - 2 log alpha.
    """
    u = -float(lambertw(-alpha * alpha / math.e, -1).real)
    return (u - 1.0) / best_at


def mixture_widths(n: ArrayLike, *, level: float = 0.95, best_at: float = 256.0) -> np.ndarray:
    r"""Return half the length of the sequence's intervals, in standard errors.

    With :math:`u = 1 + n g` and :math:`q = (u / \alpha^2)^{1/n}`:

    .. math:: \sqrt{(n - 1) \frac{q - 1}{1 - q / u}} \quad\text{for } q < u, \qquad
              \infty \quad\text{otherwise}

    This is where a mixture of t likelihood ratios, over effect sizes of variance g, reaches
    :math:`1 / \alpha`. For large n it is Robbins' normal mixture
    :math:`\sqrt{u (\log u - 2 \log\alpha) / (n g)}`, whose use with an estimated variance is only
    asymptotic; for few replicas it is longer, as t quantiles are longer than normal ones.

    Parameters
    ----------
    n
        Numbers of replicas, at least 1; any shape. At 1 the width is infinite.
    level
        Probability that all intervals hold.
    best_at
        Number of replicas at which the widths are smallest relative to the best choice of g.

    Returns
    -------
    Array of the shape of ``n``.

    Source: [2310.03722] (the Gaussian mixture of scale-invariant likelihood ratios); [2103.06476],
    section 2 (the normal mixture).
    """
    check_probability("level", level)
    check_positive("best_at", best_at)
    alpha = 1.0 - level
    number = np.asarray(n, dtype=np.float64)
    if not np.all(number >= 1):
        message = f"n must be at least 1; got {np.min(number):.3g}."
        raise ValueError(message)
    u = 1.0 + number * _mixture_scale(best_at, alpha)
    power = (np.log(u) - 2.0 * math.log(alpha)) / number
    finite = power < np.log(u)
    power = np.where(finite, power, 0.0)
    squared = (number - 1.0) * np.expm1(power) / np.where(finite, 1.0 - np.exp(power) / u, 1.0)
    return np.where(finite, np.sqrt(squared), math.inf)


def confidence_sequence(
    values: ArrayLike, *, level: float = 0.95, best_at: float = 256.0
) -> Interval:
    """Return, for every first n replicas, an interval for the mean; all hold at once.

    Row ``n - 1`` uses replicas ``0 .. n - 1`` only, so adding replicas changes no earlier row.
    Choose ``best_at`` before looking and keep it. Stop when you like: the last interval holds with
    probability ``level`` whatever made you stop.

    Parameters
    ----------
    values
        Replicas in the order in which they came, shape ``(R, ...)``; a sequence for each column.
    level
        Probability that the intervals of all n hold, for one column.
    best_at
        Number of replicas at which the intervals should be tightest. There they are about 1.6 times
        as long as an interval for that n alone, at a tenth of it 2.4 times, at ten times 1.7.

    Returns
    -------
    Interval of shape ``(R, ...)``, the values being the running means. Ends are infinite for the
    first few n (below 16 at the default level and ``best_at``, always at n = 1), and NaN from the
    first NaN or infinite value on. In between, while all replicas agree, they are the value.

    Exact for Gaussian values. For others asymptotic, and short of the level for skewed ones where
    small n are looked at: what is never looked at cannot mislead, so look first after a block or
    two. For values in a known range, and for events that may be rare, see
    `bounded_confidence_sequence`.

    Source: as `mixture_widths`.
    """
    table = _rows(values)
    n = np.arange(1, table.shape[0] + 1, dtype=np.float64).reshape(-1, *[1] * (table.ndim - 1))
    widths = mixture_widths(n, level=level, best_at=best_at)
    with np.errstate(invalid="ignore"):
        # Around the first value, so that a large common offset cancels and equal rows give 0.
        shifted = table - table[:1]
        running = np.cumsum(shifted, axis=0) / n
        squares = np.cumsum(shifted * shifted, axis=0) - n * running * running
        deviation = np.sqrt(np.maximum(squares, 0.0) / np.maximum(n - 1.0, 1.0))
        mean = table[:1] + running
        half = widths * deviation / np.sqrt(n)
    # Before the first finite width nothing is known, also where the deviation is 0.
    half = np.where(np.isinf(widths) & ~np.isnan(mean), math.inf, half)
    bad = ~np.isfinite(mean)
    half = np.where(bad, math.nan, half)
    return Interval(mean, mean - half, mean + half)


def bounded_confidence_sequence(
    values: ArrayLike, *, low: float = 0.0, high: float = 1.0, level: float = 0.95
) -> Interval:
    r"""Return, for every first n replicas, an interval for the mean of bounded values.

    With values in [0, 1], the mean :math:`\mu_{i-1}` and the variance :math:`\sigma_{i-1}^2` of
    what came before (and of one imagined 1/2 of variance 1/4), :math:`\lambda_i = \min(1/2,
    \sqrt{2 \log(2/\alpha) / (\sigma_{i-1}^2\, i \log(1 + i))})`:

    .. math:: \frac{\sum_i \lambda_i x_i}{\sum_i \lambda_i} \pm
              \frac{\log(2/\alpha) + \sum_i (x_i - \mu_{i-1})^2 (-\log(1 - \lambda_i) - \lambda_i)}
                   {\sum_i \lambda_i}

    Parameters
    ----------
    values
        Replicas in the order in which they came, shape ``(R, ...)``, between ``low`` and ``high``.
    low, high
        The range, known beforehand and finite: not the smallest and largest value seen.
    level
        Probability that the intervals of all n hold, for one column. No asymptotics: it is reached
        for every law on the range, and widths follow the variance.

    Returns
    -------
    Interval of shape ``(R, ...)``, cut to the range; the values are the weighted means at its
    centre, not the running means. The intersection of the first n intervals is valid too.

    Raises
    ------
    ValueError
        A value outside the range, or NaN.

    Source: [2010.09686], Theorem 2 (predictable plug-in empirical Bernstein).
    """
    check_probability("level", level)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        message = f"low and high must be finite with low < high; got {low} and {high}."
        raise ValueError(message)
    table = _rows(values)
    if not np.all((table >= low) & (table <= high)):
        message = (
            f"values must lie between low={low} and high={high}; got {np.min(table):.6g} to "
            f"{np.max(table):.6g}. Give the range that is certain, not the one seen."
        )
        raise ValueError(message)
    x = (table - low) / (high - low)
    n = np.arange(1, x.shape[0] + 1, dtype=np.float64).reshape(-1, *[1] * (x.ndim - 1))
    budget = math.log(2.0 / (1.0 - level))
    mean = (0.5 + np.cumsum(x, axis=0)) / (n + 1.0)
    variance = (0.25 + np.cumsum((x - mean) ** 2, axis=0)) / (n + 1.0)
    # A bet may depend on earlier replicas only.
    before_mean = np.concatenate([np.full_like(x[:1], 0.5), mean[:-1]])
    before_variance = np.concatenate([np.full_like(x[:1], 0.25), variance[:-1]])
    bet = np.sqrt(2.0 * budget / (before_variance * n * np.log1p(n)))
    bet = np.minimum(bet, _LARGEST_BET)
    total = np.cumsum(bet, axis=0)
    centre = np.cumsum(bet * x, axis=0) / total
    # The paper's 4 (x - mu)^2 times (-log(1 - bet) - bet) / 4.
    paid = np.cumsum((x - before_mean) ** 2 * (-np.log1p(-bet) - bet), axis=0)
    half = (budget + paid) / total
    ends = (np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0))
    return Interval(*(low + (high - low) * v for v in (centre, *ends)))
