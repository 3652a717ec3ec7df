"""Rewards over texts and the labels that they give.

Preferences that come from no reward, and trained reward models, are at home in `preferences`,
`judges` and `classifiers`; they can be imported from here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llm_bridge.labels.classifiers import TransformerReward
from llm_bridge.labels.judges import PairwisePreferenceModel
from llm_bridge.labels.preferences import TextPreference
from llm_bridge.labels.scoring import Scorer, asked_pairs, by_text, pool_rewards, remembered, shown
from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from rlhf_theory.arrays import Array, as_like, sigmoid, to_numpy
from rlhf_theory.core import RewardModel
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_positive
from rlhf_theory.oracles import BradleyTerry

__all__ = [
    "LabelSpread",
    "PairwisePreferenceModel",
    "RewardModelOracle",
    "TextPreference",
    "TextReward",
    "TransformerReward",
    "label_spread",
    "reward_margins",
]

_EXTREME = 0.02


# --------------------------------------------------------------------------- rewards


@dataclass(frozen=True, eq=False)
class TextReward:
    """A reward given by a Python function of texts.

    Attributes
    ----------
    f
        From the text of a prompt and of a response to a finite number; called once per pair of
        texts.
    """

    f: Callable[[str, str], float]
    _memo: dict[Hashable, float] = field(default_factory=dict, init=False, repr=False)

    def scores(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> np.ndarray:
        """Return the reward of every response to its prompt, shape ``(n,)``.

        ``ValueError`` for answers that are NaN or infinite; they are not kept.
        """

        def compute(places: list[int]) -> list[float]:
            return [self._one(prompts[i].text, responses[i].text) for i in places]

        keys = [by_text(p, r) for p, r in zip(prompts, responses, strict=True)]
        return remembered(self._memo, keys, compute)

    def _one(self, prompt: str, response: str) -> float:
        value = float(self.f(prompt, response))
        if not math.isfinite(value):
            message = (
                f"A reward must be finite; got {value} for the prompt {shown(prompt)} and the "
                f"response {shown(response)}."
            )
            raise ValueError(message)
        return value

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``; 0 for absent responses."""
        return pool_rewards(contexts, self)


# --------------------------------------------------------------------------- labels of a reward


@dataclass(frozen=True)
class LabelSpread:
    """How decided labels are, over all pairs of different responses of the same pools.

    Attributes
    ----------
    quantiles
        5 %, 50 % and 95 % quantiles of the probability that the better response wins.
    agreement
        Its mean: how often a label agrees with the reward.
    share_extreme
        Share of pairs where it is above .98.
    warning
        Empty, or what is wrong with the scale.
    """

    quantiles: tuple[float, float, float]
    agreement: float
    share_extreme: float
    warning: str = ""

    def __str__(self) -> str:
        low, middle, high = self.quantiles
        text = (
            f"the better response wins with probability {low:.2f}, {middle:.2f}, {high:.2f} "
            f"(5 %, 50 %, 95 % of the pairs), {self.agreement:.2f} in the mean"
        )
        return f"{text}. {self.warning}" if self.warning else text


def reward_margins(reward: RewardModel, contexts: Contexts) -> np.ndarray:
    """Return ``|r(x, a) - r(x, b)|`` of all pairs of present actions, shape ``(n,)``."""
    r, log_pi0 = (
        np.asarray(to_numpy(v), dtype=np.float64)
        for v in (reward.rewards(contexts), contexts.log_pi0)
    )
    r, log_pi0 = np.broadcast_arrays(r, log_pi0)
    i, j = np.triu_indices(r.shape[-1], k=1)
    both = np.isfinite(log_pi0[..., i]) & np.isfinite(log_pi0[..., j])
    return np.abs(r[..., i] - r[..., j])[both]


