"""RLHF as a KL-regularised contextual bandit with preference feedback.

Names are loaded when they are first used, so that ``rlhf-theory --help`` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_theory.lazy import lazy_names

if TYPE_CHECKING:
    from rlhf_theory import algorithms as algorithms
    from rlhf_theory import estimators as estimators
    from rlhf_theory import evaluation as evaluation
    from rlhf_theory import losses as losses
    from rlhf_theory import planners as planners
    from rlhf_theory import theorems as theorems
    from rlhf_theory import worlds as worlds
    from rlhf_theory.algorithms import EnsembleMinimum as EnsembleMinimum
    from rlhf_theory.algorithms import NashGame as NashGame
    from rlhf_theory.algorithms import OfflineGreedy as OfflineGreedy
    from rlhf_theory.algorithms import OfflinePessimistic as OfflinePessimistic
    from rlhf_theory.algorithms import OfflinePessimisticNash as OfflinePessimisticNash
    from rlhf_theory.algorithms import OnlineIterative as OnlineIterative
    from rlhf_theory.algorithms import UncertaintyWeighted as UncertaintyWeighted
    from rlhf_theory.algorithms import enhancers as enhancers
    from rlhf_theory.estimators import confidence as confidence
    from rlhf_theory.experiments import Trace as Trace
    from rlhf_theory.experiments import run as run
    from rlhf_theory.oracles import feedback_from as feedback_from
    from rlhf_theory.randomness import Key as Key
    from rlhf_theory.study import Study as Study
    from rlhf_theory.study import StudyResult as StudyResult
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "rlhf_theory": [
                "algorithms",
                "estimators",
                "evaluation",
                "losses",
                "planners",
                "theorems",
                "worlds",
            ],
            "rlhf_theory.algorithms": [
                "EnsembleMinimum",
                "NashGame",
                "OfflineGreedy",
                "OfflinePessimistic",
                "OfflinePessimisticNash",
                "OnlineIterative",
                "UncertaintyWeighted",
                "enhancers",
            ],
            "rlhf_theory.estimators": ["confidence"],
            "rlhf_theory.experiments": ["Trace", "run"],
            "rlhf_theory.oracles": ["feedback_from"],
            "rlhf_theory.randomness": ["Key"],
            "rlhf_theory.study": ["Study", "StudyResult"],
        },
    )
