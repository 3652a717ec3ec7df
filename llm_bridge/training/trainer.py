"""The loop that trains: `transformers.Trainer` with a loss of ours, checkpoints that are whole.

From there come gradient accumulation, adapters, half precision, resuming and distribution. This
module adds exactness (a step does the same however its batch is cut; a run that was stopped ends
with the same weights) and a loss that is not a number is an error.
"""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from llm_bridge.storage.records import found_whole, read_record, write_record
from llm_bridge.training.arguments import ByLength, switch_off_dropout
from llm_bridge.training.objective import Objective
from llm_bridge.training.settings import TrainingSettings
from llm_bridge.training.units import Batch
from rlhf_theory.errors import ConvergenceError

WHOLE = "whole.json"
"""Written last into a checkpoint: the losses of all steps so far, and digests of its files."""

CHECK_EVERY = 16
"""Steps between looks at the losses: a look waits for the device."""


def checkpoints(folder: Path) -> list[Path]:
    """Return all checkpoints, the newest one last; without those that were set aside."""
    found = (p for p in folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdecimal())
    return sorted(found, key=step_of)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, None if there is none."""
    return next((p for p in reversed(checkpoints(folder)) if (p / WHOLE).is_file()), None)


def whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is what was written; sets newer, damaged ones aside."""
    while (newest := newest_checkpoint(folder)) is not None:
        if found_whole(newest / WHOLE, newest) is not None:
            return newest
    return None


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


@dataclass
class _Moves(TrainerCallback):
    """Moves a progress bar on."""

    bar: tqdm[NoReturn]

    def on_step_end(self, *_: object, **__: object) -> None:
        """Count a step."""
        self.bar.update(1)


class PreferenceTrainer(Trainer):
    """Minimises an `Objective`.

    Parameters
    ----------
    module
        The model, changed in place; dropout is switched off.
    args
        See `arguments`.
    objective
        The loss and the examples.
    settings
        See `TrainingSettings`.
    name
        What to call the run in the progress bar.
    """

    # Our losses are means over examples, not over tokens: from transformers 5.19 this says so, and
    # before it `model_accepts_loss_kwargs` does.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        module: torch.nn.Module,
        args: TrainingArguments,
        objective: Objective,
        settings: TrainingSettings,
        name: str = "",
    ) -> None:
        switch_off_dropout(module)
        super().__init__(
            model=module,
            args=args,
            data_collator=objective.collate,
            train_dataset=objective.examples,
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False
        if args.use_cpu:
            # It collects garbage before training, which takes longer than a small training.
            self.accelerator.free_memory = lambda *objects: list(objects)
        self.objective: Objective = objective
        self.settings: TrainingSettings = settings
        self.name = name or "training"
        self.folder = Path(args.output_dir or ".")
        self.history: list[float] = []
        self._unread: list[list[torch.Tensor]] = []  # of every step, of every batch
        self._size = 1
        self._z0: torch.Tensor | None = None

    def get_batch_samples(
        self, *args: Any, **kwargs: Any
    ) -> tuple[list[Batch], torch.Tensor | int | None]:
        """Collect the batches of a step; what they share is computed over all of them."""
        batches, n_items = super().get_batch_samples(*args, **kwargs)
        self._size = sum(b["size"] for b in batches)
        self._z0 = self.objective.kl_estimate(self.model, batches)
        self._unread.append([])
        return batches, n_items

    def compute_loss(
        self, model: torch.nn.Module, inputs: Batch, *_: object, **__: object
    ) -> torch.Tensor:
        """Return the loss of a batch as its part of the step's mean over examples."""
        total: torch.Tensor = self.objective(model, inputs, self._z0)
        # The trainer divides by the number of batches; the last one of an epoch may be smaller.
        parts = self.current_gradient_accumulation_steps
        return total * (parts / (self._size * self.objective.mean_weight))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Add up the loss of the step; look at the losses now and then."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self._unread[-1].append(loss)
        if len(self._unread) > CHECK_EVERY:
            self.read_losses(but=1)
        return loss

    def read_losses(self, *, but: int = 0) -> None:
        """Move losses to ``history``, all but the last few.

        Raises
        ------
        ConvergenceError
            At the first that is not finite; says the step and what to do.
        """
        n = len(self._unread) - but
        if n <= 0:
            return
        values = torch.stack([torch.stack(parts).sum() for parts in self._unread[:n]]).tolist()
        del self._unread[:n]
        for value in values:
            if not math.isfinite(value):
                last = newest_checkpoint(self.folder)
                kept = "" if last is None else f" The weights of step {step_of(last)} are kept."
                message = (
                    f"The loss must stay finite; it was {value} at step {len(self.history)} of "
                    f"{self.state.max_steps}.{kept} Lower learning_rate="
                    f"{self.settings.learning_rate:g}, set max_grad_norm (now "
                    f"{self.settings.max_grad_norm:g}) or warmup, and look for extreme log_ref, "
                    "rewards or margins in the examples."
                )
                raise ConvergenceError(message)
            self.history.append(value)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler[int] | None:
        if not self.settings.group_by_length:
            return super()._get_train_sampler(*args, **kwargs)
        lengths = [e.n_tokens for e in self.objective.examples]
        return ByLength(lengths, self.settings.batch_size, self.args.seed)

    def _get_grad_norm(self, model: object, grad_norm: object = None) -> object:  # noqa: ARG002
        return grad_norm  # nobody asks for a norm that nothing is cut to

    def floating_point_ops(self, inputs: object) -> int:  # noqa: ARG002
        """Return 0: nobody asks."""
        return 0

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.read_losses()  # a checkpoint after a loss that is not finite would be of no use
        super()._save_checkpoint(*args, **kwargs)
        folder = self.folder
        new = folder / f"checkpoint-{self.state.global_step}"
        files = [p.name for p in new.iterdir() if p.name != WHOLE]
        write_record(new / WHOLE, {"losses": self.history}, files)
        older = [p for p in checkpoints(folder) if p != new]
        for old in older[: max(0, len(older) + 1 - self.settings.save_total_limit)]:
            shutil.rmtree(old)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
        if set(load_result.missing_keys) <= tied and not load_result.unexpected_keys:
            return  # an output layer that shares the embedding's weights is stored once
        super()._issue_warnings_after_load(load_result)

    def run(self, checkpoint: Path | None = None) -> None:
        """Train to the end, from a checkpoint where there is one."""
        if checkpoint is not None:
            self.history = list(read_record(checkpoint / WHOLE)["losses"])
        with tqdm(
            desc=self.name,
            total=self.args.max_steps,
            initial=len(self.history),
            disable=None if self.settings.progress else True,  # None: quiet where is no terminal
            file=sys.stderr,
            unit="step",
        ) as bar:
            self.add_callback(_Moves(bar))
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self.read_losses()
