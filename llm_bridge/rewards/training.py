"""Reward models whose trunk is trained with the head, from comparisons and rankings of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from llm_bridge.language.models import LanguageModel
from llm_bridge.rewards.examples import (
    RewardExample,
    RewardObjective,
    bootstrapped,
    comparison_examples,
    ranking_examples,
)
from llm_bridge.rewards.models import ModelEnsemble
from llm_bridge.rewards.modules import HeadSpec, Reader, RewardModule, trunk_of
from llm_bridge.rewards.trained import TrainedReward
from llm_bridge.training.adapters import with_adapters
from llm_bridge.training.runs import Trained, Training
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.randomness import Key

__all__ = [
    "HeadSpec",
    "RewardExample",
    "RewardTraining",
    "TrainedEnsemble",
    "TrainedReward",
    "bootstrapped",
    "comparison_examples",
    "ranking_examples",
    "train_ensemble",
    "train_reward",
]


class RewardTraining(Trained[TrainedReward]):
    """The outcome of a training; the mean of the reward over the training responses is 0."""

    @property
    def reward(self) -> TrainedReward:
        """The trained reward, adapters merged."""
        return self.model


@dataclass(frozen=True, eq=False)
class TrainedEnsemble(ModelEnsemble):
    """Trained rewards that disagree where data are missing.

    Attributes
    ----------
    trainings
        Those of the members.
    """

    trainings: Sequence[RewardTraining]


def train_reward(
    base: Reader,
    examples: Sequence[RewardExample],
    settings: TrainingSettings | None = None,
    *,
    key: Key,
    head: HeadSpec | None = None,
    tokens_of: LanguageModel | None = None,
    folder: str | Path | None = None,
    name: str = "reward",
) -> RewardTraining:
    r"""Train a trunk with a linear head by the Bradley-Terry likelihood.

    The loss of an example is the weighted sum over its pairs of
    :math:`-p \log\sigma(r_i - r_j) - (1 - p) \log\sigma(r_j - r_i)`, its mean over examples is
    minimised; gradient accumulation changes nothing, and a run that is stopped goes on exactly.

    Parameters
    ----------
    base
        A language model, whose own head is left out, or an encoder; left as it is.
    examples
        At least one; see `comparison_examples` and `ranking_examples`.
    settings
        How to train; one epoch unless given. Several overfit: a trunk remembers its labels.
    key
        Address of the head's start, of the order of the examples and of the adapters' start.
    head
        What the head reads.
    tokens_of
        The language model that wrote the responses, where an encoder reads bare tokens later.
    folder
        Where to keep results by content, see `training.train`; None keeps nothing.
    name
        What to call it in the folder and in the progress bar.

    It raises what `training.train` does.
    """
    settings = settings or TrainingSettings()
    head = head or HeadSpec()
    objective = RewardObjective(base, head, examples, tokens_of)
    training = _TrunkTraining(base, objective, settings, key, name, examples, head, tokens_of)
    return RewardTraining(**vars(training.once(folder, examples, head)))


def train_ensemble(
    base: Reader,
    examples: Sequence[RewardExample],
    settings: TrainingSettings | None = None,
    *,
    key: Key,
    n_members: int = 5,
    head: HeadSpec | None = None,
    tokens_of: LanguageModel | None = None,
    folder: str | Path | None = None,
    name: str = "reward",
) -> TrainedEnsemble:
    """Train members that differ in the start of the head, the order and the weight of examples.

    Parameters
    ----------
    n_members
        ``K``, at least 1.
    base, examples, settings, key, head, tokens_of, folder, name
        As in `train_reward`. Each member sees a Bayesian bootstrap of the examples.

    Source: [2310.02743], whose members differ in the seed alone; theory sheet 6.2.
    """
    if n_members < 1:
        message = f"n_members must be at least 1; got {n_members}."
        raise ValueError(message)
    trainings = []
    for k in range(n_members):
        here = key.child("member", k)
        result = train_reward(
            base,
            bootstrapped(examples, here.child("bootstrap")),
            settings,
            key=here,
            head=head,
            tokens_of=tokens_of,
            folder=folder,
            name=f"{name}-{k}",
        )
        trainings.append(result)
    return TrainedEnsemble([t.reward for t in trainings], trainings)


@dataclass(frozen=True)
class _TrunkTraining(Training[TrainedReward]):
    examples: Sequence[RewardExample]
    head: HeadSpec
    tokens_of: LanguageModel | None

    def module(self) -> RewardModule:
        reader, settings = trunk_of(self.base), self.settings
        trunk = reader.model.requires_grad_(True)
        width = int(trunk.config.get_text_config().hidden_size)
        # As InstructGPT and its predecessors: small enough that first rewards are near zero.
        weight = self.key.child("head").normal_numpy(1, width)[0] / math.sqrt(width + 1.0)
        dtype = torch.float64 if reader.dtype == torch.float64 else torch.float32
        if settings.lora is not None:
            adapters = self.key.child("adapters")
            trunk = with_adapters(trunk, settings.lora, adapters, "FEATURE_EXTRACTION")
        if settings.gradient_checkpointing:
            trunk.enable_input_require_grads()
        head = torch.from_numpy(weight).to(self.base.device, dtype)
        return RewardModule(trunk, head, self.head.pooling).train()

    def merged(self, module: RewardModule) -> RewardModule:
        if self.settings.lora is not None:
            module.trunk = module.trunk.merge_and_unload()
        return module

    def result(self, module: RewardModule) -> TrainedReward:
        reader = replace(self.base, model=module.trunk, name=self.name)
        weight = module.head.detach().clone()
        reward = TrainedReward(reader, weight, self.head, tokens_of=self.tokens_of)
        items = [(e.prompt, r) for e in self.examples for r in e.responses]
        mean = float(np.mean(reward.scores([p for p, _ in items], [r for _, r in items])))
        return replace(reward, offset=-mean)

    def load(self, folder: Path) -> TrainedReward:
        return TrainedReward.from_pretrained(
            folder,
            device=str(self.base.device),
            dtype=str(self.base.dtype).removeprefix("torch."),
            tokens_of=self.tokens_of,
        )
