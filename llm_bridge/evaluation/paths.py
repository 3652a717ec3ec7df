"""Paths of exact policies over pools: what happens as a reward is optimised harder and harder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from llm_bridge.evaluation.details import Details
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.labels.oracles import reward_margins
from rlhf_theory.core import Policy, RewardModel
from rlhf_theory.planners.best_of_n import BestOfNPolicy
from rlhf_theory.planners.gibbs import GibbsPolicy
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.randomness import Key


def temperatures(model: RewardModel, held_out: HeldOut, n: int = 12) -> np.ndarray:
    """Return weights of the KL from weak to strong optimisation of a reward, shape ``(n,)``.

    From three times the median difference of two responses of a pool to a thirtieth of it. Ones
    where the reward is the same for all.
    """
    contexts, _ = held_out.problem.population(Key(held_out.seed), 0)
    margins = reward_margins(model, contexts)
    margins = margins[margins > 0]
    size = float(np.median(margins)) if margins.size else 1.0
    return np.geomspace(3.0, 1.0 / 30.0, n) * size


def gibbs_path(
    held_out: HeldOut, model: RewardModel, etas: Sequence[float] | np.ndarray
) -> pd.DataFrame:
    """Return KL and rewards of pi0 and of the Gibbs policies of a reward, exact on the pools.

    Columns ``strength`` (``1 / eta``, 0 for pi0), ``kl``, ``proxy`` (this reward), and ``gold``
    where the evaluation has one.
    """
    policies = {1.0 / float(eta): GibbsPolicy(model, float(eta)) for eta in etas}
    return _path(held_out, model, policies)


def best_of_n_path(held_out: HeldOut, model: RewardModel, ns: Sequence[float]) -> pd.DataFrame:
    """Return the same for the best of ``n`` draws by a reward; ``strength`` is ``n - 1``."""
    return _path(held_out, model, {float(n) - 1.0: BestOfNPolicy(model, n) for n in ns if n > 1})


def _path(held_out: HeldOut, model: RewardModel, policies: Mapping[float, Policy]) -> pd.DataFrame:
    found: dict[float, Details] = {0.0: held_out.pool(ReferencePolicy(), proxy=model)}
    for strength, policy in sorted(policies.items(), key=lambda item: item[0]):
        found[strength] = held_out.pool(policy, proxy=model)
    names = [n for n in ("kl", "gold", "proxy") if f"pool_{n}" in found[0.0].per_prompt]
    rows = [
        {"strength": strength, **{n: float(details.mean(f"pool_{n}")[0]) for n in names}}
        for strength, details in found.items()
    ]
    return pd.DataFrame(rows)
