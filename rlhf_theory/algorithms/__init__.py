"""Learners: offline, online-iterative and hybrid, and of preference games."""

from rlhf_theory.algorithms.baselines import SameLawPairs
from rlhf_theory.algorithms.certificates import best_round, online_bound
from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy, Optimistic, Uniform
from rlhf_theory.algorithms.game_enhancers import InformationRatio
from rlhf_theory.algorithms.nash_game import NashGame
from rlhf_theory.algorithms.offline_ensemble import EnsembleMinimum, UncertaintyWeighted
from rlhf_theory.algorithms.offline_nash import OfflinePessimisticNash
from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy, OfflinePessimistic
from rlhf_theory.algorithms.online_iterative import OnlineIterative

__all__ = [
    "EnsembleMinimum",
    "FromReference",
    "InformationRatio",
    "NashGame",
    "OfflineGreedy",
    "OfflinePessimistic",
    "OfflinePessimisticNash",
    "OnPolicy",
    "OnlineIterative",
    "Optimistic",
    "SameLawPairs",
    "UncertaintyWeighted",
    "Uniform",
    "best_round",
    "online_bound",
]
