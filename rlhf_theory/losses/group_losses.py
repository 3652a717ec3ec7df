"""Losses of groups of K responses with rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rlhf_theory.arrays import Array, log_softmax, namespace
from rlhf_theory.errors import check_positive
from rlhf_theory.losses.comparisons import NO_REFERENCE, Groups, Law, Plans, checked, loss
from rlhf_theory.losses.scalars import softplus


@dataclass(frozen=True)
class _Contrast:
    """Settings and terms of both losses that contrast K responses."""

    beta: float
    alpha: float = 1.0

    takes: ClassVar[Literal["pairs", "groups"]] = "groups"
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    accepts: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_positive("alpha", self.alpha)

    def _contrasted(self, g: Groups) -> tuple[Array, Array]:
        """Return ``softmax(r / alpha)`` and ``s = beta log(pi / pi_ref)``, shape ``(n, K)``."""
        target = namespace(g.rewards).exp(log_softmax(g.rewards / self.alpha))
        return target, self.beta * g.log_ratio


@loss({"beta": 0.7, "alpha": 0.6}, plans=Plans(weight=lambda loss, eta: eta / loss.alpha))
@dataclass(frozen=True)
class InfoNCA(_Contrast):
    r"""Contrast of K responses with rewards.

    With :math:`s = \beta\log(\pi/\pi_{ref})`:

    .. math:: -\sum_k \mathrm{softmax}(r/\alpha)_k \log\mathrm{softmax}(s)_k

    Takes sums of log-probabilities. Population minimiser: :math:`s = r/\alpha + c`, the Gibbs
    policy of ``eta = alpha beta``, exactly. With two responses and a reward far above the other it
    is DPO.

    Attributes
    ----------
    beta, alpha
        Positive temperatures of the policy and of the rewards.

    Source: [2402.05369], InfoNCA.
    """

    name: ClassVar[str] = "infonca"
    law: ClassVar[Law] = "any"

    def __call__(self, g: Groups) -> Array:
        """Return the loss of each group, shape ``(n,)``."""
        target, s = self._contrasted(checked(self, g))
        return -namespace(s).sum(target * log_softmax(s), axis=-1)


@loss({"beta": 0.7, "alpha": 0.6}, plans=Plans(weight=lambda loss, eta: eta / loss.alpha))
@dataclass(frozen=True)
class NCA(_Contrast):
    r"""Noise-contrastive alignment of K responses with rewards: pins likelihoods, not only ratios.

    .. math:: -\sum_k \bigl[\mathrm{softmax}(r/\alpha)_k \log\sigma(s_k)
              + \tfrac1K \log\sigma(-s_k)\bigr], \qquad s = \beta\log(\pi/\pi_{ref})

    Takes sums of log-probabilities. Population minimiser (free log-ratios):
    :math:`e^{s(a)} = K\,E[\mathrm{softmax}(r/\alpha)_a]`, given that ``a`` is one of the K
    responses: :math:`A e^{r/\alpha}/\sum e^{r/\alpha}` where these are all ``A`` actions, and
    proportional to :math:`e^{r/\alpha}` for independent draws only as K grows.

    Attributes
    ----------
    beta, alpha
        Positive temperatures of the policy and of the rewards; ``eta = alpha beta`` in those
        limits.

    Source: [2402.05369], NCA.
    """

    name: ClassVar[str] = "nca"
    law: ClassVar[Law] = "full"

    def __call__(self, g: Groups) -> Array:
        """Return the loss of each group, shape ``(n,)``."""
        target, s = self._contrasted(checked(self, g))
        terms = target * softplus(-s) + softplus(s) / s.shape[-1]
        return namespace(s).sum(terms, axis=-1)


@loss({"lam": 0.5}, plans=NO_REFERENCE)
@dataclass(frozen=True)
class RRHF:
    r"""Rank responses: a hinge for each pair out of order, and cloning of the best.

    .. math:: \sum_{r_i < r_j} \max(0, p_i - p_j) - \lambda \log\pi(\mathrm{best}),
              \qquad p = \tfrac1n \log\pi

    The mean per token in the ranking, the sum in the cloning term; several best responses share
    it. No reference. Population minimiser: no closed form; the ranking is satisfied by any policy
    in the order of the rewards.

    Attributes
    ----------
    lam
        Weight of cloning, positive: the ranking alone is satisfied by the uniform policy.

    Source: [2304.05302].
    """

    lam: float = 1.0

    name: ClassVar[str] = "rrhf"
    takes: ClassVar[Literal["pairs", "groups"]] = "groups"
    needs: ClassVar[frozenset[str]] = frozenset({"lengths"})
    accepts: ClassVar[frozenset[str]] = frozenset()
    law: ClassVar[Law] = "full"

    def __post_init__(self) -> None:
        check_positive("lam", self.lam)

    def __call__(self, g: Groups) -> Array:
        """Return the loss of each group, shape ``(n,)``."""
        g = checked(self, g)
        xp = namespace(g.log_pi)
        score = g.log_pi / g.lengths
        short = score[:, :, None] - score[:, None, :]
        wrong = (g.rewards[:, :, None] < g.rewards[:, None, :]) & (short > 0.0)
        ranking = xp.sum(xp.where(wrong, short, xp.zeros_like(short)), axis=(-2, -1))
        best = xp.astype(g.rewards == xp.max(g.rewards, axis=-1, keepdims=True), g.log_pi.dtype)
        cloned = xp.sum(best * g.log_pi, axis=-1) / xp.sum(best, axis=-1)
        return ranking - self.lam * cloned
