"""The value of a loss on a batch of examples.

The losses are those of `rlhf_theory.losses`; here they get torch tensors. All responses of a batch
go through the model together (on a CPU short ones apart from long ones, where padding would cost
more), and each once, however many comparisons it is in.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llm_bridge.language.log_probs import (
    BF16_MULTIPLE,
    check_lengths,
    pad_rows,
    response_log_probs,
)
from llm_bridge.language.models import Ids, LanguageModel
from llm_bridge.training.examples import Example
from llm_bridge.training.units import Batch, Columns, Given, TrainingLoss, check_example, unit_of
from rlhf_theory.losses import mismatched_kl

_PLACES = ("first", "second", "sample", "row")

# Calling a small model once, forwards and backwards, costs a CPU as much as so many tokens times
# weights (measured: 4 ms, in which 110 tokens pass 342 000 weights).
_CALL = 4e7


class Objective:
    """A loss on examples: checks them, makes batches, evaluates.

    Parameters
    ----------
    loss
        A loss of `rlhf_theory.losses`, `NLL`, or `UnpairedKTO`.
    examples
        At least one.
    model
        The model that is trained: its padding, context and precision.
    bf16
        Whether matrix products are in half precision, as ``TrainingSettings.bf16``.

    Raises
    ------
    ValueError
        If an example lacks what the loss needs, has what it does not take, or does not fit the
        model; says which example.
    """

    def __init__(
        self,
        loss: TrainingLoss,
        examples: Sequence[Example],
        model: LanguageModel,
        *,
        bf16: bool = False,
    ) -> None:
        self._unit = unit_of(loss)
        if not examples:
            message = "Training needs at least one example; got none."
            raise ValueError(message)
        self.loss, self.examples, self._pad_id = loss, list(examples), model.pad_id
        # As reference scores are padded, or half precision would round them elsewhere.
        multiple = BF16_MULTIPLE if bf16 else 1
        self._padding: dict[str, Any] = {"multiple": multiple, "longest": model.context_length}
        self._dtype = np.float64 if model.dtype == torch.float64 else np.float32
        # A GPU computes padding faster than it starts another pass; wrappers that share gradients
        # between processes allow one pass.
        weights = sum(w.numel() for w in model.model.parameters())
        shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        alone = model.device.type == "cpu" and not shared
        self._call_tokens = _CALL / weights if alone else math.inf
        for i, example in enumerate(self.examples):
            check_example(loss, i, example)
        rows = [(e.prompt, r) for e in self.examples for r in self._scored(e)]
        check_lengths(model, [p for p, _ in rows], [r for _, r in rows])
        self.mean_weight = mean_weight([self._unit.weight(e) for e in self.examples])
        self._given = Given.of(self.examples)
        # Before anything is trained.
        self._unit.refuse(self._given, self.collate(self.examples[:1]))

    def _scored(self, e: Example) -> tuple[Ids, ...]:
        return (*e.rows, e.mismatched) if "z0" in self.loss.needs else e.rows

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return the tensors of one batch."""
        rows: list[tuple[Ids, Ids]] = []
        columns: Columns = defaultdict(list)
        for e in examples:
            start, k = len(rows), len(e.responses)
            rows += [(e.prompt, r) for r in e.rows]
            padding = (0.0,) * (len(e.rows) - k)
            if self._given.log_ref:
                columns["log_ref"] += (*e.log_ref, *padding)
            if self._given.wins:
                columns["wins"] += (*e.wins, *padding)
            self._unit.put(columns, e, start, self._given)
            if "z0" in self.loss.needs:
                columns["log_ref_stranger"].append(e.log_ref_mismatched)
        batch: Batch = {"rows": self._rows(rows)}
        if "z0" in self.loss.needs:
            batch["strangers"] = self._rows([(e.prompt, e.mismatched) for e in examples])
        columns["lengths"] = [len(r) for _, r in rows]
        for name, values in columns.items():
            kind = np.int64 if name.startswith(_PLACES) else self._dtype
            batch[name] = torch.from_numpy(np.asarray(values, kind))
        batch["size"] = len(examples)
        return batch

    def _rows(self, rows: Sequence[tuple[Ids, Ids]]) -> Batch:
        """Return rows cut into parts of similar length, and the place of each in their order."""
        lengths = [len(p) + len(r) for p, r in rows]
        order = sorted(range(len(rows)), key=lambda i: lengths[i])
        parts = []
        for part in _cut(order, lengths, self._call_tokens):
            prompts, responses = ([rows[i][side] for i in part] for side in (0, 1))
            parts.append(pad_rows(prompts, responses, self._pad_id, **self._padding))
        return {"parts": parts, "place": torch.from_numpy(np.argsort(order))}

    def __call__(
        self, module: torch.nn.Module, batch: Batch, z0: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the weighted sum of the losses of a batch; differentiable.

        Parameters
        ----------
        module
            The model in training.
        batch
            What `collate` made, on the model's device.
        z0
            What `kl_estimate` says, for losses that need it.
        """
        return self._unit.value(_scores(module, batch["rows"]), batch | {"z0": z0})

    def kl_estimate(self, module: Any, batches: Sequence[Batch]) -> torch.Tensor | None:
        """Return KTO's ``z0`` over some batches, without gradient; None where no loss needs it."""
        if "z0" not in self.loss.needs:
            return None
        with torch.no_grad():
            log_pi = [_scores(module, b["strangers"]) for b in batches]
            log_ref = torch.cat([b["log_ref_stranger"] for b in batches])
            return mismatched_kl(torch.cat(log_pi), log_ref)[0]  # type: ignore[no-any-return]


def mean_weight(weights: Sequence[float]) -> float:
    """Return the mean weight of examples; ``ValueError`` unless it is positive."""
    mean = float(np.mean(weights))
    if not mean > 0:
        message = "Some example must have a positive weight; all have 0."
        raise ValueError(message)
    return mean


def _scores(module: torch.nn.Module, rows: Batch) -> torch.Tensor:
    """Return the log-probability of every row, in the order in which they came."""
    parts = [response_log_probs(module, *part) for part in rows["parts"]]
    return torch.cat(parts)[rows["place"]]


def _cut(order: list[int], lengths: Sequence[int], call_tokens: float) -> list[list[int]]:
    """Return the order cut into equal parts: as many as save more padding than calls cost."""

    def parts(n: int) -> list[list[int]]:
        size = math.ceil(len(order) / n)
        return [order[k : k + size] for k in range(0, len(order), size)]

    def cost(n: int) -> float:
        tokens = sum(len(part) * lengths[part[-1]] for part in parts(n))
        return tokens + (n - 1) * call_tokens if n > 1 else tokens

    return parts(min((1, 2, 3, 4), key=cost))
