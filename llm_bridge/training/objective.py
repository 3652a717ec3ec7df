"""The value of a loss on a batch of examples.

The losses are those of `rlhf_theory.losses`; here they get torch tensors. All responses of a batch
go through the model together (on a CPU short ones apart from long ones, where padding would cost
more), and each once, however many comparisons it is in.
"""

from __future__ import annotations

import math
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
from llm_bridge.training.examples import Example, check_example
from rlhf_theory.errors import check_choice
from rlhf_theory.losses import Comparisons, Groups, mismatched_kl, soft

__all__ = ["Batch", "Objective"]

Batch = dict[str, Any]
"""Tensors of one batch by name; ``size``, its number of examples; ``rows``, what the model reads.

No name is ``labels``: the trainer would take the loss for a mean over tokens and, with gradient
accumulation, scale it wrongly.
"""

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
        self, loss: Any, examples: Sequence[Example], model: LanguageModel, *, bf16: bool = False
    ) -> None:
        check_choice("loss.takes", loss.takes, ("pairs", "groups", "responses", "labelled"))
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
        self._call_tokens = _CALL / weights if _alone_on_cpu(model.device) else math.inf
        for i, example in enumerate(self.examples):
            check_example(loss, i, example)
        rows = [(e.prompt, r) for e in self.examples for r in self._scored(e)]
        check_lengths(model, [p for p, _ in rows], [r for _, r in rows])
        self.mean_weight = float(np.mean([self._weight(e) for e in self.examples]))
        if not self.mean_weight > 0:
            message = "Some example must have a positive weight; all have 0."
            raise ValueError(message)
        # Properties of the data, so that the loss of an example does not depend on its batch.
        self._hard = all(p in (0.0, 1.0) for e in self.examples for p in e.target)
        self._given = {
            "log_ref": all(e.log_ref for e in self.examples),
            "gamma": any(g != 0.0 for e in self.examples for g in e.gamma),
            "wins": any(e.wins for e in self.examples),
            "sample": any(e.sample is not None for e in self.examples),
        }
        self._refuse()

    def _scored(self, e: Example) -> tuple[Ids, ...]:
        return (*e.rows, e.mismatched) if "z0" in self.loss.needs else e.rows

    def _weight(self, e: Example) -> float:
        if self.loss.takes in ("responses", "labelled"):
            return e.weight * len(e.responses)
        if self.loss.takes == "groups":
            return e.weight
        return e.weight * math.fsum(e.share or (1.0,) * len(e.pairs))

    def _refuse(self) -> None:
        """Let the loss refuse what it does not take, before anything is trained."""
        for name in ("gamma", "wins", "sample"):
            lacking = [i for i, e in enumerate(self.examples) if not _has(e, name)]
            if self._given[name] and lacking and name != "gamma":
                message = f"All examples must have {name}, or none; example {lacking[0]} has none."
                raise ValueError(message)
        if self.loss.takes == "pairs":
            batch = self.collate(self.examples[:1])
            z0 = torch.zeros(()) if "z0" in self.loss.needs else None
            self._pair_losses(torch.zeros_like(batch["lengths"]), batch, z0)
        elif any(self._given[name] for name in ("gamma", "wins", "sample")):
            message = f"The loss {self.loss.name!r} takes neither gamma, nor wins, nor a sample."
            raise ValueError(message)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return the tensors of one batch."""
        rows: list[tuple[Ids, Ids]] = []
        columns: dict[str, list[Any]] = {}
        for e in examples:
            start, k = len(rows), len(e.responses)
            rows += [(e.prompt, r) for r in e.rows]
            padding = (0.0,) * (len(e.rows) - k)
            for name in ("log_ref", "wins"):
                if self._given[name]:
                    columns.setdefault(name, []).extend((*getattr(e, name), *padding))
            if self.loss.takes == "pairs":
                self._put_pairs(columns, e, start)
            elif self.loss.takes == "groups":
                size = len(e.members)
                _put(columns, f"row_{size}", [start + m for m in e.members])
                _put(columns, f"rewards_{size}", e.target)
                _put(columns, f"weight_{size}", e.weight)
            else:
                columns.setdefault("row", []).extend(range(start, start + k))
                columns.setdefault("weight", []).extend((e.weight,) * k)
                if self.loss.takes == "labelled":
                    columns.setdefault("target", []).extend(e.target)
            if "z0" in self.loss.needs:
                _put(columns, "log_ref_stranger", e.log_ref_mismatched)
        batch: Batch = {"rows": self._rows(rows)}
        if "z0" in self.loss.needs:
            batch["strangers"] = self._rows([(e.prompt, e.mismatched) for e in examples])
        columns["lengths"] = [len(r) for _, r in rows]
        for name, values in columns.items():
            kind = np.int64 if name.startswith(_PLACES) else self._dtype
            batch[name] = torch.from_numpy(np.asarray(values, kind))
        batch["size"] = len(examples)
        return batch

    def _put_pairs(self, columns: dict[str, list[Any]], e: Example, start: int) -> None:
        sample = e.sample if isinstance(e.sample, int) else len(e.responses)
        share = e.share or (1.0,) * len(e.pairs)
        for (a, b), p, s in zip(e.pairs, e.target, share, strict=True):
            # Labels come first the winner; probabilities keep the order.
            first, second = (b, a) if self._hard and p == 0.0 else (a, b)
            _put(columns, "first", start + first)
            _put(columns, "second", start + second)
            _put(columns, "weight", e.weight * s)
            if not self._hard:
                _put(columns, "target", p)
            if self._given["gamma"]:
                _put(columns, "margin", e.gamma[first] - e.gamma[second] if e.gamma else 0.0)
            if self._given["sample"]:
                _put(columns, "sample", start + sample)

    def _rows(self, rows: Sequence[tuple[Ids, Ids]]) -> dict[str, Any]:
        """Return rows cut into parts of similar length, and the place of each in their order."""
        lengths = [len(p) + len(r) for p, r in rows]
        order = sorted(range(len(rows)), key=lambda i: lengths[i])
        parts = []
        for part in _cut(order, lengths, self._call_tokens):
            prompts, responses = ([rows[i][side] for i in part] for side in (0, 1))
            parts.append(pad_rows(prompts, responses, self._pad_id, **self._padding))
        return {"parts": parts, "place": torch.from_numpy(np.argsort(order))}

    def __call__(self, module: Any, batch: Batch, z0: torch.Tensor | None = None) -> torch.Tensor:
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
        log_pi = _scores(module, batch["rows"])
        if self.loss.takes == "pairs":
            return torch.sum(batch["weight"] * self._pair_losses(log_pi, batch, z0))
        if self.loss.takes == "responses":
            row = batch["row"]
            return torch.sum(batch["weight"] * self.loss(log_pi[row], batch["lengths"][row]))
        if self.loss.takes == "labelled":
            row = batch["row"]
            value = self.loss(log_pi[row], batch["log_ref"][row], batch["target"], z0)
            return torch.sum(batch["weight"] * value)
        total = log_pi.new_zeros(())
        for name in (n for n in batch if n.startswith("row_")):
            size = name.removeprefix("row_")
            groups = self._groups(log_pi, batch, batch[name], batch[f"rewards_{size}"])
            total = total + torch.sum(batch[f"weight_{size}"] * self.loss(groups))
        return total

    def kl_estimate(self, module: Any, batches: Sequence[Batch]) -> torch.Tensor | None:
        """Return KTO's ``z0`` over some batches, without gradient; None where no loss needs it."""
        if "z0" not in self.loss.needs:
            return None
        with torch.no_grad():
            log_pi = [_scores(module, b["strangers"]) for b in batches]
            log_ref = torch.cat([b["log_ref_stranger"] for b in batches])
            return mismatched_kl(torch.cat(log_pi), log_ref)[0]  # type: ignore[no-any-return]

    def _pair_losses(
        self, log_pi: torch.Tensor, batch: Batch, z0: torch.Tensor | None
    ) -> torch.Tensor:
        first, second = batch["first"], batch["second"]
        given: dict[str, Any] = {"log_pi_w": log_pi[first], "log_pi_l": log_pi[second]}
        if "log_ref" in batch:
            given |= {"log_ref_w": batch["log_ref"][first], "log_ref_l": batch["log_ref"][second]}
        if "lengths" in self.loss.needs | self.loss.accepts:
            given |= {"length_w": batch["lengths"][first], "length_l": batch["lengths"][second]}
        if "wins" in batch:
            given |= {"win_w": batch["wins"][first], "win_l": batch["wins"][second]}
        if "sample" in batch:
            given["log_pi_sample"] = log_pi[batch["sample"]]
        given["margin"] = batch.get("margin")
        given["z0"] = None if z0 is None else z0.to(log_pi.dtype).expand(len(first))
        c = Comparisons(**given)
        value: torch.Tensor
        value = self.loss(c) if "target" not in batch else soft(self.loss, c, batch["target"])
        return value

    def _groups(
        self, log_pi: torch.Tensor, batch: Batch, row: torch.Tensor, rewards: torch.Tensor
    ) -> Groups:
        log_ref = batch["log_ref"][row] if "log_ref" in batch else None
        return Groups(log_pi[row], rewards, log_ref, batch["lengths"][row])


def _scores(module: Any, rows: dict[str, Any]) -> torch.Tensor:
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


def _alone_on_cpu(device: torch.device) -> bool:
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    return device.type == "cpu" and not shared


def _put(columns: dict[str, list[Any]], name: str, value: Any) -> None:
    columns.setdefault(name, []).append(value)


def _has(e: Example, name: str) -> bool:
    return getattr(e, name) not in (None, ())
