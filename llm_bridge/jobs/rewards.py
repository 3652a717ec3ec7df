"""Rewards and preferences named by strings: Python functions, fitted heads, classifiers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_bridge.jobs.heads import is_head, load_head, reads_other_words
from llm_bridge.jobs.sources import ModelSource
from llm_bridge.labels.classifiers import TransformerReward
from llm_bridge.labels.oracles import TextReward
from llm_bridge.labels.preferences import TextPreference
from llm_bridge.language.models import LanguageModel
from llm_bridge.rewards.trained import TrainedReward
from rlhf_theory.core import RewardModel
from rlhf_theory.errors import suggestion

__all__ = ["callable_of", "preference_of", "reward_of"]


def callable_of(spec: str) -> Callable[..., Any]:
    """Return a Python function named ``module:function``.

    ``ValueError`` if there is no such module or function.
    """
    module, _, name = spec.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        message = f"The function {spec!r} cannot be imported: {error}."
        raise ValueError(message) from error
    f = getattr(found, name, None)
    if not callable(f):
        names = [n for n in vars(found) if callable(getattr(found, n))]
        message = f"The module {module!r} has no function {name!r}." + suggestion(name, names)
        raise ValueError(message)
    result: Callable[..., Any] = f
    return result


def reward_of(
    spec: str, source: ModelSource, *, writer: LanguageModel | None = None, lower: bool = False
) -> RewardModel:
    """Return a reward named by a string.

    Parameters
    ----------
    spec
        ``module:function``, a Python function of prompt and response; a folder that ``lm fit`` has
        written, with or without ``--trunk``; or a folder or id of a sequence classifier with one
        output.
    source
        How models are loaded; its name does not count.
    writer
        The language model whose responses are scored, for rewards on the features of another one.
    lower
        The pessimistic version, which only a fitted reward with a confidence set has.
    """
    folder = Path(spec).expanduser()
    if is_head(folder):
        return load_head(folder, source, tokens_of=writer).reward(pessimistic=lower)
    if lower:
        message = f"Only a folder of `rlhf-theory lm fit` has a lower bound; {spec!r} is none."
        raise ValueError(message)
    if ":" in spec and not folder.exists():
        return TextReward(callable_of(spec))
    for trained in (folder / "reward", folder):
        if (trained / "reward_model.json").is_file():
            reward = TrainedReward.from_pretrained(
                trained, device=source.device, dtype=source.dtype
            )
            foreign = reads_other_words(reward.reader, writer)
            return replace(reward, tokens_of=writer) if foreign else reward
    return TransformerReward.from_pretrained(
        spec,
        revision=None if folder.exists() else source.revision,
        device=source.device,
        dtype=source.dtype,
        offline=source.offline,
        pad_token=source.pad_token,
    )


def preference_of(spec: str) -> TextPreference:
    """Return the preference of a function ``module:function`` of a prompt and two responses."""
    if ":" not in spec:
        message = f"A preference must be a function, module:function; got {spec!r}."
        raise ValueError(message)
    return TextPreference(callable_of(spec))
