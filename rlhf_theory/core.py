"""Protocols that link the layers, and the result of a solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from rlhf_theory.arrays import Array, full_like, namespace, to_numpy
from rlhf_theory.data import Comparisons, Contexts, PairQuery, PreferenceData
from rlhf_theory.errors import ConvergenceError
from rlhf_theory.randomness import Key
from rlhf_theory.register import asked_by

T = TypeVar("T")
S = TypeVar("S")
Model_contra = TypeVar("Model_contra", contravariant=True)
Query_contra = TypeVar("Query_contra", contravariant=True)
Record_co = TypeVar("Record_co", covariant=True)


@dataclass(frozen=True, eq=False)
class Solution(Generic[T]):
    """The outcome of an iterative solver.

    Attributes
    ----------
    value
        What was asked for.
    residual
        How far from solved, shape ``(R,)``; its solver says in which unit. Closed forms have 0.
    converged
        Whether the residual is below the solver's tolerance, shape ``(R,)``.
    n_iter
        Iterations of the slowest replica.
    hint
        What to do where a replica did not converge.
    warm
        What the same solver may reuse at its next call; opaque.
    """

    value: T
    residual: Array
    converged: Array
    n_iter: int = 0
    hint: str = ""
    warm: Any = None

    def given(self, other: Solution[Any]) -> Solution[T]:
        """Return this solution, converged where both are, with the larger residual.

        For a plan that rests on a fit: ``plan.given(fit)``.
        """
        xp = namespace(self.residual, other.residual)
        return replace(
            self,
            residual=xp.maximum(self.residual, other.residual),
            converged=self.converged & other.converged,
            hint=" ".join(h for h in (self.hint, other.hint) if h),
        )

    @property
    def message(self) -> str:
        """An empty string where all replicas converged, else which did not and what to do."""
        failed = [int(r) for r in (~to_numpy(self.converged)).nonzero()[0]]
        if not failed:
            return ""
        shown = ", ".join(map(str, failed[:8])) + (" ..." if len(failed) > 8 else "")
        worst = float(to_numpy(self.residual)[failed].max())
        text = f"Replicas {shown} did not converge in {self.n_iter} iterations"
        return f"{text} (largest residual {worst:.1e}). {self.hint}".rstrip()

    def require(self) -> T:
        """Return the value; raise ``ConvergenceError`` if a replica did not converge."""
        if message := self.message:
            raise ConvergenceError(message)
        return self.value


def closed_form(value: T, n_replicas: int, like: Array) -> Solution[T]:
    """Return a solution that needed no iteration: residual 0, converged."""
    zero = full_like((n_replicas,), 0.0, like)
    return Solution(value, zero, zero == 0.0)


@asked_by("policy")
@runtime_checkable
class Policy(Protocol):
    """A conditional distribution over the actions of a context."""

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``; ``-inf`` for absent actions."""
        ...


