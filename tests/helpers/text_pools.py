"""Pools of given texts, without any language model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.candidates import Pools
from rlhf_theory.arrays import as_like, int_like
from rlhf_theory.data import Contexts
from rlhf_theory.randomness import Key


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def text_pools(texts: Mapping[str, Sequence[str]]) -> Pools:
    """Equal masses; every byte is a token of probability 1/4."""
    size = max(len(v) for v in texts.values())
    log_mass, log_pi0 = np.full((len(texts), size), -np.inf), np.zeros((len(texts), size))
    responses = []
    for i, pool in enumerate(texts.values()):
        log_mass[i, : len(pool)] = -math.log(len(pool))
        log_pi0[i, : len(pool)] = [-math.log(4.0) * len(ids_of(t)) for t in pool]
        responses.append(tuple(Response(ids_of(t), t, float("nan")) for t in pool))
    prompts = tuple(Prompt(t, ids_of(t)) for t in texts)
    ess = np.array([float(len(v)) for v in texts.values()])
    return Pools(prompts, tuple(responses), log_mass, log_pi0, ess)


def text_contexts(
    texts: Mapping[str, Sequence[str]], *, dim: int = 3, like: Any = None
) -> Contexts:
    """All prompts as one table with random features, of doubles on the host unless told."""
    pools = text_pools(texts)
    like = np.zeros(1) if like is None else like
    n, k = pools.log_mass.shape
    phi = Key(5).child("phi").normal(1, n, k, dim, like=like)
    ids = int_like(np.arange(n)[None, :], like)
    log_mass = as_like(pools.log_mass[None, ...], like)
    return Contexts(phi, log_mass, ids, source=pools, whole=True)
