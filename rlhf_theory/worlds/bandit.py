"""Bandit worlds: a problem, the law of its labels, and the exact truth."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from rlhf_theory.arrays import Array, as_like, expand_rows, full_like, namespace, to_numpy
from rlhf_theory.core import PairFeedback, Policy, PreferenceOracle, RewardModel, Solution
from rlhf_theory.data import Contexts, PairQuery, PairTable, PreferenceData
from rlhf_theory.errors import check_choice
from rlhf_theory.evaluation.exploitability import exploitability
from rlhf_theory.evaluation.gaps import mean_kl, suboptimality
from rlhf_theory.evaluation.intransitivity import intransitivity_index
from rlhf_theory.oracles.labels import feedback_from, preference_logits, preference_matrix
from rlhf_theory.planners.gibbs import GibbsPolicy, gibbs_log_probs
from rlhf_theory.policies import MixturePolicy, ReferencePolicy, TablePolicy
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.randomness import Key, categorical
from rlhf_theory.visited_pairs import VisitedPairs

Game = Literal["logit", "probability"]

# Contexts on which policies over fresh contexts are evaluated; the same for every policy.
_EVALUATION_CONTEXTS = 512


@dataclass(frozen=True, eq=False, kw_only=True)
class Bandit:
    """A problem, the law of its labels, and the exact truth; a `World` that never changes.

    Attributes
    ----------
    name
        Name in tables and figures.
    problem
        What learners may know.
    oracle
        The law of the labels.
    reward
        The true reward, None where preferences have none (then ``game`` is set).
    game
        Payoff of the KL-regularised preference game, ``"logit"`` or ``"probability"``; None where
        the world is about rewards only.
    theta_star
        True parameters of a well-specified linear model, shape ``(R, p)`` or ``(1, p)``, or None.
    behaviour
        The law of both actions of offline pairs: a policy, or the coverage dial ``k`` in [0, 1] for
        ``(1 - k) pi0 + k pi*``.
    settings
        What the world was made from, for records.
    """

    name: str
    problem: FiniteProblem | FreshProblem
    oracle: PreferenceOracle
    reward: RewardModel | None = None
    game: Game | None = None
    theta_star: Array | None = None
    behaviour: Policy | float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.game is not None:
            check_choice("game", self.game, ("logit", "probability"))
        if self.reward is None and self.game is None:
            message = "A world needs a reward or a game; got neither."
            raise ValueError(message)
        if isinstance(self.behaviour, float | int):
            _check_coverage(self.behaviour)

    @property
    def n_replicas(self) -> int:
        """Number of replicas ``R``."""
        return self.problem.n_replicas

    @property
    def feedback(self) -> PairFeedback:
        """Labels drawn from the oracle: all that a learner gets to see of it."""
        return feedback_from(self.oracle)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what `evaluate` returns, the one that the world is about first."""
        names = ["gap", "jeffreys"] if self.reward is not None else []
        names += ["exploitability"] if self.game is not None else []
        return (*names, "kl")

    @cached_property
    def population(self) -> tuple[Contexts, Array]:
        """Contexts and weights on which policies are evaluated: all, or 512 fixed draws."""
        if isinstance(self.problem, FreshProblem):
            # One row for all replicas, so that a replica's value does not depend on its block.
            x = self.problem.shared_contexts(Key(0).child("evaluation"), _EVALUATION_CONTEXTS)
            return x, full_like((1, x.shape[1]), 1.0 / x.shape[1], x.like)
        return self.problem.population(Key(0), 0)

    @cached_property
    def log_pi_star(self) -> Array:
        """The optimal policy ``O(r*, eta, pi0)`` on the population, shape ``(R|1, B, A)``."""
        if self.reward is None:
            message = (
                f"World {self.name!r} has no reward, so no optimal policy; use its Nash policy."
            )
            raise ValueError(message)
        x, _ = self.population
        return gibbs_log_probs(self.reward.rewards(x), x.log_pi0, self.problem.eta)

    @cached_property
    def preferences(self) -> Array:
        """Win probabilities ``P(a beats b | x)`` on the population, shape ``(R|1, B, A, A)``."""
        return preference_matrix(self.oracle, self.population[0])

    @cached_property
    def logits(self) -> Array:
        """Logits of the win probabilities on the population, shape ``(R|1, B, A, A)``, skew."""
        return preference_logits(self.oracle, self.population[0])

    @cached_property
    def payoff(self) -> Array:
        """The payoff of the game on the population, shape ``(R|1, B, A, A)``, skew."""
        value = self.logits if self.game == "logit" else self.preferences - 0.5
        xp = namespace(value)
        return 0.5 * (value - xp.matrix_transpose(value))

    @cached_property
    def nash(self) -> Solution[Array]:
        """The equilibrium of the true game on the population, shape ``(R|1, B, A)``."""
        from rlhf_theory.planners.nash import nash_policy  # noqa: PLC0415

        return nash_policy(self.payoff, self.population[0].log_pi0, self.problem.eta)

    @property
    def optimum(self) -> Policy:
        """The policy that the world's metric calls best: of the reward, else of the game."""
        if self.reward is None:
            return TablePolicy(self.nash.value)
        return self.problem.tabulate(GibbsPolicy(self.reward, self.problem.eta))

    def evaluate(self, policy: Policy) -> dict[str, Array]:
        """Return exact metrics of a policy, each of shape ``(R,)``.

        ``gap`` (J(pi*) - J(pi)), ``jeffreys`` (the left side of the theorems, with the KL term)
        and ``kl`` (to pi0) in nats; ``exploitability`` where the world has a game.
        """
        x, weights = self.population
        log_pi = policy.log_probs(x)
        eta = self.problem.eta
        metrics = {"kl": mean_kl(log_pi, x.log_pi0, weights)}
        if self.reward is not None:
            gap = suboptimality(log_pi, self.log_pi_star, weights, eta)
            metrics["gap"] = gap
            metrics["jeffreys"] = gap + eta * mean_kl(self.log_pi_star, log_pi, weights)
        if self.game is not None:
            metrics["exploitability"] = exploitability(self.payoff, log_pi, x.log_pi0, weights, eta)
        return {name: expand_rows(value, self.n_replicas) for name, value in metrics.items()}

    def covering(self, coverage: float) -> Policy:
        """Return ``(1 - k) pi0 + k pi*`` for the coverage dial ``k`` in [0, 1]."""
        _check_coverage(coverage)
        if coverage == 0.0:
            return ReferencePolicy()
        return MixturePolicy((ReferencePolicy(), self.optimum), (1.0 - coverage, coverage))

    def offline_data(
        self,
        key: Key,
        pairs: int,
        *,
        behaviour: Policy | None = None,
        second: Policy | None = None,
        onto: PreferenceData | None = None,
    ) -> PreferenceData:
        """Return comparisons of two independent draws from a behaviour policy.

        Parameters
        ----------
        key
            Address of the draws.
        pairs
            Pairs drawn per replica; those with ``a1 = a2`` are no comparison. 0 gives ``onto``
            unchanged.
        behaviour
            Policy of the first action; that of the world by default.
        second
            Policy of the second action; the same as the first by default.
        onto
            Data to add to; empty by default.
        """
        data = self.problem.empty_data() if onto is None else onto
        if pairs == 0:
            return data
        first = self._behaviour if behaviour is None else behaviour
        other = first if second is None else second
        if isinstance(data, PairTable | VisitedPairs) and pairs > data.frame.n_cells:
            return self._counted(key, pairs, first, other, data.tabulated())
        r = self.n_replicas
        x = self.problem.sample_contexts(key.child("contexts"), pairs)
        a1 = categorical(first.log_probs(x), key.child("a1").uniform(r, pairs, like=x.like))
        a2 = categorical(other.log_probs(x), key.child("a2").uniform(r, pairs, like=x.like))
        return data.add(self.feedback(PairQuery(x, a1, a2), key.child("labels")))

    @cached_property
    def _behaviour(self) -> Policy:
        law = self.behaviour
        return self.covering(law) if isinstance(law, float | int) else law

    def _counted(
        self, key: Key, pairs: int, first: Policy, second: Policy, data: PairTable
    ) -> PreferenceData:
        """Draw counts of pairs and wins: the same law, at a cost free of their number."""
        x, weights = self.population
        p1, p2 = np.exp(to_numpy(first.log_probs(x))), np.exp(to_numpy(second.log_probs(x)))
        w, prob = to_numpy(weights), to_numpy(self.preferences)
        r, a = self.n_replicas, p1.shape[-1]
        i, j = np.triu_indices(a, k=1)
        joint = w[:, :, None, None] * p1[..., :, None] * p2[..., None, :]
        cells = (joint + np.swapaxes(joint, -1, -2))[..., i, j].reshape(joint.shape[0], -1)
        chance = prob[..., i, j].reshape(prob.shape[0], -1)
        count, wins = np.empty((r, cells.shape[1])), np.empty((r, cells.shape[1]))
        for row in range(r):
            generator = key.child("counts").generator(row)
            cell = cells[row if cells.shape[0] > 1 else 0]
            law = np.append(cell, max(0.0, 1.0 - cell.sum()))
            count[row] = generator.multinomial(pairs, law / law.sum())[:-1]
            wins[row] = generator.binomial(
                count[row].astype(np.int64), chance[row if chance.shape[0] > 1 else 0]
            )
        like = data.count
        return data.reweighted(data.count + as_like(count, like), data.wins + as_like(wins, like))

    def next(self, policy: Policy, key: Key) -> Bandit:  # noqa: ARG002
        """Return this world: a bandit does not change."""
        return self

    def block(self, first: int, stop: int) -> Bandit:
        """Return replicas ``first .. stop - 1``; what is shared stays shared."""
        return self._changed(self.problem.block(first, stop), lambda value: cut(value, first, stop))

    def to(self, like: Array) -> Bandit:
        """Return the same world in the array library, on the device and with the dtype of ``like``.

        Draws follow the key alone, so runs agree across libraries up to rounding.
        """
        return self._changed(
            self.problem.to(like), lambda value: each_array(value, lambda x: as_like(x, like))
        )

    def _changed(
        self, problem: FiniteProblem | FreshProblem, change: Callable[[object], Any]
    ) -> Bandit:
        """Return it with another problem, and with ``change`` made to all else that has arrays."""
        return replace(
            self,
            problem=problem,
            oracle=change(self.oracle),
            reward=change(self.reward),
            theta_star=change(self.theta_star),
            behaviour=change(self.behaviour),
        )

    def summary(self) -> dict[str, Any]:
        """Return what a reader should know: sizes, spread of win probabilities, KL of the optimum.

        ``warning`` is set when nearly all win probabilities are below .02 or above .98: labels are
        then almost deterministic, and the reward scale is to blame.
        """
        x, weights = self.population
        p = to_numpy(self.preferences)
        present = to_numpy(x.log_pi0) > -math.inf
        i, j = np.triu_indices(p.shape[-1], k=1)
        both = np.broadcast_to(
            present[..., i] & present[..., j],
            np.broadcast_shapes(p[..., i, j].shape, present[..., i].shape),
        )
        spread = np.broadcast_to(p[..., i, j], both.shape)[both]
        extreme = float(np.mean((spread < 0.02) | (spread > 0.98))) if spread.size else 0.0
        quantiles = np.quantile(spread, [0.05, 0.5, 0.95]) if spread.size else np.full(3, np.nan)
        facts: dict[str, Any] = {
            "name": self.name,
            "replicas": self.n_replicas,
            "contexts": x.shape[1],
            "actions": x.shape[2],
            "dim": self.problem.dim,
            "eta": self.problem.eta,
            "win_probability_quantiles": [float(q) for q in quantiles],
            "share_of_extreme_pairs": extreme,
            "intransitivity": float(np.mean(to_numpy(intransitivity_index(self.logits)))),
        }
        best = self.log_pi_star if self.reward is not None else self.nash.value
        facts["optimum_kl"] = float(np.mean(to_numpy(mean_kl(best, x.log_pi0, weights))))
        if extreme > 0.9:
            facts["warning"] = (
                f"{extreme:.0%} of the win probabilities are below .02 or above .98: labels are "
                "nearly deterministic. Lower the norm of theta* or the label scale."
            )
        return facts


