"""The learner of the online loop, named as in a study file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.register import Facts, facts_of, found
from rlhf_theory.studies import registry
from rlhf_theory.studies.entries import find
from rlhf_theory.studies.files import change
from rlhf_theory.studies.messages import Mistake, StudyError, place_of
from rlhf_theory.studies.resolve import Resolver
from rlhf_theory.studies.signatures import settings_of

_HERE = {"batch_size": 256, "game": "probability"}
"""Defaults of the online loop: labels are dear, and those of a preference are probabilities."""

_TRAINED = {"reward": "dpo", "game": "self-play"}
"""The planner that trains the model, for what a learner learns."""


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """A learner by name, with settings as a study file has them.

    Where a learner has them, the loop sets ``batch_size`` to 256, ``game`` to ``"probability"`` and
    ``planner`` to the one that trains the model: ``"dpo"``, or ``"self-play"`` of games. Planners
    that train nothing, such as ``"gibbs"``, re-rank pools exactly.

    Attributes
    ----------
    learner
        A name of ``rlhf-theory list learners``, or ``module:attribute``.
    settings
        Its settings; parts are names, or tables with ``kind``.
    changes
        Changes such as ``"planner.rounds=5"``, after the settings.
    """

    learner: str = "online-iterative"
    settings: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[str] = ()

    def __post_init__(self) -> None:
        explorer = self.spec.get("enhancer", {}).get("kind")
        model = None if explorer is None else find("enhancer", explorer).facts.more
        if model not in (None, self._facts.more):
            message = (
                f"The enhancer {explorer!r} explores for learners of a {model}; the "
                f"learner {self.learner!r} learns a {self._facts.more}."
            )
            raise ValueError(message)
        if not hasattr(self._built, "step"):
            message = f"The loop needs a learner that plays rounds; {self.learner!r} does not."
            raise ValueError(message)
        own = [p for p in _parts(self._built) if isinstance(p, TrainingSettings)]
        if any(settings != TrainingSettings() for settings in own):
            message = (
                "How to train is said by options of its own, such as --epochs, and not by settings "
                "of the learner: leave these out."
            )
            raise ValueError(message)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The learner as plain data, every setting filled in; `StudyError` for mistakes."""
        entry = find("learner", self.learner)
        known = settings_of(entry)
        table: dict[str, Any] = {k: v for k, v in _HERE.items() if k in known}
        if "planner" in known:
            table["planner"] = {"kind": _TRAINED.get(str(entry.facts.more), "dpo")}
        for name, value in self.settings.items():
            # Without a kind a table changes settings of the default.
            if isinstance(value, Mapping) and "kind" not in value:
                table[name] = {**table.get(name, {}), **value}
            else:
                table[name] = value
        data = {"learner": [{"kind": self.learner, **table}]}
        mistakes = []
        for item in self.changes:
            try:
                change(data, f"learner.{item}")
            except ValueError as error:
                mistakes.append(Mistake(f"--set {item}", str(error)))
        resolver = Resolver(lambda path, text: mistakes.append(Mistake(place_of(path), text)))
        spec = None if mistakes else resolver.entry("learner", _with_rule(data["learner"][0]))
        if spec is None:
            raise StudyError(mistakes)
        return spec

    @property
    def _facts(self) -> Facts:
        return find("learner", self.learner).facts

    @property
    def _planner(self) -> Any:
        return self.spec.get("planner")

    def check_training(self, training: TrainingSettings, others: Sequence[str] = ()) -> None:
        """Raise ``ValueError`` for settings of a training where none takes place.

        Parameters
        ----------
        training
            How to train.
        others
            Names of further settings that were given and matter after trainings only.
        """
        given, plain = training.identity(), TrainingSettings().identity()
        ignored = [name for name in given | plain if given.get(name) != plain.get(name)]
        ignored += others
        if ignored and not self.trains:
            message = (
                f"The learner {self.learner!r} trains no model with the planner "
                f"{self._planner['kind']!r}, so that it would ignore {', '.join(ignored)}. Leave "
                "these out, or take a planner that trains."
            )
            raise ValueError(message)

    def identity(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {"learner": self.spec}

    @property
    def of_game(self) -> bool:
        """Whether it learns a game, from labels that no reward need explain."""
        return bool(self._facts.more == "game")

    @property
    def batch_size(self) -> int:
        """Labels per round."""
        return int(self.spec.get("batch_size", 0))

    @property
    def trains(self) -> bool:
        """Whether the model is trained; otherwise its pools are re-ranked."""
        return any(isinstance(part, TrainingSettings) for part in _parts(self._built))

    @property
    def from_labels(self) -> bool:
        """Whether it trains on the labels themselves, instead of planning for a model of them."""
        return self._planner is None

    @property
    def trained_by(self) -> str:
        """The loss of its trainings, or the map of its self-play, as model cards have it."""
        part = self.spec if self.from_labels else self._planner
        loss = part.get("loss", part.get("update", part.get("rule")))
        return str(loss["kind"] if isinstance(loss, Mapping) else loss or "dpo")

    @property
    def method(self) -> str:
        """How the model is trained, in a few words."""
        if self.from_labels:
            return f"{self.learner}, {self.trained_by} on labels"
        return f"{self.learner}, planner {self._planner['kind']}"

    @cached_property
    def _built(self) -> Any:
        return registry.build_learner(self.spec)

    def make(self, training: TrainingSettings, folder: Path, *, label_scale: float = 1.0) -> Any:
        """Return the learner.

        Parameters
        ----------
        training
            How to train.
        folder
            Where trainings are kept.
        label_scale
            What the reward is multiplied by in the labels. It is known to the learner, which plans
            for the reward itself; a game is about the labels' own probabilities.
        """
        scale = 1.0 if self.of_game else label_scale
        return _told(self._built, training, folder, scale)


def _with_rule(table: dict[str, Any]) -> dict[str, Any]:
    """Return the table with an enhancer as pair rule written out, so that its radius is a part."""
    pairs = table.get("pairs")
    if isinstance(pairs, str) and pairs in found("enhancer"):
        return {**table, "pairs": {"kind": "against-enhancer", "enhancer": pairs}}
    return table


def _parts(value: object) -> Iterator[Any]:
    """Yield an object and the objects that its settings are, at any depth."""
    yield value
    if is_dataclass(value):
        for f in fields(value):
            yield from _parts(getattr(value, f.name))


def _told(part: Any, training: TrainingSettings, folder: Path, scale: float) -> Any:
    """Return an object whose parts know how to train, where to keep it, and the labels' scale."""
    if isinstance(part, TrainingSettings):
        return training
    if not is_dataclass(part) or isinstance(part, type):
        return part
    known = {f.name: getattr(part, f.name) for f in fields(part) if f.init}
    changed = {name: _told(value, training, folder, scale) for name, value in known.items()}
    facts = facts_of(type(part))
    if "folder" in known:
        changed["folder"] = folder
    # A rule knows the scale; a direct learner where it plans its own loss: one that is given is in
    # units of the labels, and taken as it is.
    if facts is not None and "scale" in known and known["scale"] in (None, 1.0):
        direct = facts.role == "learner" and isinstance(known.get("loss"), str | None)
        if facts.role == "radius" or direct:
            changed["scale"] = scale
    return replace(part, **{k: v for k, v in changed.items() if v is not known[k]})
