"""Losses without a reference policy: log-probabilities themselves, with or without lengths.

They regularise towards nothing, or towards winners, so they are no planning oracles. A margin,
which belongs to the distance from a reference, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlhf_theory.arrays import Array
from rlhf_theory.errors import check_nonnegative, check_positive
from rlhf_theory.losses.comparisons import NO_REFERENCE, Comparisons, Law, loss
from rlhf_theory.losses.pairwise import OfBeta, Pairwise
from rlhf_theory.losses.scalars import log_one_minus_exp, positive_part, softplus


@loss({"beta": 0.7, "lam": 0.3}, plans=NO_REFERENCE)
@dataclass(frozen=True)
class CPO(OfBeta):
    r"""Contrastive preference optimisation: DPO with a uniform reference, and cloning of winners.

    .. math:: -\log\sigma(\beta(\ell_w - \ell_l)) - \lambda \ell_w, \qquad \ell = \log\pi

    Sums over tokens, in the cloning term too.

    Population minimiser: for ``lam = 0`` DPO's with a uniform reference, :math:`e^{r/\beta}`. Where
    two actions are compared with each other only,
    :math:`\beta(\sigma(\beta u) - p) + \lambda(\sigma(u) - p) = 0` for the log-odds ``u``: between
    DPO and cloning of the winners.

    Attributes
    ----------
    beta
        Positive.
    lam
        Weight of cloning, at least 0.

    Source: [2401.08417].
    """

    lam: float = 1.0

    name: ClassVar[str] = "cpo"
    needs: ClassVar[frozenset[str]] = frozenset()
    law: ClassVar[Law] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("lam", self.lam)

    def _values(self, c: Comparisons) -> Array:
        return softplus(-self.beta * (c.log_pi_w - c.log_pi_l)) - self.lam * c.log_pi_w


@loss({"beta": 0.7, "gamma": 0.4}, plans=NO_REFERENCE)
@dataclass(frozen=True)
class SimPO(OfBeta):
    r"""Simple preference optimisation on means per token, with a target margin.

    .. math:: -\log\sigma\Bigl(\tfrac{\beta}{n_w}\log\pi(w)
              - \tfrac{\beta}{n_l}\log\pi(l) - \gamma\Bigr)

    Population minimiser: for lengths 1 and ``gamma = 0`` the Gibbs policy with uniform reference,
    :math:`e^{r/\beta}`. A positive ``gamma`` inflates every gap, and not additively: with two
    actions of length 1 the log-odds ``u`` solve
    :math:`p\,\sigma(\gamma - \beta u) = (1-p)\,\sigma(\gamma + \beta u)`.

    Attributes
    ----------
    beta
        Positive; counts per token.
    gamma
        Target margin, at least 0, in units of the logit (``beta`` times the published ratio).

    Source: [2405.14734].
    """

    gamma: float = 0.0

    name: ClassVar[str] = "simpo"
    needs: ClassVar[frozenset[str]] = frozenset({"lengths"})
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("gamma", self.gamma)

    def _values(self, c: Comparisons) -> Array:
        per_token = c.log_pi_w / c.length_w - c.log_pi_l / c.length_l
        return softplus(self.gamma - self.beta * per_token)


@loss({"lam": 0.3}, plans=NO_REFERENCE)
@dataclass(frozen=True)
class ORPO(Pairwise):
    r"""Odds-ratio preference optimisation: cloning of winners plus a log-odds ratio.

    .. math:: -\log p_w - \lambda\log\sigma\Bigl(\log\tfrac{p_w}{1-p_w}
              - \log\tfrac{p_l}{1-p_l}\Bigr), \qquad \log p = \tfrac1n \log\pi

    Means per token throughout. Population minimiser where two actions of length 1 are compared with
    each other only:
    :math:`\sigma(u) - p + 2\lambda(\sigma(2u) - p) = 0` for the log-odds ``u``, between cloning
    (``u = logit p``) and half of it.

    Attributes
    ----------
    lam
        Weight of the odds ratio, at least 0.

    Source: [2403.07691].
    """

    lam: float = 0.1

    name: ClassVar[str] = "orpo"
    needs: ClassVar[frozenset[str]] = frozenset({"lengths"})
    law: ClassVar[Law] = "full"

    def __post_init__(self) -> None:
        check_nonnegative("lam", self.lam)

    def _values(self, c: Comparisons) -> Array:
        win, lose = c.log_pi_w / c.length_w, c.log_pi_l / c.length_l
        log_odds = (win - log_one_minus_exp(win)) - (lose - log_one_minus_exp(lose))
        return -win + self.lam * softplus(-log_odds)


@loss({"delta": 0.8, "lam": 0.3}, plans=NO_REFERENCE)
@dataclass(frozen=True)
class SLiC(Pairwise):
    r"""Sequence likelihood calibration, with supervised targets as regulariser.

    .. math:: \max(0, \delta - \log\pi(w) + \log\pi(l)) - \lambda\log\pi(\tilde a)

    :math:`\tilde a` is the supervised target of the prompt (``log_pi_sample``); sums over tokens.
    Population minimiser: no closed form; for ``lam = 0`` a hinge with a uniform reference and
    ``beta = 1 / delta``.

    Attributes
    ----------
    delta
        Margin of the log-probabilities, positive.
    lam
        Weight of the supervised targets, at least 0.

    Source: [2305.10425].
    """

    delta: float = 1.0
    lam: float = 1.0

    name: ClassVar[str] = "slic-hf"
    needs: ClassVar[frozenset[str]] = frozenset({"sample"})
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        check_positive("delta", self.delta)
        check_nonnegative("lam", self.lam)

    def _values(self, c: Comparisons) -> Array:
        short = self.delta - c.log_pi_w + c.log_pi_l
        return positive_part(short) - self.lam * c.log_pi_sample
