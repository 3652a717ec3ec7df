"""Training of language models on a loss: one call, whose result is a value.

It knows no algorithm: planners and learners make `Example` and choose a loss of
`rlhf_theory.losses`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from llm_bridge.errors import memory_advice
from llm_bridge.language.models import Ids, LanguageModel
from llm_bridge.training.adapters import with_adapters
from llm_bridge.training.arguments import arguments, generators_kept, recompute_nothing
from llm_bridge.training.examples import NLL, Example, with_mismatched
from llm_bridge.training.objective import Objective
from llm_bridge.training.settings import LoRA, TrainingSettings
from llm_bridge.training.store import Trained, alone, claim_training, load, store
from llm_bridge.training.trainer import PreferenceTrainer, newest_checkpoint, step_of
from llm_bridge.training.units import TrainingLoss
from llm_bridge.training.unpaired import UnpairedKTO
from rlhf_theory.errors import ConvergenceError
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
) -> Trained:
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
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="training-") as scratch:
            work = replace(settings, checkpoint_every=0)
            return _run(base, objective, work, key, Path(scratch), label)
    here = claim_training(Path(folder).expanduser(), base, examples, loss, settings, key, label)
    with alone(here):
        result = load(base, here, label)
        if result is None:
            result = _run(base, objective, settings, key, here, label)
            store(result, here)
    return result


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
) -> Trained:
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


def _run(
    base: LanguageModel,
    objective: Objective,
    settings: TrainingSettings,
    key: Key,
    folder: Path,
    name: str,
) -> Trained:
    start = time.perf_counter()
    checkpoint = newest_checkpoint(folder)
    knob = f"batch_size={settings.batch_size} (and gradient_accumulation larger)"
    with memory_advice(knob), generators_kept(base.device):
        copy = base.clone()
        cached = copy.model.config.use_cache
        module = copy.model.requires_grad_(True)
        if settings.lora is not None:
            module = with_adapters(module, settings.lora, key.child("adapters"))
        args = arguments(settings, len(objective.examples), folder, base.device, key)
        trainer = PreferenceTrainer(module, args, objective, settings, name)
        trainer.run(checkpoint)
        # Half precision wraps the forward pass; the result must not keep that.
        module = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        if settings.lora is not None:
            module = module.merge_and_unload()
        if settings.gradient_checkpointing:
            recompute_nothing(module)
    for label, weight in module.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            message = (
                f"The weights must stay finite; {label} is not after {len(trainer.history)} steps. "
                f"Lower learning_rate={settings.learning_rate:g}."
            )
            raise ConvergenceError(message)
    module.zero_grad(set_to_none=True)
    module.config.use_cache = cached
    model = LanguageModel(module.to(base.device).eval(), base.tokenizer, name)
    resumed_at = 0 if checkpoint is None else step_of(checkpoint)
    seconds = time.perf_counter() - start
    return Trained(model, np.asarray(trainer.history), seconds, resumed_at)
