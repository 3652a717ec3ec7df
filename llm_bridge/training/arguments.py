"""What the trainer of transformers is told, and what it must not change around itself."""

from __future__ import annotations

import random  # noqa: TID251  (its state is put back, nothing is drawn)
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.randomness import Key


def arguments(
    settings: TrainingSettings, n_examples: int, folder: Path, device: torch.device, key: Key
) -> TrainingArguments:
    """Return the settings in the words of transformers."""
    saving = settings.checkpoint_every > 0
    recompute: dict[str, Any] = {}
    if settings.gradient_checkpointing:
        # The name from transformers 5.23 on, or the one before it.
        new = "activation_checkpointing" in TrainingArguments.__dataclass_fields__
        word = "activation_checkpointing" if new else "gradient_checkpointing"
        recompute = {word: True, f"{word}_kwargs": {"use_reentrant": False}}
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.n_steps(n_examples),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="constant_with_warmup"
        if settings.schedule == "constant"
        else settings.schedule,
        warmup_steps=settings.warmup,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        save_strategy="steps" if saving else "no",
        save_steps=settings.checkpoint_every or 500,
        seed=key.seed_int() % 2**31,
        use_cpu=device.type == "cpu",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        **recompute,
    )
    if device.type == "cuda" and not torch.distributed.is_initialized():
        args._n_gpu = 1  # noqa: SLF001  (several would mean DataParallel, which is another thing)
    return args


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Put the global generators back, which the trainer seeds for its own use."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


class ByLength(torch.utils.data.Sampler[int]):
    """Examples in an order in which batches have similar lengths; a new one every epoch."""

    def __init__(self, lengths: list[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; a resumed run repeats the order of the one it goes on with."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(Key(self._seed).child("by length", self._epoch).seed_int())
        order = torch.randperm(len(self), generator=generator).tolist()
        chunk = 32 * self._batch
        batches: list[list[int]] = []
        for start in range(0, len(order), chunk):
            near = sorted(order[start : start + chunk], key=lambda i: self._lengths[i])
            batches += [near[k : k + self._batch] for k in range(0, len(near), self._batch)]
        # The batch that is not full stays last, where the trainer expects it.
        full = [b for b in batches if len(b) == self._batch]
        rest = [b for b in batches if len(b) < self._batch]
        shuffled = torch.randperm(len(full), generator=generator).tolist()
        yield from (i for k in shuffled for i in full[k])
        yield from (i for b in rest for i in b)


def recompute_nothing(module: torch.nn.Module) -> None:
    """End what ``gradient_checkpointing`` has begun."""
    new = hasattr(module, "activation_checkpointing_disable")  # from transformers 5.23 on
    name = "activation_checkpointing_disable" if new else "gradient_checkpointing_disable"
    getattr(module, name)()


def switch_off_dropout(module: torch.nn.Module) -> None:
    """Make training compare the policy itself with its reference, not a random part of it."""
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        for name, value in vars(part).items():
            if name.endswith("dropout") and isinstance(value, float):
                setattr(part, name, 0.0)  # attention reads a number instead of a layer
