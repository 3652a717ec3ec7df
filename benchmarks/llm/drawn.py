"""Responses by our sampler and by `generate` of transformers, in one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from llm_bridge.language.models import Ids, LanguageModel
from rlhf_theory.randomness import Key


@dataclass(frozen=True)
class Drawn:
    """Responses to the prompts in their order, prompt by prompt.

    ``log_probs`` are the side's own, where it has any.
    """

    responses: list[Ids]
    log_probs: np.ndarray | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens up to the ends of the sequences."""
        return sum(map(len, self.responses))


def drawn_by(
    sampler: Any, model: LanguageModel, prompts: Sequence[Ids], copies: int, key: Key
) -> Drawn:
    """Return what one of the toolkit's samplers draws: tokens, texts and log-probabilities."""
    flat = [r for row in sampler(model, prompts, copies, key) for r in row]
    return Drawn([r.ids for r in flat], np.array([r.log_prob for r in flat]))


def generate(
    model: LanguageModel, ids: torch.Tensor, attention: torch.Tensor, new: int, **more: Any
) -> Any:
    """Return what `generate` returns for prompts padded on the left, with at most ``new`` tokens.

    It samples the model itself, from the global generator; ``more`` are settings of generation.
    """
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=new,
        pad_token_id=model.pad_id,
        eos_token_id=model.eos_id,
        **more,
    )
    return model.model.generate(input_ids=ids, attention_mask=attention, generation_config=config)


def ended(model: LanguageModel, new: torch.Tensor) -> list[Ids]:
    """Return rows of new tokens up to the end of their sequences, which belongs to them."""
    rows = new.tolist()
    ends = [row.index(model.eos_id) + 1 if model.eos_id in row else len(row) for row in rows]
    return [tuple(row[:end]) for row, end in zip(rows, ends, strict=True)]
