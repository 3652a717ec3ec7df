"""Every learner, by name: what the contract tests run. Add a learner here and they cover it."""

from dataclasses import dataclass

from rlhf_theory.algorithms.baselines import SameLawPairs
from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy, Optimistic, Uniform
from rlhf_theory.algorithms.game_enhancers import InformationRatio
from rlhf_theory.algorithms.nash_game import NashGame
from rlhf_theory.algorithms.offline_ensemble import EnsembleMinimum, UncertaintyWeighted
from rlhf_theory.algorithms.offline_nash import OfflinePessimisticNash
from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy, OfflinePessimistic
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.estimators.confidence import R3, R4, Constant, Scaled

SMALL_SET = Constant(beta=0.5)
BATCH = 5

ONLINE = {
    "online-reference": lambda: OnlineIterative(
        enhancer=FromReference(), radius=SMALL_SET, batch_size=BATCH
    ),
    "online-on-policy": lambda: OnlineIterative(
        enhancer=OnPolicy(), radius=SMALL_SET, batch_size=BATCH
    ),
    "online-uniform": lambda: OnlineIterative(enhancer=Uniform(), batch_size=BATCH),
    "online-optimistic": lambda: OnlineIterative(
        enhancer=Optimistic(n_random=1, contexts=16), radius=SMALL_SET, batch_size=BATCH
    ),
    "online-penalised": lambda: OnlineIterative(
        enhancer=Optimistic(form="penalised", n_random=1, contexts=16),
        radius=SMALL_SET,
        batch_size=BATCH,
    ),
    "same-law-uniform": lambda: SameLawPairs(
        learner=OnlineIterative(enhancer=FromReference(), radius=SMALL_SET, batch_size=BATCH)
    ),
    "nash-information-ratio": lambda: NashGame(
        enhancer=InformationRatio(n_random=1, contexts=16), batch_size=BATCH
    ),
    "nash-self-play": lambda: NashGame(enhancer=OnPolicy(), batch_size=BATCH),
    "nash-probability": lambda: NashGame(
        enhancer=FromReference(), game="probability", batch_size=BATCH
    ),
}
"""Online learners; settings small, so that a run takes a fraction of a second."""

OFFLINE = {
    "greedy": OfflineGreedy,
    "greedy-ball": lambda: OfflineGreedy(theta_bound=1.0),
    "pessimistic-I": lambda: OfflinePessimistic(radius=SMALL_SET, option="I"),
    "pessimistic-II": lambda: OfflinePessimistic(radius=SMALL_SET),
    "pessimistic-likelihood": lambda: OfflinePessimistic(radius=Scaled(R4(), 0.3)),
    "pessimistic-R3": lambda: OfflinePessimistic(radius=R3()),
    "ensemble-minimum": EnsembleMinimum,
    "uncertainty-weighted": UncertaintyWeighted,
    "pessimistic-nash": lambda: OfflinePessimisticNash(radius=SMALL_SET),
}
"""Offline learners."""


@dataclass(frozen=True)
class Slack:
    """What agrees less than the contract asks, and why."""

    reason: str
    alone: float = 1e-10
    libraries: float = 1e-8


SLACK: dict[str, Slack] = {}
"""Learners by name; empty is the aim."""
