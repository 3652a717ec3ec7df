"""What the study of online against offline labels is made of: pair rules, prediction, plug-in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cells import Rows
from tiny_runs import gold, tiny_policy

from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.planning.pair_rules import AgainstEnhancer, BestWorst, PairRule
from llm_bridge.pools.data import PromptData
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.algorithms.enhancers import FromReference
from rlhf_theory.algorithms.rounds import compare
from rlhf_theory.arrays import Array, inner, to_numpy
from rlhf_theory.core import PairFeedback, Policy, Problem
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


# --------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class FromPi0:
    """Both responses from pi0, whatever the policy: offline labels that arrive in rounds."""

    @property
    def sample(self) -> int | None:
        """1: the second response is a draw from pi0, as is the first."""
        return 1

    def __call__(
        self,
        problem: Problem,
        data: Any,
        policy: Policy,  # noqa: ARG002
        feedback: PairFeedback,
        batch_size: int,
        key: Key,
    ) -> Any:
        """Return the data with a labelled batch appended."""
        pi0 = ReferencePolicy()
        return compare(problem, data, pi0, pi0, feedback, batch_size, key)


@dataclass(frozen=True)
class Different:
    """A rule whose batch has exactly so many comparisons, all of two different responses.

    A response against itself needs no annotator, so it is no label (theory sheet 12.17); twice as
    many pairs are drawn and the first ones that differ are kept.
    """

    rule: PairRule

    @property
    def sample(self) -> int | None:
        """That of the rule."""
        return self.rule.sample

    def __call__(
        self,
        problem: Problem,
        data: PromptData,
        policy: Policy,
        feedback: PairFeedback,
        batch_size: int,
        key: Key,
    ) -> PromptData:
        """Return the data with a labelled batch appended."""
        new = self.rule(problem, data, policy, feedback, 2 * batch_size, key)
        differ = to_numpy(new.latest.count)[0]
        if differ.sum() < batch_size:
            message = f"Only {differ.sum():.0f} of {differ.size} pairs are of different responses."
            raise ValueError(message)
        kept = new.count * 1.0
        kept[:, -differ.size :] *= kept.new_tensor((np.cumsum(differ) <= batch_size) * 1.0)
        return new.reweighted(kept, new.wins * kept)


RULES: dict[str, PairRule] = {
    OFFLINE: FromPi0(),
    ON_POLICY: AgainstEnhancer(),
    REFERENCE: AgainstEnhancer(enhancer=FromReference()),
    BEST_WORST: BestWorst(n=4),
}


# --------------------------------------------------------------------------- prediction


def linear_world(sweep: Mapping[str, Any], dim: int) -> Bandit:
    """Return the pools with the linear reward that explains the gold reward best.

    Of projected features of the tiny model. Its settings say which share of the gold reward's
    variance within prompts it explains.
    """
    tiny, pi0 = tiny_policy()
    problem = PromptProblem(
        tiny.prompts[: sweep["linear_prompts"]],
        pi0,
        features=TransformerFeatures(pi0, dim=dim, progress=False),
        pool_size=sweep["linear_pool"],
        eta=sweep["eta"],
        seed=sweep["instance"],
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


def predicted(sweep: Mapping[str, Any], dim: int) -> Rows:
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


def plug_in(sweep: Mapping[str, Any], times: int) -> Rows:
    """Return gaps of linear learners in the linear world, from ``times`` the labels of the arms.

    Maximum likelihood with a ridge, exact planning. The ridge is each arm's best of the grid; with
    more labels, where it hardly matters, the first of the grid.
    """
    world = linear_world(sweep, sweep["dims"][0])
    p = world.problem
    problem = FiniteProblem(p.phi, p.log_pi0, p.weights, p.eta, sweep["linear_replicas"])
    rows = []
    for arm in ARMS:
        for ridge in sweep["ridges"][: None if times == 1 else 1]:
            gap = _learn(problem, world, arm, sweep, times, ridge)
            about = {"part": "linear", "arm": arm, "times": times, "ridge": ridge}
            rows += [about | {"seed": r, "gap": g} for r, g in enumerate(gap.tolist())]
    return rows


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
                data = RULES[arm](problem, data, policy, feedback, n, here)
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
