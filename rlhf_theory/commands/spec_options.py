"""Options of a command that are the fields of a spec, so that both stay the same."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
import typer.main
from typer.core import TyperCommand

_ATTRIBUTE = re.compile(r"^([\w, ]+)\n((?: {4,}.*\n?|\n)+)", re.MULTILINE)


class PlotCommand(TyperCommand):
    """A command with an option for each field of `PlotSpec`; its function finds them in ``obj``.

    They are made when the command is used, so that help of other commands stays fast.
    """

    _made: list[Any] | None = None

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters of the function, and those of the spec."""
        if self._made is None:
            self._made = _options()
        return [*super().get_params(ctx), *self._made]

    def invoke(self, ctx: Any) -> Any:
        """Call the function with what was given of the spec in ``ctx.obj``."""
        names = {option.name for option in self._made or ()}
        given = {name: ctx.params.pop(name) for name in names & set(ctx.params)}
        ctx.obj = {name: value for name, value in given.items() if value is not None}
        return super().invoke(ctx)


def _options() -> list[Any]:
    """Return the options that Typer makes of a function with the fields as its arguments."""
    from rlhf_theory.register import found
    from rlhf_theory.studies.plot_specs import PlotSpec

    def settings(**_: Any) -> None:
        """Take the fields of a spec."""

    words, parameters = dict(_described(PlotSpec)), []
    for name, field in PlotSpec.model_fields.items():
        hint, metavar = _plain(field.annotation)
        default = None
        if name == "kind":
            metavar, default = "|".join(found("plot")), "suboptimality"
        option = typer.Option(default, help=words.get(name, ""), metavar=metavar)
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=hint | None
            )
        )
    settings.__annotations__ = {p.name: p.annotation for p in parameters}
    vars(settings)["__signature__"] = inspect.Signature(parameters)
    app = typer.Typer(add_completion=False)
    app.command()(settings)
    return [p for p in typer.main.get_command(app).params if p.name in PlotSpec.model_fields]


def _plain(hint: object) -> tuple[Any, str | None]:
    """Return what a type is on a command line, and the words that it allows."""
    optional = [h for h in get_args(hint) if h is not type(None)]
    if get_origin(hint) in (Union, UnionType) and len(optional) == 1:
        return _plain(optional[0])
    if get_origin(hint) is Literal:
        return str, "|".join(map(str, get_args(hint)))
    return hint, "FIRST LAST" if get_origin(hint) is tuple else None


def _described(spec: type) -> Iterator[tuple[str, str]]:
    """Yield the fields of a class and what its docstring says of them, without markup."""
    attributes = (inspect.getdoc(spec) or "").partition("----------\n")[2]
    for names, text in _ATTRIBUTE.findall(attributes):
        for name in names.split(", "):
            yield name, " ".join(text.split()).replace("``", "")
