"""Reward models whose trunk is trained with the head, from comparisons and rankings of texts."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_bridge.errors import memory_advice
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
from llm_bridge.training.arguments import arguments, generators_kept
from llm_bridge.training.settings import TrainingSettings
from llm_bridge.training.store import alone, claim_training
from llm_bridge.training.trainer import PreferenceTrainer, newest_checkpoint, step_of
from rlhf_theory.errors import ConvergenceError
from rlhf_theory.randomness import Key
from rlhf_theory.store import write_json

__all__ = [
    "HeadSpec",
    "RewardExample",
    "RewardTraining",
    "TrainedReward",
    "bootstrapped",
    "comparison_examples",
    "ranking_examples",
    "train_ensemble",
    "train_members",
    "train_reward",
]


@dataclass(frozen=True, eq=False)
class RewardTraining:
    """The outcome of a training.

    Attributes
    ----------
    reward
        The trained reward, adapters merged; its mean over the training responses is 0.
    history
        Loss of every optimiser step, before it, shape ``(n_steps,)``.
    seconds
        Wall time of the training, also where the result was stored.
    resumed_at
        Step of the checkpoint that this call went on from; 0 if it started from nothing.
    stored
        Whether the result was found complete.
    """

    reward: TrainedReward
    history: np.ndarray
    seconds: float
    resumed_at: int = 0
    stored: bool = False


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

    Raises
    ------
    ValueError
        If an example does not fit the model, or ``folder`` holds something else.
    ConvergenceError
        If the loss or the weights stop being finite.
    MemoryError
        If a batch does not fit; says which setting.
    """
    settings = settings or TrainingSettings()
    head = head or HeadSpec()
    objective = RewardObjective(base, head, examples, tokens_of)
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="reward-") as scratch:
            work = replace(settings, checkpoint_every=0)
            return _run(base, objective, head, work, key, Path(scratch), name, tokens_of)
    root = Path(folder).expanduser()
    here = claim_training(root, base, examples, head, settings, key, name)  # type: ignore[arg-type]
    with alone(here):
        found = _load(base, here, tokens_of)
        if found is None:
            found = _run(base, objective, head, settings, key, here, name, tokens_of)
            _store(found, here)
    return found


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
) -> ModelEnsemble:
    """Train members that differ in the start of the head, the order and the weight of examples.

    Parameters
    ----------
    n_members
        ``K``, at least 1.
    base, examples, settings, key, head, tokens_of, folder, name
        As in `train_reward`. Each member sees a Bayesian bootstrap of the examples.

    Source: [2310.02743], whose members differ in the seed alone; theory sheet 6.2.
    """
    trained = train_members(
        base,
        examples,
        settings,
        key=key,
        n_members=n_members,
        head=head,
        tokens_of=tokens_of,
        folder=folder,
        name=name,
    )
    return ModelEnsemble([member.reward for member in trained])


def train_members(
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
) -> list[RewardTraining]:
    """Return the trainings of `train_ensemble`, which takes the same."""
    if n_members < 1:
        message = f"n_members must be at least 1; got {n_members}."
        raise ValueError(message)
    members = []
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
        members.append(result)
    return members


def _run(
    base: Reader,
    objective: RewardObjective,
    head: HeadSpec,
    settings: TrainingSettings,
    key: Key,
    folder: Path,
    name: str,
    tokens_of: LanguageModel | None,
) -> RewardTraining:
    start = time.perf_counter()
    checkpoint = newest_checkpoint(folder)
    knob = f"batch_size={settings.batch_size} (and gradient_accumulation larger)"
    with memory_advice(knob), generators_kept(base.device):
        reader = trunk_of(base)
        trunk = reader.model.requires_grad_(True)
        width = int(trunk.config.get_text_config().hidden_size)
        # As InstructGPT and its predecessors: small enough that first rewards are near zero.
        weight = key.child("head").normal_numpy(1, width)[0] / math.sqrt(width + 1.0)
        dtype = torch.float64 if reader.dtype == torch.float64 else torch.float32
        if settings.lora is not None:
            trunk = with_adapters(trunk, settings.lora, key.child("adapters"), "FEATURE_EXTRACTION")
        if settings.gradient_checkpointing:
            trunk.enable_input_require_grads()
        module = RewardModule(
            trunk, torch.from_numpy(weight).to(base.device, dtype), head.pooling
        ).train()
        args = arguments(settings, len(objective.examples), folder, base.device, key)
        loss: Any = objective
        trainer = PreferenceTrainer(module, args, loss, settings, name)
        trainer.run(checkpoint)
        # Half precision wraps the forward pass; the result must not keep that.
        module = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        trunk = module.trunk if settings.lora is None else module.trunk.merge_and_unload()
    for label, parameter in (*trunk.named_parameters(), ("the head", module.head)):
        if not bool(torch.isfinite(parameter).all()):
            message = (
                f"The weights must stay finite; {label} is not after {len(trainer.history)} steps. "
                f"Lower learning_rate={settings.learning_rate:g}."
            )
            raise ConvergenceError(message)
    trunk.zero_grad(set_to_none=True)
    reader = replace(reader, model=trunk.to(base.device).eval(), name=name)
    reward = TrainedReward(reader, module.head.detach().clone(), head, tokens_of=tokens_of)
    items = [(e.prompt, r) for i in objective.examples for e in (i.example,) for r in e.responses]
    mean = float(np.mean(reward.scores([p for p, _ in items], [r for _, r in items])))
    seconds = time.perf_counter() - start
    return RewardTraining(
        replace(reward, offset=-mean),
        np.asarray(trainer.history),
        seconds,
        0 if checkpoint is None else step_of(checkpoint),
    )


def _store(result: RewardTraining, folder: Path) -> None:
    """Keep a result: the model first, then the file that says that it is complete."""
    result.reward.save(folder / "model")
    losses = [float(v) for v in result.history]
    write_json(folder / "result.json", {"losses": losses, "seconds": result.seconds})
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _load(base: Reader, folder: Path, tokens_of: LanguageModel | None) -> RewardTraining | None:
    """Return the complete result of a folder, None if there is none."""
    if not (folder / "result.json").is_file():
        return None
    result = json.loads((folder / "result.json").read_text())
    reward = TrainedReward.from_pretrained(
        folder / "model",
        device=str(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        tokens_of=tokens_of,
    )
    return RewardTraining(
        reward, np.asarray(result["losses"]), float(result["seconds"]), stored=True
    )
