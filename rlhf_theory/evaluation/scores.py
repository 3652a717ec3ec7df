"""Scores of learners: metrics brought to [0, 1] per world, averaged over families; on the host.

Also summaries of replicas other than the mean. Theorems bound means and tails; an interquartile
mean throws away exactly the rare bad replicas that refute a claim, so say which one is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import trim_mean

from rlhf_theory.arrays import to_numpy
from rlhf_theory.errors import ShapeError, check_probability

# The weights of `resample`: a score and an interval under one key resample equal replicas.
from rlhf_theory.evaluation.resampling import (
    N_RESAMPLES,
    RESAMPLING,
    Interval,
    expanded_tail,
    replica_weights,
)
from rlhf_theory.randomness import Key

# --------------------------------------------------------------------------- scores


def normalised_score(
    metric: ArrayLike, reference: ArrayLike, optimum: ArrayLike = 0.0
) -> np.ndarray:
    """Return the share of the way from the reference policy to the optimum, cut to [0, 1].

    ``(reference - metric) / (reference - optimum)``: 1 at the optimum or beyond, 0 at the reference
    policy (nothing learnt) or worse.

    Parameters
    ----------
    metric
        The learner's final metric in one world, shape ``(R,)``. ``inf`` of the bad sign scores 0;
        NaN is refused.
    reference
        The metric of the reference policy: a number, or one per replica where each replica has its
        own world. Finite.
    optimum
        The best value, of the same form; 0 for gaps and regret. It may be above the reference
        (rewards, win rates): then large metrics are good.

    Returns
    -------
    Array of shape ``(R,)``. The cut makes chance matter: around the reference policy the mean score
    is above the score of the mean.

    Raises
    ------
    ValueError
        NaN; reference and optimum that coincide, where there was nothing to learn: leave such
        replicas out.
    """
    values = np.asarray(to_numpy(metric), dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        message = f"metric must have shape (R,) with R at least 1; got {values.shape}."
        raise ShapeError(message)
    ends = [np.asarray(to_numpy(v), dtype=np.float64) for v in (reference, optimum)]
    for name, end in zip(("reference", "optimum"), ends, strict=True):
        if end.shape not in ((), (1,), values.shape):
            message = (
                f"{name} must be a number or have shape (R,) = {values.shape}; got {end.shape}."
            )
            raise ShapeError(message)
        if not np.all(np.isfinite(end)):
            message = f"{name} must be finite; got {end[~np.isfinite(end)].tolist()}."
            raise ValueError(message)
    if np.any(np.isnan(values)):
        rows = np.flatnonzero(np.isnan(values))
        message = (
            f"metric must not contain NaN; got it in replicas {rows[:5].tolist()} of {values.size}."
            " A learner that failed has the worst value (inf), which scores 0."
        )
        raise ValueError(message)
    span = ends[0] - ends[1]
    if np.any(span == 0):
        rows = np.flatnonzero(np.broadcast_to(span == 0, values.shape))
        message = (
            "reference and optimum must differ: there is nothing to learn otherwise; they coincide "
            f"in replicas {rows[:5].tolist()} of {values.size}. Leave those out."
        )
        raise ValueError(message)
    return np.asarray(np.clip((ends[0] - values) / span, 0.0, 1.0))


def _strata(worlds: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Return the values of each world as ``(R,)``; each world has its own R."""
    tables = {k: np.asarray(to_numpy(v), dtype=np.float64) for k, v in worlds.items()}
    if not tables or any(t.ndim != 1 or t.size == 0 for t in tables.values()):
        shapes = {k: t.shape for k, t in tables.items()}
        message = (
            f"worlds must hold at least one array of shape (R,) with R at least 1; got {shapes}."
        )
        raise ShapeError(message)
    return tables


def stratified_mean(
    worlds: Mapping[str, ArrayLike],
    *,
    level: float = 0.95,
    together: bool = False,
    key: Key = RESAMPLING,
) -> Interval:
    """Return the mean over worlds of the mean over replicas, with a bootstrap interval.

    Parameters
    ----------
    worlds
        By name of the world: a number per replica, shape ``(R,)``. R may differ between worlds,
        which weigh the same.
    level
        Nominal coverage. The worlds are taken as given: the interval is about these, not about
        others of their kind.
    together
        Whether replica r of all worlds is resampled together; needs one R. Right where worlds share
        random numbers (a common seed), whose means then err together. Otherwise each world is
        resampled on its own.
    key
        Address of the resampling weights.

    Returns
    -------
    Interval of floats; widened for few replicas as in `resample`, by the smallest R. With one
    replica somewhere, the whole range of the resamples.
    """
    check_probability("level", level)
    tables = _strata(worlds)
    sizes = {k: t.size for k, t in tables.items()}
    if together and len(set(sizes.values())) > 1:
        message = f"together=True needs as many replicas in every world; got {sizes}."
        raise ShapeError(message)
    draws = np.zeros(N_RESAMPLES)
    for name, table in tables.items():
        address = key if together else key.child("world", name)
        draws += replica_weights(address, table.size, N_RESAMPLES) @ table / len(tables)
    value = float(np.mean([t.mean() for t in tables.values()]))
    tail = expanded_tail(level, min(sizes.values()))
    lower, upper = np.quantile(draws, [tail, 1.0 - tail])
    return Interval(value, float(lower), float(upper))


