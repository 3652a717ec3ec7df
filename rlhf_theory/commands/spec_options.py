"""Options of a command that are the fields of a spec, so that both stay the same."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
import typer.main
from typer.core import TyperCommand

from rlhf_theory.register import attributes


@dataclass(frozen=True, kw_only=True)
class SpecField:
    """A field of a spec that is an option.

    Attributes
    ----------
    name
        Its name.
    hint
        Its type on a command line.
    words
        What it is.
    metavar
        What is allowed, where the type does not say it.
    default
        What the command takes for it where it is not given; None for nothing.
    flag
        The option, where it is not called after the field.
    """

    name: str
    hint: Any
    words: str = ""
    metavar: str | None = None
    default: Any = None
    flag: str | None = None


class SpecCommand(TyperCommand, ABC):
    """A command with an option for each field of a spec; its function finds them in ``obj``.

    They are made when the command is used, so that help of other commands stays fast.
    """

    _made: list[Any] | None = None

    @abstractmethod
    def spec_fields(self) -> list[SpecField]:
        """Return the fields."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters of the function, and those of the spec."""
        if self._made is None:
            self._made = _options(self.spec_fields())
        return [*super().get_params(ctx), *self._made]

    def invoke(self, ctx: Any) -> Any:
        """Call the function with what was given of the spec in ``ctx.obj``."""
        names = {option.name for option in self._made or ()}
        given = {name: ctx.params.pop(name) for name in names & set(ctx.params)}
        # A list that is not given is empty.
        ctx.obj = self.read(ctx, {k: v for k, v in given.items() if v is not None and v != []})
        return super().invoke(ctx)

    def read(self, ctx: Any, given: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return what the function gets of what was given."""
        return given


class PlotCommand(SpecCommand):
    """A command with an option for each field of `PlotSpec`."""

    def spec_fields(self) -> list[SpecField]:
        """Return the fields."""
        from rlhf_theory.register import found
        from rlhf_theory.studies.plot_specs import PlotSpec

        words, fields = described(PlotSpec), []
        for name, field in PlotSpec.model_fields.items():
            hint, metavar = plain_hint(field.annotation)
            made = SpecField(name=name, hint=hint, metavar=metavar, words=words.get(name, ""))
            if name == "kind":
                made = replace(made, metavar="|".join(found("plot")), default="suboptimality")
            fields.append(made)
        return fields


def _options(fields: Sequence[SpecField]) -> list[Any]:
    """Return the options that Typer makes of a function with the fields as its arguments."""

    def settings(**_: Any) -> None:
        """Take the fields of a spec."""

    parameters = []
    for field in fields:
        flags = () if field.flag is None else (field.flag,)
        option = typer.Option(field.default, *flags, help=field.words, metavar=field.metavar)
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=option,
                annotation=field.hint | None,
            )
        )
    settings.__annotations__ = {p.name: p.annotation for p in parameters}
    vars(settings)["__signature__"] = inspect.Signature(parameters)
    app = typer.Typer(add_completion=False)
    app.command()(settings)
    names = {field.name for field in fields}
    return [p for p in typer.main.get_command(app).params if p.name in names]


def plain_hint(hint: object) -> tuple[Any, str | None]:
    """Return what a type is on a command line, and the words that it allows."""
    optional = [h for h in get_args(hint) if h is not type(None)]
    if get_origin(hint) in (Union, UnionType) and len(optional) == 1:
        return plain_hint(optional[0])
    if get_origin(hint) is Literal:
        return str, "|".join(map(str, get_args(hint)))
    return hint, "FIRST LAST" if get_origin(hint) is tuple else None


def described(spec: type) -> dict[str, str]:
    """Return what the docstring of a class says of its fields, by name, without markup."""
    return {
        name: " ".join(text.split()).replace("``", "")
        for names, text in attributes(inspect.getdoc(spec) or "").items()
        for name in names.split(", ")
    }
