"""DPO with other divergences than the KL: losses through ``f'`` of the ratio ``pi / pi_ref``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.errors import check_choice
from rlhf_theory.losses.comparisons import Comparisons, Law, Plans, loss
from rlhf_theory.losses.logistic import with_margin
from rlhf_theory.losses.pairwise import OfBeta
from rlhf_theory.losses.scalars import log_sigmoid, softplus, tame_exp

Divergence = Literal["reverse-kl", "forward-kl", "js", "alpha", "chi2-kl"]

DIVERGENCES: tuple[Divergence, ...] = ("reverse-kl", "forward-kl", "js", "alpha", "chi2-kl")
"""Names of the divergences of `FDPO`."""


def _chi_squared_link(u: Array) -> Array:
    """Return ``f'`` of chi-squared plus KL at the ratio ``e^u``, ``e^u + u``."""
    return tame_exp(u) + u


@loss(
    {"beta": 0.7, "divergence": "reverse-kl"},
    {"beta": 0.7, "divergence": "forward-kl"},
    {"beta": 0.7, "divergence": "js"},
    {"beta": 0.7, "divergence": "alpha", "alpha": 0.4},
    {"beta": 0.7, "divergence": "chi2-kl"},
    plans=Plans(weight=lambda loss, eta: eta / loss.curvature),
)
@dataclass(frozen=True)
class FDPO(OfBeta):
    r"""DPO for other divergences than the KL.

    The divergence is :math:`D_f(\pi\Vert\pi_{ref}) = E_{ref} f(\pi/\pi_{ref})`, the loss

    .. math:: -\log\sigma\bigl(\beta [f'(t_w) - f'(t_l)] + m\bigr), \qquad t = \pi/\pi_{ref}

    with :math:`f'(t)`, up to a constant: ``reverse-kl`` log t (this is DPO); ``forward-kl`` -1/t;
    ``js`` log(t / (1 + t)); ``alpha`` t^(alpha-1) / (alpha-1); ``chi2-kl`` t + log t. Takes sums of
    log-probabilities; powers of ``t`` near overflow are continued by tangents.

    Population minimiser: under Bradley-Terry labels the maximiser of
    :math:`E_\pi r - \beta D_f(\pi\Vert\pi_{ref})`, exactly. For small rewards all of these are
    Gibbs policies, of ``eta = beta f''(1)``.

    Attributes
    ----------
    beta
        Weight of the divergence, positive.
    divergence
        One of `DIVERGENCES`.
    alpha
        For ``alpha`` only: less than 1; 0 is ``forward-kl``, the limit 1 ``reverse-kl``. (Beyond 1
        the optimum may put no mass on an action, which no log-ratio expresses.)

    Source: [2309.16240], Theorem 1; chi-squared [2407.13399].
    """

    divergence: Divergence
    alpha: float | None = None

    name: ClassVar[str] = "f-dpo"
    accepts: ClassVar[frozenset[str]] = frozenset({"margin"})
    law: ClassVar[Law] = "any"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("divergence", self.divergence, DIVERGENCES)
        if self.divergence != "alpha":
            if self.alpha is not None:
                message = f"alpha belongs to the divergence 'alpha', not to {self.divergence!r}."
                raise ValueError(message)
        elif self.alpha is None or not -math.inf < self.alpha < 1.0:
            message = f"The divergence 'alpha' needs a finite alpha below 1; got {self.alpha}."
            raise ValueError(message)

    @property
    def curvature(self) -> float:
        """``f''(1)``: to first order in the reward the policy has ``eta = beta f''(1)``."""
        return {"js": 0.5, "chi2-kl": 2.0}.get(self.divergence, 1.0)

    def link(self, u: Array) -> Array:
        """Return ``f'(e^u)`` up to a constant."""
        if self.divergence == "reverse-kl":
            return u
        if self.divergence == "forward-kl":
            return -tame_exp(-u)
        if self.divergence == "js":
            return log_sigmoid(u)
        if self.divergence == "chi2-kl":
            return _chi_squared_link(u)
        power = (self.alpha or 0.0) - 1.0
        # Minus one keeps the limit alpha -> 1 and cancels between the responses.
        return (tame_exp(power * u) - 1.0) / power

    def _values(self, c: Comparisons) -> Array:
        rho = self.beta * (self.link(c.log_ratio_w) - self.link(c.log_ratio_l))
        return softplus(-with_margin(rho, c))


@loss({"beta": 0.7, "r_max": 3.0}, plans=Plans(weight=0.5))
@dataclass(frozen=True)
class ChiPO(OfBeta):
    r"""Chi-squared preference optimisation: chi-squared plus KL, with the logit clipped.

    .. math:: -\log\sigma\Bigl(\mathrm{clip}_{\pm 2R}\bigl(\beta[\phi(t_w) - \phi(t_l)]\bigr)\Bigr),
              \qquad \phi(t) = t + \log t, \quad t = \pi/\pi_{ref}

    Population minimiser: under Bradley-Terry labels of a reward with differences up to ``2 R``,
    the maximiser of
    :math:`E_\pi r - \beta[D_{\chi^2} + \mathrm{KL}](\pi\Vert\pi_{ref})`, exactly, where
    :math:`D_{\chi^2} = \tfrac12 E_{ref}(t - 1)^2`. Beyond the clip the gradient is zero. Takes sums
    of log-probabilities and no margin: it is pessimistic itself.

    Attributes
    ----------
    beta
        Weight of chi-squared plus KL, positive; the Gibbs policy nearest for small rewards has
        ``eta = 2 beta``.
    r_max
        ``R``, the bound on the reward; ``inf`` for no clip, which is ``f-dpo`` with ``chi2-kl``.

    Source: [2407.13399], Algorithm 1.
    """

    r_max: float

    name: ClassVar[str] = "chi-po"
    law: ClassVar[Law] = "any"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.r_max > 0:
            message = f"r_max must be positive (inf for no clip); got {self.r_max}."
            raise ValueError(message)

    def _values(self, c: Comparisons) -> Array:
        rho = self.beta * (_chi_squared_link(c.log_ratio_w) - _chi_squared_link(c.log_ratio_l))
        if self.r_max < math.inf:
            rho = namespace(rho).clip(rho, -2.0 * self.r_max, 2.0 * self.r_max)
        return softplus(-rho)
