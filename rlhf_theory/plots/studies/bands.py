"""What stands for a series: a line and a band over its replicas, and how a caption says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhf_theory.evaluation.bands import simultaneous_band
from rlhf_theory.evaluation.resampling import Interval
from rlhf_theory.evaluation.statistics import mean_interval, quantiles
from rlhf_theory.plots.studies.frames import Series
from rlhf_theory.plots.studies.words import infinite_words, percent, replica_words


@dataclass(frozen=True, eq=False)
class Drawn:
    """A line and its band over ``T`` points.

    Attributes
    ----------
    middle, lower, upper
        Shape ``(T,)``; both ends are None where there is no band.
    infinite
        Number of replicas with an infinite value; the line is the median then.
    """

    middle: np.ndarray
    lower: np.ndarray | None
    upper: np.ndarray | None
    infinite: int = 0


@dataclass(frozen=True)
class _Band:
    """A kind of band: how it is computed at a level, and how a caption names it."""

    make: Callable[[np.ndarray, float], Interval]
    words: str


def _quantiles(values: np.ndarray, _level: float) -> Interval:
    return Interval(values.mean(axis=0), *quantiles(values, (0.05, 0.95)))


_BANDS = {
    "interval": _Band(
        mean_interval, "{share} bootstrap intervals of the mean over replicas, at each point"
    ),
    "quantiles": _Band(_quantiles, "5 % to 95 % quantiles of the replicas"),
    "simultaneous": _Band(
        simultaneous_band, "{share} simultaneous bootstrap bands, which hold a whole mean curve"
    ),
}


def line_and_band(values: np.ndarray, band: str = "interval", level: float = 0.95) -> Drawn:
    """Return what is drawn for values of shape ``(R, T)``.

    Parameters
    ----------
    values
        One curve per replica, without NaN.
    band
        ``"interval"``: pointwise bootstrap interval of the mean; ``"quantiles"``: 5 to 95 % of the
        replicas; ``"simultaneous"``: a band that holds the whole mean curve.
    level
        Coverage of the first and the last.

    Returns
    -------
    The mean with its band. If a replica is infinite anywhere, the mean and its intervals are
    too: the line is then the median of all replicas, without a band.
    """
    infinite = int(np.isinf(values).any(axis=1).sum())
    if infinite:
        # A value that is there, not halfway between two: between a number and infinity is none.
        middle = np.quantile(values, 0.5, axis=0, method="inverted_cdf")
        return Drawn(np.where(np.isfinite(middle), middle, np.nan), None, None, infinite)
    if len(values) == 1:
        return Drawn(values[0], None, None)
    found = _BANDS[band].make(values, level)
    if not (np.all(np.isfinite(found.lower)) and np.all(np.isfinite(found.upper))):
        return Drawn(found.value, None, None)
    return Drawn(found.value, found.lower, found.upper)


def sentences(drawn: list[tuple[Series, Drawn]], band: str, level: float) -> list[str]:
    """Return what the caption says about lines, bands, replicas and infinite values."""
    count = replica_words(s for s, _ in drawn)
    if all(s.n_replicas == 1 for s, _ in drawn):
        return ["Lines: the only replica; there is no band."]
    words = _BANDS[band].words.format(share=percent(level))
    said = [f"Lines: means over {count}. Bands: {words}."]
    infinite = infinite_words([(s, d.infinite) for s, d in drawn])
    if infinite:
        said.append(
            f"Infinite values: {infinite}; means are infinite there, so these lines are "
            "medians of all replicas, without a band."
        )
    bare = [s.label for s, d in drawn if d.lower is None and not d.infinite]
    if bare:
        said.append(f"Too few replicas for a band: {', '.join(dict.fromkeys(bare))}.")
    return said
