"""One learner on prompts, as a study file: what ``lm iterate`` writes and runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_bridge.training.settings import RESUMED, Trains
from rlhf_theory.register import found
from rlhf_theory.studies.entries import find
from rlhf_theory.studies.files import change
from rlhf_theory.studies.messages import Mistake, StudyError
from rlhf_theory.studies.resolve import resolved_entry
from rlhf_theory.studies.signatures import settings_of

Table = dict[str, Any]

NAME = "online"
"""Name of the studies."""

_HERE = {"batch_size": 256, "game": "probability"}
"""What the command chooses: labels are dear, and those of a preference are probabilities."""

_TRAINED = {"reward": "dpo", "game": "self-play"}
"""The planner that trains the model, for what a learner learns."""


def online_study(
    world: Mapping[str, Any],
    *,
    rounds: int,
    learner: str = "online-iterative",
    changes: Sequence[str] = (),
    training: Mapping[str, Any] | None = None,
) -> Table:
    """Return the tables of a study of one learner in one world of prompts.

    Where the learner has them, ``batch_size`` is 256, ``game`` ``"probability"`` and ``planner``
    the one that trains the model, unless ``changes`` say otherwise. Pools follow a policy that is
    trained. A scale of the labels is told to the learner's rules, which plan for the reward itself.

    Parameters
    ----------
    world
        Settings of `Prompts`; its seed is that of the study.
    rounds
        Rounds of labels.
    learner
        A name of ``rlhf-theory list learners``, or ``module:attribute``.
    changes
        Changes of the learner such as ``"planner.rounds=5"``.
    training
        How to train, in every round: settings of the planner that trains, or of the learner.

    Raises
    ------
    ValueError
        For changes that name nothing, and settings that the learner would ignore.
    """
    table = _learner(learner, changes)
    of_game = find("learner", learner).facts.more == "game"
    trains = _trains(table)
    if world.get("preference") is not None and not of_game:
        message = (
            "A general preference needs a learner of a game, such as 'nash-game': "
            f"{learner!r} looks for a reward."
        )
        raise ValueError(message)
    given = dict(training or {})
    ignored = [*given, *(["samples"] if world.get("samples") else [])]
    if ignored and not trains:
        message = (
            f"The learner {learner!r} trains no model with the planner {_kind(table)!r}, so that "
            f"it would ignore {', '.join(ignored)}. Leave these out, or take a planner that trains."
        )
        raise ValueError(message)
    place = "learner.planner." if "planner" in table else "learner."
    data: Table = {"learner": [table]}
    for name, value in ((RESUMED if trains else {}) | given).items():
        own = "batch_size" if name == "minibatch" and "planner" in table else name
        change(data, f"{place}{own}={toml_value(value)}")
    _tell_scale(data, 1.0 if of_game else float(world.get("label_scale", 1.0)))
    here: Table = {"kind": "prompts", "refresh": trains}
    here |= {"game": True} if of_game else {}
    here |= {} if trains else {"samples": 0}
    return {
        "format": 2,
        "name": NAME,
        "rounds": rounds,
        "seed": world.get("seed", 0),
        "world": [here | dict(world)],
        "learner": data["learner"],
        # One block computes best here; several, each with a model, go where the study says.
        **({"run": {"backend": "serial"}} if world.get("replicas", 1) == 1 else {}),
    }


def _learner(learner: str, changes: Sequence[str]) -> Table:
    """Return the learner as a table, with what the command chooses, after changes."""
    entry = find("learner", learner)
    known = settings_of(entry)
    table: Table = {"kind": learner, **{k: v for k, v in _HERE.items() if k in known}}
    if "planner" in known:
        table["planner"] = {"kind": _TRAINED.get(str(entry.facts.more), "dpo")}
    data: Table = {"learner": [table]}
    mistakes = []
    for item in changes:
        try:
            change(data, f"learner.{item}")
        except ValueError as error:
            mistakes.append(Mistake(f"--set {item}", str(error)))
    if mistakes:
        raise StudyError(mistakes)
    _check_enhancer(data["learner"][0], str(entry.facts.more))
    return table


def _check_enhancer(table: Table, learns: str) -> None:
    """Raise ``ValueError`` for an enhancer that explores for other learners."""
    enhancer = table.get("enhancer")
    kind = enhancer.get("kind") if isinstance(enhancer, Mapping) else enhancer
    known = found("enhancer")
    model = known[str(kind)].facts.more if kind in known else None
    if model not in (None, learns):
        message = (
            f"The enhancer {kind!r} explores for learners of a {model}; the learner "
            f"{table['kind']!r} learns a {learns}."
        )
        raise ValueError(message)


def _kind(table: Table) -> Any:
    planner = table.get("planner", table)
    return planner.get("kind") if isinstance(planner, Mapping) else planner


def _trains(table: Table) -> bool:
    """Return whether the model is trained; otherwise its pools are re-ranked."""
    kind, role = _kind(table), "planner" if "planner" in table else "learner"
    kinds = kind["grid"] if isinstance(kind, Mapping) else [kind]
    targets = [find(role, str(k)).target for k in kinds]
    return all(isinstance(t, type) and issubclass(t, Trains) for t in targets)


def _tell_scale(data: Table, scale: float) -> None:
    """Write the scale of the labels where rules and direct learners take it."""
    if scale == 1.0:
        return
    table = data["learner"][0]
    pairs = table.get("pairs")
    if isinstance(pairs, str) and pairs in found("enhancer"):
        # Written out, so that its radius is a part.
        table["pairs"] = {"kind": "against-enhancer", "enhancer": pairs}
    for parts in _parts_with_scale("learner", resolved_entry("learner", table)):
        node = table
        for name in parts:
            # A table without a kind changes settings of the default.
            part = node.get(name, {})
            node[name] = {"kind": part} if isinstance(part, str) else part
            node = node[name]
        node["scale"] = scale


def _parts_with_scale(
    role: str, spec: Mapping[str, Any], at: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    known = settings_of(find(role, spec["kind"]))
    # A loss with settings of its own is in units of the labels, and taken as it is.
    direct = role == "learner" and isinstance(spec.get("loss"), str | None) and "loss" in spec
    if "scale" in known and spec["scale"] in (None, 1.0) and (role == "radius" or direct):
        yield at
    for name, setting in known.items():
        slot, value = setting.slot, spec[name]
        if slot is not None and not slot.many and isinstance(value, Mapping):
            yield from _parts_with_scale(slot.role, value, (*at, name))


# --------------------------------------------------------------------------- as text


def toml_value(value: object) -> str:
    """Return plain data as TOML writes it, on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def toml_text(data: Mapping[str, Any], comment: str) -> str:
    """Return the tables of a study as a file, with a comment at its top."""
    lines = [f"# {comment}"]
    lines += [f"{k} = {toml_value(v)}" for k, v in data.items() if not isinstance(v, list | dict)]
    for name, value in data.items():
        entries = value if isinstance(value, list) else [value]
        head = f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
        for entry in entries if isinstance(value, list | dict) else ():
            lines += ["", head, *(f"{k} = {toml_value(v)}" for k, v in entry.items())]
    return "\n".join(lines) + "\n"
