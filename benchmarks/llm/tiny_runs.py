"""What the studies of this folder share: the tiny model as pi0, stored results, provenance."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.tiny import TinyWorld, build
from rlhf_theory.store import write_json

RESULTS = Path(__file__).parent / "results"


def tiny_policy() -> tuple[TinyWorld, LanguageModelPolicy]:
    """Return the tiny world and its model as pi0, on one thread."""
    torch.set_num_threads(1)
    world = build()
    policy = LanguageModelPolicy(
        world.model(), BatchedSampler(max_new_tokens=48, batch_size=512), batch_size=128
    )
    return world, policy


def versions() -> dict[str, str]:
    """Return versions that numbers depend on."""
    return {name: metadata.version(name) for name in ("numpy", "torch", "transformers")}


def store(name: str, content: dict[str, Any]) -> Path:
    """Write ``results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_json(path, json.loads(json.dumps(content)) | {"versions": versions()})
    return path
