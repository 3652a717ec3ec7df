"""What a model is trained on: prompts with responses, and what is known about them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import Ids, LanguageModel
from rlhf_theory.errors import check_choice

__all__ = ["NLL", "Example", "check_example", "content_of", "with_mismatched"]


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


def check_example(loss: Any, i: int, e: Example) -> None:
    """Raise ``ValueError`` if example ``i`` lacks what a loss needs, or is malformed."""
    takes, needs, k = loss.takes, loss.needs, len(e.responses)
    # A loss of somebody's own may not say its law: it then learns nothing from equal responses.
    itself = takes == "pairs" and getattr(loss, "law", "distinct") == "full"
    fewest = 1 if takes in ("responses", "labelled") or itself else 2
    n_targets = {
        "pairs": len(e.pairs),
        "groups": len(e.members),
        "responses": 0,
        "labelled": k,
    }[takes]

    def per_response(values: Sequence[float], what: str) -> bool:
        return len(values) == k or (not values and what not in needs)

    stranger = bool(e.mismatched) and math.isfinite(e.log_ref_mismatched)
    required = {
        f"at least {fewest} responses (got {k})": k >= fewest,
        f"{n_targets} targets (got {len(e.target)})": len(e.target) == n_targets,
        "finite targets": all(map(math.isfinite, e.target)),
        f"a group of its {k} responses": all(0 <= m < k for m in e.group),
        f"log_ref for each of its {k} responses": per_response(e.log_ref, "reference"),
        "finite log_ref": all(map(math.isfinite, e.log_ref)),
        f"gamma for each of its {k} responses": per_response(e.gamma, "margin"),
        f"wins for each of its {k} responses": per_response(e.wins, "wins"),
        "a sample": e.sample is not None or "sample" not in needs,
        f"a sample among its {k} responses": not isinstance(e.sample, int) or 0 <= e.sample < k,
        "a mismatched response (see with_mismatched)": stranger or "z0" not in needs,
        "a weight of at least 0": math.isfinite(e.weight) and e.weight >= 0,
    }
    if takes == "pairs":
        required |= {
            "targets that are probabilities": all(0.0 <= p <= 1.0 for p in e.target),
            f"pairs of two of its {k} responses": bool(e.pairs)
            and all(0 <= a < k and 0 <= b < k and (a != b or itself) for a, b in e.pairs),
            "a share for each of its pairs": len(e.share) in (0, len(e.pairs)),
            "shares of at least 0": all(math.isfinite(s) and s >= 0 for s in e.share),
        }
    if takes == "labelled":
        required["targets that are 0 or 1"] = all(t in (0.0, 1.0) for t in e.target)
    for text, there in required.items():
        if not there:
            message = f"For the loss {loss.name!r} example {i} must have {text}."
            raise ValueError(message)


def content_of(examples: Sequence[Example]) -> str:
    """Return a hash of everything in the examples, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(repr(example).encode())
    return digest.hexdigest()


def with_mismatched(
    reference: LanguageModel,
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    bf16: bool = False,
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
    scores = sequence_log_probs(reference, prompts, strangers, batch_size=batch_size, bf16=bf16)
    return [
        replace(e, mismatched=ids, log_ref_mismatched=float(score))
        for e, ids, score in zip(examples, strangers, scores, strict=True)
    ]
