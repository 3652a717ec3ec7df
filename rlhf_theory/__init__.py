"""RLHF as a KL-regularised contextual bandit with preference feedback.

Names are loaded when they are first used, so that ``rlhf-theory --help`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_theory import (
        algorithms,
        estimators,
        evaluation,
        losses,
        planners,
        theorems,
        worlds,
    )
    from rlhf_theory.algorithms import (
        EnsembleMinimum,
        NashGame,
        OfflineGreedy,
        OfflinePessimistic,
        OfflinePessimisticNash,
        OnlineIterative,
        UncertaintyWeighted,
        enhancers,
    )
    from rlhf_theory.estimators import confidence
    from rlhf_theory.experiments import Trace, run
    from rlhf_theory.oracles import feedback_from
    from rlhf_theory.randomness import Key
    from rlhf_theory.study import Study, StudyResult

__all__ = [
    "EnsembleMinimum",
    "Key",
    "NashGame",
    "OfflineGreedy",
    "OfflinePessimistic",
    "OfflinePessimisticNash",
    "OnlineIterative",
    "Study",
    "StudyResult",
    "Trace",
    "UncertaintyWeighted",
    "algorithms",
    "confidence",
    "enhancers",
    "estimators",
    "evaluation",
    "feedback_from",
    "losses",
    "planners",
    "run",
    "theorems",
    "worlds",
]

_MODULES = {
    "EnsembleMinimum": "rlhf_theory.algorithms",
    "NashGame": "rlhf_theory.algorithms",
    "OfflineGreedy": "rlhf_theory.algorithms",
    "OfflinePessimistic": "rlhf_theory.algorithms",
    "OfflinePessimisticNash": "rlhf_theory.algorithms",
    "OnlineIterative": "rlhf_theory.algorithms",
    "UncertaintyWeighted": "rlhf_theory.algorithms",
    "enhancers": "rlhf_theory.algorithms",
    "confidence": "rlhf_theory.estimators",
    "Trace": "rlhf_theory.experiments",
    "run": "rlhf_theory.experiments",
    "feedback_from": "rlhf_theory.oracles",
    "Key": "rlhf_theory.randomness",
    "Study": "rlhf_theory.study",
    "StudyResult": "rlhf_theory.study",
}


def __getattr__(name: str) -> Any:
    """Load a public name; ``AttributeError`` for others."""
    if name not in __all__:
        message = f"module 'rlhf_theory' has no attribute {name!r}"
        raise AttributeError(message)
    if name not in _MODULES:
        return importlib.import_module(f"rlhf_theory.{name}")
    home = importlib.import_module(_MODULES[name])
    return getattr(home, name, None) or importlib.import_module(f"{_MODULES[name]}.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
