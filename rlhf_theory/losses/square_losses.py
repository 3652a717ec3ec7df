"""Square losses of the log-ratio: regression of ``h`` on a fixed target, the IPO family.

``h = log (pi / pi_ref)(w) - log (pi / pi_ref)(l)``; ``q(a)`` is the probability that ``a`` beats a
draw of the law of the pairs (the Borda score, the own 1/2 included).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlhf_theory.arrays import Array
from rlhf_theory.errors import check_positive
from rlhf_theory.losses.comparisons import Comparisons, Law, Plans, loss
from rlhf_theory.losses.pairwise import Pairwise
from rlhf_theory.losses.scalars import square


@loss({"tau": 0.3}, plans=Plans("tau", 0.25))
@dataclass(frozen=True)
class IPO(Pairwise):
    r"""Identity preference optimisation: square loss of the log-ratio.

    The loss is :math:`(h - 1/(2\tau))^2`, not divided by lengths.

    Population minimiser: :math:`\pi_{ref} e^{q/\tau}`, finite even where ``p`` is 0 or 1. To first
    order in a Bradley-Terry reward that is the Gibbs policy of ``eta = 4 tau``. As a GPO loss it is
    :math:`(\rho - 1)^2` with ``beta = 2 tau``, up to a factor.

    Attributes
    ----------
    tau
        Positive; the weight of the KL where the reward is ``q``.

    Source: [2310.12036], equation 17.
    """

    tau: float

    name: ClassVar[str] = "ipo"
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)

    def _values(self, c: Comparisons) -> Array:
        return square(c.h - 0.5 / self.tau)


@loss(
    {"tau": 0.3},
    plans="its tau counts per token: use ipo, or make it with eta n / 4 at length n",
)
@dataclass(frozen=True)
class IPOPerToken(Pairwise):
    r"""IPO on mean log-ratios per token, as trainers of language models implement it.

    .. math:: \Bigl(\tfrac{1}{n_w}\log\tfrac{\pi}{\pi_{ref}}(w)
              - \tfrac{1}{n_l}\log\tfrac{\pi}{\pi_{ref}}(l) - \tfrac{1}{2\tau}\Bigr)^2

    Population minimiser: where all lengths are ``n``, IPO's with ``tau / n``; else log-ratios
    ``n(a) (q(a) + c) / tau``, which no single weight of the KL gives.

    Attributes
    ----------
    tau
        Positive; counts per token, so it is not the ``tau`` of `IPO`.

    Source: [2310.12036], equation 17, normalised as in its experiments.
    """

    tau: float

    name: ClassVar[str] = "ipo-per-token"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "lengths"})
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)

    def _values(self, c: Comparisons) -> Array:
        per_token = c.log_ratio_w / c.length_w - c.log_ratio_l / c.length_l
        return square(per_token - 0.5 / self.tau)


def mixed_reference(log_ref: Array, log_last: Array, weight: float) -> Array:
    """Return the log-probabilities of the geometric mixture of two policies, not normalised.

    The normaliser is the same for all responses to a prompt and cancels in every ``h``.

    Parameters
    ----------
    log_ref, log_last
        Log-probabilities under the reference policy and under the last iterate, one shape.
    weight
        Weight of the reference, in [0, 1].
    """
    if not 0.0 <= weight <= 1.0:
        message = f"weight must lie in [0, 1]; got {weight}."
        raise ValueError(message)
    return weight * log_ref + (1.0 - weight) * log_last


@loss({"tau": 0.3, "step": 0.8}, plans="it takes steps of a game: make it with tau and step")
@dataclass(frozen=True)
class INPO(Pairwise):
    r"""Iterative Nash policy optimisation: IPO against a mixture of reference and last iterate.

    .. math:: \Bigl(h - \tfrac{a}{2}\Bigr)^2, \qquad
              \pi_{ref} \to \mu^{a\tau}\,\pi_t^{1-a\tau}

    The log-probabilities of the reference in the comparisons must be those of the mixture:
    ``loss.reference(log_ref, log_last)``. Pairs come from the last iterate :math:`\pi_t`.

    Population minimiser: one step of mirror descent,
    :math:`\log\pi_{t+1} = (1 - a\tau)\log\pi_t + a\tau\log\mu + a P\pi_t + c`, which moves towards
    the equilibrium of the preference with weight ``tau`` of the KL.

    Attributes
    ----------
    tau
        Weight of the KL in the game: ``eta`` where the payoff is the probability.
    step
        ``a`` with ``a tau <= 1``; 1 over the ``eta`` of the paper. ``step = 1 / tau`` forgets the
        last iterate: IPO.

    Source: [2407.00617].
    """

    tau: float
    step: float

    name: ClassVar[str] = "inpo"
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)
        check_positive("step", self.step)
        # A hair above 1 is rounding of step = 1 / tau.
        if self.step * self.tau > 1.0 + 1e-12:
            message = f"step times tau must be at most 1; got {self.step} times {self.tau}."
            raise ValueError(message)

    def reference(self, log_ref: Array, log_last: Array) -> Array:
        """Return the log-probabilities to use as reference, from those of ``mu`` and ``pi_t``."""
        return mixed_reference(log_ref, log_last, min(self.step * self.tau, 1.0))

    def _values(self, c: Comparisons) -> Array:
        return square(c.h - 0.5 * self.step)
