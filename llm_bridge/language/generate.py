"""Responses drawn by ``generate`` of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from llm_bridge.errors import memory_advice
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import Ids, LanguageModel, evaluating
from llm_bridge.language.responses import (
    Response,
    as_responses,
    batches,
    broken,
    check_request,
    left_padded,
)
from rlhf_theory.errors import check_positive
from rlhf_theory.randomness import Key


@contextmanager
def _own_settings(model: Any) -> Iterator[None]:
    """Hide the generation settings that come with a model, which fill in what is not given."""
    saved = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = saved


@dataclass(frozen=True, kw_only=True)
class GenerateSampler:
    """The same draws by ``generate`` of transformers, for models that need its special cases.

    Log-probabilities are scored in a second pass, so that there is no temperature. Draws depend
    on ``batch_size``.

    Attributes
    ----------
    max_new_tokens, batch_size
        As in `BatchedSampler`.
    """

    max_new_tokens: int = 64
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            check_positive(name, getattr(self, name))

    @property
    def temperature(self) -> float:
        """Always 1: the policy itself."""
        return 1.0

    def __call__(
        self, model: LanguageModel, prompts: Sequence[Ids], n: int, key: Key
    ) -> list[list[Response]]:
        """Return ``n`` independent responses to every prompt, in their order.

        Raises as `BatchedSampler` does.
        """
        check_request(model, prompts, n, self.max_new_tokens)
        result: list[list[Any]] = [[None] * n for _ in prompts]
        room = memory_advice(f"batch_size={self.batch_size} or max_new_tokens")
        with torch.inference_mode(), evaluating(model.model), room:
            for k, (rows, copies) in enumerate(batches(prompts, n, self.batch_size)):
                group = [prompts[i] for i in rows for _ in copies]
                answers = self.answers(model, group, key.child(k))
                scores = sequence_log_probs(model, group, answers, batch_size=self.batch_size)
                for i, response in enumerate(as_responses(model, answers, scores.tolist())):
                    row, copy = divmod(i, len(copies))
                    result[rows[row]][copies[copy]] = response
        return result

    def answers(self, model: LanguageModel, prompts: Sequence[Ids], key: Key) -> list[Ids]:
        """Return the tokens of one response per prompt, drawn in one batch."""
        config = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,  # None would mean 50
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=model.pad_id,
            eos_token_id=model.eos_id,
        )
        ids, mask = left_padded(prompts, model.pad_id, model.device)
        devices = [model.device] if model.device.type == "cuda" else []
        # `generate` takes no generator: its global one is set, and put back afterwards.
        with torch.random.fork_rng(devices=devices), _own_settings(model.model):
            torch.manual_seed(key.seed_int())  # noqa: TID251
            try:
                out = model.model.generate(
                    input_ids=ids, attention_mask=mask, generation_config=config
                )
            except RuntimeError as error:
                if "probability tensor" in str(error):
                    raise broken(model) from error
                raise
        return [_cut(row, model.eos_id) for row in out[:, ids.shape[1] :].tolist()]


def _cut(ids: Sequence[int], eos: int) -> Ids:
    """Return the tokens up to the end of the sequence; what follows is padding."""
    return tuple(ids[: ids.index(eos) + 1] if eos in ids else ids)
