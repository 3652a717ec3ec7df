"""What samplers give and share: responses, and how requests are cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from llm_bridge.errors import ModelError
from llm_bridge.language.log_probs import batches_by_length, check_tokens
from llm_bridge.language.models import Ids, LanguageModel
from rlhf_theory.errors import check_positive
from rlhf_theory.randomness import Key


@dataclass(frozen=True)
class Response:
    """A response of a model.

    Attributes
    ----------
    ids
        Token ids, the end of the sequence included where it came.
    text
        As people read it.
    log_prob
        Log-probability under the policy that was sampled (its temperature included), in nats.
    finished
        Whether the end of the sequence came before ``max_new_tokens``.
    """

    ids: Ids
    text: str
    log_prob: float
    finished: bool = True


@runtime_checkable
class Sampler(Protocol):
    """Draws responses."""

    @property
    def temperature(self) -> float:
        """What logits are divided by; 1 samples the policy itself."""
        ...

    def __call__(
        self, model: LanguageModel, prompts: Sequence[Ids], n: int, key: Key
    ) -> list[list[Response]]:
        """Return ``n`` independent responses to every prompt."""
        ...


def check_request(model: LanguageModel, prompts: Sequence[Ids], n: int, new: int) -> None:
    """Raise ``ValueError`` unless ``new`` tokens can follow each prompt."""
    check_positive("n", n)
    check_tokens(model, "Prompts", prompts)
    longest = model.context_length
    if longest is not None and prompts and max(map(len, prompts)) + new > longest:
        message = (
            f"Prompts plus max_new_tokens={new} must fit the model's context of {longest} tokens; "
            f"the longest prompt has {max(map(len, prompts))}. Make max_new_tokens smaller."
        )
        raise ValueError(message)


def batches(prompts: Sequence[Ids], n: int, batch_size: int) -> Iterator[tuple[list[int], range]]:
    """Yield prompts of similar length and which of their ``n`` responses to draw together."""
    lengths = [len(p) for p in prompts]
    copies = min(n, batch_size)
    group = max(1, batch_size // copies)
    for first in range(0, n, copies):
        for rows in batches_by_length(lengths, group):
            yield rows, range(first, min(first + copies, n))


def left_padded(
    prompts: Sequence[Ids], pad_id: int, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``input_ids`` and ``attention_mask``, shape ``(n, L)``, padded on the left."""
    width = max(map(len, prompts))
    ids = [[pad_id] * (width - len(p)) + list(p) for p in prompts]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def as_responses(
    model: LanguageModel, rows: Sequence[Sequence[int]], log_probs: Sequence[float]
) -> list[Response]:
    """Return drawn tokens with their texts and log-probabilities."""
    return [
        Response(tuple(ids), text, float(log_prob), ids[-1] == model.eos_id)
        for ids, text, log_prob in zip(rows, model.decode_many(rows), log_probs, strict=True)
    ]


def broken(model: LanguageModel) -> ModelError:
    """Return the error of a model whose probabilities are not numbers."""
    return ModelError(
        f"{model.name} must give probabilities; they are not numbers. Its training has diverged: "
        "lower the learning rate."
    )
