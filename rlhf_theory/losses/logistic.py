"""Losses through the logistic function of one logit, ``rho = beta h + margin``: the DPO family.

``h = log (pi / pi_ref)(w) - log (pi / pi_ref)(l)``. All of them take sums of log-probabilities,
and their ``beta`` is the ``eta`` of the objective ``E[r] - eta KL(pi || pi_ref)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rlhf_theory.arrays import Array
from rlhf_theory.errors import check_choice, check_nonnegative
from rlhf_theory.losses.comparisons import Comparisons, Law, Plans, loss
from rlhf_theory.losses.pairwise import OfBeta
from rlhf_theory.losses.scalars import softplus


def with_margin(logit: Array, c: Comparisons) -> Array:
    """Return ``logit + margin``, or the logit where no margin is given."""
    return logit if c.margin is None else logit + c.margin


def check_smoothing(value: float, *, positive: bool = False) -> None:
    """Raise ``ValueError`` unless a share of flipped labels lies in [0, 1/2), or in (0, 1/2)."""
    if not (0.0 <= value < 0.5 and (value > 0.0 or not positive)):
        interval = "strictly between 0 and 1/2" if positive else "in [0, 1/2)"
        message = f"smoothing must lie {interval}; got {value}."
        raise ValueError(message)


@loss({"beta": 0.7}, plans=Plans())
@dataclass(frozen=True)
class DPO(OfBeta):
    r"""Direct preference optimisation: the logistic loss of the log-ratio, with a margin.

    The loss is :math:`-\log\sigma(\beta h + m)` with the margin ``m``.

    Population minimiser: under Bradley-Terry labels the Gibbs policy
    :math:`\pi_{ref} e^{r/\beta}`, exactly; under a general preference that of its Bradley-Terry
    projection, weighted by the law of the pairs. With the margin :math:`\Gamma_w - \Gamma_l` the
    reward is :math:`r - \Gamma`, the direct form of pessimism.

    Attributes
    ----------
    beta
        Positive; equals ``eta``.

    Source: [2305.18290], equation 7; margin [2312.11456], direct version of offline GSHF.
    """

    name: ClassVar[str] = "dpo"
    accepts: ClassVar[frozenset[str]] = frozenset({"margin"})
    law: ClassVar[Law] = "any"

    def _values(self, c: Comparisons) -> Array:
        return softplus(-with_margin(self.beta * c.h, c))


@dataclass(frozen=True)
class _Smoothed(OfBeta):
    """DPO for labels of which a share ``smoothing`` in [0, 1/2) is flipped; 0 is DPO."""

    smoothing: float = 0.1

    accepts: ClassVar[frozenset[str]] = frozenset({"margin"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_smoothing(self.smoothing)

    @property
    def law(self) -> Law:
        """``"any"`` where this is DPO.

        Else no reward explains the labels that the loss sees: smoothed ones, or corrected ones that
        were not flipped.
        """
        return "any" if self.smoothing == 0.0 else "distinct"


@loss({"beta": 0.7, "smoothing": 0.15}, plans=Plans(plain={"smoothing": 0.0}))
@dataclass(frozen=True)
class CDPO(_Smoothed):
    r"""Conservative DPO: smoothed labels.

    Labels are smoothed by :math:`\epsilon`:

    .. math:: -(1-\epsilon)\log\sigma(\rho) - \epsilon\log\sigma(-\rho), \qquad \rho = \beta h + m

    Population minimiser: as DPO under the preference :math:`(1-\epsilon) p + \epsilon (1-p)`, so
    log-ratios are bounded and no longer those of a Gibbs policy; with two actions
    :math:`\beta h` is the logit of that probability.

    Attributes
    ----------
    beta
        Positive; equals ``eta``.
    smoothing
        ``epsilon`` in [0, 1/2); 0 is DPO.

    Source: E. Mitchell, "A note on DPO with noisy preferences", 2023.
    """

    name: ClassVar[str] = "cdpo"

    def _values(self, c: Comparisons) -> Array:
        rho = with_margin(self.beta * c.h, c)
        # -log sigma(-rho) = rho - log sigma(rho): one soft-plus does for both.
        return softplus(-rho) + self.smoothing * rho


@loss({"beta": 0.7, "smoothing": 0.15}, plans=Plans(plain={"smoothing": 0.0}))
@dataclass(frozen=True)
class RobustDPO(_Smoothed):
    r"""DPO corrected for a known share of flipped labels.

    Without bias where the share :math:`\epsilon` of the labels is flipped:

    .. math:: \frac{(1-\epsilon)\,\ell(\rho) - \epsilon\,\ell(-\rho)}{1 - 2\epsilon},
              \qquad \ell = -\log\sigma, \quad \rho = \beta h + m

    Population minimiser under flipped labels: that of DPO under the clean ones. Not bounded below
    on a finite sample.

    Attributes
    ----------
    beta
        Positive; equals ``eta``.
    smoothing
        ``epsilon`` in [0, 1/2); 0 is DPO.

    Source: [2403.00409].
    """

    name: ClassVar[str] = "robust-dpo"

    def _values(self, c: Comparisons) -> Array:
        rho = with_margin(self.beta * c.h, c)
        # The definition with l(-rho) = l(rho) + rho put in: nothing large cancels.
        return softplus(-rho) - self.smoothing / (1.0 - 2.0 * self.smoothing) * rho


@loss({"beta": 0.7, "alpha": 0.05}, plans=Plans(plain={"alpha": 0.0}))
@dataclass(frozen=True)
class RDPO(OfBeta):
    r"""DPO that charges for length.

    The loss is :math:`-\log\sigma(\beta h + \alpha (n_w - n_l) + m)`.

    Population minimiser: DPO's for the reward :math:`r - \alpha n`, with ``n`` the number of
    tokens: :math:`\pi_{ref} e^{(r - \alpha n)/\beta}`.

    Attributes
    ----------
    beta
        Positive; equals ``eta``.
    alpha
        Price of a token in units of the reward; 0 is DPO.

    Source: [2403.19159].
    """

    alpha: float

    name: ClassVar[str] = "r-dpo"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "lengths"})
    accepts: ClassVar[frozenset[str]] = frozenset({"margin"})
    law: ClassVar[Law] = "any"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("alpha", self.alpha)

    def _values(self, c: Comparisons) -> Array:
        logit = self.beta * c.h + self.alpha * (c.length_w - c.length_l)
        return softplus(-with_margin(logit, c))


@loss({"beta": 0.7, "alpha": 0.1}, plans=Plans())
@dataclass(frozen=True)
class XPO(OfBeta):
    r"""Exploratory preference optimisation: DPO plus optimism.

    The loss is :math:`-\log\sigma(\beta h) + \alpha\log\pi(\tilde a)`.

    :math:`\tilde a` is one draw per comparison from the sampling policy (the reference). A positive
    ``alpha`` pushes mass off the reference's draws, which is optimism: for the Gibbs policy of a
    reward with mean 0 under the reference, :math:`-\beta E_{ref}\log(\pi/\pi_{ref})` is the largest
    value of the objective. No margin: it would undo the bonus.

    Population minimiser: DPO's at ``alpha = 0``; else that of the DPO loss minus
    :math:`(\alpha/\beta) J^*(r)` over rewards of mean 0 under the sampling policy.

    Attributes
    ----------
    beta
        Positive; equals ``eta``.
    alpha
        Weight of ``log pi`` itself (not of ``beta log pi``), at least 0; 0 is DPO.

    Source: [2405.21046], Algorithm 1.
    """

    alpha: float

    name: ClassVar[str] = "xpo"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "sample"})
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("alpha", self.alpha)

    def _values(self, c: Comparisons) -> Array:
        return softplus(-self.beta * c.h) + self.alpha * c.log_pi_sample


@loss(
    {"beta": 0.7, "alpha": 0.1, "direction": "online"},
    {"beta": 0.7, "alpha": 0.1, "direction": "offline"},
    plans=Plans(),
)
@dataclass(frozen=True)
class VPO(OfBeta):
    r"""Value-incentivised preference optimisation: DPO with a reward for its own value.

    .. math:: -\log\sigma(\beta h) \pm \alpha\beta\log\pi(\tilde a)

    The sign is ``+`` online (optimism: the loss minus ``alpha`` times the best value of the
    reward) and ``-`` offline (pessimism). :math:`\tilde a` is one draw per comparison from the
    calibration policy, under which rewards have mean 0. No margin.

    Population minimiser: that of the DPO loss :math:`\mp \alpha J^*(r)` over calibrated rewards;
    online it is XPO with ``alpha`` times ``beta``.

    Attributes
    ----------
    beta
        Positive; equals ``eta``.
    alpha
        Weight of the value, at least 0; 0 is DPO.
    direction
        ``"online"`` or ``"offline"``.

    Source: [2405.19320], online and offline algorithm.
    """

    alpha: float
    direction: Literal["online", "offline"]

    name: ClassVar[str] = "vpo"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "sample"})
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("alpha", self.alpha)
        check_choice("direction", self.direction, ("online", "offline"))

    def _values(self, c: Comparisons) -> Array:
        sign = 1.0 if self.direction == "online" else -1.0
        return softplus(-self.beta * c.h) + sign * self.alpha * self.beta * c.log_pi_sample
