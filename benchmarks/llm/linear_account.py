"""The linear account of the gold reward, what theory predicts there, and learners of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.llm.tiny_runs import gold, tiny_policy
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.planning.pair_rules import BestWorst
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.algorithms.rounds import compare
from rlhf_theory.arrays import Array, inner, to_numpy
from rlhf_theory.data import Contexts
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.evaluation.coverage import fast_rate_constant, fisher_of_sampling
from rlhf_theory.evaluation.gaps import suboptimality
from rlhf_theory.features import centred
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.planners.gibbs import Gibbs
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds.bandit import Bandit

OFFLINE = "offline"
ON_POLICY = "on-policy"
REFERENCE = "against π0"
BEST_WORST = "best-worst"
ONLINE = (ON_POLICY, REFERENCE, BEST_WORST)
ARMS = (OFFLINE, *ONLINE)


# --------------------------------------------------------------------------- prediction


def linear_world(sweep: Mapping[str, Any], dim: int) -> Bandit:
    """Return `account` for the settings of a sweep."""
    return account(*(sweep[name] for name in ("prompts", "pool", "eta", "instance")), dim)


@lru_cache(maxsize=2)
def account(prompts: int, pool: int, eta: float, instance: int, dim: int) -> Bandit:
    """Return the pools with the linear reward that explains the gold reward best; a few are kept.

    Of projected features of the tiny model. Its settings say which share of the gold reward's
    variance within prompts it explains.
    """
    tiny, pi0 = tiny_policy()
    problem = PromptProblem(
        tiny.prompts[:prompts],
        pi0,
        features=TransformerFeatures(pi0, dim=dim, progress=False),
        pool_size=pool,
        eta=eta,
        seed=instance,
    )
    r = to_numpy(gold().rewards(problem.table))
    finite = problem.finite().to(np.zeros(1))
    mass = np.exp(finite.log_pi0)
    y = np.sqrt(mass) * (r - (mass * r).sum(axis=-1, keepdims=True))
    rows = np.sqrt(mass)[..., None] * centred(finite.table)
    theta, *_ = np.linalg.lstsq(rows.reshape(-1, dim), y.ravel())
    left = ((y.ravel() - rows.reshape(-1, dim) @ theta) ** 2).sum()
    reward = LinearReward(theta[None, :])
    return Bandit(
        name="linear account of the gold reward",
        problem=finite,
        oracle=BradleyTerry(reward),
        reward=reward,
        theta_star=reward.theta,
        settings={"dim": dim, "explained": float(1.0 - left / (y**2).sum())},
    )


def extremes_law(rewards: Array, log_pi: Array, n: int) -> Array:
    """Return the joint law of the best and the worst of ``n`` draws, shape ``(1, N, K, K)``.

    All ``n`` draws lie in ``[b, a]``, some at ``a``, some at ``b``: by inclusion and exclusion.
    Ties count as one response; rewards of a linear model have none.
    """
    pi = np.exp(log_pi)
    order = np.argsort(np.where(pi > 0, rewards, -np.inf), axis=-1)
    upto = np.cumsum(np.take_along_axis(pi, order, axis=-1), axis=-1)
    below = np.concatenate([np.zeros_like(upto[..., :1]), upto[..., :-1]], axis=-1)

    def within(high: Array, low: Array) -> Array:
        return np.maximum(high[..., :, None] - low[..., None, :], 0.0) ** n

    joint = within(upto, below) - within(below, below) - within(upto, upto) + within(below, upto)
    k = pi.shape[-1]
    joint = np.maximum(joint, 0.0) * (np.arange(k)[:, None] >= np.arange(k))
    back = np.argsort(order, axis=-1)
    joint = np.take_along_axis(joint, back[..., :, None], axis=-2)
    return np.take_along_axis(joint, back[..., None, :], axis=-1)


def fisher_of_pairs(contexts: Contexts, weights: Array, pair: Array, theta: Array) -> Array:
    """Return `fisher_of_sampling` for any joint law of the two responses, ``(1, N, K, K)``."""
    r = inner(contexts.phi, theta)
    p = 1.0 / (1.0 + np.exp(-(r[..., :, None] - r[..., None, :])))
    pair = weights[..., None, None] * pair * p * (1.0 - p)
    both = pair + np.swapaxes(pair, -1, -2)
    phi = contexts.phi
    lap = both.sum(axis=-1)[..., None] * phi - both @ phi
    full: Array = (np.swapaxes(phi, -1, -2) @ lap).sum(axis=1)
    return full


def per_label(world: Bandit) -> dict[str, Array]:
    """Return the Fisher matrix of a label (a pair that differs) for every limiting law."""
    x, weights = world.population
    star, zero = world.log_pi_star, x.log_pi0
    found = {}
    for arm, (p, q) in {
        OFFLINE: (zero, zero),
        ON_POLICY: (star, star),
        REFERENCE: (star, zero),
    }.items():
        same = float((weights * np.exp(p + q).sum(axis=-1)).sum())
        found[arm] = fisher_of_sampling(x, weights, p, q, world.theta_star) / (1.0 - same)
    pair = extremes_law(inner(x.phi, world.theta_star), star, 4)
    same = float((weights * np.trace(pair, axis1=-2, axis2=-1)).sum())
    found[BEST_WORST] = fisher_of_pairs(x, weights, pair, world.theta_star) / (1.0 - same)
    return found


def predicted(sweep: Mapping[str, Any], dim: int) -> list[dict[str, Any]]:
    """Return the constants of theory sheet 12.19 for every arm.

    ``limit``: labels times gap where all labels come from the limiting law. ``schedule``: the same
    where the first of the rounds came from pi0 and the others from the limiting law.
    """
    world = linear_world(sweep, dim)
    x, weights = world.population
    fisher, rounds = per_label(world), sweep["rounds"]
    rows = []
    for arm in ARMS:
        mixed = (fisher[OFFLINE] + (rounds - 1) * fisher[arm]) / rounds
        limit, schedule = (
            float(fast_rate_constant(f, x, weights, world.log_pi_star, sweep["eta"])[0])
            for f in (fisher[arm], mixed)
        )
        rows.append(
            {
                "part": "prediction",
                "arm": arm,
                "dim": dim,
                "limit": limit,
                "schedule": schedule,
                "explained": world.settings["explained"],
            }
        )
    return rows


# --------------------------------------------------------------------------- linear learners


def plug_in(sweep: Mapping[str, Any], times: int, arm: str, ridge: float) -> list[dict[str, Any]]:
    """Return gaps of a linear learner in the linear world, from ``times`` the labels of the study.

    Maximum likelihood with a ridge, exact planning; a row per replica.
    """
    world = linear_world(sweep, sweep["dims"][0])
    p = world.problem
    problem = FiniteProblem(p.phi, p.log_pi0, p.weights, p.eta, sweep["replicas"])
    gap = _learn(problem, world, arm, sweep, times, ridge)
    about = {"part": "linear", "arm": arm, "times": times, "ridge": ridge}
    return [about | {"seed": r, "gap": g} for r, g in enumerate(gap.tolist())]


def _learn(
    problem: FiniteProblem,
    world: Bandit,
    arm: str,
    sweep: Mapping[str, Any],
    times: int,
    ridge: float,
) -> np.ndarray:
    """Return the gap of every replica after all rounds."""
    (x, weights), feedback = world.population, world.feedback
    data, policy = problem.empty_data(), ReferencePolicy()
    pi0, key = ReferencePolicy(), Key(sweep["instance"]).child("linear learners")
    fit = None
    for t in range(sweep["rounds"]):
        here, n = key.child("round", t), times * sweep["batch"]
        if arm == BEST_WORST:
            with np.errstate(invalid="ignore"):  # absent responses, which are never drawn
                data = BestWorst(n=4)(problem, data, policy, feedback, n, here)
        else:
            first = pi0 if arm == OFFLINE else policy
            second = policy if arm == ON_POLICY else pi0
            p, q = (np.exp(v.log_probs(x)) for v in (first, second))
            # Pairs that differ are the labels; of the extremes of four draws hardly any agree.
            same = float((weights * (p * q).sum(axis=-1)).sum(axis=-1).mean())
            data = compare(
                problem, data, first, second, feedback, math.ceil(n / (1.0 - same)), here
            )
        fit = bradley_terry_mle(data, ridge=ridge, start=fit)
        policy = Gibbs()(LinearReward(fit.value), problem, here, None).value
    gap: np.ndarray = suboptimality(policy.log_probs(x), world.log_pi_star, weights, problem.eta)
    return gap
