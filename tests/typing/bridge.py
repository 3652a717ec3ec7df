"""Every implementation of the bridge assigned to its protocol: read by mypy, never run."""

from __future__ import annotations

from llm_bridge.embeddings.projection import FrozenFeatures, ProjectedFeatures
from llm_bridge.labels.oracles import (
    PairwisePreferenceModel,
    RewardModelOracle,
    TextPreference,
    TextReward,
    TransformerReward,
)
from llm_bridge.labels.people import LabelFile
from llm_bridge.labels.scoring import Scorer
from llm_bridge.planning.direct import DirectPreference, DirectState, IterativeDirect
from llm_bridge.planning.pair_rules import AgainstEnhancer, BestWorst, PairRule
from llm_bridge.planning.planners import DPOPlanner
from llm_bridge.planning.rejection import Imitation
from llm_bridge.planning.self_play import SelfPlay
from llm_bridge.pools.candidates import Generating
from llm_bridge.pools.data import PromptData
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.pools.world import PromptWorld
from llm_bridge.rewards.models import HeadFit, ModelEnsemble, OnFeatures
from llm_bridge.rewards.trained import TrainedReward
from rlhf_theory.core import (
    OfflineAlgorithm,
    OnlineAlgorithm,
    PairFeedback,
    Planner,
    Policy,
    PreferenceModel,
    PreferenceOracle,
    Problem,
    RewardModel,
    World,
)
from rlhf_theory.data import PreferenceData


def problems(prompts: PromptProblem) -> list[Problem]:
    return [prompts]


def data(comparisons: PromptData) -> list[PreferenceData]:
    return [comparisons]


def policies(model: LanguageModelPolicy) -> list[Policy]:
    return [model]


def generating(model: LanguageModelPolicy) -> list[Generating]:
    return [model]


def features(projected: ProjectedFeatures) -> list[FrozenFeatures]:
    return [projected]


def trained_features(trained: TrainedReward) -> list[FrozenFeatures]:
    return [trained]


def scorers(
    text: TextReward, classifier: TransformerReward, trained: TrainedReward
) -> list[Scorer]:
    return [text, classifier, trained]


def rewards(
    text: TextReward,
    classifier: TransformerReward,
    trained: TrainedReward,
    own: OnFeatures,
    fit: HeadFit,
    ensemble: ModelEnsemble,
) -> list[RewardModel]:
    pessimistic = [fit.lower(), ensemble.min_reward(), ensemble.uncertainty_weighted(0.5)]
    return [text, classifier, trained, own, fit.reward, *pessimistic]


def preference_models(
    text: TextPreference, judge: PairwisePreferenceModel
) -> list[PreferenceModel]:
    return [text, judge]


def oracles(
    labels: RewardModelOracle, text: TextPreference, judge: PairwisePreferenceModel
) -> list[PreferenceOracle]:
    return [labels, text, judge]


def prompt_worlds(world: PromptWorld) -> list[World]:
    return [world]


def feedback(people: LabelFile) -> list[PairFeedback]:
    return [people]


def planners(trained: DPOPlanner, imitating: Imitation) -> list[Planner[RewardModel]]:
    return [trained, imitating]


def game_planners(played: SelfPlay) -> list[Planner[PreferenceModel]]:
    return [played]


def offline(direct: DirectPreference) -> list[OfflineAlgorithm]:
    return [direct]


def online(direct: IterativeDirect) -> list[OnlineAlgorithm[DirectState]]:
    return [direct]


def pair_rules(against: AgainstEnhancer, extremes: BestWorst) -> list[PairRule]:
    return [against, extremes]
