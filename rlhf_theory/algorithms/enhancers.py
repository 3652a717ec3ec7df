"""Enhancers: which policy explores around the main agent of an online learner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rlhf_theory.arrays import Array
from rlhf_theory.core import ConfidenceSet, Policy, Problem, Solution
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_choice, check_nonnegative, check_positive
from rlhf_theory.planners.enhancer import (
    Enhancement,
    constrained_enhancer,
    most_uncertain,
    penalised_enhancer,
)
from rlhf_theory.planners.option_one import ConfidenceEllipsoid
from rlhf_theory.policies import (
    FunctionPolicy,
    ReferencePolicy,
    uniform_log_probs,
)
from rlhf_theory.randomness import Key
from rlhf_theory.roles import enhancer

Form = Literal["constrained", "penalised", "free"]
Features = Callable[[Contexts, Array], Array]


def _phi(contexts: Contexts, log_pi1: Array) -> Array:  # noqa: ARG001
    return contexts.phi


def require_ellipsoid(confidence: ConfidenceSet) -> ConfidenceEllipsoid:
    """Return the confidence set, known to be an ellipsoid; raise ``ValueError`` if it is none."""
    if not isinstance(confidence, ConfidenceEllipsoid):
        message = (
            "The bonus of an enhancer needs a confidence ellipsoid (center, sigma, beta); got "
            f"{type(confidence).__name__}. Take a radius rule with form='ellipsoid'."
        )
        raise ValueError(message)
    return confidence


def enhance(
    problem: Problem,
    pi1: Policy,
    confidence: ConfidenceSet,
    key: Key,
    *,
    form: Form = "constrained",
    features: Features = _phi,
    contexts: int = 256,
    n_random: int = 4,
    axes: bool = True,
    start: Array | None = None,
    tol: float = 1e-10,
) -> Solution[Enhancement]:
    """Search for the enhancer on the population of a problem.

    Parameters
    ----------
    problem
        What the learner knows.
    pi1
        The main agent.
    confidence
        An ellipsoid around the estimate.
    key
        Address of the contexts (where they are not finite) and of the random starts.
    form
        ``"constrained"``, ``"penalised"`` or ``"free"``: `constrained_enhancer`,
        `penalised_enhancer`, `most_uncertain`.
    features
        From contexts and the main agent's log-probabilities to features; ``phi`` unless set.
    contexts
        Contexts drawn for the expectation where they are not finite.
    n_random, axes, start, tol
        As in `constrained_enhancer`.
    """
    check_choice("form", form, ("constrained", "penalised", "free"))
    ball = require_ellipsoid(confidence)
    x, weights = problem.population(key.child("contexts"), contexts)
    log_pi1 = pi1.log_probs(x)
    given = (features(x, log_pi1), log_pi1, weights, ball.sigma, ball.beta)
    more = {"n_random": n_random, "axes": axes, "start": start, "tol": tol}
    starts = key.child("starts")
    if form == "free":
        return most_uncertain(*given, key=starts, **more)  # type: ignore[arg-type]
    search = constrained_enhancer if form == "constrained" else penalised_enhancer
    return search(*given, problem.eta, key=starts, **more)  # type: ignore[arg-type]


def objective_of(found: Solution[Enhancement]) -> Solution[Array]:
    """Return the maximum itself, shape ``(R,)``; ``warm`` is the direction, a later ``start``."""
    best = found.value
    return Solution(
        best.objective, found.residual, found.converged, found.n_iter, found.hint, best.direction
    )


@enhancer(
    "optimistic",
    {"n_random": 1, "contexts": 16},
    {"form": "penalised", "n_random": 1, "contexts": 16},
    model="reward",
)
@dataclass(frozen=True, kw_only=True)
class Optimistic:
    r"""The most uncertain policy among those that may still be optimal.

    .. math:: \pi_2 = \arg\max_{\pi' :\, \eta E_x KL(\pi' \Vert \pi_1) \le \Gamma(\pi')}
              \Gamma(\pi'), \qquad
              \Gamma(\pi') = \beta \lVert E\varphi(\pi') - E\varphi(\pi_1) \rVert_{\Sigma^{-1}}

    Departures from the paper: none in the constrained form, up to a maximum that is global only as
    far as the starts of the search reach; the penalised form maximises ``Gamma - eta KL`` instead,
    and its ``Gamma`` bounds nothing (theory sheet 1.3).

    Attributes
    ----------
    form
        ``"constrained"`` (the paper's), ``"penalised"``, or ``"free"`` over all policies.
    n_random
        Random starts, beside the principal axes.
    contexts
        Contexts drawn for the expectation where they are not finite.
    tol
        Tolerance of the search.

    Source: [2405.07863], equation (8); [2312.11456], Algorithm 2, Option I.
    """

    form: Form = "constrained"
    n_random: int = 4
    contexts: int = 256
    tol: float = 1e-10

    def __post_init__(self) -> None:
        check_choice("form", self.form, ("constrained", "penalised", "free"))
        check_nonnegative("n_random", self.n_random)
        check_positive("contexts", self.contexts)
        check_positive("tol", self.tol)

    def __call__(
        self, problem: Problem, pi1: Policy, confidence: ConfidenceSet, key: Key
    ) -> Policy:
        """Return the policy of the second action."""
        found = enhance(
            problem,
            pi1,
            confidence,
            key,
            form=self.form,
            contexts=self.contexts,
            n_random=self.n_random,
            tol=self.tol,
        )
        # A search that ended early explores a little less; nothing that is claimed rests on it.
        best = found.value
        return problem.tabulate(FunctionPolicy(lambda c: best.on(c.phi, pi1.log_probs(c))))


class _Simple(ABC):
    """An enhancer that depends on the main agent at most, not on what is uncertain."""

    def __call__(
        self,
        problem: Problem,  # noqa: ARG002
        pi1: Policy,
        confidence: ConfidenceSet,  # noqa: ARG002
        key: Key,  # noqa: ARG002
    ) -> Policy:
        """Return the policy of the second action."""
        return self._policy(pi1)

    @abstractmethod
    def _policy(self, pi1: Policy) -> Policy:
        """Return it, for a main agent."""


@enhancer("from-reference")
@dataclass(frozen=True)
class FromReference(_Simple):
    """The reference policy pi0 explores: the hybrid algorithm.

    Source: [2312.11456], Algorithm 2, Option II.
    """

    def _policy(self, pi1: Policy) -> Policy:  # noqa: ARG002
        return ReferencePolicy()


@enhancer("on-policy")
@dataclass(frozen=True)
class OnPolicy(_Simple):
    """The main agent meets itself: plain online iterative training, a baseline."""

    def _policy(self, pi1: Policy) -> Policy:
        return pi1


@enhancer("uniform")
@dataclass(frozen=True)
class Uniform(_Simple):
    """Uniform over the actions that are present, whatever has been learnt: a baseline."""

    def _policy(self, pi1: Policy) -> Policy:  # noqa: ARG002
        return FunctionPolicy(lambda c: uniform_log_probs(c.log_pi0))
