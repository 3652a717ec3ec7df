"""What the studies of this folder share: the tiny model as pi0, its gold reward, its judge."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from llm_bridge.embeddings.featureless import NoFeatures
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.labels.oracles import TextReward
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.tiny import TinyWorld, build
from llm_bridge.tiny import judge as read_answer
from rlhf_theory.randomness import Key

RESULTS = Path(__file__).parent / "results"


@lru_cache(maxsize=1)
def tiny_policy() -> tuple[TinyWorld, LanguageModelPolicy]:
    """Return the tiny world and its model as pi0, on one thread; the same ones every time."""
    torch.set_num_threads(1)
    world = build()
    policy = LanguageModelPolicy(
        world.model(), BatchedSampler(max_new_tokens=48, batch_size=512), batch_size=128
    )
    return world, policy


@lru_cache(maxsize=1)
def gold() -> TextReward:
    """Return the tiny world's own reward."""
    return TextReward(tiny_policy()[0].reward)


@lru_cache(maxsize=1)
def problem_of_seed(seed: int, n: int, features: Any, pool_size: int, eta: float) -> PromptProblem:
    """Return ``n`` prompts of a seed with pools from pi0; the last problem asked for is kept."""
    world, pi0 = tiny_policy()
    order = np.argsort(Key(seed).child("prompts").uniform_numpy(1, len(world.prompts))[0])
    return PromptProblem(
        [world.prompts[i] for i in order[:n]],
        pi0,
        features=features,
        pool_size=pool_size,
        eta=eta,
        seed=Key(seed).child("pools").seed_int(),
    )


@lru_cache(maxsize=4)
def judge_on(
    prompts: tuple[str, ...], samples: int, pool_size: int, eta: float, seed: int = 0
) -> HeldOut:
    """Return the judge of trained policies: the same pools and random numbers for all of them."""
    pi0 = tiny_policy()[1]
    problem = PromptProblem(
        prompts, pi0, features=NoFeatures(), pool_size=pool_size, eta=eta, seed=seed
    )
    return HeldOut(problem, gold(), n_samples=samples, text_metrics={"grammatical": grammatical})


def grammatical(prompt: str, response: str) -> float:
    """Return 1 where the response is an answer of the grammar, else 0."""
    return float(read_answer(prompt, response).answer is not None)
