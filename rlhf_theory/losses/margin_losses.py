"""Other losses of one logit, ``rho = beta h``: hinge, exponential, Savage and EXO.

``h = log (pi / pi_ref)(w) - log (pi / pi_ref)(l)``, of sums of log-probabilities; ``p`` is the
probability that the first of two responses wins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.errors import check_positive
from rlhf_theory.losses.comparisons import Comparisons, Law, Plans, checked, loss
from rlhf_theory.losses.logistic import check_smoothing, with_margin
from rlhf_theory.losses.scalars import log_sigmoid, softplus, square, tame_exp


@loss({"beta": 0.7}, plans=Plans())
@dataclass(frozen=True)
class Hinge:
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

    beta: float

    name: ClassVar[str] = "hinge"
    takes: ClassVar[Literal["pairs", "groups"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    accepts: ClassVar[frozenset[str]] = frozenset()
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison."""
        return _positive_part(1.0 - self.beta * checked(self, c).h)


@loss({"beta": 0.7}, plans=Plans(weight=0.5))
@dataclass(frozen=True)
class SquaredHinge:
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

    beta: float

    name: ClassVar[str] = "squared-hinge"
    takes: ClassVar[Literal["pairs", "groups"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    accepts: ClassVar[frozenset[str]] = frozenset()
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison."""
        return square(_positive_part(1.0 - self.beta * checked(self, c).h))


@loss({"beta": 0.7}, plans=Plans(weight=0.5))
@dataclass(frozen=True)
class Exponential:
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

    beta: float

    name: ClassVar[str] = "exponential"
    takes: ClassVar[Literal["pairs", "groups"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    accepts: ClassVar[frozenset[str]] = frozenset()
    law: ClassVar[Law] = "any"

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison."""
        return tame_exp(-self.beta * checked(self, c).h)


@loss({"beta": 0.7}, plans=Plans())
@dataclass(frozen=True)
class Savage:
    r"""Savage loss of the log-ratio: bounded, not convex.

    The loss is :math:`\sigma(-\beta h - m)^2`.

    Population minimiser: under Bradley-Terry labels the Gibbs policy of ``eta = beta``, as DPO.

    Attributes
    ----------
    beta
        Positive; equals ``eta``.

    Source: [2402.05749], losses of GPO.
    """

    beta: float

    name: ClassVar[str] = "savage"
    takes: ClassVar[Literal["pairs", "groups"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    accepts: ClassVar[frozenset[str]] = frozenset({"margin"})
    law: ClassVar[Law] = "any"

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison."""
        c = checked(self, c)
        rho = with_margin(self.beta * c.h, c)
        return namespace(rho).exp(-2.0 * softplus(rho))


def _exo_weight(loss: Any, eta: float) -> float:
    return 0.5 * eta * (math.log1p(-loss.smoothing) - math.log(loss.smoothing))


@loss({"beta": 0.7, "smoothing": 0.05}, plans=Plans(weight=_exo_weight))
@dataclass(frozen=True)
class EXO:
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

    beta: float
    smoothing: float = 0.1

    name: ClassVar[str] = "exo"
    takes: ClassVar[Literal["pairs", "groups"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    accepts: ClassVar[frozenset[str]] = frozenset()
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_smoothing(self.smoothing, positive=True)

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison."""
        rho = self.beta * checked(self, c).h
        xp = namespace(rho)
        log_s, log_not_s = log_sigmoid(rho), log_sigmoid(-rho)
        win = xp.exp(log_s) * (log_s - math.log1p(-self.smoothing))
        lose = xp.exp(log_not_s) * (log_not_s - math.log(self.smoothing))
        return win + lose


def _positive_part(u: Array) -> Array:
    xp = namespace(u)
    return xp.where(u > 0.0, u, xp.zeros_like(u))
