"""How to train, as a study file says it: for commands that train once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_bridge.training.settings import TrainingSettings, Trains


def config_training(path: Path, entries: list[Any]) -> tuple[dict[str, Any], str]:
    """Return how the learners of a study train, and a word about why it is not taken.

    Parameters
    ----------
    path
        The file, for words.
    entries
        Its learners, with their grids.

    Returns
    -------
    training, remark
        The settings on which the results depend, as a table; nothing where nobody trains. Learners
        that train in several ways leave the choice to somebody, so that nothing is taken: the
        remark names them.

    Raises
    ------
    ValueError
        For learners that cannot be made.
    """
    from rlhf_theory.studies.grids import expand, label_of

    ways: dict[TrainingSettings, list[str]] = {}
    for entry in entries:
        for one in expand({"kind": entry} if isinstance(entry, str) else entry):
            how = _training_of(path, one.value)
            if how is not None:
                name = one.value.get("label", one.value["kind"])
                ways.setdefault(how, []).append(label_of(name, one.varied))
    if len(ways) > 1:
        names = ", ".join(name for names in ways.values() for name in names)
        remark = (
            f"{path} trains in {len(ways)} ways ({names}): none is taken, say how to train by "
            "options."
        )
        return {}, remark
    said = {k: v for how in ways for k, v in how.identity().items() if v is not None}
    return said, ""


def _training_of(path: Path, entry: Mapping[str, Any]) -> TrainingSettings | None:
    from rlhf_theory.studies.messages import place_of
    from rlhf_theory.studies.registry import build_learner
    from rlhf_theory.studies.resolve import Resolver
    from rlhf_theory.studies.signatures import ENVELOPE

    mistakes: list[str] = []
    resolver = Resolver(lambda at, text: mistakes.append(f"learner.{place_of(at)} {text}"))
    without = {*ENVELOPE["learner"]} - {"kind"}
    spec = resolver.entry("learner", {k: v for k, v in entry.items() if k not in without})
    if spec is None:
        message = f"{path}: " + "; ".join(mistakes)
        raise ValueError(message)
    learner = build_learner(spec)
    for part in (learner, getattr(learner, "planner", None)):
        if isinstance(part, Trains):
            return part.training
    return None
