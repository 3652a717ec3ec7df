"""A fitted linear reward on disk: its features, its parameters, its confidence set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from llm_bridge.embeddings.features import FittedFeatures
from llm_bridge.errors import ModelError
from llm_bridge.jobs.sources import ModelSource
from llm_bridge.jobs.texts import FeatureOptions
from llm_bridge.language.models import LanguageModel
from llm_bridge.rewards.models import HeadFit, OnFeatures
from rlhf_theory.algorithms.offline_pessimistic import LowerBound
from rlhf_theory.arrays import to_numpy
from rlhf_theory.core import RewardModel
from rlhf_theory.estimators.ellipsoid import Ellipsoid
from rlhf_theory.experiments.store import write_json
from rlhf_theory.rewards import LinearReward

__all__ = ["Head", "is_head", "load_head", "reads_other_words", "save_head"]


@dataclass(frozen=True, eq=False)
class Head:
    """A linear reward with its frozen features.

    Attributes
    ----------
    features
        The features.
    confidence
        The ellipsoid around the estimate.
    about
        What was written beside it.
    """

    features: FittedFeatures
    confidence: Ellipsoid
    about: Mapping[str, Any]

    @property
    def linear(self) -> LinearReward:
        """The reward on these features."""
        return LinearReward(self.confidence.center)

    def reward(self, *, pessimistic: bool = False) -> RewardModel:
        """Return the reward of texts, or its lower bound measured from pi0."""
        model = LowerBound(self.confidence) if pessimistic else self.linear
        return OnFeatures(self.features, model)


def save_head(
    folder: Path, fit: HeadFit, features: FittedFeatures, about: Mapping[str, Any]
) -> None:
    """Write a fit; ``head.json`` comes last and says that it is complete.

    Parameters
    ----------
    folder
        An existing folder.
    fit
        The fit, with an ellipsoid as confidence set.
    features
        Its features.
    about
        Plain data; holds ``model``, ``revision``, ``dtype`` and ``features`` of the job.
    """
    features.save(folder / "transform.safetensors")
    ball: Any = fit.confidence
    arrays = {"theta": ball.center, "sigma": ball.sigma, "beta": ball.beta}
    tensors = {
        name: torch.from_numpy(to_numpy(value).astype("float64")).contiguous()
        for name, value in arrays.items()
    }
    safetensors.torch.save_file(tensors, str(folder / "head.safetensors"))
    write_json(folder / "head.json", {"kind": "linear reward", "format": 1, **about})


def is_head(folder: Path) -> bool:
    """Return whether a folder holds a fitted linear reward."""
    return (folder / "head.json").is_file()


def load_head(folder: Path, source: ModelSource, *, tokens_of: LanguageModel | None = None) -> Head:
    """Read a fit and load the model of its features.

    Parameters
    ----------
    folder
        What `save_head` wrote.
    source
        Device and offline mode; the model is that of the fit.
    tokens_of
        The language model that writes the responses, where it is not the one that reads them.

    Raises
    ------
    ModelError
        If the folder holds no fit.
    ValueError
        If the model has changed since.
    """
    if not is_head(folder):
        message = f"{folder} must be a folder that `rlhf-theory lm fit` has written; it holds none."
        raise ModelError(message)
    about = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    own = replace(
        source,
        name=about["model"],
        revision=about["revision"],
        dtype=about["dtype"],
        pad_token=about["pad_token"],
    )
    options = FeatureOptions.of(about["features"])
    reader = options.reader(own)
    writer = tokens_of if reads_other_words(reader, tokens_of) else None
    raw = options.make(reader, cache=None, batch_size=32, tokens_of=writer)
    features = FittedFeatures.load(folder / "transform.safetensors", raw)
    arrays = safetensors.torch.load_file(str(folder / "head.safetensors"), device=source.device)
    sigma = arrays["sigma"]
    return Head(features, Ellipsoid(arrays["theta"], arrays["beta"], lambda: sigma), about)


def reads_other_words(reader: Any, writer: LanguageModel | None) -> bool:
    """Return whether the tokens of the writer have to be read as text."""
    if writer is None or not isinstance(reader, LanguageModel):
        return True
    words: bool = reader.tokenizer.get_vocab() != writer.tokenizer.get_vocab()
    return words
