"""Commands that carry out a job; with ``--config`` a study file gives what they are not told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import typer

from llm_bridge.commands.setting_options import Like, Names, SettingsCommand
from rlhf_theory.commands.spec_options import SpecField

CONFIG = SpecField(
    name="config",
    hint=Path,
    metavar="STUDY",
    words="A study file: what is not given here is that of its world of prompts, and of the one "
    "way in which its learners train.",
)

_TRAINING = "llm_bridge.training"
"""What a context keeps of a study file: how to train, and a remark."""


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
                if self._trains():
                    ctx.meta[_TRAINING] = _training(path)
            except (ValueError, OSError) as error:
                typer.echo(f"Error: {error}", err=True)
                raise typer.Exit(2) from None

    def _trains(self) -> bool:
        places = [s.place for several in self.options().values() for s in several]
        return any(place.startswith("training.") for place in places)

    def read(self, ctx: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Return what was given, then what the study says, then what the command chooses."""
        tables = super().read(ctx, self._with_chosen(given))
        said, remark = ctx.meta.get(_TRAINING, ({}, ""))
        # A command that trains only if it is asked to does not speak of it otherwise.
        if remark and ctx.params.get("trunk", True):
            typer.echo(remark, err=True)
        if said:
            own = super().read(ctx, given).get("training", {})
            # Steps of the study would go before epochs that somebody gives.
            here = {k: v for k, v in said.items() if k != "steps" or "epochs" not in own}
            tables["training"] = {**tables.get("training", {}), **here, **own}
        return tables

    def _with_chosen(self, given: dict[str, Any]) -> dict[str, Any]:
        options = self.options()
        here = dict(given)
        for name, (first, *_) in options.items():
            value = self.chosen.get(first.place)
            if isinstance(value, Like):
                value = given.get(value.option, options[value.option][0].default)
            if value is not None:
                here.setdefault(name, value)
        return here


def _training(path: Path) -> tuple[dict[str, Any], str]:
    from llm_bridge.commands.config_training import config_training
    from rlhf_theory.studies.files import load

    return config_training(path, _entries(load(path)[0], "learner"))


def _entries(data: Mapping[str, Any], name: str) -> list[Any]:
    entries = data.get(name) or data.get(f"{name}s") or []
    return [entries] if isinstance(entries, Mapping) else list(entries)


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
    from llm_bridge.commands.config_training import spec_in
    from llm_bridge.jobs.prompts import PEOPLE
    from rlhf_theory.studies.cells import MARKS
    from rlhf_theory.studies.files import load

    data, _ = load(path)
    found = [
        e for e in _entries(data, "world") if isinstance(e, Mapping) and e.get("kind") == "prompts"
    ]
    if len(found) != 1:
        message = f"--config needs a study file with one world of prompts; {path} has {len(found)}."
        raise ValueError(message)
    spec = spec_in(path, "world", found[0])
    features = {k: v for k, v in spec.pop("features").items() if k not in ("kind", *MARKS)}
    values = {**spec, **{k: _text(v) for k, v in features.items()}}
    if values["labels"] == PEOPLE:
        del values["labels"]
    # A game is one of a preference; a reward is evaluated as it is.
    values["game"] = "probability" if spec["game"] and spec["preference"] else None
    renamed = {names.get(k, k): v for k, v in values.items() if v is not None}
    return {k: v for k, v in renamed.items() if k in options}


def _text(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value
