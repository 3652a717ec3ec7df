"""Offline learners that are pessimistic through an ensemble: its minimum, or its variance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.core import Planner, Policy, Problem, RewardModel, Solution
from rlhf_theory.data import PreferenceData
from rlhf_theory.errors import check_count, check_nonnegative
from rlhf_theory.estimators.ensembles import EnsembleReward, RewardEnsemble, bootstrap_ensemble
from rlhf_theory.planners.gibbs import Gibbs
from rlhf_theory.randomness import Key
from rlhf_theory.roles import learner


@dataclass(frozen=True, eq=False, kw_only=True)
class _Ensemble(ABC):
    """Fit an ensemble and plan with what its members are combined to."""

    n_members: int = 5
    lam: float = 1.0
    theta_bound: float | None = None
    scale: float = 1.0
    planner: Planner[RewardModel] = field(default_factory=Gibbs)

    def __post_init__(self) -> None:
        check_count("n_members", self.n_members)
        check_nonnegative("lam", self.lam)

    def __call__(self, problem: Problem, data: PreferenceData, key: Key) -> Solution[Policy]:
        """Return the policy; without data it is pi0."""
        ensemble = bootstrap_ensemble(
            data,
            key.child("ensemble"),
            n_members=self.n_members,
            ridge=self.lam if self.theta_bound is None else 0.0,
            bound=self.theta_bound,
            scale=self.scale,
        )
        model = self._model(ensemble.value)
        return self.planner(model, problem, key.child("plan"), None).given(ensemble)

    @abstractmethod
    def _model(self, ensemble: RewardEnsemble) -> EnsembleReward:
        """Return the reward to plan with."""


@learner("ensemble-minimum")
@dataclass(frozen=True, eq=False, kw_only=True)
class EnsembleMinimum(_Ensemble):
    r"""Plan with the smallest member of an ensemble, action by action (worst-case optimisation).

    .. math:: \hat r = \bar r - c\, (\bar r - \min_k r_k), \qquad
              r_k(x,a) = \langle\theta_k, \varphi(x,a) - \varphi(x,\pi_0)\rangle

    Departures from the paper: members are Bayesian bootstraps of one linear model, where the paper
    trains networks from several seeds (which here would be one vector); each is measured from pi0
    before the minimum is taken; ``multiplier`` ``c`` other than 1 is not in the paper.

    Attributes
    ----------
    n_members
        ``K``. Five members are 1.16 standard deviations of pessimism.
    multiplier
        ``c``: 1 is the minimum, 0 the mean.
    lam
        Ridge of the members, used where there is no ``theta_bound``.
    theta_bound
        Fit members over ``|theta| <= theta_bound`` without ridge; None for the ridge.
    scale
        Known scale ``s`` of the labels.
    planner
        Planning oracle.

    Source: [2310.02743], WCO.
    """

    multiplier: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("multiplier", self.multiplier)

    def _model(self, ensemble: RewardEnsemble) -> EnsembleReward:
        def combine(r: Array) -> Array:
            xp = namespace(r)
            mean = xp.mean(r, axis=-1)
            return mean - self.multiplier * (mean - xp.min(r, axis=-1))

        return EnsembleReward(ensemble.thetas, combine)


@learner("uncertainty-weighted")
@dataclass(frozen=True, eq=False, kw_only=True)
class UncertaintyWeighted(_Ensemble):
    r"""Plan with the mean of an ensemble minus a multiple of its variance (UWO).

    .. math:: \hat r = \bar r - w \operatorname{Var}_k r_k

    Departures from the paper: as for `EnsembleMinimum`. The bonus is a variance, so it falls like
    ``1/n``, faster than every confidence width, and its size depends on the unit of the reward.

    Attributes
    ----------
    weight
        ``w``, the bonus multiplier; the paper has 0.5 for best-of-n and 0.1 for PPO.
    ddof
        The variance divides by ``K - ddof``; the paper's code has 0 for best-of-n, 1 for PPO.
    n_members, lam, theta_bound, scale, planner
        As in `EnsembleMinimum`.

    Source: [2310.02743], UWO.
    """

    weight: float = 0.5
    ddof: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("weight", self.weight)
        if self.ddof not in (0, 1) or self.n_members <= self.ddof:
            message = f"ddof must be 0 or 1 and below n_members={self.n_members}; got {self.ddof}."
            raise ValueError(message)

    def _model(self, ensemble: RewardEnsemble) -> EnsembleReward:
        return ensemble.uncertainty_weighted(self.weight, self.ddof)
