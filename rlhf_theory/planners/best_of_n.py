"""Best-of-n sampling: its exact distribution, and the estimate of its value from stored scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_theory.arrays import Array, as_like, namespace, to_numpy
from rlhf_theory.core import Policy, Problem, RewardModel, Solution, closed_form
from rlhf_theory.data import Contexts
from rlhf_theory.errors import ShapeError
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner


def _check_n(n: float) -> None:
    if not (math.isfinite(n) and n >= 1):
        message = f"n must be finite and at least 1; got {n}."
        raise ValueError(message)


def best_of_n_log_probs(rewards: Array, log_pi0: Array, n: float) -> Array:
    r"""Return the law of the best of ``n`` independent draws from the reference policy.

    With :math:`F` the distribution function of the reward under ``pi0``, the block of actions with
    one reward :math:`\rho` has probability

    .. math:: F(\rho)^n - F(\rho-)^n,

    shared in proportion to ``pi0``: ties are broken by the order of the draws.

    Parameters
    ----------
    rewards, log_pi0
        Shape ``(R, B, A)``; ``-inf`` in ``log_pi0`` marks absent actions, whose rewards must be
        finite. Rewards tie where they are equal to the bit.
    n
        Number of draws, at least 1; a real number is allowed and gives the same formula. 1 is the
        reference policy.

    Returns
    -------
    Log-probabilities, shape ``(R, B, A)``. Every pair of actions of a context is compared, so
    memory is ``R B A^2``.

    Source: [2210.10760] for the setting; theory sheet 6.3 for the exact law.
    """
    return best_of_n_path(rewards, log_pi0, [n])[0]


def best_of_n_path(rewards: Array, log_pi0: Array, ns: Sequence[float]) -> list[Array]:
    """Return `best_of_n_log_probs` for several ``n``; rewards are compared only once."""
    for n in ns:
        _check_n(n)
    xp = namespace(rewards, log_pi0)
    log_upto, drop, log_block, empty = _tails(rewards, log_pi0)
    return [
        xp.where(empty, log_pi0, log_pi0 - log_block + n * log_upto + xp.log(-xp.expm1(n * drop)))
        for n in ns
    ]


def _tails(rewards: Array, log_pi0: Array) -> tuple[Array, Array, Array, Array]:
    """Return ``log F``, ``log F(-) - log F``, ``log`` of the block's mass, whether it has none."""
    xp = namespace(rewards, log_pi0)
    pi0 = xp.exp(log_pi0)
    mine, other = rewards[..., :, None], rewards[..., None, :]

    def mass(chosen: Array) -> Array:
        return xp.sum(xp.where(chosen, pi0[..., None, :], 0.0 * other), axis=-1)

    above, block, below = mass(other > mine), mass(other == mine), mass(other < mine)
    # An absent action without a tie has an empty block; its own log_pi0 settles its answer.
    empty = block <= 0.0
    block = xp.where(empty, xp.ones_like(block), block)
    upto, worst = block + below, below <= 0.0
    # Logarithms from whichever part is small: 1 - small would lose its digits, and n times them.
    log_upto = _log_of_part(upto, above, above < 0.5)
    drop = _log_of_part(below / upto, block / upto, block < below)
    drop = xp.where(worst, xp.full_like(drop, -math.inf), drop)
    return log_upto, drop, xp.log(block), empty


def _log_of_part(part: Array, rest: Array, from_rest: Array) -> Array:
    """Return ``log(part) = log(1 - rest)``, from ``rest`` where asked."""
    xp = namespace(part, rest)
    small = xp.log1p(-xp.where(from_rest, rest, xp.zeros_like(rest)))
    usable = (part > 0.0) & ~from_rest
    return xp.where(from_rest, small, xp.log(xp.where(usable, part, xp.ones_like(part))))


