"""Every implementation assigned to its protocol: read by mypy, never run."""

from __future__ import annotations

from typing import Any

from rlhf_theory import losses
from rlhf_theory.algorithms.baselines import SameLawPairs
from rlhf_theory.algorithms.enhancers import (
    FromReference,
    OnPolicy,
    Optimistic,
    Uniform,
)
from rlhf_theory.algorithms.game_enhancers import InformationRatio
from rlhf_theory.algorithms.nash_game import NashGame, NashState
from rlhf_theory.algorithms.offline_ensemble import EnsembleMinimum, UncertaintyWeighted
from rlhf_theory.algorithms.offline_nash import OfflinePessimisticNash, PessimisticPreference
from rlhf_theory.algorithms.offline_pessimistic import (
    Labelled,
    LowerBound,
    OfflineGreedy,
    OfflinePessimistic,
)
from rlhf_theory.algorithms.online_iterative import OnlineIterative, OnlineState
from rlhf_theory.core import (
    ConfidenceSet,
    Enhancer,
    Feedback,
    OfflineAlgorithm,
    OnlineAlgorithm,
    Planner,
    Policy,
    PreferenceModel,
    PreferenceOracle,
    Problem,
    Radius,
    RewardModel,
)
from rlhf_theory.data import PairList, PairTable, PreferenceData
from rlhf_theory.designs import Design, LaplacianRows, Rows
from rlhf_theory.estimators.confidence import (
    R1,
    R2,
    R3,
    R4,
    R5,
    ConfidenceRule,
    Constant,
    Ellipsoid,
    LikelihoodSet,
    R1Prime,
    R2Prime,
    R2Ridge,
    Scaled,
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
from rlhf_theory.worlds.misspecified import TanhReward


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


def feedback(oracle: PreferenceOracle) -> Feedback:
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


def rules(
    constant: Constant,
    scaled: Scaled,
    r1: R1,
    r1_prime: R1Prime,
    r2: R2,
    r2_prime: R2Prime,
    r2_ridge: R2Ridge,
    r3: R3,
    r4: R4,
    r5: R5,
) -> tuple[list[ConfidenceRule], list[Radius]]:
    return (
        [constant, scaled, r1, r1_prime, r2, r2_prime, r2_ridge, r3, r4, r5],
        [constant, scaled, r1, r1_prime, r2, r2_prime, r2_ridge, r3, r4, r5],
    )


def reward_planners() -> list[Planner[RewardModel]]:
    return [Gibbs(), Argmax(), BestOfN(2), ChiSquared()]


def preference_planners() -> list[Planner[PreferenceModel]]:
    return [Nash(), PessimisticNash(), UnregularisedNash()]


def option_one_planner() -> Planner[ExpectedLowerBound]:
    return OptionOne()


def enhancers() -> list[Enhancer]:
    return [FromReference(), OnPolicy(), Uniform(), Optimistic(), InformationRatio()]


def online_iterative() -> OnlineAlgorithm[OnlineState]:
    return OnlineIterative()


def same_law_pairs() -> OnlineAlgorithm[OnlineState]:
    return SameLawPairs()


def nash_game() -> OnlineAlgorithm[NashState]:
    return NashGame()


def offline_algorithms() -> list[OfflineAlgorithm]:
    return [
        OfflineGreedy(),
        OfflinePessimistic(),
        EnsembleMinimum(),
        UncertaintyWeighted(),
        OfflinePessimisticNash(),
    ]


def any_online() -> list[OnlineAlgorithm[Any]]:
    return [OnlineIterative(), NashGame(), SameLawPairs()]


def pair_losses() -> list[losses.PairLoss]:
    return [
        losses.DPO(1.0),
        losses.CDPO(1.0),
        losses.RobustDPO(1.0),
        losses.RDPO(1.0, 0.0),
        losses.FDPO(1.0, "js"),
        losses.ChiPO(1.0, 1.0),
        losses.XPO(1.0, 0.0),
        losses.VPO(1.0, 0.0, "online"),
        losses.IPO(1.0),
        losses.IPOPerToken(1.0),
        losses.INPO(1.0, 1.0),
        losses.Hinge(1.0),
        losses.SquaredHinge(1.0),
        losses.Exponential(1.0),
        losses.Savage(1.0),
        losses.EXO(1.0),
        losses.NCAPair(1.0),
        losses.BCO(1.0),
        losses.SPPO(1.0),
        losses.SPPOHard(1.0),
        losses.KTO(1.0),
        losses.CPO(1.0),
        losses.SimPO(1.0),
        losses.ORPO(),
        losses.SLiC(),
    ]


def group_losses() -> list[losses.GroupLoss]:
    return [losses.InfoNCA(1.0), losses.NCA(1.0), losses.RRHF()]
