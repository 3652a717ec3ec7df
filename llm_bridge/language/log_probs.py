"""Log-probabilities of responses under a causal model.

A policy of the theory gives a probability to a whole response, so log-probabilities are summed over
its tokens, the end of the sequence included. The mean per token is a named variant for losses that
ask for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from llm_bridge.errors import ModelError, memory_advice
from llm_bridge.language.models import Ids, LanguageModel, evaluating
from rlhf_theory.errors import check_choice, check_positive

Reduction = Literal["sum", "mean"]

BF16_MULTIPLE = 16
"""Rows are padded to a multiple of it where matrix products are in half precision.

Attention then cuts all rows alike, and what a row gets does not depend on the rows beside it. At
other widths its sums are rounded elsewhere (measured on a CPU: 0.06 nats instead of 6e-5).
"""


def check_tokens(model: LanguageModel, name: str, rows: Sequence[Ids]) -> None:
    """Raise ``ValueError`` for rows without tokens and for ids that the model does not embed.

    ``name`` is what the rows are, for the message.
    """
    bound = model.n_tokens
    for i, row in enumerate(rows):
        if not row:
            message = f"{name} must have at least one token; row {i} is empty."
            raise ValueError(message)
        if min(row) < 0 or max(row) >= bound:
            message = (
                f"{name} must have ids from 0 to {bound - 1}; row {i} has {min(row)} to "
                f"{max(row)}. Encode texts with the tokenizer of {model.name}."
            )
            raise ValueError(message)


def check_lengths(model: LanguageModel, prompts: Sequence[Ids], responses: Sequence[Ids]) -> None:
    """Raise ``ValueError`` unless every prompt and response has tokens and both fit the context."""
    if len(prompts) != len(responses):
        message = f"Give one prompt per response; got {len(prompts)} and {len(responses)}."
        raise ValueError(message)
    check_tokens(model, "Prompts", prompts)
    check_tokens(model, "Responses", responses)
    longest = model.context_length
    if longest is None:
        return
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if len(prompt) + len(response) > longest:
            message = (
                f"Prompt and response must fit the model's context of {longest} tokens; row {i} "
                f"has {len(prompt)} + {len(response)}. Shorten the prompt or max_new_tokens."
            )
            raise ValueError(message)


def pad_rows(
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    pad_id: int,
    device: torch.device | str = "cpu",
    *,
    multiple: int = 1,
    longest: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ``input_ids``, ``attention_mask`` and ``response_mask``, padded on the right.

    Masks come from lengths, never from comparing with the pad token. All ``(n, L)``, int64, and
    float32 for the response mask. ``L`` is a multiple of ``multiple``, but not above ``longest``
    where no row is.
    """
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    width = -(-max(lengths) // multiple) * multiple
    if longest is not None:
        width = max(min(width, longest), *lengths)
    shape = (len(lengths), width)
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    answer = np.zeros(shape, dtype=np.float32)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids[i, : lengths[i]] = (*prompt, *response)
        mask[i, : lengths[i]] = 1
        answer[i, len(prompt) : lengths[i]] = 1.0
    return (
        torch.from_numpy(ids).to(device),
        torch.from_numpy(mask).to(device),
        torch.from_numpy(answer).to(device),
    )


def batches_by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the places of rows, ``size`` at a time, similar lengths together: little is padded."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the place of each token in its own text, wherever the padding is."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


@lru_cache(maxsize=64)
def _parameters(forward: Callable[..., object]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def forward_accepts(module: Any, *names: str) -> frozenset[str]:
    """Return which of these arguments the model's ``forward`` has, wrapped by adapters or not."""
    module = getattr(module, "module", module)  # of data-parallel wrappers
    inner = module.get_base_model() if hasattr(module, "get_base_model") else module
    return _parameters(type(inner).forward) & frozenset(names)


def token_log_probs(
    module: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    response_mask: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of every response token and the mask of those tokens.

    Differentiable. Logits are raised to single precision before the softmax: in half precision a
    sum over 40 tokens would be off by half a nat.

    Parameters
    ----------
    module
        A causal model of transformers, wrapped by adapters or not.
    input_ids, attention_mask, response_mask
        Shape ``(n, L)``, padded on either side, see `pad_rows`.

    Returns
    -------
    Two arrays ``(n, L')`` with ``L' < L``: positions before the first response are left out.
    """
    answer = response_mask[:, 1:]
    # Column t of the logits speaks of token t + 1; those before the first response are not needed.
    first = int(torch.argmax((answer.sum(dim=0) > 0).to(torch.int64)))
    keep = input_ids.shape[1] - first
    extra: dict[str, object] = {"logits_to_keep": keep, "position_ids": positions(attention_mask)}
    extra = {name: extra[name] for name in forward_accepts(module, *extra)}
    out = module(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **extra)
    logits = out.logits[:, -keep:-1, :]
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    mask = answer[:, first:]
    target = input_ids[:, first + 1 :]
    chosen = torch.gather(logits, 2, target[:, :, None])[:, :, 0]
    # Chosen by `where`, not by a product: a padded place may hold anything.
    values = torch.where(mask > 0, chosen - torch.logsumexp(logits, dim=-1), 0.0)
    return values, mask


def response_log_probs(
    module: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    response_mask: torch.Tensor,
    reduction: Reduction = "sum",
) -> torch.Tensor:
    """Return the log-probability of every response, shape ``(n,)``; see `token_log_probs`.

    A response without tokens has log-probability 0.
    """
    check_choice("reduction", reduction, ("sum", "mean"))
    values, mask = token_log_probs(module, input_ids, attention_mask, response_mask)
    total = values.sum(dim=1)
    return total if reduction == "sum" else total / mask.sum(dim=1).clamp(min=1.0)


def sequence_log_probs(
    model: LanguageModel,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    *,
    reduction: Reduction = "sum",
    batch_size: int = 32,
    bf16: bool = False,
) -> np.ndarray:
    """Return ``log pi(response | prompt)``, float64 on the host, shape ``(n,)``.

    Rows are scored by length, so that little is padded; the result depends neither on their order
    nor, up to rounding in single precision, on ``batch_size``.

    Parameters
    ----------
    model
        The policy; dropout is off whatever the mode of the module.
    prompts, responses
        Token ids; responses end with the end of the sequence where they are finished.
    reduction
        ``"sum"`` is the policy's log-probability; ``"mean"`` is per token.
    batch_size
        Rows per forward pass.
    bf16
        Matrix products in half precision, as in a training with this setting; for scores that are
        compared with those of the training. They are a few tenths of a nat off.

    Raises
    ------
    ValueError
        For empty prompts or responses, unknown ids, and rows longer than the model's context.
    ModelError
        If a log-probability is not a number: the weights are broken.
    MemoryError
        If a batch does not fit; says which knob.
    """
    check_positive("batch_size", batch_size)
    check_choice("reduction", reduction, ("sum", "mean"))
    check_lengths(model, prompts, responses)
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    result = np.empty(len(prompts))
    room = memory_advice(f"batch_size={batch_size}")
    half = torch.autocast(model.device.type, torch.bfloat16) if bf16 else nullcontext()
    with torch.inference_mode(), evaluating(model.model), room, half:
        for rows in batches_by_length(lengths, batch_size):
            batch = pad_rows(
                [prompts[i] for i in rows],
                [responses[i] for i in rows],
                model.pad_id,
                model.device,
                multiple=BF16_MULTIPLE if bf16 else 1,
                longest=model.context_length,
            )
            values = response_log_probs(model.model, *batch, reduction)
            result[rows] = values.cpu().double().numpy()
    if np.isnan(result).any():
        message = (
            f"{model.name} must give log-probabilities; {int(np.isnan(result).sum())} of "
            f"{len(result)} are not a number. Its training has diverged: lower the learning rate."
        )
        raise ModelError(message)
    return result
