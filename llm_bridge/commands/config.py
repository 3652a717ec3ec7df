"""Commands that carry out a job; with ``--config`` a study file gives what they are not told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import typer

from llm_bridge.commands.setting_options import Like, Names, SettingsCommand
from rlhf_theory.commands.spec_options import SpecField

PEOPLE = "people"

CONFIG = SpecField(
    name="config",
    hint=Path,
    metavar="STUDY",
    words="A study file, whose world of prompts says what is not given here.",
)


class JobCommand(SettingsCommand):
    """A command with the settings of a job, and with a study file that may say them.

    Attributes
    ----------
    world
        What options are called that are settings of a world under another name; None for settings
        that mean something else in the command.
    """

    world: ClassVar[Names] = {}

    def spec_fields(self) -> list[SpecField]:
        """Return the settings, and the study file."""
        return [*super().spec_fields(), CONFIG]

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, of which the study file is read before those it speaks for."""
        params = super().get_params(ctx)
        [config] = [p for p in params if p.name == CONFIG.name]
        config.is_eager, config.callback = True, self._configure
        return params

    def _configure(self, ctx: Any, _param: Any, path: Path | None) -> None:
        if path is not None:
            try:
                names = [p.name for p in self.get_params(ctx)]
                ctx.default_map = config_values(path, names, self.world)
            except (ValueError, OSError) as error:
                typer.echo(f"Error: {error}", err=True)
                raise typer.Exit(2) from None

    def read(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return what was given as tables by place, and what the command chooses."""
        options = self.options()
        here = dict(given)
        for name, (first, *_) in options.items():
            value = self.chosen.get(first.place)
            if isinstance(value, Like):
                value = given.get(value.option, options[value.option][0].default)
            if value is not None:
                here.setdefault(name, value)
        return super().read(here)


def config_values(path: Path, options: Collection[str], names: Names) -> dict[str, Any]:
    """Return the values of options that a study file says, as the command line has them.

    All settings of the world count, those that are not written with their defaults: the command
    means the model, the pools and the features that the study means.

    Parameters
    ----------
    path
        A study file with one world of prompts.
    options
        Names of the command's options.
    names
        What an option is called that is a setting under another name; None for settings that mean
        something else in the command.

    Raises
    ------
    ValueError
        For a file without such a world or with several, and for grids.
    """
    from rlhf_theory.studies.files import load
    from rlhf_theory.studies.messages import place_of
    from rlhf_theory.studies.resolve import Resolver

    data, _ = load(path)
    entries = data.get("world") or data.get("worlds") or []
    entries = [entries] if isinstance(entries, Mapping) else entries
    found = [e for e in entries if isinstance(e, Mapping) and e.get("kind") == "prompts"]
    if len(found) != 1:
        message = f"--config needs a study file with one world of prompts; {path} has {len(found)}."
        raise ValueError(message)
    given = {k: v for k, v in found[0].items() if k not in ("label", "family", "metric")}
    mistakes: list[str] = []
    resolver = Resolver(lambda at, text: mistakes.append(f"world.{place_of(at)} {text}"))
    spec = resolver.entry("world", given)
    if spec is None:
        message = f"{path}: " + "; ".join(mistakes)
        raise ValueError(message)
    features = {k: v for k, v in spec.pop("features").items() if k not in ("kind", "version")}
    values = {**spec, **{k: _text(v) for k, v in features.items()}}
    if values["labels"] == PEOPLE:
        del values["labels"]
    # A game is one of a preference; a reward is evaluated as it is.
    values["game"] = "probability" if spec["game"] and spec["preference"] else None
    renamed = {names.get(k, k): v for k, v in values.items() if v is not None}
    return {k: v for k, v in renamed.items() if k in options}


def _text(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value
