"""Folders of trainings, by content: what a result depends on decides where it is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.language.models import LanguageModel
from llm_bridge.storage.folders import claim
from llm_bridge.training.adapters import peft_version
from llm_bridge.training.examples import content_of
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.randomness import Key

ROOT = {"kind": "llm_bridge trainings", "format": 1}
"""What the marker of a folder of trainings says; ``format`` changes with what a training does."""


def _identity(
    base: LanguageModel | EncoderModel,
    examples: Sequence[object],
    loss: object,
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
    folder: str | Path | None,
    base: LanguageModel | EncoderModel,
    examples: Sequence[object],
    loss: object,
    settings: TrainingSettings,
    key: Key,
    name: str,
) -> Path | None:
    """Return the folder of one training within the folder of all; None where nothing is kept.

    It is made if it is missing. ``ValueError`` if there is something else in its place. Nothing is
    changed then.
    """
    if folder is None:
        return None
    root = Path(folder).expanduser()
    identity = _identity(base, examples, loss, settings, key)
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8)
    claim(root, ROOT)
    here = root / f"{name}-{digest.hexdigest()}"
    claim(here, identity)
    return here
