"""General, possibly intransitive, preferences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_theory.arrays import Array, log_sigmoid, logsumexp, namespace, sigmoid, take_actions
from rlhf_theory.core import PreferenceModel, PreferenceOracle
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_choice, check_weights
from rlhf_theory.oracles.labels import log_odds, preference_logits, preference_matrix


@dataclass(frozen=True, eq=False)
class GeneralPreference:
    """Labels of an antisymmetric preference ``R(x, a, b) = -R(x, b, a)``.

    Attributes
    ----------
    model
        The payoff ``R``.
    payoff
        ``"logit"``: ``P = sigma(R)``; ``"probability"``: ``P = R + 1/2`` with ``|R| <= 1/2``.
    """

    model: PreferenceModel
    payoff: Literal["logit", "probability"] = "logit"

    def __post_init__(self) -> None:
        check_choice("payoff", self.payoff, ("logit", "probability"))

    def prob(self, contexts: Contexts, a1: Array, a2: Array) -> Array:
        """Return the probability that ``a1`` wins, shape ``(R, B)``."""
        rows = contexts.at(self.model.payoff, a1)
        return self._probability(take_actions(rows, a2))

    def probabilities(self, contexts: Contexts) -> Array:
        """Return ``P(a beats b | x)`` for all pairs, shape ``(R, B, A, A)``."""
        return self._probability(self.model.payoff(contexts))

    def _probability(self, r: Array) -> Array:
        if self.payoff == "logit":
            return sigmoid(r)
        xp = namespace(r)
        if not bool(xp.all(xp.abs(r) <= 0.5 + 1e-12)):
            message = "A probability payoff must lie in [-1/2, 1/2]; got values outside, or NaN."
            raise ValueError(message)
        return r + 0.5

    def logits(self, contexts: Contexts) -> Array:
        """Return the logit of ``P`` for all pairs, shape ``(R, B, A, A)``."""
        r = self.model.payoff(contexts)
        return r if self.payoff == "logit" else log_odds(r + 0.5)


@dataclass(frozen=True, eq=False)
class AnnotatorMixture:
    """Every label comes from one annotator, drawn afresh: ``P = sum_u w_u P_u``.

    Source: [2312.08358] (distributional preference learning); theory sheet 9.3.

    Attributes
    ----------
    annotators
        Oracles of the annotators.
    weights
        How often each is asked; sum to one.
    """

    annotators: Sequence[PreferenceOracle]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        check_weights(self.weights, len(self.annotators), "annotator", "annotators")

    def prob(self, contexts: Contexts, a1: Array, a2: Array) -> Array:
        """Return the probability that ``a1`` wins, shape ``(R, B)``."""
        return self._mean(lambda annotator: annotator.prob(contexts, a1, a2))

    def probabilities(self, contexts: Contexts) -> Array:
        """Return ``P(a beats b | x)`` for all pairs, shape ``(R, B, A, A)``."""
        return self._mean(lambda annotator: preference_matrix(annotator, contexts))

    def _mean(self, prob: Callable[[PreferenceOracle], Array]) -> Array:
        first, *rest = [
            w * prob(annotator) for annotator, w in zip(self.annotators, self.weights, strict=True)
        ]
        return sum(rest, start=first)

    def logits(self, contexts: Contexts) -> Array:
        """Return the logit of ``P`` for all pairs, shape ``(R, B, A, A)``.

        In logarithms, so that it is exact also where all annotators are nearly certain.
        """
        parts = [
            log_sigmoid(preference_logits(annotator, contexts)) + math.log(w)
            for annotator, w in zip(self.annotators, self.weights, strict=True)
            if w > 0
        ]
        # P(a beats b) and P(b beats a) are transposes, since every annotator is antisymmetric.
        win = logsumexp(namespace(*parts).stack(parts, axis=-1))
        return win - namespace(win).matrix_transpose(win)
