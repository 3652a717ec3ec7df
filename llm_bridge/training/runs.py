"""A training from its start to its result: found complete, gone on with, or begun; and kept."""

from __future__ import annotations

import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from filelock import FileLock

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.errors import memory_advice
from llm_bridge.language.models import LanguageModel
from llm_bridge.training.arguments import arguments, generators_kept
from llm_bridge.training.settings import TrainingSettings
from llm_bridge.training.trainer import PreferenceTrainer, newest_checkpoint, step_of
from rlhf_theory.errors import ConvergenceError
from rlhf_theory.randomness import Key
from rlhf_theory.store import read_json, write_json

_RESULT = "result.json"


class Saved(Protocol):
    """What a training ends with."""

    def save(self, folder: str | Path) -> None:
        """Write it to a folder."""
        ...


M = TypeVar("M", bound=Saved)


@dataclass(frozen=True, eq=False)
class Trained(Generic[M]):
    """The outcome of a training.

    Attributes
    ----------
    model
        The trained model, adapters merged.
    history
        Loss of every optimiser step, before it, shape ``(n_steps,)``.
    seconds
        Wall time of the training, also where the result was stored.
    resumed_at
        Step of the checkpoint that this call went on from; 0 if it started from nothing.
    stored
        Whether the result was found complete.
    """

    model: M
    history: np.ndarray
    seconds: float
    resumed_at: int = 0
    stored: bool = False

    @property
    def n_steps(self) -> int:
        """Optimiser steps in all."""
        return len(self.history)


@dataclass(frozen=True)
class Training(ABC, Generic[M]):
    """One training: where it starts, what it minimises, and what comes out."""

    base: LanguageModel | EncoderModel
    objective: Any
    settings: TrainingSettings
    key: Key
    name: str

    @abstractmethod
    def module(self) -> torch.nn.Module:
        """Return a copy of the base to train, with adapters if the settings have some."""

    @abstractmethod
    def merged(self, module: Any) -> torch.nn.Module:
        """Return the trained module without adapters."""

    @abstractmethod
    def result(self, module: Any) -> M:
        """Return what the merged module is used as."""

    @abstractmethod
    def load(self, folder: Path) -> M:
        """Read a result that was saved."""

    def once(self, folder: Path | None) -> Trained[M]:
        """Return the result that is complete in a folder, or train there and keep it.

        One process at a time does so, others wait. Without a folder nothing is kept.
        """
        if folder is None:
            with tempfile.TemporaryDirectory(prefix="training-") as scratch:
                work = replace(self.settings, checkpoint_every=0)
                return self._run(Path(scratch), work)
        with FileLock(folder / "lock"):  # the system frees it when its holder dies
            if (folder / _RESULT).is_file():
                found = read_json(folder / _RESULT) or {}
                model, losses = self.load(folder / "model"), np.asarray(found["losses"])
                return Trained(model, losses, float(found["seconds"]), stored=True)
            trained = self._run(folder, self.settings)
            # The model first, then the file that says that it is complete.
            trained.model.save(folder / "model")
            facts = {"losses": list(map(float, trained.history)), "seconds": trained.seconds}
            write_json(folder / _RESULT, facts)
            for checkpoint in folder.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        return trained

    def _run(self, folder: Path, settings: TrainingSettings) -> Trained[M]:
        start, device = time.perf_counter(), self.base.device
        checkpoint = newest_checkpoint(folder)
        knob = f"batch_size={settings.batch_size} (and gradient_accumulation larger)"
        with memory_advice(knob), generators_kept(device):
            module = self.module()
            args = arguments(settings, len(self.objective.examples), folder, device, self.key)
            trainer = PreferenceTrainer(module, args, self.objective, settings, self.name)
            trainer.run(checkpoint)
            # Half precision wraps the forward pass; the result must not keep that.
            module = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            module = self.merged(module)
        for label, weight in module.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                message = (
                    f"The weights must stay finite; {label} is not after {len(trainer.history)} "
                    f"steps. Lower learning_rate={settings.learning_rate:g}."
                )
                raise ConvergenceError(message)
        module.zero_grad(set_to_none=True)
        model = self.result(module.to(device).eval())
        resumed_at = 0 if checkpoint is None else step_of(checkpoint)
        seconds = time.perf_counter() - start
        return Trained(model, np.asarray(trainer.history), seconds, resumed_at)
