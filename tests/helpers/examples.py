"""Random examples for tests of training: tokens without meaning, reference scores that are true."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import LanguageModel
from llm_bridge.training.examples import Example
from rlhf_theory.randomness import Key


def tokens(model: LanguageModel, key: Key, n: int, shortest: int, longest: int) -> list[Any]:
    """Return ``n`` texts of random words."""
    u = key.uniform_numpy(n, longest + 1)
    first, size = 4, len(model.tokenizer) - 4
    lengths = shortest + (u[:, -1] * (longest - shortest + 1)).astype(int)
    return [
        tuple(int(first + v * size) for v in row[:m]) for row, m in zip(u, lengths, strict=True)
    ]


def examples(model: LanguageModel, n: int, *, k: int = 2, seed: int = 0, **given: Any) -> Any:
    """Return ``n`` examples with ``k`` responses each; hard labels unless given otherwise."""
    key = Key(seed).child("examples")
    prompts = tokens(model, key.child("prompts"), n, 2, 5)
    made = []
    for i, prompt in enumerate(prompts):
        words = tokens(model, key.child("responses", i), k, 1, 7)
        responses = tuple((*w, model.eos_id) for w in words)
        log_ref = sequence_log_probs(model, [prompt] * k, responses)
        values = {"target": (float(i % 3 > 0),), "log_ref": tuple(map(float, log_ref))} | given
        made.append(Example(prompt=prompt, responses=responses, **values))
    return made


def distance(a: LanguageModel, b: LanguageModel) -> float:
    """Return the largest difference of two models' weights."""
    pairs = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    return max(float((x - y).abs().max()) for x, y in pairs)


def in_double(model: LanguageModel) -> LanguageModel:
    """Return a copy in double precision."""
    copy = model.clone()
    return LanguageModel(copy.model.to(torch.float64), copy.tokenizer, copy.name)


def arrays(model: LanguageModel, e: Example) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities and lengths of an example's responses, from plain scoring."""
    log_pi = sequence_log_probs(model, [e.prompt] * len(e.responses), e.responses)
    return log_pi, np.array([float(len(r)) for r in e.responses])
