"""Results of trainings on disk, by content: what is complete is never computed twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from filelock import FileLock

from llm_bridge.language.models import LanguageModel
from llm_bridge.storage.folders import claim
from llm_bridge.training.adapters import peft_version
from llm_bridge.training.examples import Example, content_of
from llm_bridge.training.settings import TrainingSettings
from llm_bridge.training.units import TrainingLoss
from rlhf_theory.randomness import Key
from rlhf_theory.store import read_json, write_json

ROOT = {"kind": "llm_bridge trainings", "format": 1}
"""What the marker of a folder of trainings says; ``format`` changes with what a training does."""


@dataclass(frozen=True, eq=False)
class Trained:
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

    model: LanguageModel
    history: np.ndarray
    seconds: float
    resumed_at: int = 0
    stored: bool = False

    @property
    def n_steps(self) -> int:
        """Optimiser steps in all."""
        return len(self.history)


def _identity(
    base: LanguageModel,
    examples: Sequence[Example],
    loss: TrainingLoss,
    settings: TrainingSettings,
    key: Key,
) -> dict[str, object]:
    """Return what the result depends on, as plain data.

    ``ValueError`` for a loss whose representation does not say its settings.
    """
    described = repr(loss)
    if " at 0x" in described:
        message = (
            f"To keep results in a folder, a loss must say its settings in its repr, as a frozen "
            f"dataclass does; got {described}."
        )
        raise ValueError(message)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if settings.lora is not None:
        versions["peft"] = peft_version()
    return {
        "base": base.fingerprint,
        "examples": content_of(examples),
        "loss": f"{type(loss).__module__}.{described}",
        "settings": settings.identity(),
        "key": [key.seed, key.first, *(p if isinstance(p, str) else int(p) for p in key.path)],
        "device": base.device.type,
        "dtype": str(base.dtype),
        "versions": {k: str(v) for k, v in versions.items()},
    }


def claim_training(
    folder: Path,
    base: LanguageModel,
    examples: Sequence[Example],
    loss: TrainingLoss,
    settings: TrainingSettings,
    key: Key,
    name: str,
) -> Path:
    """Return the folder of one training within the folder of all; made if it is missing.

    ``ValueError`` if there is something else in its place. Nothing is changed then.
    """
    identity = _identity(base, examples, loss, settings, key)
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8)
    claim(folder, ROOT)
    here = folder / f"{name}-{digest.hexdigest()}"
    claim(here, identity)
    return here


def alone(folder: Path) -> FileLock:
    """Return the lock under which one process at a time trains in a folder; others wait for it.

    The system frees it when its holder dies.
    """
    return FileLock(folder / "lock")


def store(result: Trained, folder: Path) -> None:
    """Keep a result: the model first, then the file that says that it is complete."""
    result.model.save(folder / "model")
    losses = [float(v) for v in result.history]
    write_json(folder / "result.json", {"losses": losses, "seconds": result.seconds})
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def load(base: LanguageModel, folder: Path, name: str) -> Trained | None:
    """Return the complete result of a folder, None if there is none."""
    if not (folder / "result.json").is_file():
        return None
    result = read_json(folder / "result.json") or {}
    dtype = str(base.dtype).removeprefix("torch.")
    model = LanguageModel.from_pretrained(
        folder / "model", device=str(base.device), dtype=dtype, offline=True
    )
    model = LanguageModel(model.model, base.tokenizer, name or folder.name.rpartition("-")[0])
    return Trained(model, np.asarray(result["losses"]), float(result["seconds"]), stored=True)
