"""Other losses of one logit, ``rho = beta h``: hinge, exponential, Savage and EXO.

``h = log (pi / pi_ref)(w) - log (pi / pi_ref)(l)``, of sums of log-probabilities; ``p`` is the
probability that the first of two responses wins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.losses.comparisons import Comparisons, Law, Plans, loss
from rlhf_theory.losses.logistic import check_smoothing, with_margin
from rlhf_theory.losses.pairwise import OfBeta
from rlhf_theory.losses.scalars import log_sigmoid, positive_part, softplus, square, tame_exp


@loss({"beta": 0.7}, plans=Plans())
@dataclass(frozen=True)
class Hinge(OfBeta):
    r"""Hinge loss on the log-ratio (normalised SLiC).

    The loss is :math:`\max(0, 1 - \beta h)`.

    Population minimiser: with two actions :math:`|h| = 1/\beta` with the sign of ``p - 1/2``, so
    the size of the reward is lost; with more the solution of a linear programme. No margin.

    Attributes
    ----------
    beta
        Positive; sets the log-ratio of winners to losers, not a weight of the KL.

    Source: [2309.06657], hinge-norm.
    """

    name: ClassVar[str] = "hinge"
    law: ClassVar[Law] = "distinct"

    def _values(self, c: Comparisons) -> Array:
        return positive_part(1.0 - self.beta * c.h)


@loss({"beta": 0.7}, plans=Plans(weight=0.5))
@dataclass(frozen=True)
class SquaredHinge(OfBeta):
    r"""Squared hinge of the log-ratio.

    The truncated square, :math:`\max(0, 1 - \beta h)^2`.

    Population minimiser: with two actions :math:`\beta h = 2p - 1`, as IPO with
    ``tau = beta / 2``; with more, no closed form.

    Attributes
    ----------
    beta
        Positive; to first order in a Bradley-Terry reward ``eta = 2 beta``.

    Source: [2402.05749], convex losses of GPO.
    """

    name: ClassVar[str] = "squared-hinge"
    law: ClassVar[Law] = "distinct"

    def _values(self, c: Comparisons) -> Array:
        return square(positive_part(1.0 - self.beta * c.h))


@loss({"beta": 0.7}, plans=Plans(weight=0.5))
@dataclass(frozen=True)
class Exponential(OfBeta):
    r"""Exponential loss of the log-ratio.

    The loss is :math:`e^{-\beta h}`, continued by a tangent before it overflows.

    Population minimiser: :math:`h = \mathrm{logit}(p)/(2\beta)`, so under Bradley-Terry labels the
    Gibbs policy of ``eta = 2 beta``, exactly.

    Attributes
    ----------
    beta
        Positive; half of ``eta``.

    Source: [2402.05749], convex losses of GPO.
    """

    name: ClassVar[str] = "exponential"
    law: ClassVar[Law] = "any"

    def _values(self, c: Comparisons) -> Array:
        return tame_exp(-self.beta * c.h)


@loss({"beta": 0.7}, plans=Plans())
@dataclass(frozen=True)
class Savage(OfBeta):
    r"""Savage loss of the log-ratio: bounded, not convex.

    The loss is :math:`\sigma(-\beta h - m)^2`.

    Population minimiser: under Bradley-Terry labels the Gibbs policy of ``eta = beta``, as DPO.

    Attributes
    ----------
    beta
        Positive; equals ``eta``.

    Source: [2402.05749], losses of GPO.
    """

    name: ClassVar[str] = "savage"
    accepts: ClassVar[frozenset[str]] = frozenset({"margin"})
    law: ClassVar[Law] = "any"

    def _values(self, c: Comparisons) -> Array:
        rho = with_margin(self.beta * c.h, c)
        return namespace(rho).exp(-2.0 * softplus(rho))


def _exo_weight(loss: Any, eta: float) -> float:
    return 0.5 * eta * (math.log1p(-loss.smoothing) - math.log(loss.smoothing))


@loss({"beta": 0.7, "smoothing": 0.05}, plans=Plans(weight=_exo_weight))
@dataclass(frozen=True)
class EXO(OfBeta):
    r"""Efficient exact optimisation on pairs: the reverse KL of the policy's preference.

    .. math:: \mathrm{KL}\bigl((s, 1-s) \,\Vert\, (1-\epsilon, \epsilon)\bigr),
              \qquad s = \sigma(\beta h)

    Population minimiser: with two actions :math:`\beta h = (2p-1)\log((1-\epsilon)/\epsilon)`,
    linear in ``p`` as IPO. Bounded; not convex.

    Attributes
    ----------
    beta
        Positive; to first order in a Bradley-Terry reward
        ``eta = 2 beta / log((1 - smoothing) / smoothing)``.
    smoothing
        ``epsilon`` in (0, 1/2).

    Source: [2402.00856], equation 16.
    """

    smoothing: float = 0.1

    name: ClassVar[str] = "exo"
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_smoothing(self.smoothing, positive=True)

    def _values(self, c: Comparisons) -> Array:
        rho = self.beta * c.h
        xp = namespace(rho)
        log_s, log_not_s = log_sigmoid(rho), log_sigmoid(-rho)
        win = xp.exp(log_s) * (log_s - math.log1p(-self.smoothing))
        lose = xp.exp(log_not_s) * (log_not_s - math.log(self.smoothing))
        return win + lose
