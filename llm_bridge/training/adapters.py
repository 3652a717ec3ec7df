"""Low-rank adapters, by the package peft."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from llm_bridge.training.settings import LoRA
from rlhf_theory.randomness import Key


def _peft() -> Any:
    try:
        import peft  # noqa: PLC0415  (an optional package, and a slow import)
    except ImportError as error:
        message = "Adapters (lora=...) need the package peft: install rlhf-theory[llm]."
        raise ImportError(message) from error
    return peft


def peft_version() -> str:
    """Return the version of peft; ``ImportError`` with advice where it is missing."""
    return str(_peft().__version__)


def with_adapters(
    module: torch.nn.Module, lora: LoRA, key: Key, task: str = "CAUSAL_LM"
) -> torch.nn.Module:
    """Return the model with adapters that change nothing yet; all else is frozen.

    ``task`` is what peft calls the model: ``"FEATURE_EXTRACTION"`` for one without a head.

    Draws from the global generator of torch, which the caller puts back.
    """
    targets: str | list[str] = (
        "all-linear" if lora.targets == ("all-linear",) else list(lora.targets)
    )
    peft = _peft()
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=targets,
        lora_dropout=0.0,
        task_type=task,
    )
    torch.manual_seed(key.seed_int())  # noqa: TID251  (see `generators_kept`)
    with warnings.catch_warnings():
        # peft asks transformers by a name that is on its way out.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        made: torch.nn.Module = peft.get_peft_model(module, config)
    return made
