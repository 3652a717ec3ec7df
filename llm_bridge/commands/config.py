"""``--config``: the world of prompts of a study file gives what a command is not told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

PEOPLE = "people"


def config_values(
    path: Path, options: Collection[str], names: Mapping[str, str | None]
) -> dict[str, Any]:
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
    if features.get("scale") != "none":
        message = f"{path}: features.scale is of studies alone; no command has it."
        raise ValueError(message)
    values = {**spec, **{k: _text(v) for k, v in features.items()}}
    if values["labels"] == PEOPLE:
        del values["labels"]
    # A game is one of a preference; a reward is evaluated as it is.
    values["game"] = "probability" if spec["game"] and spec["preference"] else None
    renamed = {names.get(k, k): v for k, v in values.items() if v is not None}
    return {k: v for k, v in renamed.items() if k in options}


def _text(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value
