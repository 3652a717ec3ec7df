"""A fitted linear reward on disk: its features, its parameters, its confidence set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from llm_bridge.embeddings.features import FittedFeatures
from llm_bridge.errors import ModelError
from llm_bridge.jobs.feature_options import FeatureOptions
from llm_bridge.jobs.sources import ModelSource
from llm_bridge.jobs.variants import HEAD, Variant
from llm_bridge.language.loading import written
from llm_bridge.language.models import LanguageModel
from llm_bridge.rewards.models import HeadFit, OnFeatures
from llm_bridge.storage.kept import Kept
from llm_bridge.storage.records import found_whole, write_record
from rlhf_theory.algorithms.offline_pessimistic import LowerBound
from rlhf_theory.arrays import to_numpy
from rlhf_theory.core import RewardModel
from rlhf_theory.estimators.ellipsoid import Ellipsoid
from rlhf_theory.estimators.ensembles import RewardEnsemble
from rlhf_theory.rewards import LinearReward

_FILES = ("transform.safetensors", "head.safetensors")


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
    members
        The ensemble that was fitted beside the estimate, None where none was.
    """

    features: FittedFeatures
    confidence: Ellipsoid
    about: Mapping[str, object]
    members: RewardEnsemble | None = None

    def model(self, variant: Variant) -> RewardModel:
        """Return a version of the reward on these features; pessimistic ones measure from pi0.

        ``ValueError`` for a version of an ensemble where none was fitted.
        """
        if variant.kind == "estimate":
            return LinearReward(self.confidence.center)
        if variant.kind == "lower":
            return LowerBound(self.confidence)
        _require_members(variant, self.members is not None)
        found: RewardModel = variant.of_members(self.members)
        return found

    def reward(self, variant: Variant) -> RewardModel:
        """Return a version of the reward, of texts."""
        return OnFeatures(self.features, self.model(variant))


def save_head(
    folder: Path,
    fit: HeadFit,
    features: FittedFeatures,
    about: Mapping[str, object],
    members: RewardEnsemble | None = None,
    beside: Sequence[str] = (),
) -> None:
    """Write a fit; ``head.json`` comes last, says that it is complete, and tells damage.

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
    members
        An ensemble on the same features.
    beside
        Names of further files in the folder that belong to the fit.
    """
    features.save(folder / "transform.safetensors")
    ball: Any = fit.confidence
    arrays = {"theta": ball.center, "sigma": ball.sigma, "beta": ball.beta}
    if members is not None:
        arrays["members"] = members.thetas
    tensors = {
        name: torch.from_numpy(to_numpy(value).astype("float64")).contiguous()
        for name, value in arrays.items()
    }
    safetensors.torch.save_file(tensors, str(folder / "head.safetensors"))
    write_record(folder / HEAD, {"kind": "linear reward", **about}, [*_FILES, *beside])


def is_head(folder: Path) -> bool:
    """Return whether a folder holds a fitted linear reward."""
    return (folder / HEAD).is_file()


def whole_head(folder: Path) -> bool:
    """Return whether a folder holds a fit that is what was written; sets aside a damaged one."""
    return found_whole(folder / HEAD, *(folder / name for name in _FILES)) is not None


def _require_members(variant: Variant, there: bool) -> None:
    if variant.needs_ensemble and not there:
        message = (
            f"The version {variant.kind!r} of a reward needs an ensemble, and this fit has none: "
            "fit with --ensemble N."
        )
        raise ValueError(message)


def load_head(
    folder: Path,
    source: ModelSource,
    *,
    tokens_of: LanguageModel | None = None,
    variant: Variant | None = None,
    kept: Kept | None = None,
) -> Head:
    """Read a fit and load the model of its features.

    Parameters
    ----------
    folder
        What `save_head` wrote.
    source
        Device and offline mode; the model is that of the fit.
    tokens_of
        The language model that writes the responses, where it is not the one that reads them.
    variant
        The version that will be asked for, so that one that is not there is refused at once.
    kept
        Where features are kept by content; None for nowhere.

    Raises
    ------
    ModelError
        If the folder holds no fit, or a damaged one.
    ValueError
        If the model has changed since, or there is no such version.
    """
    if not is_head(folder):
        message = f"{folder} must be a folder that `rlhf-theory lm fit` has written; it holds none."
        raise ModelError(message)
    about = written(folder / HEAD)
    if variant is not None:
        _require_members(variant, about.get("ensemble", 0) > 0)
    own = replace(
        source,
        name=about["model"],
        revision=about["revision"],
        dtype=about["dtype"],
        pad_token=about["pad_token"],
    )
    options = FeatureOptions.of(about["features"])
    reader = own.reader(encoder=options.encoder)
    writer = tokens_of if reads_other_words(reader, tokens_of) else None
    raw = options.make(reader, cache=None, batch_size=32, tokens_of=writer)
    raw = replace(raw, kept=kept)
    features = FittedFeatures.load(folder / "transform.safetensors", raw)
    arrays = safetensors.torch.load_file(str(folder / "head.safetensors"), device=source.device)
    sigma = arrays["sigma"]
    members = RewardEnsemble(arrays["members"]) if "members" in arrays else None
    return Head(features, Ellipsoid(arrays["theta"], arrays["beta"], lambda: sigma), about, members)


def reads_other_words(reader: object, writer: LanguageModel | None) -> bool:
    """Return whether the tokens of the writer have to be read as text."""
    if writer is None or not isinstance(reader, LanguageModel):
        return True
    words: bool = reader.tokenizer.get_vocab() != writer.tokenizer.get_vocab()
    return words
