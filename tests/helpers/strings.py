"""All short responses of a model and their probabilities, by the slow and obvious way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from llm_bridge.language.models import Ids, LanguageModel


def next_logits(model: LanguageModel, before: Ids) -> torch.Tensor:
    """Logits of the token after exactly these: one text, no padding, no cache."""
    with torch.no_grad():
        return model.model(input_ids=torch.tensor([before])).logits[0, -1].double()


def token_loop(
    model: LanguageModel, prompt: Ids, response: Ids, temperature: float = 1.0
) -> list[float]:
    """Log-probability of each token: one pass per token over what precedes it."""
    values = []
    for t, token in enumerate(response):
        logits = next_logits(model, (*prompt, *response[:t])) / temperature
        values.append(float(torch.log_softmax(logits, dim=-1)[token]))
    return values


def all_responses(model: LanguageModel, longest: int) -> list[Ids]:
    """Every response of at most ``longest`` tokens: finished ones, and those that were cut."""
    others = [i for i in range(model.n_tokens) if i != model.eos_id]
    finished = [
        (*words, model.eos_id)
        for m in range(longest)
        for words in itertools.product(others, repeat=m)
    ]
    return [*finished, *itertools.product(others, repeat=longest)]


def probabilities(
    model: LanguageModel, prompt: Ids, responses: Sequence[Ids], temperature: float = 1.0
) -> list[float]:
    """Probability of each response, token by token."""
    known: dict[Ids, torch.Tensor] = {}
    values = []
    for response in responses:
        total = 0.0
        for t, token in enumerate(response):
            before = (*prompt, *response[:t])
            if before not in known:
                logits = next_logits(model, before) / temperature
                known[before] = torch.log_softmax(logits, dim=-1)
            total += float(known[before][token])
        values.append(math.exp(total))
    return values
