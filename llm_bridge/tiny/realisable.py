"""A reward that is linear on frozen features, so that what the theory promises must hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_theory.arrays import Array, as_like, check_finite, namespace, to_numpy
from rlhf_theory.errors import check_positive, check_shape
from rlhf_theory.randomness import Key

_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHIFTS = 8
"""A row is compared with at most so many others, so that a large table costs no pairs squared."""


@dataclass(frozen=True, eq=False)
class RealisableReward:
    """The reward ``r*(x, a) = <theta*, phi(x, a)>`` and how decided its labels are.

    Attributes
    ----------
    theta
        ``theta*``, shape ``(d,)``, in the library and dtype of the features.
    spread
        Standard deviation of the rewards of one prompt's responses, on the features it was drawn
        for.
    win_probability
        Quantiles, by their level, of the Bradley-Terry probability of the better response of a
        pair (same prompt): 0.5 is a coin, 1 a label without noise.
    decided
        Share of the pairs whose better response wins with probability above 0.99.
    """

    theta: Array
    spread: float
    win_probability: Mapping[float, float]
    decided: float

    @property
    def theta_norm(self) -> float:
        """Euclidean norm of ``theta*``."""
        return float(np.linalg.norm(to_numpy(self.theta)))

    def rewards(self, features: Array) -> Array:
        """Return the rewards of rows of features, shape ``(n,)`` for ``(n, d)``."""
        return namespace(features).matmul(features, as_like(self.theta, features))


def realisable_reward(
    features: Array, key: Key, *, spread: float = 1.0, prompts: Sequence[int] | None = None
) -> RealisableReward:
    """Draw a reward that is linear on these features.

    The direction of ``theta*`` is uniform; its length makes the rewards of one prompt's responses
    vary by ``spread``. What a reward adds to all responses of a prompt counts for nothing.

    Parameters
    ----------
    features
        Rows of frozen features, shape ``(n, d)``, of any array library.
    key
        Decides the direction.
    spread
        Standard deviation of the rewards, positive. Labels are Bradley-Terry's at scale 1: with
        normal rewards of spread 1 the better of two responses wins with probability 0.72 in the
        median pair; with 5, nearly every label is decided beforehand.
    prompts
        Which prompt each row responds to, ``n`` numbers; by default all rows respond to one.

    Raises
    ------
    ShapeError
        If the features are no table, or ``prompts`` has another length.
    ValueError
        If features are not finite, or do not vary among the responses to any prompt.
    """
    check_shape("features", features, (None, None), "(n, d)")
    check_positive("spread", spread)
    check_finite("features", features)
    rows = to_numpy(features).astype(np.float64)
    groups = np.zeros(len(rows), dtype=np.int64) if prompts is None else np.asarray(prompts)
    check_shape("prompts", groups, (len(rows),), "(n,)")

    _, which = np.unique(groups, return_inverse=True)
    count = np.bincount(which)
    means = np.zeros((count.size, rows.shape[1]))
    np.add.at(means, which, rows)
    centred = rows - (means / count[:, None])[which]

    direction = key.normal_numpy(1, rows.shape[1])[0]
    deviations = centred @ direction
    # Every prompt's own mean costs one degree of freedom.
    freedom = len(rows) - count.size
    size = math.sqrt(float(deviations @ deviations) / freedom) if freedom > 0 else 0.0
    noise = np.finfo(np.float64).eps * float(np.abs(rows).max(initial=0.0))
    if size <= 16 * noise * float(np.linalg.norm(direction)):
        message = (
            "Features must vary among the responses to a prompt; these do not. Give several "
            "responses to each prompt."
        )
        raise ValueError(message)
    theta = direction * (spread / size)
    better = _win_probabilities(rows @ theta, which)
    return RealisableReward(
        theta=as_like(theta, features),
        spread=spread,
        win_probability=dict(zip(_LEVELS, np.quantile(better, _LEVELS).tolist(), strict=True)),
        decided=float(np.mean(better > 0.99)),
    )


def _win_probabilities(rewards: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Return the probability of the better response, over pairs of the same prompt."""
    order = np.argsort(which, kind="stable")
    r, group = rewards[order], which[order]
    most = min(_SHIFTS, int(np.bincount(which).max()) - 1)
    gaps = [
        np.abs(r[s:] - r[:-s])[group[s:] == group[:-s]] for s in range(1, most + 1)
    ]  # a row with the next few responses to its prompt
    return np.asarray(1.0 / (1.0 + np.exp(-np.concatenate(gaps))))
