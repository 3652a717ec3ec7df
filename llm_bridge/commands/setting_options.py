"""Options that are the settings of classes: their types, defaults and help are said there alone."""

from __future__ import annotations

import collections.abc
import dataclasses
from collections.abc import Container, Iterator, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from rlhf_theory.commands.spec_options import SpecCommand, SpecField, described, plain_hint

FLAGS = {"learning_rate": "--lr", "gradient_accumulation": "--accumulation", "lora": "--lora"}
"""Options that are shorter than the names of their settings, in all commands."""

_LISTS = (list, tuple, collections.abc.Sequence)


class OnlineCommand(SpecCommand):
    """A command with an option for each setting of prompts, of features and of a training."""

    def spec_fields(self) -> list[SpecField]:
        """Return the settings as options."""
        return [field for group in groups().values() for field in group]


def groups() -> dict[str, list[SpecField]]:
    """Return the options of a run on prompts by what they are settings of."""
    from llm_bridge.jobs.feature_options import FeatureOptions
    from llm_bridge.jobs.prompts import Prompts
    from llm_bridge.training.settings import TrainingSettings

    return {
        "world": list(_fields(Prompts, ("prompts", "features", "folder", "game"))),
        "features": list(_fields(FeatureOptions, ("encoder",))),
        "training": [
            # Beside the texts of a pass and the labels of a round it needs a name of its own.
            dataclasses.replace(f, name="minibatch") if f.name == "batch_size" else f
            for f in _fields(TrainingSettings, ())
        ],
    }


def given_of(group: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given of the settings of a group, with lists and adapters as tables."""
    names = [field.name for field in groups()[group] if field.name in given]
    return {name: _value(name, given[name]) for name in names}


def _fields(kind: type, without: Container[str]) -> Iterator[SpecField]:
    hints, words = get_type_hints(kind), described(kind)
    for f in dataclasses.fields(kind):
        if f.name not in without:
            hint, metavar = _hint(hints[f.name])
            default = "" if f.default in (None, dataclasses.MISSING) else f" [default: {f.default}]"
            yield SpecField(
                name=f.name,
                hint=hint,
                words=words.get(f.name, "") + default,
                metavar=metavar,
                flag=FLAGS.get(f.name),
            )


def _hint(hint: Any) -> tuple[Any, str | None]:
    """Return what a setting is on a command line: lists with commas, adapters by their rank."""
    inner = [h for h in get_args(hint) if h is not type(None)]
    if get_origin(hint) in (Union, UnionType):
        return _hint(inner[0])
    if get_origin(hint) in _LISTS:
        return str, "A,B..."
    if dataclasses.is_dataclass(hint):
        return int, "RANK"
    return plain_hint(hint)


def _value(name: str, value: Any) -> Any:
    if name in ("pooling", "layers"):
        parts = [part.strip() for part in value.split(",")]
        return [int(part) for part in parts] if name == "layers" else parts
    return {"rank": value} if name == "lora" else value
