"""The law of the labels; for evaluation and feedback, never for learners."""

from rlhf_theory.oracles.bradley_terry import BradleyTerry
from rlhf_theory.oracles.general import AnnotatorMixture, GeneralPreference
from rlhf_theory.oracles.labels import feedback_from, preference_logits, preference_matrix

__all__ = [
    "AnnotatorMixture",
    "BradleyTerry",
    "GeneralPreference",
    "feedback_from",
    "preference_logits",
    "preference_matrix",
]
