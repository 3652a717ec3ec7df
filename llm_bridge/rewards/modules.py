"""A trunk of transformers with a linear head, as one module of torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.embeddings.pooling import pool, spans
from llm_bridge.embeddings.readings import Reading
from llm_bridge.errors import ModelError
from llm_bridge.language.log_probs import forward_accepts, pad_rows
from llm_bridge.language.models import LanguageModel
from rlhf_theory.errors import check_choice

Reader = LanguageModel | EncoderModel
"""Who reads: its ``model`` is the trunk alone, so that a language model here cannot write."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What the linear head reads.

    Attributes
    ----------
    pooling
        ``"last"``, ``"mean"`` or ``"sum"`` of the last hidden states.
    over
        Of the tokens of the ``"response"``, its end included, or of the whole ``"text"``.
    """

    pooling: str = "last"
    over: str = "response"

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, ("last", "mean", "sum"))
        check_choice("over", self.over, ("response", "text"))


def trunk_of(model: Reader) -> Reader:
    """Return a copy of a model without its language-model head, with weights of its own."""
    if isinstance(model, EncoderModel):
        return replace(model, model=copy.deepcopy(model.model))
    module = model.model
    if hasattr(module, "merge_and_unload"):
        module = copy.deepcopy(module).merge_and_unload()
    trunk = module.base_model
    if trunk is module:
        message = (
            f"A reward model needs a trunk with a head of its own; {model.name} "
            f"({type(module).__name__}) does not keep them apart."
        )
        raise ModelError(message)
    return LanguageModel(copy.deepcopy(trunk), model.tokenizer, model.name)


class RewardModule(torch.nn.Module):
    """Trunk and head as one module, for the trainer.

    Parameters
    ----------
    trunk
        A model of transformers that returns ``last_hidden_state``.
    weight
        The head, shape ``(H,)``.
    pooling
        See `HeadSpec`.
    """

    def __init__(self, trunk: Any, weight: torch.Tensor, pooling: str) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = torch.nn.Parameter(weight)
        self.pooling = pooling

    def pooled(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, span: torch.Tensor
    ) -> torch.Tensor:
        """Return the pooled last hidden states, shape ``(n, H)``, at least single precision."""
        options = dict.fromkeys(forward_accepts(self.trunk, "use_cache"), False)
        out = self.trunk(input_ids=input_ids, attention_mask=attention_mask, **options)
        hidden = out.last_hidden_state
        # Mixed precision would also take these sums in half precision.
        with torch.autocast(input_ids.device.type, enabled=False):
            wide = hidden if hidden.dtype == torch.float64 else hidden.float()
            return pool(wide, span, self.pooling)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, span: torch.Tensor
    ) -> torch.Tensor:
        """Return rewards without offset, shape ``(n,)``."""
        pooled = self.pooled(input_ids, attention_mask, span)
        with torch.autocast(input_ids.device.type, enabled=False):
            return pooled @ self.head

    def activation_checkpointing_enable(self, **options: object) -> None:
        """Recompute activations of the trunk; the trainer calls it."""
        self.trunk.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: object) -> None:
        """Do the same under the name that transformers used before 5.23."""
        self.trunk.gradient_checkpointing_enable(**options)


def batch_of(
    readings: Sequence[Reading], pad_id: int, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Return the arguments of a `RewardModule` for some texts, padded on the right."""
    ids, mask, _ = pad_rows([r.ids for r in readings], [()] * len(readings), pad_id, device)
    return {"input_ids": ids, "attention_mask": mask, "span": spans(readings, ids)}
