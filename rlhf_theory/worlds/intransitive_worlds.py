"""Worlds whose preferences no reward explains."""

from __future__ import annotations

from typing import Literal

import numpy as np

from rlhf_theory.errors import check_choice, check_count, check_nonnegative
from rlhf_theory.oracles import AnnotatorMixture, BradleyTerry, GeneralPreference
from rlhf_theory.randomness import Key
from rlhf_theory.register import register
from rlhf_theory.rewards import LinearReward, SkewBilinear, TablePreference, TableReward
from rlhf_theory.worlds.bandit import Bandit, Game, arguments_of, one_context
from rlhf_theory.worlds.linear_worlds import LinearContexts, Reference, draw_theta


@register("world", "intransitive", {"contexts": 4, "actions": 4, "dim": 3})
def intransitive(
    *,
    cycle: float = 1.0,
    contexts: int = 20,
    actions: int = 10,
    dim: int = 4,
    eta: float = 0.3,
    replicas: int = 64,
    seed: int = 0,
    theta_norm: float = 1.0,
    decay: float = 0.0,
    reference: Reference = "uniform",
    peak: float = 2.0,
    game: Game = "logit",
    instances: Literal["shared", "own"] = "shared",
    name: str = "intransitive",
) -> Bandit:
    """Return a world with ``logit P = r(a) - r(b) + c phi(a)^T W phi(b)``.

    ``W`` is a random skew matrix of Frobenius norm ``sqrt(2) d``. Inside the bilinear model that
    learners fit.

    Parameters
    ----------
    cycle
        ``c``; 0 gives Bradley-Terry, and then the world has a reward too.
    game
        Payoff of the preference game, ``"logit"`` or ``"probability"``.
    contexts, actions, dim, eta, replicas, seed, theta_norm, decay, reference, peak, instances
        As in `linear`.

    Source: theory sheet 9.4.
    """
    settings = arguments_of(intransitive, locals())
    sizes = (("contexts", contexts), ("actions", actions), ("dim", dim), ("replicas", replicas))
    for label, value in sizes:
        check_count(label, value)
    check_nonnegative("cycle", cycle)
    check_choice("reference", reference, ("uniform", "dirichlet", "peaked"))
    check_choice("instances", instances, ("shared", "own"))
    rows = 1 if instances == "shared" else replicas
    key = Key(seed).child("intransitive")
    theta = draw_theta(key, rows, dim, theta_norm)
    draw = LinearContexts(theta, actions, decay, reference, peak)
    w = key.child("skew").normal_numpy(rows, dim * (dim - 1) // 2)
    norm = np.linalg.norm(w, axis=-1, keepdims=True)
    w = cycle * dim * w / np.where(norm > 0, norm, 1.0)
    # The row of the constant feature carries the reward: W_0j = -theta_j (see rewards.skew_matrix).
    parameters = np.concatenate([-theta, w], axis=-1)
    model = SkewBilinear(parameters)
    return Bandit(
        name=name,
        problem=draw.problem(key, contexts, eta, replicas),
        oracle=GeneralPreference(model),
        reward=LinearReward(theta) if cycle == 0.0 else None,
        game=game,
        theta_star=parameters,
        settings=settings,
    )


@register("world", "annotator-cycle")
def annotator_cycle(
    *,
    scale: float = 2.0,
    eta: float = 0.1,
    replicas: int = 64,
    game: Game = "logit",
    name: str = "annotator-cycle",
) -> Bandit:
    """Return three Bradley-Terry annotators whose mixture has a Condorcet cycle.

    Utilities ``s (2, 1, 0)`` of three actions, rotated; the first beats the second, the second the
    third, the third the first, each with probability .5271 / .5932 / .6548 at ``s = 1 / 2 / 4``
    (2/3 in the limit).

    Source: theory sheet 9.3.
    """
    check_nonnegative("scale", scale)
    rows = [np.roll(scale * np.array([2.0, 1.0, 0.0]), shift)[None, None] for shift in range(3)]
    oracle = AnnotatorMixture([BradleyTerry(TableReward(row)) for row in rows], [1.0 / 3.0] * 3)
    return Bandit(
        name=name,
        problem=one_context(np.eye(3), eta, replicas),
        oracle=oracle,
        game=game,
        settings={"scale": scale, "eta": eta, "game": game},
    )


@register("world", "tie-cycle")
def tie_cycle(
    *,
    shift: float = 0.0,
    eta: float = 0.1,
    replicas: int = 64,
    game: Game = "probability",
    name: str = "tie-cycle",
) -> Bandit:
    """Return three annotator types that each decide one pair and tie on the others.

    Weights ``(1/3 - e, 1/3 + e/2, 1/3 + e/2)``; type 1 always says 2 beats 1, type 2 says 1 beats
    3, type 3 says 3 beats 2. The Nash policy is continuous in ``e``, the argmax of a fitted
    reward jumps at 0.

    Parameters
    ----------
    shift
        ``e``, in (-2/3, 1/3).

    Source: [2312.00886], section on heterogeneous annotators; theory sheet T6b.
    """
    if not -2.0 / 3.0 < shift < 1.0 / 3.0:
        message = f"shift must lie in (-2/3, 1/3), so that weights are positive; got {shift}."
        raise ValueError(message)
    first, other = 1.0 / 3.0 - shift, 1.0 / 3.0 + 0.5 * shift
    table = np.zeros((3, 3))
    for winner, loser, weight in ((1, 0, first), (0, 2, other), (2, 1, other)):
        table[winner, loser], table[loser, winner] = 0.5 * weight, -0.5 * weight
    return Bandit(
        name=name,
        problem=one_context(np.eye(3), eta, replicas),
        oracle=GeneralPreference(TablePreference(table[None, None]), "probability"),
        game=game,
        settings={"shift": shift, "eta": eta, "game": game},
    )
