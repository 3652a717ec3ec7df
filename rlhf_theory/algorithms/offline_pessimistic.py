"""Offline learners that plan with one linear estimate: greedily, or with its lower bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.core import (
    ConfidenceSet,
    Planner,
    Policy,
    Problem,
    RewardModel,
    Solution,
)
from rlhf_theory.data import Contexts, PreferenceData
from rlhf_theory.errors import check_choice, check_nonnegative
from rlhf_theory.estimators.confidence import ConfidenceRule, Constant
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.features import mean_feature
from rlhf_theory.planners.gibbs import Gibbs
from rlhf_theory.planners.option_one import ConfidenceEllipsoid, ExpectedLowerBound, OptionOne
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.roles import learner


@dataclass(frozen=True, eq=False)
class LowerBound:
    """The reward ``min <theta, phi(x, a) - nu(x)>`` over a confidence set.

    Attributes
    ----------
    confidence
        Ellipsoid or likelihood set.
    reference
        The policy whose mean feature is ``nu(x)``; pi0 unless set.
    """

    confidence: ConfidenceSet
    reference: Policy = field(default_factory=ReferencePolicy)

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``."""

        def lower(c: Contexts) -> Array:
            # Comparisons reveal rewards up to a constant per context, so measure from a policy.
            nu = mean_feature(c, self.reference.log_probs(c))
            return self.confidence.lower(c.phi - nu[:, :, None, :])

        return contexts.lookup(lower)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A reward where there are labels, 0 in replicas that have none.

    Attributes
    ----------
    reward
        The reward.
    n_labels
        Labels per replica, shape ``(R,)``.
    """

    reward: RewardModel
    n_labels: Array

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``."""
        r = self.reward.rewards(contexts)
        xp = namespace(r)
        return xp.where((self.n_labels > 0)[:, None, None], r, xp.zeros_like(r))


@learner("offline-greedy", {}, {"theta_bound": 1.0})
@dataclass(frozen=True, eq=False, kw_only=True)
class OfflineGreedy:
    """Maximum likelihood, then the Gibbs oracle.

    The policy is ``pi = O(<theta_hat, phi>, eta, pi0)``.

    Attributes
    ----------
    lam
        Ridge of the estimate, used where there is no ``theta_bound``.
    theta_bound
        Fit over ``|theta| <= theta_bound`` without ridge; None for the ridge fit.
    scale
        Known scale ``s`` of the labels.
    planner
        Planning oracle.

    Source: [2301.11270], the MLE policy that Theorem 3.9 is about; [2312.11456], the oracle.
    """

    lam: float = 1.0
    theta_bound: float | None = None
    scale: float = 1.0
    planner: Planner[RewardModel] = field(default_factory=Gibbs)

    def __post_init__(self) -> None:
        check_nonnegative("lam", self.lam)

    def __call__(self, problem: Problem, data: PreferenceData, key: Key) -> Solution[Policy]:
        """Return the greedy policy; without data it is pi0."""
        ridge = self.lam if self.theta_bound is None else 0.0
        fit = bradley_terry_mle(data, ridge=ridge, bound=self.theta_bound, scale=self.scale)
        plan = self.planner(LinearReward(fit.value), problem, key.child("plan"), None)
        return plan.given(fit)


@learner(
    "offline-pessimistic",
    {"radius": {"kind": "constant", "beta": 0.5}},
    {"radius": {"kind": "constant", "beta": 0.5}, "option": "I"},
    {"radius": {"kind": "scaled", "multiplier": 0.3, "rule": "marginal-likelihood"}},
    {"radius": "likelihood-ratio"},
)
@dataclass(frozen=True, eq=False, kw_only=True)
class OfflinePessimistic:
    r"""Plan with the lower bound of a confidence set, Options I and II.

    Option II takes it per action,

    .. math:: \hat\pi = O(\hat r, \eta, \pi_0), \qquad \hat r(x,a) =
              \langle\hat\theta, \varphi(x,a) - \nu(x)\rangle
              - \beta \lVert \varphi(x,a) - \nu(x) \rVert_{\Sigma^{-1}},

    Option I once for the whole policy,

    .. math:: \hat\pi = \arg\max_\pi \langle\hat\theta, v_\pi\rangle
              - \beta \lVert v_\pi \rVert_{\Sigma^{-1}} - \eta\,\mathrm{KL}(\pi \Vert \pi_0), \qquad
              v_\pi = E_x[\varphi(x,\pi) - \nu(x)].

    Departures from the paper: ``nu(x) = phi(x, pi0)`` unless ``reference`` says otherwise; the
    radius has the explicit constants of a rule instead of ``c sqrt(d)``, and in Option II the set
    may be a likelihood set; a replica without any label gets pi0 in Option II too, where the
    formula would still prefer actions with features near ``nu``.

    Attributes
    ----------
    radius
        Rule for the confidence set, with the bound on ``|theta*|`` and the scale of the labels;
        ``Scaled`` makes the bonus smaller. With radius 0 both options are `OfflineGreedy`.
    option
        ``"II"`` (the talk's) or ``"I"``, which needs an ellipsoid.
    reference
        The policy from which the bonus is measured.
    planner
        Planning oracle for the lower bound; None takes `Gibbs` for Option II, `OptionOne` for I.

    Source: [2312.11456], Algorithm 1, Options I and II.
    """

    radius: ConfidenceRule = field(default_factory=lambda: Constant(beta=1.0))
    option: Literal["I", "II"] = "II"
    reference: Policy = field(default_factory=ReferencePolicy)
    planner: Planner[Any] | None = None

    def __post_init__(self) -> None:
        check_choice("option", self.option, ("I", "II"))

    def __call__(self, problem: Problem, data: PreferenceData, key: Key) -> Solution[Policy]:
        """Return the pessimistic policy; without data it is pi0."""
        fit = self.radius.fit(data)
        confidence = self.radius.confidence_set(fit, data, problem)
        if self.option == "I":
            planner = self.planner or OptionOne()
            model: Any = _expected(confidence, self.reference)
        else:
            planner = self.planner or Gibbs()
            model = Labelled(LowerBound(confidence, self.reference), data.n_labels)
        return planner(model, problem, key.child("plan"), None).given(fit)


def _expected(confidence: ConfidenceSet, reference: Policy) -> ExpectedLowerBound:
    if not isinstance(confidence, ConfidenceEllipsoid):
        message = (
            "Option I needs a confidence ellipsoid (center, sigma, beta); got "
            f"{type(confidence).__name__}. Use option='II' for likelihood sets."
        )
        raise ValueError(message)
    return ExpectedLowerBound(confidence, reference)
