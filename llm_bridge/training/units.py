"""What losses take of examples: pairs, groups, single responses, or responses with labels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch

from llm_bridge.training.examples import NLL, Example
from llm_bridge.training.unpaired import UnpairedKTO
from rlhf_theory.errors import check_choice
from rlhf_theory.losses import Comparisons, GroupLoss, Groups, PairLoss, soft

Batch = dict[str, Any]
"""Tensors of one batch by name; ``size``, its number of examples; ``rows``, what the model reads.

No name is ``labels``: the trainer would take the loss for a mean over tokens and, with gradient
accumulation, scale it wrongly.
"""

Columns = defaultdict[str, list[object]]
"""Numbers of a batch by name, on their way to become its tensors."""


TrainingLoss = PairLoss | GroupLoss | NLL | UnpairedKTO
"""What can be trained on; a loss says by ``takes`` of what, see `_UNITS`."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What all examples have; of the data, so that no loss depends on who shares its batch.

    Attributes
    ----------
    log_ref, gamma, wins, sample
        Whether there is any.
    hard
        Whether all targets are 0 or 1.
    """

    log_ref: bool
    gamma: bool
    wins: bool
    sample: bool
    hard: bool

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Self:
        """Return it; ``ValueError`` where wins or samples are only in some examples."""
        given = cls(
            log_ref=all(e.log_ref for e in examples),
            gamma=any(g != 0.0 for e in examples for g in e.gamma),
            wins=any(e.wins for e in examples),
            sample=any(e.sample is not None for e in examples),
            hard=all(p in (0.0, 1.0) for e in examples for p in e.target),
        )
        for name in ("wins", "sample"):
            lacking = [i for i, e in enumerate(examples) if getattr(e, name) in (None, ())]
            if getattr(given, name) and lacking:
                message = f"All examples must have {name}, or none; example {lacking[0]} has none."
                raise ValueError(message)
        return given


@dataclass(frozen=True)
class Unit(ABC):
    """What a loss takes: how examples are checked, weighed, put into batches and evaluated.

    Its losses know neither margins, nor opponents, nor further responses, unless it says otherwise.
    """

    loss: TrainingLoss

    @abstractmethod
    def required(self, e: Example) -> dict[str, bool]:
        """Return what must hold for responses and targets, by its words."""

    def further(self, e: Example) -> dict[str, bool]:  # noqa: ARG002
        """Return what must hold besides, for this unit alone."""
        return {}

    def refuse(self, given: Given, first: Batch) -> None:  # noqa: ARG002
        """Raise ``ValueError`` for what the loss does not take; ``first`` is some batch."""
        if given.gamma or given.wins or given.sample:
            message = f"The loss {self.loss.name!r} takes neither gamma, nor wins, nor a sample."
            raise ValueError(message)

    def weight(self, e: Example) -> float:
        """Return how much an example weighs in the mean."""
        return e.weight

    @abstractmethod
    def put(self, columns: Columns, e: Example, start: int, given: Given) -> None:
        """Add an example to the columns of a batch; its rows begin at ``start``."""

    @abstractmethod
    def value(self, log_pi: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the weighted sum of the losses of a batch, in which KTO's ``z0`` is too."""


def _counted(e: Example, fewest: int, n_targets: int) -> dict[str, bool]:
    k = len(e.responses)
    return {
        f"at least {fewest} responses (got {k})": k >= fewest,
        f"{n_targets} targets (got {len(e.target)})": len(e.target) == n_targets,
        "finite targets": all(map(math.isfinite, e.target)),
        f"a group of its {k} responses": all(0 <= m < k for m in e.group),
    }


def compares_equal(loss: TrainingLoss) -> bool:
    """Return whether a response against itself is no constant to a loss; see `PairLoss`."""
    # A loss of somebody's own may not say its law: it learns nothing from equal responses then.
    return getattr(loss, "law", "distinct") == "full"


