"""The learners of `rlhf_theory` on language models.

Names are loaded when they are first used: importing this package alone does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_theory.lazy import lazy_names

if TYPE_CHECKING:
    from llm_bridge.embeddings.encoders import EncoderModel as EncoderModel
    from llm_bridge.embeddings.encoders import load_encoder as load_encoder
    from llm_bridge.embeddings.featureless import NoFeatures as NoFeatures
    from llm_bridge.embeddings.features import FittedFeatures as FittedFeatures
    from llm_bridge.embeddings.features import TransformerFeatures as TransformerFeatures
    from llm_bridge.errors import LabelsPending as LabelsPending
    from llm_bridge.errors import ModelError as ModelError
    from llm_bridge.evaluation.held_out import HeldOut as HeldOut
    from llm_bridge.labels.classifiers import TransformerReward as TransformerReward
    from llm_bridge.labels.judges import PairwisePreferenceModel as PairwisePreferenceModel
    from llm_bridge.labels.oracles import RewardModelOracle as RewardModelOracle
    from llm_bridge.labels.oracles import TextReward as TextReward
    from llm_bridge.labels.people import LabelFile as LabelFile
    from llm_bridge.labels.preference_files import read_preferences as read_preferences
    from llm_bridge.labels.preference_files import write_preferences as write_preferences
    from llm_bridge.labels.preferences import TextPreference as TextPreference
    from llm_bridge.language.models import LanguageModel as LanguageModel
    from llm_bridge.language.models import Prompt as Prompt
    from llm_bridge.language.sampler import BatchedSampler as BatchedSampler
    from llm_bridge.language.sampler import GenerateSampler as GenerateSampler
    from llm_bridge.planning.direct import DirectPreference as DirectPreference
    from llm_bridge.planning.direct import IterativeDirect as IterativeDirect
    from llm_bridge.planning.planners import DPOPlanner as DPOPlanner
    from llm_bridge.planning.rejection import Imitation as Imitation
    from llm_bridge.planning.self_play import SelfPlay as SelfPlay
    from llm_bridge.pools.policy import LanguageModelPolicy as LanguageModelPolicy
    from llm_bridge.pools.problem import PromptProblem as PromptProblem
    from llm_bridge.pools.world import PromptWorld as PromptWorld
    from llm_bridge.rewards.models import fit_head as fit_head
    from llm_bridge.rewards.trained import TrainedReward as TrainedReward
    from llm_bridge.rewards.training import train_reward as train_reward
    from llm_bridge.storage.cache import RowCache as RowCache
    from llm_bridge.training.settings import LoRA as LoRA
    from llm_bridge.training.settings import TrainingSettings as TrainingSettings
    from llm_bridge.training.train import sft as sft
    from llm_bridge.training.train import train as train
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "llm_bridge.embeddings.encoders": ["EncoderModel", "load_encoder"],
            "llm_bridge.embeddings.featureless": ["NoFeatures"],
            "llm_bridge.embeddings.features": ["FittedFeatures", "TransformerFeatures"],
            "llm_bridge.errors": ["LabelsPending", "ModelError"],
            "llm_bridge.evaluation.held_out": ["HeldOut"],
            "llm_bridge.labels.classifiers": ["TransformerReward"],
            "llm_bridge.labels.judges": ["PairwisePreferenceModel"],
            "llm_bridge.labels.oracles": ["RewardModelOracle", "TextReward"],
            "llm_bridge.labels.people": ["LabelFile"],
            "llm_bridge.labels.preference_files": ["read_preferences", "write_preferences"],
            "llm_bridge.labels.preferences": ["TextPreference"],
            "llm_bridge.language.models": ["LanguageModel", "Prompt"],
            "llm_bridge.language.sampler": ["BatchedSampler", "GenerateSampler"],
            "llm_bridge.planning.direct": ["DirectPreference", "IterativeDirect"],
            "llm_bridge.planning.planners": ["DPOPlanner"],
            "llm_bridge.planning.rejection": ["Imitation"],
            "llm_bridge.planning.self_play": ["SelfPlay"],
            "llm_bridge.pools.policy": ["LanguageModelPolicy"],
            "llm_bridge.pools.problem": ["PromptProblem"],
            "llm_bridge.pools.world": ["PromptWorld"],
            "llm_bridge.rewards.models": ["fit_head"],
            "llm_bridge.rewards.trained": ["TrainedReward"],
            "llm_bridge.rewards.training": ["train_reward"],
            "llm_bridge.storage.cache": ["RowCache"],
            "llm_bridge.training.settings": ["LoRA", "TrainingSettings"],
            "llm_bridge.training.train": ["sft", "train"],
        },
    )
