"""Training of language models on a loss: one call, whose result is a value.

It knows no algorithm: planners and learners make `Example` and choose a loss of
`rlhf_theory.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from llm_bridge.language.models import Ids, LanguageModel
from llm_bridge.training.adapters import with_adapters
from llm_bridge.training.arguments import recompute_nothing
from llm_bridge.training.examples import NLL, Example, with_mismatched
from llm_bridge.training.objective import Objective
from llm_bridge.training.runs import Trained, Training
from llm_bridge.training.settings import LoRA, TrainingSettings
from llm_bridge.training.units import TrainingLoss
from llm_bridge.training.unpaired import UnpairedKTO
from rlhf_theory.randomness import Key

__all__ = [
    "NLL",
    "Example",
    "LoRA",
    "Trained",
    "TrainingSettings",
    "UnpairedKTO",
    "sft",
    "train",
    "with_mismatched",
]


def train(
    base: LanguageModel,
    examples: Sequence[Example],
    loss: TrainingLoss,
    settings: TrainingSettings | None = None,
    *,
    key: Key,
    folder: str | Path | None = None,
    name: str = "",
) -> Trained[LanguageModel]:
    """Minimise the mean of a loss over examples, starting from a model.

    Dropout is off. The examples are shuffled every epoch, in an order that ``key`` decides. A step
    minimises the sum of ``weight * share * loss`` over its examples, divided by their number and by
    the mean weight of all examples.

    Parameters
    ----------
    base
        Where training starts; it is left as it is.
    examples
        At least one; see `Example` for what each loss needs, and ``TrainingSettings.bf16`` for the
        precision of reference scores.
    loss
        A loss of `rlhf_theory.losses`, `NLL`, or `UnpairedKTO`.
    settings
        How to train; the defaults of `TrainingSettings` unless given.
    key
        Address of the order of the examples and of the adapters' start.
    folder
        Where to keep results by content: a training of the same model, examples, loss, settings,
        key and versions of libraries is loaded if it is complete, goes on from its newest
        checkpoint if it was stopped, and is waited for if another process is at it. None keeps
        nothing.
    name
        What to call it in the folder and in the progress bar.

    Raises
    ------
    ValueError
        If an example does not fit the loss or the model, or ``folder`` holds something else.
    ConvergenceError
        If the loss or the weights stop being finite. The newest checkpoint is kept.
    MemoryError
        If a batch does not fit; says which setting.
    """
    settings = settings or TrainingSettings()
    objective = Objective(loss, examples, base, bf16=settings.bf16)
    label = name or str(loss.name)
    return _PolicyTraining(base, objective, settings, key, label).once(folder, examples, loss)


def sft(
    base: LanguageModel,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    settings: TrainingSettings | None = None,
    *,
    key: Key,
    reduction: Literal["sum", "mean"] = "sum",
    weights: Sequence[float] | None = None,
    folder: str | Path | None = None,
    name: str = "sft",
) -> Trained[LanguageModel]:
    """Imitate responses: supervised fine-tuning.

    Parameters
    ----------
    base, settings, key, folder, name
        As in `train`.
    prompts, responses
        Token ids, one prompt per response; responses end with the end of the sequence.
    reduction
        See `NLL`.
    weights
        Of the responses; all 1 unless given.
    """
    if not len(prompts) == len(responses) == len(prompts if weights is None else weights):
        message = (
            f"Give one prompt (and weight) per response; got {len(prompts)} prompts, "
            f"{len(responses)} responses"
            + ("." if weights is None else f" and {len(weights)} weights.")
        )
        raise ValueError(message)
    examples = [
        Example(prompt=p, responses=(r,), weight=1.0 if weights is None else float(weights[i]))
        for i, (p, r) in enumerate(zip(prompts, responses, strict=True))
    ]
    return train(base, examples, NLL(reduction), settings, key=key, folder=folder, name=name)


@dataclass(frozen=True)
class _PolicyTraining(Training[LanguageModel]):
    base: LanguageModel

    def module(self) -> torch.nn.Module:
        module: torch.nn.Module = self.base.clone().model.requires_grad_(True)
        lora = self.settings.lora
        return module if lora is None else with_adapters(module, lora, self.key.child("adapters"))

    def merged(self, module: Any) -> torch.nn.Module:
        merged: torch.nn.Module = (
            module if self.settings.lora is None else module.merge_and_unload()
        )
        if self.settings.gradient_checkpointing:
            recompute_nothing(merged)
        return merged

    def result(self, module: Any) -> LanguageModel:
        module.config.use_cache = self.base.model.config.use_cache
        return replace(self.base, model=module, name=self.name)

    def load(self, folder: Path) -> LanguageModel:
        dtype = str(self.base.dtype).removeprefix("torch.")
        model = LanguageModel.from_pretrained(
            folder, device=str(self.base.device), dtype=dtype, offline=True
        )
        return replace(self.base, model=model.model, name=self.name)