def family_scores(
    scores: Mapping[tuple[str, str], ArrayLike],
    families: Mapping[str, str],
    *,
    level: float = 0.95,
    together: bool = False,
    key: Key = RESAMPLING,
) -> pd.DataFrame:
    """Return a score per family of worlds and learner.

    Parameters
    ----------
    scores
        By world and learner: the score in every replica, shape ``(R,)``, from `normalised_score`.
    families
        The family of every world. Worlds of it without scores are no matter.
    level, together, key
        As in `stratified_mean`. Learners are resampled alike.

    Returns
    -------
    Table with columns ``family``, ``learner``, ``score``, ``lower``, ``upper`` and ``worlds``
    (their number), in the order of first appearance.

    Raises
    ------
    ValueError
        A world without a family; a learner that lacks a world of a family in which another has it,
        since means over different worlds cannot be compared.
    """
    unknown = sorted({world for world, _ in scores} - set(families))
    if unknown:
        message = f"families must name the family of every world; it lacks {', '.join(unknown)}."
        raise ValueError(message)
    table: dict[tuple[str, str], dict[str, ArrayLike]] = {}
    members: dict[str, dict[str, None]] = {}
    for (world, learner), values in scores.items():
        family = families[world]
        table.setdefault((family, learner), {})[world] = values
        members.setdefault(family, {})[world] = None
    rows = []
    for (family, learner), worlds in table.items():
        missing = [w for w in members[family] if w not in worlds]
        if missing:
            message = (
                f"Learner {learner!r} has no scores in {', '.join(missing)}, worlds of family "
                f"{family!r} that others have; run it there or leave them out for all."
            )
            raise ValueError(message)
        mean = stratified_mean(worlds, level=level, together=together, key=key)
        rows.append((family, learner, mean.value, *mean.ends, len(worlds)))
    columns = ["family", "learner", "score", "lower", "upper", "worlds"]
    return pd.DataFrame(rows, columns=columns)


# --------------------------------------------------------------------------- other summaries


def iqm(values: ArrayLike, axis: int = 0) -> float | np.ndarray:
    """Return the interquartile mean: without the lowest and the highest quarter of replicas.

    ``R // 4`` replicas go at each end, so fewer than four give the plain mean.
    """
    return trim_mean(np.asarray(to_numpy(values), dtype=np.float64), 0.25, axis=axis)


def tail_mean(values: ArrayLike, fraction: float, axis: int = 0) -> float | np.ndarray:
    r"""Return the mean of the largest ``fraction`` of replicas, the conditional value at risk.

    .. math:: \min_c\; c + \frac{1}{f R} \sum_r \max(x_r - c, 0)

    Parameters
    ----------
    values
        Losses, shape ``(R, ...)``: large is bad. For rewards, negate twice.
    fraction
        Share f of replicas, in (0, 1]. The replica on the edge counts in part; 1 gives the mean,
        ``1 / R`` and less the largest value.
    axis
        Axis of the replicas.

    Source: Rockafellar and Uryasev (2002), Journal of Banking and Finance 26(7).
    """
    if not 0.0 < fraction <= 1.0:
        message = f"fraction must lie in (0, 1]; got {fraction}."
        raise ValueError(message)
    table = np.asarray(to_numpy(values), dtype=np.float64)
    n_replicas = table.shape[axis]
    worst_first = -np.sort(-table, axis=axis)
    share = np.clip(fraction * n_replicas - np.arange(n_replicas), 0.0, 1.0)
    # What has no share must not turn into inf * 0.
    taken = share > 0
    worst = np.compress(taken, worst_first, axis=axis)
    return np.average(worst, axis=axis, weights=share[taken])


def summary_interval(
    values: ArrayLike,
    summary: Callable[..., float | np.ndarray],
    *,
    level: float = 0.95,
    key: Key = RESAMPLING,
) -> Interval:
    """Return any summary of replicas with a bootstrap interval.

    Parameters
    ----------
    values
        Shape ``(R,)``.
    summary
        Called as ``summary(table, axis=1)`` for a table ``(k, R)``: `iqm`, ``numpy.median``,
        ``functools.partial(tail_mean, fraction=0.1)``.
    level, key
        As in `resample`; a tail of few replicas has too short an interval all the same.

    Returns
    -------
    Interval of floats. With one replica the ends are the value.
    """
    check_probability("level", level)
    table = np.asarray(to_numpy(values), dtype=np.float64)
    if table.ndim != 1 or table.size == 0:
        message = f"values must have shape (R,) with R at least 1; got {table.shape}."
        raise ShapeError(message)
    counts = np.rint(replica_weights(key, table.size, N_RESAMPLES) * table.size).astype(np.int64)
    rows = np.tile(table, (N_RESAMPLES, 1)).ravel()
    resampled = np.repeat(rows, counts.ravel()).reshape(N_RESAMPLES, table.size)
    tail = expanded_tail(level, table.size)
    lower, upper = np.quantile(summary(resampled, axis=1), [tail, 1.0 - tail])
    value = np.asarray(summary(table[None], axis=1))[0]
    return Interval(float(value), float(lower), float(upper))
