"""Rewards and preferences named by strings: Python functions, fitted heads, classifiers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llm_bridge.jobs.heads import is_head, load_head, reads_other_words
from llm_bridge.jobs.sources import ModelSource
from llm_bridge.jobs.trunk_ensembles import is_ensemble, members_of
from llm_bridge.jobs.variants import TRUNK, Variant, reward_content, variant_of
from llm_bridge.labels.classifiers import TransformerReward
from llm_bridge.labels.kept import KeptPreference, KeptReward
from llm_bridge.labels.oracles import TextReward
from llm_bridge.labels.preferences import JudgedPreference, TextPreference
from llm_bridge.labels.scoring import Scorer
from llm_bridge.language.models import LanguageModel
from llm_bridge.rewards.models import ModelEnsemble
from llm_bridge.rewards.trained import TrainedReward
from llm_bridge.storage.kept import Kept
from rlhf_theory.core import RewardModel
from rlhf_theory.store import canonical
from rlhf_theory.studies.entries import function
from rlhf_theory.studies.registry import head_of


def reward_of(
    spec: str,
    source: ModelSource,
    *,
    writer: LanguageModel | None = None,
    kept: Kept | None = None,
) -> RewardModel:
    """Return a reward named by a string.

    Parameters
    ----------
    spec
        ``module:function``, a Python function of prompt and response; a folder that ``lm fit`` has
        written, with or without ``--trunk``; or a folder or id of a sequence classifier with one
        output. A fitted reward may have a version behind it, see `variant_of`: ``fit#lower``. An
        ensemble of trunks without one is its mean.
    source
        How models are loaded; its name does not count.
    writer
        The language model whose responses are scored, for rewards on the features of another one.
    kept
        Where what it says is kept by content, so that nothing is asked twice; None for nowhere.

    Raises
    ------
    ValueError
        For a version that a reward does not have.
    """
    name, variant = variant_of(spec)
    folder = Path(name).expanduser()
    if is_head(folder):
        head = load_head(folder, source, tokens_of=writer, variant=variant, kept=kept)
        return head.reward(variant)
    found = _reward(name, variant, source, writer)
    if kept is None or not isinstance(found, Scorer):
        return found
    return KeptReward(found, canonical(reward_content(spec, source.revision)), kept)


def _reward(
    name: str, variant: Variant, source: ModelSource, writer: LanguageModel | None
) -> RewardModel:
    folder = Path(name).expanduser()
    if variant.kind == "lower":
        message = (
            "Only a linear reward of `rlhf-theory lm fit` (without --trunk) has a lower bound; "
            f"{name!r} is none."
        )
        raise ValueError(message)
    for trained in (folder / "reward", folder):
        if is_ensemble(trained):
            members = [_trained(part, source, writer) for part in members_of(trained)]
            found: RewardModel = variant.of_members(ModelEnsemble(members))
            return found
    if variant.needs_ensemble:
        message = (
            f"The version {variant.kind!r} needs an ensemble (--ensemble N); {name!r} is none."
        )
        raise ValueError(message)
    if ":" in name and not folder.exists():
        return TextReward(function(name).target)
    for trained in (folder / "reward", folder):
        if (trained / TRUNK).is_file():
            return _trained(trained, source, writer)
    loading = source.loading()
    if folder.exists():
        loading["revision"] = None
    return TransformerReward.from_pretrained(name, **loading)


def _trained(folder: Path, source: ModelSource, writer: LanguageModel | None) -> TrainedReward:
    reward = TrainedReward.from_pretrained(folder, device=source.device, dtype=source.dtype)
    foreign = reads_other_words(reward.reader, writer)
    return replace(reward, tokens_of=writer) if foreign else reward


def preference_of(spec: str, kept: Kept | None = None) -> JudgedPreference:
    """Return the preference of a function ``module:function`` of a prompt and two responses.

    ``kept`` is where its answers are kept, so that nothing is asked twice; None for nowhere.
    """
    entry = function(spec)
    judge = TextPreference(entry.target)
    return judge if kept is None else KeptPreference(judge, canonical(head_of(entry)), kept)
