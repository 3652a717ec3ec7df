"""What the cards of this folder share: the tiny model as pi0, and its gold reward."""

from __future__ import annotations

import os
from functools import lru_cache

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from llm_bridge.labels.oracles import TextReward
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.tiny import TinyWorld, build


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