def _check_coverage(coverage: float) -> None:
    if not 0.0 <= coverage <= 1.0:
        message = f"coverage must lie in [0, 1]; got {coverage}."
        raise ValueError(message)


def arguments_of(world: Callable[..., Bandit], values: Mapping[str, object]) -> dict[str, Any]:
    """Return those of the values that are arguments of a world and not what the study gives.

    Of ``locals()``, first thing in a world, they are its `Bandit.settings`.
    """
    names = inspect.signature(world).parameters
    return {k: v for k, v in values.items() if k in names and k != "replicas"}


def one_context(
    phi: np.ndarray, eta: float, replicas: int, log_pi0: np.ndarray | None = None
) -> FiniteProblem:
    """Return the problem of one context with features ``(A, d)``; pi0 ``(A,)`` is uniform unset."""
    n = phi.shape[0]
    reference = np.full(n, -math.log(n)) if log_pi0 is None else log_pi0
    return FiniteProblem(phi[None, None], reference[None, None], np.ones((1, 1)), eta, replicas)


def each_array(value: object, change: Callable[[Array], Array]) -> Any:
    """Return a copy of a model with ``change`` applied to every array in its fields."""
    if isinstance(value, list | tuple):
        return type(value)(each_array(v, change) for v in value)
    if getattr(value, "shape", ()):  # NumPy's scalars are numbers, not arrays
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {
            f.name: each_array(getattr(value, f.name), change) for f in fields(value) if f.init
        }
        return replace(value, **parts)
    return value


def cut(value: object, first: int, stop: int) -> Any:
    """Return replicas ``first .. stop - 1`` of a model; what is shared stays shared."""
    return each_array(value, lambda x: x if x.shape[0] == 1 else x[first:stop, ...])
