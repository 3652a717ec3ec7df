"""The learners of `rlhf_theory` on language models.

Names are loaded when they are first used: importing this package alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_bridge.embeddings.encoders import EncoderModel, load_encoder
    from llm_bridge.embeddings.featureless import NoFeatures
    from llm_bridge.embeddings.features import FittedFeatures, TransformerFeatures
    from llm_bridge.errors import LabelsPending, ModelError
    from llm_bridge.evaluation.held_out import HeldOut
    from llm_bridge.labels.classifiers import TransformerReward
    from llm_bridge.labels.judges import PairwisePreferenceModel
    from llm_bridge.labels.oracles import RewardModelOracle, TextReward
    from llm_bridge.labels.people import LabelFile
    from llm_bridge.labels.preference_files import read_preferences, write_preferences
    from llm_bridge.labels.preferences import TextPreference
    from llm_bridge.language.models import LanguageModel, Prompt
    from llm_bridge.language.sampler import BatchedSampler, GenerateSampler
    from llm_bridge.planning.direct import DirectPreference, IterativeDirect
    from llm_bridge.planning.planners import DPOPlanner
    from llm_bridge.planning.rejection import Imitation
    from llm_bridge.planning.self_play import SelfPlay
    from llm_bridge.pools.policy import LanguageModelPolicy
    from llm_bridge.pools.problem import PromptProblem
    from llm_bridge.pools.world import PromptWorld
    from llm_bridge.rewards.models import fit_head
    from llm_bridge.rewards.trained import TrainedReward
    from llm_bridge.rewards.training import train_reward
    from llm_bridge.storage.cache import RowCache
    from llm_bridge.training.settings import LoRA, TrainingSettings
    from llm_bridge.training.train import sft, train

_HOME = {
    "BatchedSampler": "language.sampler",
    "DPOPlanner": "planning.planners",
    "DirectPreference": "planning.direct",
    "EncoderModel": "embeddings.encoders",
    "FittedFeatures": "embeddings.features",
    "GenerateSampler": "language.sampler",
    "HeldOut": "evaluation.held_out",
    "Imitation": "planning.rejection",
    "IterativeDirect": "planning.direct",
    "LabelFile": "labels.people",
    "LabelsPending": "errors",
    "LanguageModel": "language.models",
    "LanguageModelPolicy": "pools.policy",
    "LoRA": "training.settings",
    "ModelError": "errors",
    "NoFeatures": "embeddings.featureless",
    "PairwisePreferenceModel": "labels.judges",
    "Prompt": "language.models",
    "PromptProblem": "pools.problem",
    "PromptWorld": "pools.world",
    "RewardModelOracle": "labels.oracles",
    "RowCache": "storage.cache",
    "SelfPlay": "planning.self_play",
    "TextPreference": "labels.preferences",
    "TextReward": "labels.oracles",
    "TrainedReward": "rewards.trained",
    "TrainingSettings": "training.settings",
    "TransformerFeatures": "embeddings.features",
    "TransformerReward": "labels.classifiers",
    "fit_head": "rewards.models",
    "load_encoder": "embeddings.encoders",
    "read_preferences": "labels.preference_files",
    "sft": "training.train",
    "train": "training.train",
    "train_reward": "rewards.training",
    "write_preferences": "labels.preference_files",
}

__all__ = [
    "BatchedSampler",
    "DPOPlanner",
    "DirectPreference",
    "EncoderModel",
    "FittedFeatures",
    "GenerateSampler",
    "HeldOut",
    "Imitation",
    "IterativeDirect",
    "LabelFile",
    "LabelsPending",
    "LanguageModel",
    "LanguageModelPolicy",
    "LoRA",
    "ModelError",
    "NoFeatures",
    "PairwisePreferenceModel",
    "Prompt",
    "PromptProblem",
    "PromptWorld",
    "RewardModelOracle",
    "RowCache",
    "SelfPlay",
    "TextPreference",
    "TextReward",
    "TrainedReward",
    "TrainingSettings",
    "TransformerFeatures",
    "TransformerReward",
    "fit_head",
    "load_encoder",
    "read_preferences",
    "sft",
    "train",
    "train_reward",
    "write_preferences",
]


def __getattr__(name: str) -> Any:
    """Load a public name; ``AttributeError`` for others."""
    if name not in _HOME:
        message = f"module 'llm_bridge' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(f"llm_bridge.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
