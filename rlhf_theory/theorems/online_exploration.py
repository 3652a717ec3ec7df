"""Where exploration is needed, how small a gap is in the limit, and a second look at bound (a)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_theory.algorithms.online_iterative import OnlineState
from rlhf_theory.arrays import Array, to_numpy
from rlhf_theory.core import Problem
from rlhf_theory.estimators.mle import fisher_information
from rlhf_theory.evaluation.coverage import fast_rate_constant, fisher_of_sampling
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.theorems.card import Sweep
from rlhf_theory.theorems.coverage_formulas import Collected, formulas
from rlhf_theory.worlds.bandit import Bandit, one_context

_RARITY = 16.0
"""Minus the log-probability of an arm under pi0: no study here ever sees one in pairs from it."""
_ETA = 0.04
"""The best arm, of reward 1, is worth its KL: ``eta * rarity`` is .64."""


def unseen_arms(dim: int, replicas: int) -> Bandit:
    """Return a world in which the good action is never seen unless somebody explores.

    One context: an action of reward 0 that pi0 plays nearly always, and ``d`` arms in orthogonal
    directions that it never plays in practice, the last of which has reward 1. Policies of what is
    learnt from pairs of pi0, or of themselves, stay where they are. A round of an enhancer that is
    as uncertain as can be shows one arm, so that ``d`` rounds show all.

    Source: the simplest instance for the role of exploration in [2312.11456]; derived here.
    """
    phi = np.concatenate([np.zeros((1, dim)), np.eye(dim)])
    log_pi0 = np.full(dim + 1, -_RARITY)
    log_pi0[0] = math.log1p(-dim * math.exp(-_RARITY))
    theta = np.zeros((1, dim))
    theta[0, -1] = 1.0
    reward = LinearReward(theta)
    return Bandit(
        name="unseen arms",
        problem=one_context(phi, _ETA, replicas, log_pi0),
        oracle=BradleyTerry(reward),
        reward=reward,
        theta_star=theta,
        settings={"dim": dim},
    )


@dataclass(frozen=True, eq=False)
class LimitingGap:
    """The mean gap of a policy that is fitted to the data of the round, as labels grow.

    ``tr(H^-1 C*) / (2 eta)`` with ``H`` the Fisher information of the pairs collected so far, at
    the truth, and ``C*`` the covariance of the features under pi*: identity I4 of the theory sheet.
    """

    world: Bandit

    def __call__(
        self, state: OnlineState, problem: Problem, memory: object, key: Key
    ) -> tuple[Mapping[str, Array], object]:
        """Report ``limit``, infinite before any label; there is nothing to remember."""
        del key
        data = state.data
        theta = np.broadcast_to(to_numpy(self.world.theta_star), (problem.n_replicas, problem.dim))
        information = fisher_information(theta, data.differences, data.count)
        return {"limit": _limit(self.world, information)}, memory


def _limit(world: Bandit, information: Array) -> Array:
    """Return ``tr(H^-1 C*) / (2 eta)``, ``(R,)``: information of all pairs in place of one."""
    return fast_rate_constant(information, *world.population, world.log_pi_star, world.problem.eta)


@dataclass(frozen=True, eq=False)
class ExpectedGap:
    """`LimitingGap` for the pairs that the algorithm should have collected: pi1 against pi0.

    Attributes
    ----------
    world
        Says the law of a label.
    batch
        Pairs per round.
    """

    world: Bandit
    batch: int

    def __call__(
        self, state: OnlineState, problem: Problem, memory: Any, key: Key
    ) -> tuple[Mapping[str, Array], np.ndarray]:
        """Report ``expected limit``; the memory is the information of all rounds before."""
        del key
        x, weights = self.world.population
        start = np.zeros((problem.n_replicas, problem.dim, problem.dim))
        before = start if memory is None else memory
        of_pair = fisher_of_sampling(
            x, weights, state.plan.value.log_probs(x), x.log_pi0, self.world.theta_star
        )
        report = {"expected limit": _limit(self.world, before)}
        return report, before + self.batch * to_numpy(of_pair)


@dataclass(frozen=True, eq=False)
class OtherSearch:
    """Bound (a) with R2' from a search, a radius and a design of its own, every third round.

    The claim written out: ``Sigma`` summed pair by pair, the radius by its formula, and the largest
    bonus among policies ``pi1 exp(s <u, phi>)`` of many directions ``u`` and lengths ``s`` that
    fulfil ``eta KL(pi' || pi1) <= Gamma(pi')``. Each of these is a lower bound on the maximum.

    Attributes
    ----------
    world
        Says the features.
    sweep
        Has ``theta_bound, delta, lam``.
    directions, lengths
        How many of each are tried.
    """

    world: Bandit
    sweep: Sweep
    directions: int = 24
    lengths: int = 12

    def __call__(
        self, state: OnlineState, problem: Problem, memory: Any, key: Key
    ) -> tuple[Mapping[str, Array], int]:
        """Report ``other bound``, NaN in rounds without one; the memory counts rounds."""
        turn = memory or 0
        found = np.full(problem.n_replicas, np.nan)
        return {"other bound": found if turn % 3 else self._search(state, problem, key)}, turn + 1

    def _search(self, state: OnlineState, problem: Problem, key: Key) -> np.ndarray:
        contexts, weights = self.world.population
        log_pi1 = to_numpy(state.plan.value.log_probs(contexts))
        sigma, beta = own_ball(self.world, self.sweep, state, problem)
        replicas = sigma.shape[0]
        phi = np.broadcast_to(to_numpy(contexts.phi), (replicas, *contexts.phi.shape[1:]))
        law = np.broadcast_to(to_numpy(weights), log_pi1.shape[:2])
        values, vectors = np.linalg.eigh(sigma)
        draws = to_numpy(key.normal(replicas, self.directions, problem.dim, like=sigma))
        steps = np.einsum("rij,rj,rkj->rki", vectors, values**-0.5, draws)
        steps /= np.linalg.norm(steps, axis=-1, keepdims=True)
        best = np.zeros(replicas)
        for k in range(self.directions):
            slope = np.einsum("rxad,rd->rxa", phi, steps[:, k])
            for s in np.geomspace(0.3, 300.0, self.lengths):
                log_pi = to_numpy(gibbs_log_probs(s * slope, log_pi1, 1.0))
                pi = np.exp(log_pi)
                v = np.einsum("rx,rxa,rxad->rd", law, pi - np.exp(log_pi1), phi)
                square = np.einsum("ri,ri->r", v, np.linalg.solve(sigma, v[..., None])[..., 0])
                bonus = beta * np.sqrt(square)
                kl = np.einsum("rx,rxa->r", law, np.where(pi > 0, pi * (log_pi - log_pi1), 0.0))
                best = np.where(problem.eta * kl <= bonus, np.maximum(best, bonus), best)
        return best


@dataclass(frozen=True, eq=False)
class OtherTerms:
    """The two terms of the hybrid theorem, from a radius and a design of their own.

    Attributes
    ----------
    world
        Says the features, and pi*.
    sweep
        Has ``theta_bound, delta, lam``.
    """

    world: Bandit
    sweep: Sweep

    def __call__(
        self, state: OnlineState, problem: Problem, memory: object, key: Key
    ) -> tuple[Mapping[str, Array], object]:
        """Report ``other terms``, their sum, and ``uncertainty``, the first over the radius."""
        del key
        contexts, weights = self.world.population
        sigma, beta = own_ball(self.world, self.sweep, state, problem)
        pi0 = np.exp(to_numpy(contexts.log_pi0))

        def width(log_pi: Array) -> np.ndarray:
            more = np.exp(to_numpy(log_pi)) - pi0
            mean = np.einsum("zx,rxa,yxad->rd", to_numpy(weights), more, to_numpy(contexts.phi))
            square = np.linalg.solve(sigma, np.broadcast_to(mean, beta.shape + mean.shape[1:])
                                     [..., None])[..., 0]  # fmt: skip
            return np.asarray(np.sqrt((mean * square).sum(axis=-1)))

        first = width(state.plan.value.log_probs(contexts))
        both = beta * (first + width(self.world.log_pi_star))
        return {"other terms": both, "uncertainty": first}, memory


def own_ball(
    world: Bandit, sweep: Sweep, state: OnlineState, problem: Problem
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``Sigma`` and R2' of the claims, worked out from the counts."""
    phi, count = to_numpy(world.population[0].phi), to_numpy(state.data.count)
    first, second = np.triu_indices(phi.shape[2], k=1)
    rows = (phi[0][:, first] - phi[0][:, second]).reshape(-1, problem.dim)
    gram = np.einsum("rn,ni,nj->rij", count, rows, rows, optimize=True)
    # R2' does not depend on the number of labels but by the design.
    radius = formulas(Collected(phi, gram, labels=1), sweep["theta_bound"], sweep)["R2′"]
    return gram + sweep["lam"] * np.eye(problem.dim), radius
