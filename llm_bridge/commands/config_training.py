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


def spec_in(path: Path, role: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of an entry of a study file; ``ValueError`` with its mistakes."""
    from rlhf_theory.studies.messages import StudyError
    from rlhf_theory.studies.resolve import resolved_entry

    try:
        return resolved_entry(role, entry)
    except StudyError as error:
        mistakes = "; ".join(f"{role}.{m.place} {m.text}" for m in error.mistakes)
        message = f"{path}: {mistakes}"
        raise ValueError(message) from error


def _training_of(path: Path, entry: Mapping[str, Any]) -> TrainingSettings | None:
    from rlhf_theory.studies.registry import build_learner

    learner = build_learner(spec_in(path, "learner", entry))
    for part in (learner, getattr(learner, "planner", None)):
        if isinstance(part, Trains):
            return part.training
    return None
