"""Responses drawn from a causal model, with their tokens and log-probabilities.

A sampler draws from the policy itself: no top-k, no top-p, no penalties, which would make another
policy whose log-probabilities nobody knows. Another engine fits in as one more `Sampler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from llm_bridge.errors import memory_advice
from llm_bridge.language.generate import GenerateSampler
from llm_bridge.language.log_probs import forward_accepts, positions
from llm_bridge.language.models import Ids, LanguageModel, evaluating
from llm_bridge.language.responses import (
    Response,
    Sampler,
    as_responses,
    batches,
    broken,
    check_request,
    left_padded,
)
from rlhf_theory.errors import check_positive
from rlhf_theory.randomness import Key

__all__ = ["BatchedSampler", "GenerateSampler", "Response", "Sampler"]

# Finished rows are dropped once they are this part of a batch: each drop copies the whole cache.
_IDLE = 0.2

# Prompts whose random numbers are drawn, and which are sorted by length, together.
_PART = 1024


@dataclass(frozen=True, kw_only=True)
class BatchedSampler:
    """The toolkit's own loop: prompts are read once, finished rows are dropped.

    A draw is addressed by the key, the position of its prompt and its number: it depends neither on
    ``batch_size`` (up to rounding in the model) nor on how many more responses are asked for.

    Attributes
    ----------
    max_new_tokens
        Longest response; longer ones are cut and marked unfinished.
    temperature
        What logits are divided by, positive; 1 samples the policy itself.
    batch_size
        Rows that are drawn together.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "temperature", "batch_size"):
            check_positive(name, getattr(self, name))

    def __call__(
        self, model: LanguageModel, prompts: Sequence[Ids], n: int, key: Key
    ) -> list[list[Response]]:
        """Return ``n`` independent responses to every prompt, in their order.

        Raises
        ------
        ValueError
            If a prompt is empty, or leaves no room for ``max_new_tokens``.
        ModelError
            If the model's probabilities are not numbers.
        MemoryError
            If a batch does not fit; says which knob.
        """
        check_request(model, prompts, n, self.max_new_tokens)
        room = memory_advice(f"batch_size={self.batch_size} or max_new_tokens")
        result: list[list[Response]] = []
        with torch.inference_mode(), evaluating(model.model), room:
            for start in range(0, len(prompts), _PART):
                part = prompts[start : start + _PART]
                result += self._part(model, part, n, key.child(start))
        return result

    def _part(
        self, model: LanguageModel, prompts: Sequence[Ids], n: int, key: Key
    ) -> list[list[Response]]:
        result: list[list[Any]] = [[None] * n for _ in prompts]
        drawn_for, u = range(0), np.empty(0)
        for rows, copies in batches(prompts, n, self.batch_size):
            if copies != drawn_for:
                # Number by number, so that asking for more responses keeps the first ones.
                shape = (len(copies), len(prompts), self.max_new_tokens)
                drawn_for, u = copies, key.block(copies.start).uniform_numpy(*shape)
            noise = torch.from_numpy(u[:, rows].swapaxes(0, 1).reshape(-1, self.max_new_tokens))
            responses = self._draw(model, [prompts[i] for i in rows], len(copies), noise)
            for k, response in enumerate(responses):
                row, copy = divmod(k, len(copies))
                result[rows[row]][copies[copy]] = response
        return result

    def _draw(
        self, model: LanguageModel, prompts: Sequence[Ids], copies: int, u: torch.Tensor
    ) -> list[Response]:
        device = model.device
        u = u.to(device, torch.float32 if device.type == "mps" else torch.float64)
        u = u.clamp(max=1.0 - torch.finfo(u.dtype).eps / 2)  # single precision would round to 1
        batch = _Batch(model, prompts, copies)
        n = len(prompts) * copies
        tokens = torch.full((n, self.max_new_tokens), model.pad_id, device=device)
        total = torch.zeros(n, dtype=u.dtype, device=device)
        length = torch.zeros(n, dtype=torch.int64, device=device)
        rows = torch.arange(n, device=device)
        going = torch.ones(n, dtype=torch.bool, device=device)
        for t in range(self.max_new_tokens):
            token, log_p = _choose(batch.logits / self.temperature, u[rows, t, None])
            tokens[rows, t] = token
            total[rows] += torch.where(going, log_p, 0.0)
            length[rows] += going
            going = going & (token != model.eos_id)
            left = int(going.sum())
            if t + 1 == self.max_new_tokens or left == 0:
                break
            if left <= (1.0 - _IDLE) * going.numel():
                kept = going.nonzero()[:, 0]
                rows, token, going = rows[kept], token[kept], going[kept]
                batch.keep(kept)
            batch.advance(token)
        sums = total.tolist()
        if not np.isfinite(sums).all():
            raise broken(model)
        answers = [r[:m] for r, m in zip(tokens.tolist(), length.tolist(), strict=True)]
        return as_responses(model, answers, sums)


def _choose(logits: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw tokens by inversion; return them and their log-probabilities, shape ``(n,)``."""
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    log_p = torch.log_softmax(logits, dim=-1)
    below = log_p.exp().cumsum(dim=-1, dtype=u.dtype)
    # Measured against the last sum, not 1, and beyond equal sums, so that rounding never selects a
    # token without probability. (The clamp is for sums that are no numbers, which raise later.)
    token = torch.searchsorted(below, u * below[:, -1:], right=True)
    token = token.clamp(max=logits.shape[1] - 1)
    return token[:, 0], torch.gather(log_p, 1, token)[:, 0].to(u.dtype)


class _Batch:
    """The rows that are being drawn: their cache, and the logits of their next tokens."""

    def __init__(self, model: LanguageModel, prompts: Sequence[Ids], copies: int) -> None:
        self._model = model.model
        self._accepted = forward_accepts(self._model, "logits_to_keep", "position_ids")
        self._cache = DynamicCache(config=self._model.config)
        ids, mask = left_padded(prompts, model.pad_id, model.device)
        # The prompt is read once for all its responses.
        self._position, self._mask = positions(mask), mask
        self.logits = self._read(ids).repeat_interleave(copies, dim=0)
        self._cache.batch_repeat_interleave(copies)
        self._mask = mask.repeat_interleave(copies, dim=0)
        self._position = self._position[:, -1:].repeat_interleave(copies, dim=0)

    def _read(self, ids: torch.Tensor) -> torch.Tensor:
        extra: dict[str, object] = {"logits_to_keep": 1, "position_ids": self._position}
        out = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **{name: extra[name] for name in self._accepted},
        )
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all other rows."""
        self._cache.batch_select_indices(rows)
        self._mask, self._position = self._mask[rows], self._position[rows]

    def advance(self, token: torch.Tensor) -> None:
        """Append one token to each row."""
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(token), 1))], dim=1)
        self._position = self._position + 1
        self.logits = self._read(token[:, None])
