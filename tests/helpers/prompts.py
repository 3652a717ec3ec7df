"""Prompt problems without a transformer: policies over few strings, features from tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.arrays import as_like, log_softmax, take_rows
from rlhf_theory.randomness import Key


@dataclass(frozen=True, eq=False)
class FewStrings:
    """A policy over ``S`` strings of one or two tokens, with known probabilities ``(N, S)``.

    Prompt ``i`` has the tokens ``(i,)``.
    """

    log_p: np.ndarray
    asked: list = field(default_factory=list)

    @property
    def strings(self):
        return [(s,) if s % 2 else (s, s + 100) for s in range(self.log_p.shape[1])]

    def sample(self, prompts, n, key):
        u = key.uniform_numpy(len(prompts), n)
        self.asked.append(n)
        rows = []
        for (i,), v in zip(prompts, u, strict=True):
            below = np.cumsum(np.exp(self.log_p[i]))
            index = np.searchsorted(below / below[-1], v, side="right")
            rows.append(
                [Response(self.strings[s], f"s{s}", float(self.log_p[i, s])) for s in index]
            )
        return rows

    def sequence_log_probs(self, prompts, responses):
        return np.array([self.log_p[p[0], r[0]] for p, r in zip(prompts, responses, strict=True)])

    def log_probs(self, contexts):
        """The policy over the pools of the contexts; the rule of the house style, written out."""
        pools = contexts.source
        ratio = np.zeros(pools.log_pi0.shape)
        for i, (prompt, pool) in enumerate(zip(pools.prompts, pools.responses, strict=True)):
            for k, r in enumerate(pool):
                ratio[i, k] = self.log_p[prompt.ids[0], r.ids[0]] - pools.log_pi0[i, k]
        return log_softmax(
            contexts.log_pi0 + take_rows(as_like(ratio[None], contexts.like), contexts.ids)
        )


def random_strings(n_prompts, n_strings, seed=0, spread=1.0):
    """A `FewStrings` with random probabilities."""
    logits = spread * Key(seed).normal_numpy(n_prompts, n_strings)
    return FewStrings(log_softmax(logits))


def few_prompts(n):
    """Prompts with one token each."""
    return [Prompt(f"prompt {i}", (i,)) for i in range(n)]


class TokenFeatures:
    """Features ``(n, d)``, a fixed function of the tokens of prompt and response; no fitting."""

    def __init__(self, dim=3, dtype=torch.float64, seed=5, size=256, device="cpu"):
        key = Key(seed)
        self.words = key.child("words").normal_numpy(size, dim)
        self.mix = key.child("mix").normal_numpy(size, dim)
        self.dtype, self.device, self.calls = dtype, device, 0

    def rows(self, prompts, responses):
        self.calls += len(responses)
        phi = [
            np.tanh(self.words[list(r)].mean(axis=0) + self.mix[list(p)].mean(axis=0))
            * (1.0 + 0.1 * len(r))
            for p, r in zip(prompts, responses, strict=True)
        ]
        return torch.as_tensor(np.array(phi), dtype=self.dtype, device=self.device)


class FittedTokenFeatures(TokenFeatures):
    """What `CentredTokenFeatures.fit` returns."""

    def __init__(self, mean, **settings):
        super().__init__(**settings)
        self.mean = mean

    def rows(self, prompts, responses):
        return super().rows(prompts, responses) - self.mean


class CentredTokenFeatures:
    """Features that have to be fitted: centred on what they are fitted to."""

    def __init__(self, **settings):
        self.settings, self.seen = settings, None

    def fit(self, prompts, responses):
        self.seen = (list(prompts), list(responses))
        raw = TokenFeatures(**self.settings).rows(prompts, responses)
        return FittedTokenFeatures(raw.mean(dim=0), **self.settings)


def string_problem(n_prompts=6, n_strings=7, pool_size=6, dim=3, spread=1.0, **settings):
    """A `PromptProblem` over few strings."""
    policy = random_strings(n_prompts, n_strings, spread=spread)
    settings = {"eta": 0.3, "features": TokenFeatures(dim)} | settings
    return PromptProblem(few_prompts(n_prompts), policy, pool_size=pool_size, **settings)
