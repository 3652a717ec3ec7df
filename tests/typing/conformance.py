"""Implementations assigned to their protocols: read by mypy, never run.

What has a name is not here: learners, enhancers, confidence rules, policies and losses are held to
their protocols by the decorators that name them, in `rlhf_theory.roles` and `rlhf_theory.losses`.
"""

from __future__ import annotations

from rlhf_theory.algorithms.offline_nash import PessimisticPreference
from rlhf_theory.algorithms.offline_pessimistic import (
    Labelled,
    LowerBound,
)
from rlhf_theory.core import (
    ConfidenceSet,
    PairFeedback,
    Planner,
    Policy,
    PreferenceModel,
    PreferenceOracle,
    Problem,
    RewardModel,
    World,
)
from rlhf_theory.data import PairList, PairTable, PreferenceData
from rlhf_theory.designs import Design, LaplacianRows, Rows
from rlhf_theory.estimators.confidence import (
    ConfidenceRule,
    DesignRule,
    Ellipsoid,
    LikelihoodRule,
    LikelihoodSet,
)
from rlhf_theory.estimators.ensembles import EnsembleReward
from rlhf_theory.oracles import (
    AnnotatorMixture,
    BradleyTerry,
    GeneralPreference,
    feedback_from,
)
from rlhf_theory.planners.argmax import Argmax
from rlhf_theory.planners.best_of_n import BestOfN, BestOfNPolicy
from rlhf_theory.planners.chi_squared import ChiSquared
from rlhf_theory.planners.gibbs import Gibbs, GibbsPolicy
from rlhf_theory.planners.matrix_game import UnregularisedNash
from rlhf_theory.planners.nash import Nash, NashPolicy
from rlhf_theory.planners.option_one import ExpectedLowerBound, OptionOne
from rlhf_theory.planners.saddle import PessimisticNash
from rlhf_theory.policies import (
    FunctionPolicy,
    MixturePolicy,
    ReferencePolicy,
    SolvedPolicy,
    TablePolicy,
)
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.rewards import (
    LinearReward,
    ProbabilityPreference,
    RewardDifference,
    SkewBilinear,
    TablePreference,
    TableReward,
)
from rlhf_theory.visited_pairs import VisitedPairs
from rlhf_theory.worlds.bandit import Bandit
from rlhf_theory.worlds.misspecified_worlds import TanhReward


def bandits(bandit: Bandit) -> list[World]:
    return [bandit]


def problems(finite: FiniteProblem, fresh: FreshProblem) -> list[Problem]:
    return [finite, fresh]


def designs(rows: Rows, laplacian: LaplacianRows) -> list[Design]:
    return [rows, laplacian]


def preference_data(table: PairTable, visited: VisitedPairs, grown: PairList) -> None:
    first: PreferenceData = table
    second: PreferenceData = visited
    third: PreferenceData = grown
    del first, second, third


def rewards(
    linear: LinearReward,
    table: TableReward,
    ensemble: EnsembleReward,
    lower: LowerBound,
    labelled: Labelled,
    tanh: TanhReward,
) -> list[RewardModel]:
    return [linear, table, ensemble, lower, labelled, tanh]


def preferences(
    difference: RewardDifference,
    skew: SkewBilinear,
    probability: ProbabilityPreference,
    table: TablePreference,
    pessimistic: PessimisticPreference,
) -> list[PreferenceModel]:
    return [difference, skew, probability, table, pessimistic]


def oracles(
    bradley_terry: BradleyTerry, general: GeneralPreference, mixture: AnnotatorMixture
) -> list[PreferenceOracle]:
    return [bradley_terry, general, mixture]


def feedback(oracle: PreferenceOracle) -> PairFeedback:
    return feedback_from(oracle)


def policies(
    table: TablePolicy,
    function: FunctionPolicy,
    reference: ReferencePolicy,
    mixture: MixturePolicy,
    gibbs: GibbsPolicy,
    best_of_n: BestOfNPolicy,
    nash: NashPolicy,
    solved: SolvedPolicy,
) -> list[Policy]:
    return [table, function, reference, mixture, gibbs, best_of_n, nash, solved]


def confidence_sets(ellipsoid: Ellipsoid, likelihood: LikelihoodSet) -> list[ConfidenceSet]:
    return [ellipsoid, likelihood]


def rules(design: DesignRule, likelihood: LikelihoodRule) -> list[ConfidenceRule]:
    return [design, likelihood]


def reward_planners() -> list[Planner[RewardModel]]:
    return [Gibbs(), Argmax(), BestOfN(2), ChiSquared()]


def preference_planners() -> list[Planner[PreferenceModel]]:
    return [Nash(), PessimisticNash(), UnregularisedNash()]


def option_one_planner() -> Planner[ExpectedLowerBound]:
    return OptionOne()
