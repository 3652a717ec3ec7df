"""Losses that see each log-ratio, not only their difference.

They pin every log-ratio, so their minimisers are exact where the log-ratios are free numbers
(marked *free*); a normalised policy has another minimiser, unless the free one happens to sum to
one. All take sums of log-probabilities. ``q(a)`` is the probability that ``a`` beats a draw of the
law of the pairs (own 1/2 included): a response against itself is no constant and belongs to the
pairs. Without such pairs ``q - 1/2`` is too large by the factor ``1 / (1 - mu(a))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlhf_theory.arrays import Array, namespace, sigmoid
from rlhf_theory.errors import check_positive
from rlhf_theory.losses.comparisons import Comparisons, Law, Plans, loss
from rlhf_theory.losses.pairwise import OfBeta
from rlhf_theory.losses.scalars import positive_part, softplus, square


@loss({"beta": 0.7}, plans=Plans(weight=0.5))
@dataclass(frozen=True)
class NCAPair(OfBeta):
    r"""Noise-contrastive alignment of a pair: pins each log-ratio.

    With :math:`s = \beta\log(\pi/\pi_{ref})`:

    .. math:: -\log\sigma(s_w) - \tfrac12\log\sigma(-s_w) - \tfrac12\log\sigma(-s_l)

    Population minimiser (free): :math:`e^{s(a)} = 2 q(a)`. With ``beta = 1`` and pairs from the
    reference the policy ``2 q pi_ref`` is normalised already, hence exact.

    Attributes
    ----------
    beta
        Positive; to first order in a Bradley-Terry reward ``eta = 2 beta``.

    Source: [2402.05369], NCA with two responses.
    """

    name: ClassVar[str] = "nca-pair"
    law: ClassVar[Law] = "full"

    def _values(self, c: Comparisons) -> Array:
        win, lose = self.beta * c.log_ratio_w, self.beta * c.log_ratio_l
        return softplus(-win) + 0.5 * softplus(win) + 0.5 * softplus(lose)


@loss({"beta": 0.7}, plans=Plans())
@dataclass(frozen=True)
class BCO(OfBeta):
    r"""Binary classifier optimisation of a pair, without the shift that moves with the batch.

    .. math:: -\log\sigma(s_w) - \log\sigma(-s_l), \qquad s = \beta\log(\pi/\pi_{ref})

    Population minimiser (free): :math:`e^{s(a)} = q(a)/(1 - q(a))`.

    Attributes
    ----------
    beta
        Positive; to first order in a Bradley-Terry reward ``eta = beta``.

    Source: [2404.04656], with shift 0.
    """

    name: ClassVar[str] = "bco"
    law: ClassVar[Law] = "full"

    def _values(self, c: Comparisons) -> Array:
        return softplus(-self.beta * c.log_ratio_w) + softplus(self.beta * c.log_ratio_l)


@loss({"beta": 0.7}, plans=Plans(weight=0.25))
@dataclass(frozen=True)
class SPPO(OfBeta):
    r"""Self-play preference optimisation with win probabilities against the last iterate.

    .. math:: \bigl(\log\tfrac{\pi}{\pi_t}(w) - \tfrac1\beta (P_w - \tfrac12)\bigr)^2
              + \bigl(\log\tfrac{\pi}{\pi_t}(l) - \tfrac1\beta (P_l - \tfrac12)\bigr)^2

    The reference of the comparisons is the last iterate :math:`\pi_t`, from which pairs are drawn,
    and ``win_w``, ``win_l`` are the probabilities of beating it. The 1/2 stands for the
    normaliser.

    Population minimiser (free): :math:`\log(\pi/\pi_t)(a) = (P(a \succ \pi_t) - 1/2)/\beta`; a
    normalised policy takes this multiplicative step to first order in ``1 / beta`` only.

    Attributes
    ----------
    beta
        Positive; 1 over the step size. To first order in a Bradley-Terry reward
        ``eta = 4 beta``.

    Source: [2405.00675], equation 4.7.
    """

    name: ClassVar[str] = "sppo"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "wins"})
    law: ClassVar[Law] = "full"

    def _values(self, c: Comparisons) -> Array:
        win = c.log_ratio_w - (c.win_w - 0.5) / self.beta
        lose = c.log_ratio_l - (c.win_l - 0.5) / self.beta
        return square(win) + square(lose)


@loss({"beta": 0.7}, plans=Plans(weight=0.25))
@dataclass(frozen=True)
class SPPOHard(OfBeta):
    r"""Self-play preference optimisation with labels in place of win probabilities.

    The targets are :math:`\pm 1/(2\beta)`.

    Under labels that are probabilities (`soft`) it is SPPO with ``P_w = p``, up to a constant.
    Population minimiser (free): SPPO's.

    Attributes
    ----------
    beta
        Positive; as in `SPPO`.

    Source: [2405.00675], equation 4.7 with labels for probabilities.
    """

    name: ClassVar[str] = "sppo-hard"
    law: ClassVar[Law] = "full"

    def _values(self, c: Comparisons) -> Array:
        target = 0.5 / self.beta
        return square(c.log_ratio_w - target) + square(c.log_ratio_l + target)


@loss(
    {"beta": 0.7, "desirable": 1.2, "undesirable": 0.9},
    plans="its log-ratios have no finite minimiser",
)
@dataclass(frozen=True)
class KTO(OfBeta):
    r"""Kahneman-Tversky optimisation of a winner (desirable) and a loser (undesirable).

    .. math:: \lambda_D \bigl[1 - \sigma(\beta (\log\tfrac{\pi}{\pi_{ref}}(w) - z_0))\bigr]
              + \lambda_U \bigl[1 - \sigma(\beta (z_0 - \log\tfrac{\pi}{\pi_{ref}}(l)))\bigr]

    Population minimiser (free): none. For fixed ``z0`` the loss is linear in
    :math:`\sigma(\beta(\cdot - z_0))`, so each log-ratio goes to ``+inf`` where
    :math:`\lambda_D q > \lambda_U (1 - q)` and to ``-inf`` otherwise; what stops it is ``z0`` that
    follows the policy, or early stopping.

    Attributes
    ----------
    beta
        Positive; a slope, no weight of the KL.
    desirable, undesirable
        ``lambda_D`` and ``lambda_U``, positive.

    Source: [2402.01306], equation 7.
    """

    desirable: float = 1.0
    undesirable: float = 1.0

    name: ClassVar[str] = "kto"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "z0"})
    law: ClassVar[Law] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("desirable", self.desirable)
        check_positive("undesirable", self.undesirable)

    def _values(self, c: Comparisons) -> Array:
        # 1 - sigma(u) = sigma(-u), without the cancellation.
        win = sigmoid(self.beta * (c.z0 - c.log_ratio_w))
        lose = sigmoid(self.beta * (c.log_ratio_l - c.z0))
        return self.desirable * win + self.undesirable * lose


def mismatched_kl(log_pi: Array, log_ref: Array) -> Array:
    """Return KTO's ``z0``: the mean log-ratio of mismatched pairs, at least 0, in their shape.

    Parameters
    ----------
    log_pi, log_ref
        Log-probabilities, under the policy (without gradient) and the reference, of responses that
        belong to other prompts of the batch.
    """
    xp = namespace(log_pi, log_ref)
    floor = positive_part(xp.mean(log_pi - log_ref))
    return xp.broadcast_to(floor, log_pi.shape)