def label_spread(reward: RewardModel, contexts: Contexts, scale: float = 1.0) -> LabelSpread:
    """Return how decided Bradley-Terry labels of a reward are on pools.

    Parameters
    ----------
    reward
        The true reward.
    contexts
        Pools, such as ``problem.table``.
    scale
        What the reward is multiplied by.

    Raises
    ------
    ValueError
        If no pool has two responses.
    """
    check_positive("scale", scale)
    margins = reward_margins(reward, contexts)
    if margins.size == 0:
        message = "Labels need pools with at least two different responses; there are none."
        raise ValueError(message)
    p = to_numpy(sigmoid(scale * margins))
    extreme = float(np.mean(p > 1.0 - _EXTREME))
    warning = ""
    if extreme > 0.9:
        warning = (
            f"{extreme:.0%} of the pairs are won with probability above {1 - _EXTREME:g}: labels "
            "are nearly deterministic. Lower the scale."
        )
    elif float(np.mean(p < 0.5 + _EXTREME)) > 0.9:
        warning = "Nearly all labels are coin tosses. Raise the scale."
    low, middle, high = (float(q) for q in np.quantile(p, [0.05, 0.5, 0.95]))
    return LabelSpread((low, middle, high), float(np.mean(p)), extreme, warning)


@dataclass(frozen=True, eq=False)
class RewardModelOracle:
    """Bradley-Terry labels of a reward: ``P(a1 beats a2 | x) = sigma(s (r(x,a1) - r(x,a2)))``.

    Attributes
    ----------
    reward
        The true reward: a `TextReward`, a model, or any `RewardModel`.
    scale
        ``s``, positive; the same as in `rlhf_theory.oracles.BradleyTerry`.
    """

    reward: RewardModel
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    @classmethod
    def with_agreement(
        cls, reward: RewardModel, contexts: Contexts, agreement: float = 0.75
    ) -> RewardModelOracle:
        """Return the oracle whose labels agree with the reward that often in the mean.

        Parameters
        ----------
        reward
            The true reward.
        contexts
            Pools over all whose pairs the mean goes.
        agreement
            Above 1/2 and below 1.

        Raises
        ------
        ValueError
            If no scale reaches it: pairs of equal reward are coin tosses at every scale.
        """
        margins = reward_margins(reward, contexts)
        ceiling = 1.0 - 0.5 * float(np.mean(margins == 0.0)) if margins.size else 0.5
        if not 0.5 < agreement < ceiling:
            message = (
                f"agreement must lie above 1/2 and below {ceiling:.3f}, which labels without noise "
                f"reach on these pools; got {agreement}."
            )
            raise ValueError(message)
        # The mean grows with the scale; halve the logarithm of a bracket that surely holds it.
        log_low = -math.log(float(margins.max())) - 40.0
        log_high = -math.log(float(margins[margins > 0.0].min())) + 40.0
        for _ in range(200):
            middle = 0.5 * (log_low + log_high)
            if float(np.mean(to_numpy(sigmoid(math.exp(middle) * margins)))) < agreement:
                log_low = middle
            else:
                log_high = middle
        return cls(reward, math.exp(log_high))

    def prob(self, contexts: Contexts, a1: Array, a2: Array) -> Array:
        """Return the probability that ``a1`` wins, shape ``(R, B)``.

        A reward that scores single responses is asked for the compared ones only.
        """
        if not isinstance(self.reward, Scorer):
            return BradleyTerry(self.reward, self.scale).prob(contexts, a1, a2)
        prompts, first, second = asked_pairs(contexts, a1, a2)
        r = self.reward.scores([*prompts, *prompts], [*first, *second])
        shape = np.broadcast_shapes(tuple(a1.shape), tuple(a2.shape))
        r1, r2 = (as_like(part.reshape(shape), contexts.like) for part in np.split(r, 2))
        return sigmoid(self.scale * (r1 - r2))

    def logits(self, contexts: Contexts) -> Array:
        """Return ``s (r(x, a) - r(x, b))`` for all pairs, shape ``(R, B, A, A)``."""
        return BradleyTerry(self.reward, self.scale).logits(contexts)

    def spread(self, contexts: Contexts) -> LabelSpread:
        """Return how decided the labels are on pools; see `label_spread`."""
        return label_spread(self.reward, contexts, self.scale)
