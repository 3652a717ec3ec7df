"""How well predicted win probabilities fit labels: accuracy, calibration, temperature; on the host.

A comparison has no first place: every prediction is taken for the response that it favours, so that
probabilities lie in [1/2, 1] and swapping two responses changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from llm_bridge.labels.preferences import half_logits
from llm_bridge.pools.data import Comparison, prompt_numbers
from rlhf_theory.arrays import sigmoid, to_numpy
from rlhf_theory.errors import ShapeError, check_positive
from rlhf_theory.evaluation.resampling import RESAMPLING, Interval, resample
from rlhf_theory.losses.scalars import softplus
from rlhf_theory.randomness import Key

# More prompts are resampled in so many bundles: their sums have the same variance, and the weights
# of 2000 resamples stay small.
_BUNDLES = 1000


@dataclass(frozen=True, eq=False)
class Calibration:
    """How well win probabilities fit labels.

    Attributes
    ----------
    n_comparisons, n_prompts
        How many; intervals resample prompts, whose comparisons belong together.
    accuracy
        How often the favoured response won; an even prediction counts 1/2.
    log_loss
        Mean of ``-log`` of the probability that the label had, in nats; 0.693 for coin tosses.
    brier
        Mean squared distance of probability and label; 0.25 for coin tosses.
    ece
        Expected calibration error: mean distance of confidence and success over bins of equally
        many comparisons.
    ece_expected
        What the error would be about if the probabilities were right and labels independent, within
        prompts too: it is never 0, and falls only like the root of the number of labels in a bin.
    z
        Spiegelhalter's statistic, standard normal then: negative when probabilities are too timid,
        positive when too sure. NaN where labels are soft: no shares of so many whole ones.
    temperature
        Divide logits by it to fit the labels best: above 1 for a model that is too sure. 0 where
        the favoured responses always won, infinite where they won at most half of the time.
    table
        One row per bin: ``low`` and ``high`` confidence, comparisons ``n``, mean ``confidence``,
        how often it ``won``, and the ends ``lower`` and ``upper`` of its interval (NaN where so few
        prompts are in the bin that resamples miss it).

    Source: Spiegelhalter (1986), Statistics in Medicine 5(5); Guo et al. (2017), [1706.04599], for
    the temperature and the calibration error.
    """

    n_comparisons: int
    n_prompts: int
    accuracy: Interval
    log_loss: Interval
    brier: Interval
    ece: float
    ece_expected: float
    z: float
    temperature: float
    table: pd.DataFrame

    def __str__(self) -> str:
        def shown(value: Interval) -> str:
            return f"{value.value:.3f} [{value.lower:.3f}, {value.upper:.3f}]"

        return (
            f"{self.n_comparisons} comparisons of {self.n_prompts} prompts: accuracy "
            f"{shown(self.accuracy)}, log-loss {shown(self.log_loss)}, Brier {shown(self.brier)}, "
            f"calibration error {self.ece:.3f} (about {self.ece_expected:.3f} if calibrated, "
            f"z = {self.z:.1f}), temperature {self.temperature:.2f}"
        )

    def summary(self) -> dict[str, float]:
        """Return all numbers by name, for reports and model cards."""
        result: dict[str, float] = {"n": self.n_comparisons, "prompts": self.n_prompts}
        for name in ("accuracy", "log_loss", "brier"):
            value = getattr(self, name)
            result |= {
                name: value.value,
                f"{name}_lower": value.lower,
                f"{name}_upper": value.upper,
            }
        names = ("ece", "ece_expected", "z", "temperature")
        return result | {name: getattr(self, name) for name in names}


def win_logits(model: object, comparisons: Sequence[Comparison], scale: float = 1.0) -> np.ndarray:
    """Return the logits that a model gives to the first response of every comparison, ``(n,)``.

    Parameters
    ----------
    model
        A reward that scores responses (``scores``), or a preference over pairs (``halves``).
    comparisons
        What was compared.
    scale
        What rewards are multiplied by; 1 for preferences.

    Raises
    ------
    TypeError
        For a model that reads no texts; a linear reward over features has `fit_head` instead.
    """
    prompts = [c.prompt for c in comparisons]
    first, second = [c.first for c in comparisons], [c.second for c in comparisons]
    if hasattr(model, "scores"):
        r = model.scores([*prompts, *prompts], [*first, *second])
        return np.asarray(scale * (r[: len(first)] - r[len(first) :]))
    if hasattr(model, "halves"):
        return half_logits(model.halves(prompts, first, second))
    message = (
        "Comparisons of texts need a model with `scores` or `halves`, such as TextReward, "
        f"TrainedReward or TextPreference; got {type(model).__name__}."
    )
    raise TypeError(message)


def calibration_of(
    model: object,
    comparisons: Sequence[Comparison],
    *,
    scale: float = 1.0,
    n_bins: int = 10,
    level: float = 0.95,
    key: Key = RESAMPLING,
) -> Calibration:
    """Return how well a model predicts comparisons that it was not trained on.

    Parameters
    ----------
    model, scale
        As in `win_logits`.
    comparisons
        With labels; comparisons of one prompt are resampled together.
    n_bins, level, key
        As in `calibration`.
    """
    return calibration(
        win_logits(model, comparisons, scale),
        [c.label for c in comparisons],
        weights=[c.weight for c in comparisons],
        prompts=prompt_numbers(comparisons),
        n_bins=n_bins,
        level=level,
        key=key,
    )


def calibration(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    prompts: ArrayLike | None = None,
    n_bins: int = 10,
    level: float = 0.95,
    key: Key = RESAMPLING,
) -> Calibration:
    """Return how well win probabilities ``sigma(logits)`` fit labels.

    Parameters
    ----------
    logits
        Predicted logits of the first response, shape ``(n,)``, finite; at least one.
    labels
        1 where it won, in [0, 1], shape ``(n,)``.
    weights
        How many independent labels each comparison stands for, shape ``(n,)``; 1 unless given. The
        label is then the share of them that the first response won.
    prompts
        Integers that tell which comparisons belong together, shape ``(n,)``; None: none do.
    n_bins
        Bins of the reliability table, with equally many comparisons each.
    level
        Coverage of the intervals.
    key
        Address of the resampling weights.

    Raises
    ------
    ValueError
        For labels outside [0, 1], logits that are not finite, or no comparison of positive weight.
    """
    check_positive("n_bins", n_bins)
    u, y, w, group = _checked(logits, labels, weights, prompts)
    # The favoured response: the sign of a prediction belongs to the order of the pair.
    y = np.where(u < 0, 1.0 - y, y)
    u = np.abs(u)
    p = to_numpy(sigmoid(u))
    loss = y * softplus(-u) + (1.0 - y) * softplus(u)
    # The mean over labels drawn with probability y, which soft labels stand for.
    brier = y * (1.0 - p) ** 2 + (1.0 - y) * p**2
    right = np.where(u == 0, 0.5, y)
    n_prompts = int(group.max()) + 1
    n_bundles = min(n_prompts, _BUNDLES)

    def sums(x: np.ndarray) -> np.ndarray:
        return np.bincount(group % n_bundles, weights=x, minlength=n_bundles)

    def interval(x: np.ndarray, weight: np.ndarray) -> Interval:
        columns = np.stack([sums(weight * x), sums(weight)], axis=1)

        def ratio(means: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(means[:, :1] / means[:, 1:])

        found = resample(columns, ratio, level=level, key=key)
        return Interval(*(float(v[0]) for v in (found.value, found.lower, found.upper)))

    order = np.argsort(u, kind="stable")
    order = order[w[order] > 0]
    rows, error, expected = [], 0.0, 0.0
    for part in np.array_split(order, min(n_bins, order.size)):
        inside = np.zeros_like(w)
        inside[part] = w[part]
        won, total = interval(y, inside), inside.sum()
        confidence = float(inside @ p / total)
        rows.append((p[part].min(), p[part].max(), part.size, confidence, won.value, *won.ends))
        error += abs(float(inside @ (y - p))) / w.sum()
        # The mean distance of a normal variable from its mean is sqrt(2 / pi) deviations.
        # Merged labels are independent: w of them have w times the variance of one.
        spread = math.sqrt(float(inside @ (p * (1.0 - p))))
        expected += math.sqrt(2.0 / math.pi) * spread / w.sum()
    columns = ["low", "high", "n", "confidence", "won", "lower", "upper"]
    return Calibration(
        n_comparisons=int(u.size),
        n_prompts=n_prompts,
        accuracy=interval(right, w),
        log_loss=interval(loss, w),
        brier=interval(brier, w),
        ece=error,
        ece_expected=expected,
        z=_spiegelhalter(p, y, w),
        temperature=_temperature(u, y, w),
        table=pd.DataFrame(rows, columns=columns),
    )


def _checked(
    logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None, prompts: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    u, y = (np.asarray(to_numpy(v), dtype=np.float64) for v in (logits, labels))
    w = np.ones_like(u) if weights is None else np.asarray(to_numpy(weights), dtype=np.float64)
    names = np.arange(u.size) if prompts is None else np.asarray(prompts)
    if u.ndim != 1 or not u.shape == y.shape == w.shape == names.shape:
        message = (
            "logits, labels, weights and prompts must have one shape (n,); got "
            f"{u.shape}, {y.shape}, {w.shape} and {names.shape}."
        )
        raise ShapeError(message)
    if not np.isfinite(u).all() or not ((y >= 0) & (y <= 1)).all():
        message = "Logits must be finite and labels lie in [0, 1]; got others, or NaN."
        raise ValueError(message)
    if not (np.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
        message = "Calibration needs comparisons of positive weight; there are none."
        raise ValueError(message)
    return u, y, w, np.unique(names, return_inverse=True)[1]


def _spiegelhalter(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    variance = float(w @ ((1.0 - 2.0 * p) ** 2 * p * (1.0 - p)))
    won = w * y
    hard = np.isin(y, (0.0, 1.0)) | ((np.abs(won - np.round(won)) < 1e-9) & (w == np.round(w)))
    if not hard.all() or variance == 0.0:
        return math.nan
    return float(w @ ((y - p) * (1.0 - 2.0 * p))) / math.sqrt(variance)


def _temperature(u: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Return ``1 / s`` with ``s`` the zero of the slope of the loss of ``sigma(s u)``."""

    def slope(s: float) -> float:
        return float(w @ (u * (to_numpy(sigmoid(s * u)) - y)))

    if slope(0.0) >= 0.0:
        return math.inf
    if float(w @ (u * (1.0 - y))) == 0.0:  # no mass on any upset: the slope never vanishes
        return 0.0
    high = 1.0
    while slope(high) < 0.0:
        high *= 2.0
    return 1.0 / float(brentq(slope, 0.0, high, xtol=1e-14, rtol=1e-14))
