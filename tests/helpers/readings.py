"""Random texts in tokens, and features of one text at a time by plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from llm_bridge.embeddings import extraction
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.language.models import LanguageModel
from rlhf_theory.randomness import Key


def random_texts(
    model: LanguageModel, n: int, *, longest: int = 12, seed: int = 0
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Prompts and responses of 1 to ``longest`` tokens, none of them special."""
    u = Key(seed).child("texts").uniform_numpy(2 * n, longest + 1)
    size = len(model.tokenizer)
    texts = [
        tuple(int(4 + (size - 4) * v) for v in row[1 : 2 + int(longest * row[0])]) for row in u
    ]
    return texts[:n], texts[n:]


def slow_features(
    model: LanguageModel,
    prompt: Sequence[int],
    response: Sequence[int],
    *,
    poolings: Sequence[str],
    layers: Sequence[int],
    over: str = "response",
) -> tuple[np.ndarray, float]:
    """One text, no padding, a loop over tokens."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        out = model.model(input_ids=ids, output_hidden_states=True)
    first = len(prompt) if over == "response" else 0
    numbers: list[float] = []
    for layer in layers:
        states = [out.hidden_states[layer][0, t].tolist() for t in range(first, ids.shape[1])]
        for pooling in poolings:
            total = [sum(column) for column in zip(*states, strict=True)]
            numbers += {
                "last": states[-1],
                "first": states[0],
                "sum": total,
                "mean": [x / len(states) for x in total],
            }[pooling]
    log_prob = 0.0
    for t in range(len(prompt), ids.shape[1]):
        logits: Any = out.logits[0, t - 1].double()
        log_prob += float(logits[ids[0, t]] - torch.logsumexp(logits, dim=0))
    return np.array(numbers), log_prob


def raw(model: Any, texts: Any, **settings: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Raw features and log-probabilities on the host."""
    phi, log_probs = TransformerFeatures(model, **settings).rows(*texts)
    return phi.numpy(), None if log_probs is None else log_probs.numpy()


def lengths_read(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """A list that gets, for every forward pass from now on, the lengths of its texts."""
    passes: list[list[int]] = []
    real = extraction.forward

    def noting(module: Any, readings: Any, **options: Any) -> Any:
        passes.append([len(r.ids) for r in readings])
        return real(module, readings, **options)

    monkeypatch.setattr(extraction, "forward", noting)
    return passes
