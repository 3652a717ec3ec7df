"""The learners and enhancers by name."""

from __future__ import annotations

from rlhf_theory.algorithms.baselines import SameLawPairs
from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy, Optimistic, Uniform
from rlhf_theory.algorithms.game_enhancers import InformationRatio
from rlhf_theory.algorithms.nash_game import NashGame
from rlhf_theory.algorithms.offline_ensemble import EnsembleMinimum, UncertaintyWeighted
from rlhf_theory.algorithms.offline_nash import OfflinePessimisticNash
from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy, OfflinePessimistic
from rlhf_theory.algorithms.online_iterative import OnlineIterative

__all__ = ["CATALOGUE"]

CATALOGUE: dict[str, tuple[type, str]] = {
    "offline-greedy": (OfflineGreedy, "maximum likelihood, then the Gibbs oracle (2301.11270)"),
    "offline-pessimistic": (
        OfflinePessimistic,
        "lower confidence bound, Options I and II (2312.11456, Algorithm 1)",
    ),
    "ensemble-minimum": (EnsembleMinimum, "smallest member of a bootstrap ensemble (2310.02743)"),
    "uncertainty-weighted": (UncertaintyWeighted, "mean minus variance, UWO (2310.02743)"),
    "offline-pessimistic-nash": (
        OfflinePessimisticNash,
        "general preference minus a bonus per pair (2402.07314, offline)",
    ),
    "online-iterative": (
        OnlineIterative,
        "main agent and enhancer, with offline data the hybrid (2312.11456, Algorithm 2)",
    ),
    "same-law-pairs": (
        SameLawPairs,
        "both actions from a policy that is not deployed, such as uniform pairs; a baseline",
    ),
    "nash-game": (NashGame, "equilibrium of a learnt preference, enhancer (2402.07314, online)"),
    "enhancer: optimistic": (Optimistic, "most uncertain policy that may be optimal (2405.07863)"),
    "enhancer: from-reference": (FromReference, "the reference policy (2312.11456, option II)"),
    "enhancer: information-ratio": (InformationRatio, "for games (2402.07314)"),
    "enhancer: on-policy": (OnPolicy, "the main agent itself; a baseline, self-play in games"),
    "enhancer: uniform": (Uniform, "the uniform policy; a baseline"),
}
"""Name to (class, one line with the paper)."""