@runtime_checkable
class RewardModel(Protocol):
    """A reward for every action."""

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``."""
        ...


@runtime_checkable
class PreferenceModel(Protocol):
    """A preference strength for every pair of actions."""

    def payoff(self, contexts: Contexts) -> Array:
        """Return payoffs to the first action, shape ``(R, B, A, A)``.

        Skew-symmetric unless the model is a pessimistic version of another.
        """
        ...


@runtime_checkable
class PreferenceOracle(Protocol):
    """The law of the labels; for evaluation and for `Feedback` only."""

    def prob(self, contexts: Contexts, a1: Array, a2: Array) -> Array:
        """Return the probability that ``a1`` wins, shape ``(R, B)``."""
        ...


@runtime_checkable
class Record(Protocol):
    """A query with its labels; the law of the labels decides what both look like."""

    @property
    def labels(self) -> Array:
        """Labels given per replica, shape ``(R,)`` or ``(1,)``."""
        ...


@runtime_checkable
class Feedback(Protocol[Query_contra, Record_co]):
    """Labels on request: all that an algorithm gets."""

    def __call__(self, query: Query_contra, key: Key) -> Record_co:
        """Return the record that answers a query: what was asked, with its labels."""
        ...


PairFeedback: TypeAlias = Feedback[PairQuery, Comparisons]
"""Feedback that compares two actions."""


@runtime_checkable
class Problem(Protocol):
    """What a learner may know."""

    @property
    def n_replicas(self) -> int:
        """Number of replicas ``R``."""
        ...

    @property
    def dim(self) -> int:
        """Number of features ``d``."""
        ...

    @property
    def eta(self) -> float:
        """Weight of the KL in the objective ``E[r] - eta KL(pi || pi0)``."""
        ...

    def sample_contexts(self, key: Key, n: int) -> Contexts:
        """Draw ``n`` contexts per replica."""
        ...

    def population(self, key: Key, n: int) -> tuple[Contexts, Array]:
        """Return contexts and weights ``(R, B)`` whose sums are expectations over contexts.

        All contexts with their probabilities where they are finite, else ``n`` draws with
        ``1 / n``.
        """
        ...

    def empty_data(self) -> PreferenceData:
        """Return data without comparisons, in the form that suits the problem."""
        ...

    def tabulate(self, policy: Policy) -> Policy:
        """Return the policy with its log-probabilities computed, where contexts are finite."""
        ...


@asked_by("planner")
class Planner(Protocol[Model_contra]):
    """A planning oracle: from a reward or preference model to a policy."""

    def __call__(
        self, model: Model_contra, problem: Problem, key: Key, start: Policy | None
    ) -> Solution[Policy]:
        """Return the policy planned for ``model``; ``start`` may warm-start the search."""
        ...


@runtime_checkable
class ConfidenceSet(Protocol):
    """A set of parameters around an estimate."""

    @property
    def center(self) -> Array:
        """The estimate, shape ``(R, d)``."""
        ...

    def lower(self, v: Array) -> Array:
        """Return the minimum of ``<v, theta>`` over the set; ``(R, ..., d)`` to ``(R, ...)``."""
        ...

    def upper(self, v: Array) -> Array:
        """Return the maximum of ``<v, theta>`` over the set; ``(R, ..., d)`` to ``(R, ...)``."""
        ...

    def contains(self, theta: Array) -> Array:
        """Return whether ``theta`` ``(R, d)`` lies in the set, shape ``(R,)``."""
        ...


@asked_by("enhancer")
@runtime_checkable
class Enhancer(Protocol):
    """A rule for exploring around the main agent."""

    def __call__(
        self, problem: Problem, pi1: Policy, confidence: ConfidenceSet, key: Key
    ) -> Policy:
        """Return the policy of the second action; ``pi1`` is that of the first."""
        ...


@asked_by("radius")
class Radius(Protocol):
    """A rule for the radius of a confidence ellipsoid."""

    def __call__(self, data: PreferenceData, problem: Problem) -> Array:
        """Return ``beta``, shape ``(R,)``."""
        ...


@runtime_checkable
class OfflineAlgorithm(Protocol):
    """A learner that gets its data at once."""

    def __call__(self, problem: Problem, data: PreferenceData, key: Key) -> Solution[Policy]:
        """Return the learnt policy."""
        ...


@runtime_checkable
class OnlineAlgorithm(Protocol[S]):
    """An online learner: pure functions of an explicit state."""

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> S:
        """Return the state fitted to offline data (possibly empty), before the first round."""
        ...

    def step(
        self, state: S, problem: Problem, feedback: PairFeedback, key: Key
    ) -> tuple[S, Mapping[str, Array]]:
        """Play one round, fit and plan; return the new state and what to record."""
        ...

    def policy(self, state: S) -> Policy:
        """Return the policy planned from all data of ``state``; computes nothing."""
        ...


@runtime_checkable
class World(Protocol):
    """A problem, labels on request, and a judge; over bandits and over prompts alike.

    Learners see the problem and the feedback. The runner evaluates what they deploy.
    """

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the world was made from, for records."""
        ...

    @property
    def n_replicas(self) -> int:
        """Number of replicas ``R``."""
        ...

    @property
    def problem(self) -> Problem:
        """What a learner may know."""
        ...

    @property
    def feedback(self) -> Feedback[Any, Record]:
        """The law of the labels, on request; it owns its query and its record."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what `evaluate` returns, the one that the world is about first."""
        ...

    def evaluate(self, policy: Policy) -> Mapping[str, Array]:
        """Return metrics of a policy, each of shape ``(R,)``."""
        ...

    def offline_data(self, key: Key, queries: int, /, *, onto: Any = None) -> Any:
        """Return the answers to ``queries`` queries of the world's own law, added to ``onto``.

        Draws follow the key alone. 0 returns ``onto``, or the problem's empty data, unchanged.
        """
        ...

    def block(self, first: int, stop: int) -> World:
        """Return replicas ``first .. stop - 1``; what is shared stays shared."""
        ...

    def next(self, policy: Policy, key: Key) -> World:
        """Return the world of the next round, in which ``policy`` is about to be played.

        A bandit returns itself; pools of responses may follow the policy, a reward may drift. Draws
        follow the key alone, so that they do not depend on the cut into blocks.
        """
        ...
