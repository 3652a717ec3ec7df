"""Offline learning of a general preference, with pessimism."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_theory.arrays import Array, inner, namespace
from rlhf_theory.core import ConfidenceSet, Planner, Policy, PreferenceModel, Problem, Solution
from rlhf_theory.data import Contexts, PreferenceData
from rlhf_theory.estimators.confidence import ConfidenceRule, Constant
from rlhf_theory.features import game_features
from rlhf_theory.planners.saddle import PessimisticNash
from rlhf_theory.randomness import Key
from rlhf_theory.roles import learner


@dataclass(frozen=True, eq=False)
class PessimisticPreference:
    """The payoff ``min <theta, psi(x, a, b)>`` over a confidence set; not antisymmetric.

    Attributes
    ----------
    confidence
        Set over the bilinear parameters.
    n_labels
        Labels per replica, shape ``(R,)``: the payoff is 0 where there are none. None: as is.
    """

    confidence: ConfidenceSet
    n_labels: Array | None = None

    def payoff(self, contexts: Contexts) -> Array:
        """Return payoffs to the first action, shape ``(R, B, A, A)``; 0 on the diagonal."""

        def lower(c: Contexts) -> Array:
            return self._known(self.confidence.lower(game_features(c)))

        return contexts.lookup(lower)

    def bonus(self, contexts: Contexts) -> Array:
        """Return ``<center, psi> - payoff``, the bonus ``b(x, a, b)``, shape ``(R, B, A, A)``."""

        def difference(c: Contexts) -> Array:
            psi = game_features(c)
            value = inner(psi, self.confidence.center) - self.confidence.lower(psi)
            return self._known(namespace(value).maximum(value, namespace(value).zeros_like(value)))

        return contexts.lookup(difference)

    def _known(self, value: Array) -> Array:
        if self.n_labels is None:
            return value
        xp = namespace(value)
        return xp.where((self.n_labels > 0)[:, None, None, None], value, xp.zeros_like(value))


@learner("offline-pessimistic-nash", {"radius": {"kind": "constant", "beta": 0.5}}, model="game")
@dataclass(frozen=True, eq=False, kw_only=True)
class OfflinePessimisticNash:
    r"""Fit a bilinear preference, subtract a bonus per pair, play the max player of the saddle.

    .. math::

        \max_{\pi_1} \min_{\pi_2} E[\hat R(x, a_1, a_2) - b(x, a_1, a_2)]
        - \eta\, KL(\pi_1 \Vert \pi_0) + \eta\, KL(\pi_2 \Vert \pi_0)

    Departures from the paper: the version space of a finite class becomes the confidence set of
    bilinear preferences, and the bonus is pointwise, ``b = beta |psi|_{Sigma^-1}`` (the paper takes
    the minimum over the version space outside the expectation); logit payoff; the KL weight is
    ``eta``, where the paper writes ``1 / eta``; a replica without any label gets pi0, where the
    formula would still prefer actions with features like those of others.

    Attributes
    ----------
    radius
        Rule for the confidence set; it also says how to fit. Wrap it in `Scaled` for a bonus
        multiplier; with 0 the answer is the equilibrium of the estimate.
    planner
        Planning oracle for payoffs that are not antisymmetric.

    Source: [2402.07314], offline algorithm (v3, read in a summary); theory sheet 2.2.
    """

    radius: ConfidenceRule = field(default_factory=lambda: Constant(beta=1.0))
    planner: Planner[PreferenceModel] = field(default_factory=PessimisticNash)

    def __call__(self, problem: Problem, data: PreferenceData, key: Key) -> Solution[Policy]:
        """Return the pessimistic policy; without data it is pi0."""
        fit = self.radius.fit(data, data.skew)
        confidence = self.radius.confidence_set(fit, data, problem, data.skew)
        model = PessimisticPreference(confidence, data.n_labels)
        return self.planner(model, problem, key.child("plan"), None).given(fit)
