"""What a file gives `lm train`: comparisons, or single responses with labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llm_bridge.labels.labelled_responses import (
    LabelledResponse,
    are_labelled_responses,
    read_labelled_responses,
)
from llm_bridge.labels.preference_files import PreferencePair, Preferences, read_preferences
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import LanguageModel, Prompt, Text
from llm_bridge.planning.examples.label_training import labelled_examples, learns_from_equal
from llm_bridge.pools.data import Comparison
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.training.examples import Example, with_mismatched
from llm_bridge.training.units import TrainingLoss
from llm_bridge.training.unpaired import UnpairedKTO
from rlhf_theory.losses import KTO


class TrainingData(Protocol):
    """Rows of a file, all of one kind."""

    @property
    def unit(self) -> str:
        """What the rows are, for people."""
        ...

    @property
    def loss(self) -> TrainingLoss:
        """The loss that is trained."""
        ...

    @property
    def prompts(self) -> list[Text]:
        """The prompt of each row that is trained on or held out."""
        ...

    def remarks(self) -> list[str]:
        """Return what has to be said about the rows."""
        ...

    def scored(self, base: LanguageModel, batch_size: int) -> Sequence[Any]:
        """Return the rows with their tokens and log-probabilities under the reference."""
        ...

    def examples(
        self, rows: Sequence[Any], base: LanguageModel, *, batch_size: int, bf16: bool
    ) -> list[Example]:
        """Return scored rows as examples for the loss, measured from ``base``."""
        ...

    def metrics(
        self, model: LanguageModel, rows: Sequence[Any], batch_size: int
    ) -> list[tuple[str, np.ndarray]]:
        """Return numbers of a model on scored rows by name, those over which to take a mean."""
        ...


def training_data(file: Path, loss: TrainingLoss, sample: str | None) -> TrainingData:
    """Return the rows of a file for a loss; ``ValueError`` where it cannot learn from them.

    ``sample`` is which response of a comparison a loss with a further response takes: ``"chosen"``,
    ``"rejected"`` or ``"second"``.
    """
    if isinstance(loss, KTO) and are_labelled_responses(file):
        own = UnpairedKTO(loss.beta, loss.desirable, loss.undesirable)
        return LabelledResponses(read_labelled_responses(file), own)
    return Comparisons(read_preferences(file), loss, sample)


# --------------------------------------------------------------------------- comparisons


@dataclass(frozen=True)
class _Compared:
    """A comparison with its tokens, and the place of its further response."""

    comparison: Comparison
    sample: int | None


@dataclass(frozen=True)
class Comparisons:
    """Comparisons; for losses that learn from them also those of a response with itself."""

    preferences: Preferences
    loss: TrainingLoss
    sample: str | None

    unit = "comparisons"

    @cached_property
    def pairs(self) -> list[PreferencePair]:
        """The comparisons that the loss learns from."""
        equal = learns_from_equal(self.loss)
        return self.preferences.all_pairs if equal else self.preferences.pairs

    @property
    def prompts(self) -> list[Text]:
        """The prompt of each comparison."""
        return [pair.prompt for pair in self.pairs]

    def remarks(self) -> list[str]:
        """Return what becomes of rows whose responses are the same."""
        n, lost = self.preferences.n_identical, self.preferences.n_lost
        if not n:
            return []
        if not learns_from_equal(self.loss):
            return [f"{n} rows are left out: their responses are the same."]
        lines = []
        if n > lost:
            lines.append(
                f"{n - lost} rows have equal responses: {self.loss.name} learns from them, without "
                "a label."
            )
        if lost:
            lines.append(
                f"{lost} rows are left out: their responses are the same, and they have no prompt."
            )
        return lines

    def _places(self) -> list[int] | None:
        """Return which response of each comparison is the further one, None for none.

        ``ValueError`` for a comparison that does not say which was second.
        """
        if self.sample != "second":
            known = {None: None, "chosen": 0, "rejected": 1}[self.sample]
            return None if known is None else [known] * len(self.pairs)
        names = [pair.extras.get("second") for pair in self.pairs]
        for number, name in enumerate(names, start=1):
            if name not in ("chosen", "rejected"):
                message = (
                    "--sample second needs the column rlhf_second, chosen or rejected, which files "
                    f"of runs have; comparison {number} says {name!r}. Take chosen or rejected."
                )
                raise ValueError(message)
        return [int(name == "rejected") for name in names]

    def scored(self, base: LanguageModel, batch_size: int) -> list[_Compared]:
        """Return the comparisons with tokens and reference log-probabilities."""
        equal, places = learns_from_equal(self.loss), self._places()
        found = self.preferences.comparisons(base, batch_size=batch_size, equal=equal)
        return [_Compared(c, None if places is None else places[i]) for i, c in enumerate(found)]

    def examples(
        self, rows: Sequence[_Compared], base: LanguageModel, *, batch_size: int, bf16: bool
    ) -> list[Example]:
        """Return the comparisons as examples; of `NLL` only what was chosen."""
        comparisons = [row.comparison for row in rows]
        if self.loss.takes == "responses":
            return [
                Example(
                    prompt=c.prompt.ids,
                    responses=((c.first if c.label >= 0.5 else c.second).ids,),
                    weight=c.weight,
                )
                for c in comparisons
            ]
        pi0 = LanguageModelPolicy(base, batch_size=batch_size)
        places = [row.sample for row in rows if row.sample is not None]
        return labelled_examples(
            comparisons,
            pi0,
            pi0,
            gamma=None,
            sample=places or None,
            mismatched="z0" in self.loss.needs,
            bf16=bf16,
        )

    def metrics(
        self, model: LanguageModel, rows: Sequence[_Compared], batch_size: int
    ) -> list[tuple[str, np.ndarray]]:
        """Return accuracy, margin and log loss of the policy's own reward.

        They are of ``h = log pi / pi0`` of the better response minus the same of the worse one. A
        response against itself tells nothing about them.
        """
        compared = [r.comparison for r in rows if r.comparison.first.ids != r.comparison.second.ids]
        if not compared:
            return []
        prompts = [c.prompt.ids for c in compared for _ in range(2)]
        responses = [r.ids for c in compared for r in (c.first, c.second)]
        log_pi = sequence_log_probs(model, prompts, responses, batch_size=batch_size)
        first, second = log_pi.reshape(-1, 2).T
        before = np.array([c.log_pi0_first - c.log_pi0_second for c in compared])
        first_won = first - second - before
        label = np.array([c.label for c in compared])
        h = first_won * np.where(label >= 0.5, 1.0, -1.0)
        kept = label != 0.5
        found = []
        if kept.any():
            right = 0.5 + 0.5 * np.sign(h[kept])
            found += [("accuracy", right), ("mean margin h", h[kept])]
        nll = np.logaddexp(0.0, -first_won) * label + np.logaddexp(0.0, first_won) * (1 - label)
        return [*found, ("log loss at beta = 1", nll)]


# --------------------------------------------------------------------------- single responses


@dataclass(frozen=True)
class _Scored:
    """A labelled response with its tokens."""

    prompt: Prompt
    response: tuple[int, ...]
    log_pi0: float
    label: bool
    weight: float


@dataclass(frozen=True)
class LabelledResponses:
    """Single responses that are desirable or not."""

    items: tuple[LabelledResponse, ...]
    loss: UnpairedKTO

    unit = "labelled responses"

    @property
    def prompts(self) -> list[Text]:
        """The prompt of each response."""
        return [item.prompt for item in self.items]

    def remarks(self) -> list[str]:
        """Return how many are desirable, and what that asks of the loss's weights."""
        n = len(self.items)
        good = sum(item.label for item in self.items)
        line = f"{good} of them are desirable, {n - good} are not."
        ratio = self.loss.desirable * good / max(self.loss.undesirable * (n - good), 1e-9)
        if not 0.5 <= ratio <= 3.0:
            line += (
                " One side has nearly all the weight: choose desirable and undesirable so that "
                "desirable * n_desirable / (undesirable * n_undesirable) is between 1 and 1.5."
            )
        return [line]

    def scored(self, base: LanguageModel, batch_size: int) -> list[_Scored]:
        """Return the responses with tokens and reference log-probabilities.

        ``ValueError`` for texts that do not fit the model; says which.
        """
        prompts: list[Prompt] = []
        responses: list[tuple[int, ...]] = []
        for number, item in enumerate(self.items, start=1):
            try:
                prompts.append(base.encode_prompt(item.prompt))
                responses.append(base.encode_response(item.completion))
            except ValueError as error:
                message = f"Response {number} cannot be used with {base.name}: {error}"
                raise type(error)(message) from error
        scores = sequence_log_probs(
            base, [p.ids for p in prompts], responses, batch_size=batch_size
        )
        return [
            _Scored(prompt, response, float(score), item.label, item.weight)
            for item, prompt, response, score in zip(
                self.items, prompts, responses, scores, strict=True
            )
        ]

    def examples(
        self, rows: Sequence[_Scored], base: LanguageModel, *, batch_size: int, bf16: bool
    ) -> list[Example]:
        """Return the responses as examples, with a response of another prompt each."""
        log_ref = np.array([row.log_pi0 for row in rows])
        if bf16:
            log_ref = _log_probs(base, rows, batch_size, bf16=True)
        made = [
            Example(
                prompt=row.prompt.ids,
                responses=(row.response,),
                log_ref=(float(log_ref[i]),),
                target=(float(row.label),),
                weight=row.weight,
            )
            for i, row in enumerate(rows)
        ]
        return with_mismatched(base, made, batch_size=batch_size, bf16=bf16)

    def metrics(
        self, model: LanguageModel, rows: Sequence[_Scored], batch_size: int
    ) -> list[tuple[str, np.ndarray]]:
        """Return ``log pi / pi0`` of desirable and of undesirable responses."""
        if not rows:
            return []
        h = _log_probs(model, rows, batch_size) - np.array([row.log_pi0 for row in rows])
        good = np.array([row.label for row in rows])
        parts = {"desirable": h[good], "undesirable": h[~good]}
        return [(f"mean log-ratio, {name}", v) for name, v in parts.items() if v.size]


def _log_probs(
    model: LanguageModel, rows: Sequence[_Scored], batch_size: int, *, bf16: bool = False
) -> np.ndarray:
    prompts, responses = [row.prompt.ids for row in rows], [row.response for row in rows]
    return sequence_log_probs(model, prompts, responses, batch_size=batch_size, bf16=bf16)


def n_prompts(data: TrainingData) -> int:
    """Return the number of different prompts."""
    return len({json.dumps(prompt) for prompt in data.prompts})
