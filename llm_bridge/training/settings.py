"""How a model is trained: settings that are checked when they are made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from rlhf_theory.errors import check_choice, check_nonnegative, check_positive

Schedule = Literal["constant", "linear", "cosine"]

RESUMED = {"checkpoint_every": 100}
"""What commands choose otherwise than the class: they have a folder, and go on where stopped."""


def _check_count(name: str, value: float, least: int) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number of at least ``least``."""
    if value != int(value) or value < least:
        message = f"{name} must be a whole number of at least {least}; got {value}."
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adapters (the package peft), merged into the weights after training.

    Attributes
    ----------
    rank
        Rank of the updates.
    alpha
        Updates are scaled by ``alpha / rank``.
    targets
        Names of the layers that get one; ``("all-linear",)`` for every linear layer but the head.

    Source: [2106.09685].
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("all-linear",)

    def __post_init__(self) -> None:
        _check_count("rank", self.rank, 1)
        check_positive("alpha", self.alpha)
        targets: object = self.targets
        if not isinstance(targets, tuple) or not targets:
            message = (
                "targets must be a tuple of names of layers, such as ('q_proj', 'v_proj'), or "
                f"('all-linear',); got {self.targets!r}."
            )
            raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to train.

    Attributes
    ----------
    epochs
        Passes over the examples, fractions allowed; unused where ``steps`` is given.
    steps
        Optimiser steps, or None to count in epochs.
    batch_size
        Examples (prompts with their responses) per forward pass; the first to make smaller where
        memory runs out.
    gradient_accumulation
        Forward passes per optimiser step: a step sees ``batch_size * gradient_accumulation``
        examples, and does the same whichever way that number is made.
    learning_rate
        Learning rate of AdamW, at its peak.
    weight_decay
        Weight decay of AdamW, on matrices only; 0 for none.
    schedule
        ``"constant"``, ``"linear"`` to zero, or ``"cosine"`` to zero.
    warmup
        Steps in which the rate rises from zero; below 1 it is a share of all steps.
    max_grad_norm
        Longer gradients are shortened to it; 0 for none.
    lora
        Train adapters of these settings (on a command line: of this rank); None trains all weights.
    bf16
        Matrix products in half precision while weights and losses stay as they are. Reference
        scores are then to be computed that way too (``bf16=True`` of `sequence_log_probs` and
        `with_mismatched`): in full precision they differ by more than a step of training changes.
        Planners and learners see to it.
    gradient_checkpointing
        Recompute activations in the backward pass: a third more time, far less memory.
    group_by_length
        Batches of similar lengths: less padding, another order of the examples.
    checkpoint_every
        Optimiser steps between checkpoints, kept where a folder is given; 0 for none.
    save_total_limit
        Checkpoints kept, the newest ones.
    progress
        Show a progress bar where the output is a terminal.

    The last three change nothing about the result.
    """

    epochs: float = 1.0
    steps: int | None = None
    batch_size: int = 16
    gradient_accumulation: int = 1
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    schedule: Schedule = "linear"
    warmup: float = 0.0
    max_grad_norm: float = 1.0
    lora: LoRA | None = None
    bf16: bool = False
    gradient_checkpointing: bool = False
    group_by_length: bool = False
    checkpoint_every: int = 0
    save_total_limit: int = 2
    progress: bool = True

    def __post_init__(self) -> None:
        check_positive("epochs", self.epochs)
        if self.steps is not None:
            _check_count("steps", self.steps, 1)
        for name, least in (
            ("batch_size", 1),
            ("gradient_accumulation", 1),
            ("checkpoint_every", 0),
            ("save_total_limit", 1),
        ):
            _check_count(name, getattr(self, name), least)
        check_positive("learning_rate", self.learning_rate)
        for name in ("weight_decay", "warmup", "max_grad_norm"):
            check_nonnegative(name, getattr(self, name))
        if self.warmup >= 1.0:
            _check_count("warmup", self.warmup, 1)
        check_choice("schedule", self.schedule, ("constant", "linear", "cosine"))

    def identity(self) -> dict[str, object]:
        """Return what the result of a training depends on, as plain data."""
        values = {f.name: getattr(self, f.name) for f in fields(TrainingSettings)}
        for name in ("checkpoint_every", "save_total_limit", "progress"):
            del values[name]
        if self.steps is not None:
            del values["epochs"]
        if self.lora is not None:
            values["lora"] = {**asdict(self.lora), "targets": list(self.lora.targets)}
        return values

    def n_steps(self, n_examples: int) -> int:
        """Return the optimiser steps of a training on so many examples."""
        if self.steps is not None:
            return self.steps
        batches = math.ceil(n_examples / self.batch_size)
        return math.ceil(self.epochs * math.ceil(batches / self.gradient_accumulation))


@dataclass(frozen=True, kw_only=True)
class Trains(TrainingSettings):
    """What planners and learners that train a model have beside their own settings: how to train.

    Attributes
    ----------
    folder
        Where trainings are kept by content, see `training.train`; None for nowhere.
    """

    folder: str | Path | None = field(default=None, repr=False)

    @property
    def training(self) -> TrainingSettings:
        """How to train, without the rest."""
        return TrainingSettings(**{f.name: getattr(self, f.name) for f in fields(TrainingSettings)})

    @classmethod
    def of(cls, training: TrainingSettings, /, **own: Any) -> Self:
        """Return one that trains by settings at hand; ``own`` are further arguments."""
        return cls(**vars(training), **own)
