"""Options that are the settings of classes: their types, defaults and help are said there alone."""

from __future__ import annotations

import collections.abc
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from llm_bridge.training.settings import RESUMED
from rlhf_theory.commands.spec_options import SpecCommand, SpecField, described, plain_hint

FLAGS = {"learning_rate": "--lr", "gradient_accumulation": "--accumulation", "lora": "--lora"}
"""Options that are shorter than the names of their settings, in all commands."""

REPEATED = {"models": "--model", "metrics": "--metric"}
"""Lists that are given one by one, since what they hold may have commas."""

_LISTS = (list, tuple, collections.abc.Sequence)

T = TypeVar("T")

Names = Mapping[str, str | None]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of a class, or of a class within.

    Attributes
    ----------
    place
        Where it is, such as ``training.steps``.
    hint, default, words
        As the class has them; no default is None.
    """

    place: str
    hint: Any
    default: Any
    words: str

    @property
    def name(self) -> str:
        """Its name in its class."""
        return self.place.rpartition(".")[2]


@dataclasses.dataclass(frozen=True)
class Like:
    """A default that is what another option has."""

    option: str


class SettingsCommand(SpecCommand):
    """A command with an option for each setting; its function finds what was given as tables.

    Attributes
    ----------
    names
        What options are called that are not called after their setting, by its place; None for
        settings that are no options. One option can be several settings: it has type, default and
        help of the first.
    chosen
        Defaults that the command has otherwise than the class, by place.
    """

    names: ClassVar[Names] = {}
    chosen: ClassVar[Mapping[str, Any]] = {f"training.{k}": v for k, v in RESUMED.items()}

    @abstractmethod
    def classes(self) -> Sequence[tuple[str, type]]:
        """Return the classes that have the settings, each with the place of its own."""

    def options(self) -> dict[str, list[Setting]]:
        """Return the settings that each option is."""
        found: dict[str, list[Setting]] = {}
        places = set()
        for place, kind in self.classes():
            for setting in settings(kind, place):
                name = self.names.get(setting.place, setting.name)
                if name is not None and setting.place not in places:
                    places.add(setting.place)
                    found.setdefault(name, []).append(setting)
        return found

    def spec_fields(self) -> list[SpecField]:
        """Return the settings as options."""
        return [self._field(name, first) for name, (first, *_) in self.options().items()]

    def _field(self, name: str, setting: Setting) -> SpecField:
        hint, metavar = _hint(setting.hint)
        default = self.chosen.get(setting.place, setting.default)
        if isinstance(default, Like):
            default = f"that of --{default.option.replace('_', '-')}"
        said = "" if default in (None, ()) else f" [default: {default}]"
        if setting.name in REPEATED:
            hint, metavar, said = list[str], "TEXT", " Repeatable."
        return SpecField(
            name=name,
            hint=hint,
            words=setting.words + said,
            metavar=metavar,
            flag=(FLAGS | REPEATED).get(setting.name),
        )

    def read(self, ctx: Any, given: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return what was given as tables by place."""
        tables: dict[str, Any] = {}
        for name, several in self.options().items():
            if name in given:
                for setting in several:
                    *parts, last = setting.place.split(".")
                    table = tables
                    for part in parts:
                        table = table.setdefault(part, {})
                    table[last] = _value(setting, given[name])
        return tables


def settings(kind: type, place: str = "") -> Iterator[Setting]:
    """Yield the settings of a class, those of classes within it at their places."""
    hints = get_type_hints(kind)
    words: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        words |= described(base)
    for f in dataclasses.fields(kind):
        hint = hints[f.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from settings(hint, f"{place}{f.name}.")
        else:
            default = None if f.default is dataclasses.MISSING else f.default
            yield Setting(f"{place}{f.name}", hint, default, words.get(f.name, ""))


def made(kind: type[T], tables: Mapping[str, Any], /, **own: Any) -> T:
    """Return an object of a class from the tables of a command; what it has not is left.

    Parameters
    ----------
    kind
        A dataclass of settings.
    tables
        What was given, see `SettingsCommand.read`.
    **own
        Further settings; tables of classes within add to what was given.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, hint in hints.items():
        inner = [h for h in get_args(hint) if h is not type(None)] or [hint]
        value = own.get(name, tables.get(name))
        if dataclasses.is_dataclass(inner[0]) and isinstance(value, Mapping):
            values[name] = made(inner[0], {**tables.get(name, {}), **value})  # type: ignore[arg-type]
        elif name in own or name in tables:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


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


def _value(setting: Setting, value: Any) -> Any:
    """Return the value of an option as plain data of a setting."""
    if setting.name in ("pooling", "layers"):
        parts = [part.strip() for part in value.split(",")]
        try:
            return [int(part) for part in parts] if setting.name == "layers" else parts
        except ValueError:
            message = f"--layers must be whole numbers with commas, such as 0,-1; got {value!r}."
            raise typer.BadParameter(message) from None
    return {"rank": value} if setting.name == "lora" else value
