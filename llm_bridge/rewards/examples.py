"""What reward models are trained on: responses to a prompt, and which is better than which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from llm_bridge.embeddings.readings import Reading, read
from llm_bridge.labels.preference_rows import PreferenceRanking
from llm_bridge.language.models import LanguageModel, Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.data import Comparison, PromptData
from llm_bridge.rewards.losses import comparison_loss
from llm_bridge.rewards.modules import HeadSpec, Reader, batch_of
from llm_bridge.training.objective import mean_weight
from rlhf_theory.randomness import Key


@dataclass(frozen=True)
class RewardExample:
    """Responses to one prompt, and which is better than which.

    Attributes
    ----------
    prompt
        The prompt.
    responses
        At least two; each is read once, however many comparisons it is in.
    pairs
        Places of compared responses.
    target
        For each pair the probability that the first is better.
    share
        For each pair its weight within the example.
    weight
        Weight of the example.
    """

    prompt: Prompt
    responses: tuple[Response, ...]
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)
    target: tuple[float, ...] = (1.0,)
    share: tuple[float, ...] = (1.0,)
    weight: float = 1.0

    def __post_init__(self) -> None:
        k, n = len(self.responses), len(self.pairs)
        if n == 0 or not n == len(self.target) == len(self.share):
            message = (
                f"An example needs pairs with a target and a share each; got {n} pairs, "
                f"{len(self.target)} targets and {len(self.share)} shares."
            )
            raise ValueError(message)
        if not all(0 <= a < k and 0 <= b < k for a, b in self.pairs):
            message = f"Pairs must be places of the {k} responses; got {self.pairs}."
            raise ValueError(message)
        if not all(0.0 <= p <= 1.0 for p in self.target):
            message = f"Targets must be probabilities in [0, 1]; got {self.target}."
            raise ValueError(message)
        if not all(math.isfinite(w) and w >= 0 for w in (*self.share, self.weight)):
            message = f"Weights must be finite and at least 0; got {self.share}, {self.weight}."
            raise ValueError(message)


def comparison_examples(data: PromptData | Sequence[Comparison]) -> list[RewardExample]:
    """Return one example per comparison, weighted as the data say; equal responses are left out."""
    comparisons = data.comparisons if isinstance(data, PromptData) else data
    return [
        RewardExample(c.prompt, (c.first, c.second), target=(c.label,), weight=c.weight)
        for c in comparisons
        if c.first.ids != c.second.ids
    ]


def ranking_examples(
    rankings: Sequence[PreferenceRanking], model: LanguageModel
) -> list[RewardExample]:
    r"""Return one example per ranking: all its pairs, each with share :math:`1 / \binom K2`.

    The loss of an example is `llm_bridge.rewards.losses.ranking_loss`; each response is read once,
    where separate comparisons would read it ``K - 1`` times.

    Parameters
    ----------
    rankings
        Such as ``read_preferences(path).items``.
    model
        Whose tokens are written; the reward may be of another model.

    Source: [2203.02155] (InstructGPT), equation (1).
    """
    examples = []
    for ranking in rankings:
        prompt = model.encode_prompt(ranking.prompt)
        # Best first, the same text at its best place only.
        texts = list(dict.fromkeys(ranking.completions[k] for k in ranking.ranking))
        responses = tuple(Response(model.encode_response(t), t, math.nan) for t in texts)
        pairs = tuple((i, j) for j in range(len(texts)) for i in range(j))
        if pairs:
            share = (1.0 / len(pairs),) * len(pairs)
            examples.append(RewardExample(prompt, responses, pairs, (1.0,) * len(pairs), share))
    return examples


def bootstrapped(examples: Sequence[RewardExample], key: Key) -> list[RewardExample]:
    """Return the examples with Bayesian-bootstrap weights: exponential, of mean 1, one each.

    Source: Rubin (1981), Annals of Statistics 9(1).
    """
    draws = -np.log1p(-key.uniform_numpy(1, len(examples))[0])
    return [replace(e, weight=e.weight * float(w)) for e, w in zip(examples, draws, strict=True)]


# --------------------------------------------------------------------------- the loss


@dataclass(frozen=True)
class _Item:
    readings: tuple[Reading, ...]
    example: RewardExample

    @property
    def n_tokens(self) -> int:
        return max(len(r.ids) for r in self.readings)


class RewardObjective:
    """The loss on batches, in the form that `PreferenceTrainer` takes."""

    def __init__(
        self,
        reader: Reader,
        head: HeadSpec,
        examples: Sequence[RewardExample],
        tokens_of: LanguageModel | None,
    ) -> None:
        if not examples:
            message = "Training needs at least one example with two different responses; got none."
            raise ValueError(message)
        prompts = [e.prompt for e in examples for _ in e.responses]
        responses = [r for e in examples for r in e.responses]
        readings = iter(read(reader, prompts, responses, head.over, tokens_of))
        self.examples = [_Item(tuple(next(readings) for _ in e.responses), e) for e in examples]
        self.mean_weight = mean_weight([e.weight * math.fsum(e.share) for e in examples])
        self._pad_id = reader.pad_id

    def collate(self, items: Sequence[_Item]) -> dict[str, object]:
        """Return the tensors of one forward pass; none is called ``labels``."""
        rows: list[Reading] = []
        first: list[int] = []
        second: list[int] = []
        target: list[float] = []
        weight: list[float] = []
        for item in items:
            e, start = item.example, len(rows)
            rows += item.readings
            first += [start + a for a, _ in e.pairs]
            second += [start + b for _, b in e.pairs]
            target += e.target
            weight += [e.weight * s for s in e.share]
        return {
            **batch_of(rows, self._pad_id),
            "first": torch.tensor(first),
            "second": torch.tensor(second),
            "target": torch.tensor(target, dtype=torch.float64),
            "weight": torch.tensor(weight, dtype=torch.float64),
            "size": len(items),
        }

    def kl_estimate(self, module: object, batches: object) -> None:
        """Return None: rewards have no reference."""

    def __call__(
        self,
        module: torch.nn.Module,
        batch: dict[str, Any],
        z0: None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """Return the weighted sum of the losses of a batch; differentiable."""
        r = module(batch["input_ids"], batch["attention_mask"], batch["span"]).double()
        loss = comparison_loss(r[batch["first"]], r[batch["second"]], batch["target"])
        return torch.sum(batch["weight"] * loss)
