"""Worlds whose annotators disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from rlhf_theory.arrays import Array, expand_rows, full_like, namespace, to_numpy
from rlhf_theory.errors import check_count, check_nonnegative, check_positive
from rlhf_theory.evaluation.gaps import over_contexts
from rlhf_theory.evaluation.win_rates import borda_scores, winners
from rlhf_theory.oracles import AnnotatorMixture, BradleyTerry
from rlhf_theory.randomness import Key
from rlhf_theory.register import register
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds.bandit import Bandit, Game, arguments_of
from rlhf_theory.worlds.linear_worlds import Reference, linear


def draw_deviations(key: Key, rows: int, dim: int, weights: np.ndarray) -> np.ndarray:
    """Return deviations of annotator types, shape ``(rows, K, d)``.

    Normal draws, moved and scaled so that ``sum_k w_k dev_k = 0`` and ``sum_k w_k |dev_k|^2 = 1``.

    Parameters
    ----------
    key
        Address of the draws.
    rows
        Number of rows ``R``.
    dim
        ``d``.
    weights
        Positive probabilities of ``K >= 2`` types, shape ``(K,)``.
    """
    g = key.child("deviations").normal_numpy(rows, weights.size, dim)
    g = g - np.sum(weights[:, None] * g, axis=1, keepdims=True)
    size = np.sqrt(np.sum(weights * np.sum(g**2, axis=-1), axis=-1))
    return np.asarray(g / size[:, None, None])


def _weights_of(types: int, weights: Sequence[float] | None, heterogeneity: float) -> np.ndarray:
    """Return the probabilities of the types; ``ValueError`` where they cannot be."""
    check_count("types", types)
    if types == 1 and heterogeneity > 0:
        message = (
            f"heterogeneity={heterogeneity} needs at least 2 types of annotators; got types=1."
        )
        raise ValueError(message)
    w = np.full(types, 1.0 / types) if weights is None else np.asarray(weights, dtype=float)
    if w.shape != (types,) or abs(float(np.sum(w)) - 1.0) > 1e-9:
        message = (
            f"weights must be one probability for each of types={types}, with sum 1; got {weights}."
        )
        raise ValueError(message)
    for value in w:
        check_positive("weights", float(value))
    return w


@register("world", "annotators", {"contexts": 4, "actions": 4, "dim": 3})
def annotators(
    *,
    heterogeneity: float = 5.0,
    types: int = 3,
    weights: Sequence[float] | None = None,
    contexts: int | None = 20,
    actions: int = 10,
    dim: int = 8,
    eta: float = 0.1,
    replicas: int = 64,
    seed: int = 0,
    theta_norm: float = 1.0,
    decay: float = 0.0,
    reference: Reference = "uniform",
    peak: float = 2.0,
    concentration: float = 1.0,
    scale: float = 1.0,
    game: Game = "logit",
    instances: Literal["shared", "own"] = "shared",
    name: str = "annotators",
) -> Bandit:
    r"""Return a world whose labels come from annotators with different rewards.

    Type ``k`` answers by Bradley-Terry in its own :math:`\langle\theta_k, \varphi\rangle`, with
    :math:`\theta_k = \theta^* + h \delta_k`; every label comes from a type drawn afresh, so

    .. math::

        P(a \succ b \mid x) = \sum_k w_k\, \sigma(s \langle\theta_k, \varphi(x,a) - \varphi(x,b)
        \rangle).

    The deviations satisfy :math:`\sum_k w_k \delta_k = 0` and :math:`\sum_k w_k |\delta_k|^2 = 1`.

    **What is best.** For ``h > 0`` no reward explains these preferences, and two things can be
    meant. ``reward``, and with it the metric ``gap`` and the ``optimum``, is the mean utility
    :math:`\sum_k w_k r_k = \langle\theta^*, \varphi\rangle`: the sum that a utilitarian maximises,
    the same at every ``h``. The metric ``exploitability`` and ``nash`` are of the mixture as a
    preference game. Labels do not tell the mean utility: Bradley-Terry maximum likelihood is
    inconsistent for it and orders actions by their Borda scores against the law of the pairs, as
    far as linear rewards can ([2312.08358]). So the gap of such a learner ends at a positive
    ``floor``, see `misspecification`, though the mean utility is linear. How much the majority
    contradicts itself and the mean utility is told by `disagreement`.

    Parameters
    ----------
    heterogeneity
        ``h``, root mean square of ``|theta_k - theta*|``, on the scale of ``theta_norm``. 0 gives
        the labels and the truth of `linear` (and its ``theta_star``), as a game too; a positive
        one leaves ``theta_star`` None. While ``scale`` times the differences of all rewards is
        small, sigma is nearly linear and the mixture nearly Bradley-Terry in the mean utility: at
        the other defaults the floor is .0003, .016 and .19 at 1, 3 and 10 (pi0 has a gap of .35).
    types
        Number of types ``K``; at least 2 where ``heterogeneity`` is positive.
    weights
        How often each type is asked, positive with sum 1; None for equally often.
    theta_norm
        Norm of ``theta*``, what annotators share; 0 for annotators with nothing in common.
    game
        Payoff of the preference game, ``"logit"`` or ``"probability"``.
    reference, peak, concentration, scale, instances
        As in `linear`.
    contexts, actions, dim, eta, replicas, seed, decay
        As in `linear`, whose features, theta* and pi0 these are at the same seed.

    Examples
    --------
    >>> world = annotators(contexts=5, actions=3, dim=2, replicas=4)
    >>> sorted(world.evaluate(world.covering(0.0)))
    ['exploitability', 'gap', 'jeffreys', 'kl']

    Source: theory sheet 9.3; [2312.08358] for the inconsistency.
    """
    check_nonnegative("heterogeneity", heterogeneity)
    settings = arguments_of(annotators, locals())
    w = _weights_of(types, weights, heterogeneity)
    settings["weights"] = None if weights is None else w.tolist()
    base = linear(replicas=replicas, **arguments_of(linear, settings))
    if heterogeneity == 0.0:
        return replace(base, game=game, settings=settings)
    theta = to_numpy(base.theta_star)
    key = Key(seed).child("annotators")
    deviations = heterogeneity * draw_deviations(key, theta.shape[0], dim, w)
    people = [BradleyTerry(LinearReward(theta + deviations[:, k]), scale) for k in range(types)]
    oracle = AnnotatorMixture(people, w.tolist())
    return replace(base, oracle=oracle, game=game, theta_star=None, settings=settings)


def disagreement(world: Bandit) -> dict[str, float]:
    """Return how much the majority of a world contradicts itself, and its reward.

    Each is a share, in the mean over contexts (by their probabilities) and replicas.

    Returns
    -------
    ``no_condorcet_winner``: contexts in which no action beats every other (a tie is no win).
    ``cyclic_triples``: the part of all triples of actions that are cycles of the majority, a
    quarter in a random tournament. Where the world has a reward, ``borda_misses_best``: contexts
    in which no action of best Borda score against pi0 is one of best reward.

    Source: theory sheet 9.3.
    """
    x, weights = world.population
    prob, n = world.preferences, world.n_replicas
    xp = namespace(prob)
    present = x.log_pi0 > -math.inf

    def share(mask: Array) -> float:
        values = over_contexts(xp.astype(mask, prob.dtype), weights)
        return float(np.mean(to_numpy(expand_rows(values, n))))

    facts = {
        "no_condorcet_winner": share(~xp.any(winners(prob, present).condorcet, axis=-1)),
        "cyclic_triples": share(_cyclic_triples(prob, present)),
    }
    if world.reward is not None:
        none = full_like((1,), -math.inf, prob)
        borda = xp.where(present, borda_scores(prob, x.log_pi0), none)
        reward = xp.where(present, world.reward.rewards(x), none)
        # Ties count as agreement: some action is best in both.
        best = reward >= xp.max(reward, axis=-1, keepdims=True) - 1e-12
        chosen = borda >= xp.max(borda, axis=-1, keepdims=True) - 1e-12
        facts["borda_misses_best"] = share(~xp.any(best & chosen, axis=-1))
    return facts


def _cyclic_triples(prob: Array, present: Array) -> Array:
    """Return the share of triples of present actions that are majority cycles, ``(R|1, B)``."""
    xp = namespace(prob)
    both = present[..., :, None] & present[..., None, :]
    beats = xp.astype((prob > 0.5 + 1e-12) & both, prob.dtype)
    # Each cycle of three is counted from its three starts.
    through = xp.sum(xp.matmul(beats, beats) * xp.matrix_transpose(beats), axis=(-2, -1))
    a = xp.sum(xp.astype(present, prob.dtype), axis=-1)
    triples = a * (a - 1.0) * (a - 2.0) / 6.0
    return through / 3.0 / xp.where(triples > 0, triples, xp.ones_like(triples))