def continuous_kl(n: float) -> float:
    """Return ``log n - (n - 1) / n``, the KL of best-of-n from ``pi0`` for rewards without ties.

    Only an upper bound on the KL of `best_of_n_log_probs`, which never exceeds
    ``-log pi0(best)``; for plots take the exact one, ``policies.kl(log_p, log_pi0)``.
    """
    _check_n(n)
    return math.log(n) - (n - 1.0) / n


@dataclass(frozen=True, eq=False)
class BestOfNPolicy:
    """The policy that draws ``n`` actions from ``pi0`` and plays the one with the best reward.

    Attributes
    ----------
    model
        The reward that chooses.
    n
        Number of draws, at least 1.
    """

    model: RewardModel
    n: float

    def __post_init__(self) -> None:
        _check_n(self.n)

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``."""
        return contexts.lookup(
            lambda c: best_of_n_log_probs(self.model.rewards(c), c.log_pi0, self.n)
        )


@planner("best-of-n", {"n": 4.0})
@dataclass(frozen=True)
class BestOfN:
    """Plan by best-of-n: exact, and without regard to the problem's ``eta``.

    Attributes
    ----------
    n
        Number of draws, at least 1.
    """

    n: float

    def __post_init__(self) -> None:
        _check_n(self.n)

    def __call__(
        self,
        model: RewardModel,
        problem: Problem,
        key: Key,  # noqa: ARG002
        start: Policy | None = None,  # noqa: ARG002
    ) -> Solution[Policy]:
        """Return the best-of-n policy of ``model``."""
        policy = problem.tabulate(BestOfNPolicy(model, self.n))
        return closed_form(policy, problem.n_replicas, problem.empty_data().count)


def best_of_n_value(proxy: Array, gold: Array, ns: Sequence[int]) -> Array:
    r"""Estimate the gold reward of best-of-n, without bias, from ``N`` scored draws.

    .. math:: \hat R(n) = \sum_{i \ge n} \binom{i-1}{n-1} \Big/ \binom{N}{n} \; g_{(i)},

    with ``i`` the rank by proxy, worst first: the mean over all subsets of ``n`` draws. Draws with
    equal proxy share the weights of their ranks.

    Parameters
    ----------
    proxy, gold
        Scores of the same draws from ``pi0``, shape ``(R, N)``.
    ns
        Integers in ``1 .. N``.

    Returns
    -------
    Array of shape ``(R, len(ns))``.

    Source: [2210.10760], section on best-of-n; theory sheet 6.3.
    """
    scores, values = to_numpy(proxy), to_numpy(gold)
    if scores.ndim != 2 or scores.shape != values.shape:
        message = (
            f"proxy and gold must have one shape (R, N); got {scores.shape} and {values.shape}."
        )
        raise ShapeError(message)
    total = scores.shape[1]
    bad = [n for n in ns if not (1 <= n <= total and n == int(n))]
    if bad:
        message = f"n must be whole and lie in 1 .. {total}, the number of scores; got {bad[0]}."
        raise ValueError(message)
    cdf = np.stack([_largest_rank_cdf(total, int(n)) for n in ns], axis=-1)
    rows = []
    for score, value in zip(scores, values, strict=True):
        ordered = np.sort(score)
        first = np.searchsorted(ordered, score, side="left")
        last = np.searchsorted(ordered, score, side="right")
        weights = (cdf[last] - cdf[first]) / (last - first)[:, None]
        rows.append(value @ weights)
    return as_like(np.stack(rows), gold)


def _largest_rank_cdf(total: int, n: int) -> np.ndarray:
    """Return the probability that ``n`` of ``total`` have no rank above i, for i = 0 .. total."""
    ranks = np.arange(n + 1, total + 1)
    # C(i, n) / C(total, n) is the product over j = i + 1 .. total of (j - n) / j.
    logs = np.log1p(-n / ranks)
    tail = np.concatenate([np.cumsum(logs[::-1])[::-1], [0.0]])
    return np.concatenate([np.zeros(n), np.exp(tail)])
