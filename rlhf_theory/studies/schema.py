"""The study as data: worlds, learners, how long and how often, checked before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Self

from pydantic import PrivateAttr, ValidationError

from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.checks import check_size, check_study
from rlhf_theory.studies.complaints import complaints, order
from rlhf_theory.studies.fields import StudyFields
from rlhf_theory.studies.files import load
from rlhf_theory.studies.identities import unmarked
from rlhf_theory.studies.items import (
    LearnerItem,
    WorldItem,
    learner_items,
    pairs_of,
    stored_learner,
    stored_world,
    world_items,
)
from rlhf_theory.studies.messages import Mistake, Path, StudyError, place_of
from rlhf_theory.studies.origins import origins_in_resolved, origins_of
from rlhf_theory.studies.resolve import Resolver, Say
from rlhf_theory.studies.signatures import RUN_SETTINGS
from rlhf_theory.studies.summary import counts_of, html_of
from rlhf_theory.studies.written import entries_of, written


class StudyData(StudyFields):
    """A study as data, checked; `rlhf_theory.study.Study` also runs, and says what is in it.

    Raises
    ------
    StudyError
        With one line per mistake.
    """

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)
    _called: frozenset[str] = PrivateAttr(default=frozenset())

    def __init__(self, **data: Any) -> None:
        mistakes: list[Mistake] = []

        def say(path: Path, text: str) -> None:
            mistakes.append(Mistake(place_of(path), text))

        given = _given(data, say)
        # What cannot be written down is no further mistake, whatever stands in its place.
        unwritten = {m.place for m in mistakes}
        first = len(mistakes)
        names = _names(data)
        fixed = {k: v for k, v in given.items() if k not in ("worlds", "learners")}
        try:
            entries = {name: tuple(given[name]) for name in ("worlds", "learners")}
            super().__init__(**(fixed | entries))
        except ValidationError as error:
            keys = [f.alias or k for k, f in StudyFields.model_fields.items()]
            mistakes += complaints(error, given, names, keys)
        resolver = Resolver(say)
        worlds = world_items(given["worlds"], names["world"], resolver)
        learners = learner_items(given["learners"], names["learner"], resolver)
        repeats = (1, 1) if mistakes else (len(_values(self.seed)), len(_values(self.block)))
        fits = check_size(worlds, learners, repeats, say)
        chosen = pairs_of(worlds, learners, say) if fits else []
        if not mistakes:
            check_study(self, worlds, learners, chosen, names, say)
        if mistakes:
            later = [m for m in mistakes[first:] if m.place not in unwritten]
            raise StudyError(sorted(mistakes[:first] + later, key=order(given, names)))
        self._worlds, self._learners, self._given = tuple(worlds), tuple(learners), given
        self._called = frozenset(data)
        self._origins = origins_of(self, given, names, lambda _: "python")

    def __repr__(self) -> str:
        return f"Study({self.name!r}: {counts_of(self)})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return html_of(self)

    @classmethod
    def from_toml(
        cls, path: FilePath | str, sets: Sequence[str] = (), *, quick: bool = False
    ) -> Self:
        """Return the study of a TOML file.

        Parameters
        ----------
        path
            The file.
        sets
            Changes such as ``"rounds=50"`` or ``"learner[0].batch_size=64"``; see `files.change`.
            They come after those of ``quick``.
        quick
            Whether to take the values of the table ``quick``.

        Raises
        ------
        StudyError
            With one line per mistake, in the file or in the changes.
        """
        data, origin = load(path, sets, quick=quick)
        study = cls(**data)
        study._origins = origins_of(study, study._given, _names(data), origin)
        return study

    @classmethod
    def from_resolved(
        cls, table: Mapping[str, Any], origins: Mapping[str, str] | None = None
    ) -> Self:
        """Return the study of a stored `resolved` table, for reading its results.

        Its settings are trusted, not checked again: results can be read where a package that
        brought a learner is missing, or has another version by now. Running it does check.

        Parameters
        ----------
        table
            What `resolved` gave.
        origins
            What `resolved_origins` gave, where it is known.
        """
        study = cls.__new__(cls)
        study._restore(table, origins or {})  # noqa: SLF001 (a constructor of this class)
        return study

    def _restore(self, table: Mapping[str, Any], origins: Mapping[str, str]) -> None:
        worlds, learners = list(table["worlds"]), list(table["learners"])
        values = {**table, "worlds": tuple(worlds), "learners": tuple(learners)}
        super().__init__(**values)
        self._worlds = tuple(stored_world(w, i) for i, w in enumerate(worlds))
        self._learners = tuple(stored_learner(le, i) for i, le in enumerate(learners))
        self._given, self._called = dict(table), frozenset(table)
        self._origins = dict(origins)

    def changed(
        self,
        values: Mapping[str, Any] | None = None,
        origin: str = "python",
        *,
        renew: bool = False,
    ) -> Self:
        """Return the study with other values, checked again.

        Parameters
        ----------
        values
            Name to value, such as ``{"replicas": 1000}``.
        origin
            Where they come from, for `origins`.
        renew
            Take the code and the versions that are here, where it was resolved with others.
        """
        renamed = {_NAMES.get(k, k): v for k, v in (values or {}).items()}
        # Entries keep the name that the file has for them, so that messages and origins do too.
        called = {plural: name for name, plural in _PLURALS.items() if name in self._called}
        given = unmarked(self._given) if renew else self._given
        data = {called.get(k, k): v for k, v in {**given, **renamed}.items()}
        study = type(self)(**data)
        new = {called.get(k, k) for k in renamed}
        study._origins = {  # noqa: SLF001 (of this class)
            place: origin if _first(place) in new else self._origins.get(place, found)
            for place, found in study.origins.items()
        }
        return study

    def cells(self) -> list[Cell]:
        """Return the cells: world by world, learner by learner, then seeds and blocks."""
        found = []
        for world, learner in pairs_of(self._worlds, self._learners, lambda *_: None):
            blocks = _values(self.block) if world.replicas is None else (1,)
            for seed, block in itertools.product(_values(self.seed), blocks):
                label = world.label
                label += f" seed={seed}" if isinstance(self.seed, tuple) else ""
                swept = isinstance(self.block, tuple) and world.replicas is None
                label += f" block={block}" if swept else ""
                found.append(self._cell(world, learner, label, seed, block))
        return found

    def _cell(
        self, world: WorldItem, learner: LearnerItem, label: str, seed: int, block: int
    ) -> Cell:
        online, own = learner.online, world.replicas
        return Cell(
            world={k: v for k, v in world.spec.items() if own is None or k not in RUN_SETTINGS},
            learner=learner.spec,
            world_label=label,
            learner_label=learner.label,
            family=world.family,
            metric=world.metric,
            offline_pairs=learner.offline_pairs,
            coverage=learner.coverage,
            rounds=self.rounds if online else None,
            pairs=None if online else self.pairs,
            seed=seed,
            replicas=self.replicas if own is None else own,
            block=block,
            at_once=world.spec.get("at_once"),
            metrics=self.record.metrics,
            # Every number of pairs is recorded; a grid of rounds must not split their keys.
            grid=self.record.grid if online else "all",
            points=self.record.points if online else None,
        )

    def resolved_origins(self) -> dict[str, str]:
        """Return `origins` by the places of `resolved`, where entries have no grids."""
        return origins_in_resolved(self, _names(dict.fromkeys(self._called)))


_PLURALS = {"world": "worlds", "learner": "learners", "plot": "plots"}
_NAMES = {**_PLURALS, "run_options": "run"}


def _names(data: Mapping[str, object]) -> dict[str, str]:
    """Return how a study calls its lists of entries: ``world`` in files, ``worlds`` in Python."""
    return {role: plural if plural in data else role for role, plural in _PLURALS.items()}


def _first(place: str) -> str:
    """Return the outermost key of a place."""
    return place.partition(".")[0].partition("[")[0]


def _values(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _given(data: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Return the arguments as plain data under one name each; entries as lists."""
    given: dict[str, Any] = {}
    written_as: dict[str, str] = {}
    for key, value in data.items():
        name = _NAMES.get(key, key)
        if name in given:
            say((key,), f"is the same as {written_as[name]!r}; give one of the two.")
        written_as.setdefault(name, key)
        if name in ("worlds", "learners"):
            given[name] = entries_of(value, key, say)
        else:
            given[name] = written(value, (key,), say)
    return {**given, **{k: [] for k in ("worlds", "learners") if k not in given}}
