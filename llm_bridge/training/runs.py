"""A training from its start to its result: found complete, gone on with, or begun; and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
import transformers
from filelock import FileLock

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.errors import memory_advice
from llm_bridge.language.models import LanguageModel
from llm_bridge.storage.folders import claim
from llm_bridge.storage.records import found_whole, write_record
from llm_bridge.training.adapters import peft_version
from llm_bridge.training.arguments import arguments, generators_kept
from llm_bridge.training.settings import TrainingSettings
from llm_bridge.training.trainer import (
    PreferenceTrainer,
    checkpoints,
    step_of,
    whole_checkpoint,
)
from rlhf_theory.engine.tasks import Made, ask, failure_path
from rlhf_theory.errors import ConvergenceError
from rlhf_theory.randomness import Key

ROOT = {"kind": "llm_bridge trainings", "format": 2}
"""What the marker of a folder of trainings says; ``format`` changes with what a training does."""

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

    def once(
        self, folder: str | Path | None, examples: Sequence[object], loss: object
    ) -> Trained[M]:
        """Return the result that is complete in a folder, or train there and keep it.

        It is a task of the engine, see `engine.tasks.ask`: one process at a time does so, others
        wait. What is complete is never computed twice; what is damaged is set aside with a
        `DamageWarning`, and computed again; a failure is recorded beside it.

        Parameters
        ----------
        folder
            The folder of all trainings; None keeps nothing. ``ValueError`` if there is something
            else in its place. Nothing is changed then.
        examples, loss
            What the result depends on besides. ``ValueError`` for a loss whose representation does
            not say its settings, where the result is kept.
        """
        if folder is None:
            with tempfile.TemporaryDirectory(prefix="training-") as scratch:
                work = replace(self.settings, checkpoint_every=0)
                return self._run(Path(scratch), work)
        here = self._claimed(Path(folder).expanduser(), self._identity(examples, loss))
        task = _Asked(here, self.load, lambda: self._run(here, self.settings))
        return cast("Trained[M]", ask(task).about)

    def _identity(self, examples: Sequence[object], loss: object) -> dict[str, object]:
        """Return what the result depends on, as plain data."""
        described, key = repr(loss), self.key
        if " at 0x" in described:
            message = (
                "To keep results in a folder, a loss must say its settings in its repr, as a "
                f"frozen dataclass does; got {described}."
            )
            raise ValueError(message)
        content = hashlib.blake2b(digest_size=16)
        for example in examples:
            content.update(repr(example).encode())
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        if self.settings.lora is not None:
            versions["peft"] = peft_version()
        return {
            "base": self.base.fingerprint,
            "examples": content.hexdigest(),
            "loss": f"{type(loss).__module__}.{described}",
            "settings": self.settings.identity(),
            "key": [key.seed, key.first, *(p if isinstance(p, str) else int(p) for p in key.path)],
            "device": self.base.device.type,
            "dtype": str(self.base.dtype),
            "versions": {k: str(v) for k, v in versions.items()},
        }

    def _claimed(self, root: Path, identity: Mapping[str, object]) -> Path:
        """Return the folder of this training within that of all; made if it is missing."""
        digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8)
        claim(root, ROOT)
        here = root / f"{self.name}-{digest.hexdigest()}"
        claim(here, identity)
        return here

    def _run(self, folder: Path, settings: TrainingSettings) -> Trained[M]:
        start, device = time.perf_counter(), self.base.device
        checkpoint = whole_checkpoint(folder)
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


@dataclass(frozen=True)
class _Asked(Generic[M]):
    """A training as a task: in its folder, with a way to read the result and one to come to it."""

    folder: Path
    load: Callable[[Path], M]
    train: Callable[[], Trained[M]]
    at_once: ClassVar[None] = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def path(self) -> Path:
        return self.folder / _RESULT

    def claimed(self) -> FileLock:
        return FileLock(self.folder / "lock")

    def make(self) -> Made:
        """Train, unless the result is there; the model first, then the file that says it is."""
        model = self.folder / "model"
        found = found_whole(self.path, model)
        if found is not None:
            losses, seconds = np.asarray(found["losses"]), float(found["seconds"])
            stored = Trained(self.load(model), losses, seconds, stored=True)
            return Made("skipped", self.path.stat(), stored)
        trained = self.train()
        trained.model.save(model)
        facts = {"losses": list(map(float, trained.history)), "seconds": trained.seconds}
        write_record(self.path, facts, ["model"])
        for checkpoint in checkpoints(self.folder):
            shutil.rmtree(checkpoint)
        failure_path(self.path).unlink(missing_ok=True)
        return Made("done", self.path.stat(), trained)
