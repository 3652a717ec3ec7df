"""What a model is trained on: prompts with responses, and what is known about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch

from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import Ids, LanguageModel
from rlhf_theory.errors import check_choice


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt with its responses, and what is known about them.

    Attributes
    ----------
    prompt
        Token ids.
    responses
        Token ids of ``K`` responses, the end of the sequence included: two for a comparison, more
        for a group or for several comparisons among them, one or more to be imitated (`NLL`) or
        that are good or bad (`UnpairedKTO`).
    log_ref
        ``log pi_ref`` of each response, ``K`` numbers, in the precision of the training (see
        ``TrainingSettings.bf16``); empty where the loss has no reference.
    target
        For each of ``pairs`` the probability that the first wins; for losses of groups the reward
        of each member of the group; for `UnpairedKTO` 1 or 0 for each response; empty for `NLL`.
    pairs
        Places of compared responses; the two responses of a comparison unless set. A response
        against itself only for losses to which it is no constant (``law`` is ``"full"``).
    group
        Places of the responses that make a group, repetitions allowed; all ``K`` unless set.
    share
        Weight of each pair within the example; all 1 where empty.
    weight
        Weight of the example.
    gamma
        Penalty ``Gamma`` of each response for pessimism, ``K`` numbers; the margin of a pair is
        ``Gamma_first - Gamma_second``. Empty for none.
    wins
        Probability that each response beats the opponent policy, ``K`` numbers (SPPO).
    sample
        The further response of XPO, VPO and SLiC-HF: the place of one of ``responses``, or token
        ids of its own.
    mismatched, log_ref_mismatched
        A response that belongs to another prompt, and ``log pi_ref`` of it after this one (KTO);
        see `with_mismatched`.
    """

    prompt: Ids
    responses: tuple[Ids, ...]
    log_ref: tuple[float, ...] = ()
    target: tuple[float, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)
    group: tuple[int, ...] = ()
    share: tuple[float, ...] = ()
    weight: float = 1.0
    gamma: tuple[float, ...] = ()
    wins: tuple[float, ...] = ()
    sample: int | Ids | None = None
    mismatched: Ids = ()
    log_ref_mismatched: float = math.nan

    @property
    def rows(self) -> tuple[Ids, ...]:
        """All responses whose log-probability is needed."""
        extra = (self.sample,) if isinstance(self.sample, tuple) else ()
        return (*self.responses, *extra)

    @property
    def members(self) -> tuple[int, ...]:
        """Places of the responses that make a group."""
        return self.group or tuple(range(len(self.responses)))

    @property
    def n_tokens(self) -> int:
        """Tokens of the longest row."""
        return len(self.prompt) + max(map(len, self.rows))


@dataclass(frozen=True)
class NLL:
    r"""Imitation of responses, :math:`-\log\pi(y \mid x)`: supervised fine-tuning.

    Attributes
    ----------
    reduction
        ``"sum"`` over the tokens of a response is maximum likelihood; ``"mean"`` divides it by
        their number, so that long responses do not count more.
    """

    reduction: Literal["sum", "mean"] = "sum"

    name: ClassVar[str] = "sft"
    takes: ClassVar[str] = "responses"
    needs: ClassVar[frozenset[str]] = frozenset()
    accepts: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, ("sum", "mean"))

    def __call__(self, log_pi: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the loss of each response, shape ``(n,)``."""
        return -log_pi if self.reduction == "sum" else -log_pi / lengths


def with_mismatched(
    reference: LanguageModel,
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    bf16: bool = False,
    score: Callable[..., np.ndarray] | None = None,
) -> list[Example]:
    """Give every example a response of another prompt, as KTO's estimate of the KL needs.

    It comes from the next example with another prompt, from each place among its responses in turn.
    ``ValueError`` where all examples have one prompt.

    Parameters
    ----------
    reference
        The policy that KTO measures from.
    examples
        The examples; their order decides who meets whom.
    batch_size
        Rows per forward pass.
    bf16
        Whether the training is in half precision, as ``TrainingSettings.bf16``.
    score
        Who scores for the reference, such as a policy that keeps its scores.
    """
    n = len(examples)
    strangers: list[Ids] = []
    for i, example in enumerate(examples):
        others = (examples[(i + k) % n] for k in range(1, n))
        other = next((o for o in others if o.prompt != example.prompt), None)
        if other is None:
            message = "KTO needs responses of other prompts; all examples have the same prompt."
            raise ValueError(message)
        strangers.append(other.responses[i % len(other.responses)])
    prompts = [e.prompt for e in examples]
    score = score or partial(sequence_log_probs, reference, batch_size=batch_size)
    scores = score(prompts, strangers, bf16=bf16)
    return [
        replace(e, mismatched=ids, log_ref_mismatched=float(score))
        for e, ids, score in zip(examples, strangers, scores, strict=True)
    ]
