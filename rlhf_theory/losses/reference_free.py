"""Losses without a reference policy: log-probabilities themselves, with or without lengths.

They regularise towards nothing, or towards winners, so they are no planning oracles. A margin,
which belongs to the distance from a reference, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.errors import check_nonnegative, check_positive
from rlhf_theory.losses.comparisons import NO_REFERENCE, Comparisons, Law, checked, loss
from rlhf_theory.losses.scalars import log_one_minus_exp, softplus


@loss({"beta": 0.7, "lam": 0.3}, plans=NO_REFERENCE)
@dataclass(frozen=True)
class CPO:
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

    beta: float
    lam: float = 1.0

    name: ClassVar[str] = "cpo"
    takes: ClassVar[Literal["pairs", "groups"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset()
    accepts: ClassVar[frozenset[str]] = frozenset()
    law: ClassVar[Law] = "full"

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_nonnegative("lam", self.lam)

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison."""
        c = checked(self, c)
        return softplus(-self.beta * (c.log_pi_w - c.log_pi_l)) - self.lam * c.log_pi_w


@loss({"beta": 0.7, "gamma": 0.4}, plans=NO_REFERENCE)
@dataclass(frozen=True)
class SimPO:
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

    beta: float
    gamma: float = 0.0

    name: ClassVar[str] = "simpo"
    takes: ClassVar[Literal["pairs", "groups"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"lengths"})
    accepts: ClassVar[frozenset[str]] = frozenset()
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_nonnegative("gamma", self.gamma)

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison."""
        c = checked(self, c)
        per_token = c.log_pi_w / c.length_w - c.log_pi_l / c.length_l
        return softplus(self.gamma - self.beta * per_token)


@loss({"lam": 0.3}, plans=NO_REFERENCE)
@dataclass(frozen=True)
class ORPO:
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
    takes: ClassVar[Literal["pairs", "groups"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"lengths"})
    accepts: ClassVar[frozenset[str]] = frozenset()
    law: ClassVar[Law] = "full"

    def __post_init__(self) -> None:
        check_nonnegative("lam", self.lam)

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison."""
        c = checked(self, c)
        win, lose = c.log_pi_w / c.length_w, c.log_pi_l / c.length_l
        log_odds = (win - log_one_minus_exp(win)) - (lose - log_one_minus_exp(lose))
        return -win + self.lam * softplus(-log_odds)


@loss({"delta": 0.8, "lam": 0.3}, plans=NO_REFERENCE)
@dataclass(frozen=True)
class SLiC:
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
    takes: ClassVar[Literal["pairs", "groups"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"sample"})
    accepts: ClassVar[frozenset[str]] = frozenset()
    law: ClassVar[Law] = "distinct"

    def __post_init__(self) -> None:
        check_positive("delta", self.delta)
        check_nonnegative("lam", self.lam)

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison."""
        c = checked(self, c)
        short = self.delta - c.log_pi_w + c.log_pi_l
        xp = namespace(short)
        return xp.where(short > 0.0, short, xp.zeros_like(short)) - self.lam * c.log_pi_sample
