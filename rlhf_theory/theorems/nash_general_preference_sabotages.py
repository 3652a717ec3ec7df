"""Wrong algorithms for the sabotages of ``nash-general-preference``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rlhf_theory.algorithms.enhancers import OnPolicy
from rlhf_theory.algorithms.game_enhancers import InformationRatio
from rlhf_theory.algorithms.nash_game import NashGame
from rlhf_theory.algorithms.offline_nash import OfflinePessimisticNash, PessimisticPreference
from rlhf_theory.arrays import Array, namespace
from rlhf_theory.core import OfflineAlgorithm, Planner, Policy, PreferenceModel, Problem, Solution
from rlhf_theory.data import Contexts
from rlhf_theory.estimators.confidence import Scaled
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.policies import FunctionPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.theorems import online_sabotages
from rlhf_theory.theorems.card import Sweep
from rlhf_theory.theorems.online_sabotages import OtherPenalty, misled, sabotaged_rule
from rlhf_theory.theorems.sabotaged_learners import misreads

RIGHT: Sweep = {**online_sabotages.RIGHT, "bonus_flipped": False, "one_step": False}
"""Settings of a sweep that change nothing: as for the other online learners, and whether the bonus
is added, and whether planning stops after one step."""


def sabotaged_game(learner: Any, sweep: Sweep) -> Any:
    """Return an online learner of a game as the sweep has it wrong."""
    if not isinstance(learner, NashGame):
        return learner
    enhancer = learner.enhancer
    if not sweep["explores"] and isinstance(enhancer, InformationRatio):
        enhancer = OnPolicy()
    found = replace(
        learner,
        enhancer=enhancer,
        planner=_planner(learner.planner, sweep),
        radius=sabotaged_rule(learner.radius, sweep),
    )
    return misled(found, sweep)


def sabotaged_pessimist(learner: OfflinePessimisticNash, sweep: Sweep) -> OfflineAlgorithm:
    """Return the offline learner of a game as the sweep has it wrong."""
    planner = _planner(learner.planner, sweep)
    if sweep["bonus_flipped"]:
        planner = _Flipped(planner)
    radius = learner.radius
    if sweep["radius_factor"] != 1.0:
        radius = Scaled(radius, sweep["radius_factor"])
    return misreads(replace(learner, planner=planner, radius=radius), sweep["misread"])


def _planner(planner: Planner[PreferenceModel], sweep: Sweep) -> Planner[PreferenceModel]:
    if sweep["one_step"]:
        planner = _OneStep(planner)
    factor = sweep["planning_factor"]
    return planner if factor == 1.0 else OtherPenalty(planner, factor)


@dataclass(frozen=True)
class _OptimisticPreference:
    model: PessimisticPreference

    def payoff(self, contexts: Contexts) -> Array:
        """Return the payoff with the bonus added."""
        return self.model.payoff(contexts) + 2.0 * self.model.bonus(contexts)


@dataclass(frozen=True)
class _Flipped:
    """A planner that adds the bonus which a pessimist subtracts."""

    planner: Planner[Any]

    def __call__(
        self, model: Any, problem: Problem, key: Key, start: Policy | None = None
    ) -> Solution[Policy]:
        return self.planner(_OptimisticPreference(model), problem, key, start)


@dataclass(frozen=True)
class _OneStep:
    """A planner that answers with the best reply to pi0, and says that it has solved the game."""

    planner: Planner[Any]

    def __call__(
        self, model: Any, problem: Problem, key: Key, start: Policy | None = None
    ) -> Solution[Policy]:
        def reply(c: Contexts) -> Array:
            xp = namespace(c.log_pi0)
            against = xp.matmul(model.payoff(c), xp.exp(c.log_pi0)[..., None])[..., 0]
            return gibbs_log_probs(against, c.log_pi0, problem.eta)

        plan = self.planner(model, problem, key, start)
        return replace(plan, value=problem.tabulate(FunctionPolicy(reply)))