class _Pairs(Unit):
    """Comparisons of responses of one prompt."""

    loss: PairLoss

    def required(self, e: Example) -> dict[str, bool]:
        return _counted(e, 1 if compares_equal(self.loss) else 2, len(e.pairs))

    def further(self, e: Example) -> dict[str, bool]:
        k, equal = len(e.responses), compares_equal(self.loss)
        return {
            "targets that are probabilities": all(0.0 <= p <= 1.0 for p in e.target),
            f"pairs of two of its {k} responses": bool(e.pairs)
            and all(0 <= a < k and 0 <= b < k and (a != b or equal) for a, b in e.pairs),
            "a share for each of its pairs": len(e.share) in (0, len(e.pairs)),
            "shares of at least 0": all(math.isfinite(s) and s >= 0 for s in e.share),
        }

    def refuse(self, given: Given, first: Batch) -> None:  # noqa: ARG002
        # The loss itself refuses what it does not take.
        z0 = torch.zeros(()) if "z0" in self.loss.needs else None
        self._losses(torch.zeros_like(first["lengths"]), first | {"z0": z0})

    def weight(self, e: Example) -> float:
        return e.weight * math.fsum(e.share or (1.0,) * len(e.pairs))

    def put(self, columns: Columns, e: Example, start: int, given: Given) -> None:
        sample = e.sample if isinstance(e.sample, int) else len(e.responses)
        share = e.share or (1.0,) * len(e.pairs)
        for (a, b), p, s in zip(e.pairs, e.target, share, strict=True):
            # Labels come first the winner; probabilities keep the order.
            first, second = (b, a) if given.hard and p == 0.0 else (a, b)
            columns["first"].append(start + first)
            columns["second"].append(start + second)
            columns["weight"].append(e.weight * s)
            if not given.hard:
                columns["target"].append(p)
            if given.gamma:
                columns["margin"].append(e.gamma[first] - e.gamma[second] if e.gamma else 0.0)
            if given.sample:
                columns["sample"].append(start + sample)

    def value(self, log_pi: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.sum(batch["weight"] * self._losses(log_pi, batch))

    def _losses(self, log_pi: torch.Tensor, batch: Batch) -> torch.Tensor:
        first, second, z0 = batch["first"], batch["second"], batch["z0"]
        given: dict[str, torch.Tensor | None] = {
            "log_pi_w": log_pi[first],
            "log_pi_l": log_pi[second],
        }
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
        if "target" not in batch:
            value: torch.Tensor = self.loss(c)
            return value
        soft_value: torch.Tensor = soft(self.loss, c, batch["target"])
        return soft_value


class _Groups(Unit):
    """Responses of one prompt with rewards."""

    loss: GroupLoss

    def required(self, e: Example) -> dict[str, bool]:
        return _counted(e, 2, len(e.members))

    def put(self, columns: Columns, e: Example, start: int, given: Given) -> None:  # noqa: ARG002
        size = len(e.members)
        # A row per example: a batch holds groups of several sizes, each in columns of its own.
        columns[f"row_{size}"].append([start + m for m in e.members])
        columns[f"rewards_{size}"].append(e.target)
        columns[f"weight_{size}"].append(e.weight)

    def value(self, log_pi: torch.Tensor, batch: Batch) -> torch.Tensor:
        total = log_pi.new_zeros(())
        for name in (n for n in batch if n.startswith("row_")):
            size, row = name.removeprefix("row_"), batch[name]
            log_ref = batch["log_ref"][row] if "log_ref" in batch else None
            groups = Groups(log_pi[row], batch[f"rewards_{size}"], log_ref, batch["lengths"][row])
            total = total + torch.sum(batch[f"weight_{size}"] * self.loss(groups))
        return total


class _Responses(Unit):
    """Responses to be imitated, each by itself."""

    def required(self, e: Example) -> dict[str, bool]:
        return _counted(e, 1, 0)

    def weight(self, e: Example) -> float:
        return e.weight * len(e.responses)

    def put(self, columns: Columns, e: Example, start: int, given: Given) -> None:  # noqa: ARG002
        k = len(e.responses)
        columns["row"] += range(start, start + k)
        columns["weight"] += (e.weight,) * k

    def value(self, log_pi: torch.Tensor, batch: Batch) -> torch.Tensor:
        row, loss = batch["row"], cast("NLL", self.loss)
        return torch.sum(batch["weight"] * loss(log_pi[row], batch["lengths"][row]))


class _Labelled(_Responses):
    """Responses that are good or bad, each by itself."""

    def required(self, e: Example) -> dict[str, bool]:
        return _counted(e, 1, len(e.responses))

    def further(self, e: Example) -> dict[str, bool]:
        return {"targets that are 0 or 1": all(t in (0.0, 1.0) for t in e.target)}

    def put(self, columns: Columns, e: Example, start: int, given: Given) -> None:
        super().put(columns, e, start, given)
        columns["target"] += e.target

    def value(self, log_pi: torch.Tensor, batch: Batch) -> torch.Tensor:
        row, loss = batch["row"], cast("UnpairedKTO", self.loss)
        value = loss(log_pi[row], batch["log_ref"][row], batch["target"], batch["z0"])
        return torch.sum(batch["weight"] * value)


_UNITS: Mapping[str, type[Unit]] = {
    "pairs": _Pairs,
    "groups": _Groups,
    "responses": _Responses,
    "labelled": _Labelled,
}


def unit_of(loss: TrainingLoss) -> Unit:
    """Return what a loss takes; ``ValueError`` where it says something else."""
    check_choice("loss.takes", loss.takes, _UNITS)
    return _UNITS[loss.takes](loss)


def check_example(loss: TrainingLoss, i: int, e: Example) -> None:
    """Raise ``ValueError`` if example ``i`` lacks what a loss needs, or is malformed."""
    unit = unit_of(loss)
    required = unit.required(e) | _facts(loss.needs, e) | unit.further(e)
    for text, there in required.items():
        if not there:
            message = f"For the loss {loss.name!r} example {i} must have {text}."
            raise ValueError(message)


def _facts(needs: Container[str], e: Example) -> dict[str, bool]:
    """Return what must hold for the facts that a loss needs beside targets, by its words."""
    k = len(e.responses)

    def per_response(values: Sequence[float], what: str) -> bool:
        return len(values) == k or (not values and what not in needs)

    stranger = bool(e.mismatched) and math.isfinite(e.log_ref_mismatched)
    return {
        f"log_ref for each of its {k} responses": per_response(e.log_ref, "reference"),
        "finite log_ref": all(map(math.isfinite, e.log_ref)),
        f"gamma for each of its {k} responses": per_response(e.gamma, "margin"),
        f"wins for each of its {k} responses": per_response(e.wins, "wins"),
        "a sample": e.sample is not None or "sample" not in needs,
        f"a sample among its {k} responses": not isinstance(e.sample, int) or 0 <= e.sample < k,
        "a mismatched response (see with_mismatched)": stranger or "z0" not in needs,
        "a weight of at least 0": math.isfinite(e.weight) and e.weight >= 0,
    }
