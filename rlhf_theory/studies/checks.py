"""What a study must satisfy as a whole."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_theory.errors import suggestion
from rlhf_theory.studies import registry
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.items import LearnerItem, WorldItem
from rlhf_theory.studies.messages import choices, shown
from rlhf_theory.studies.resolve import Say

if TYPE_CHECKING:
    from rlhf_theory.studies.schema import Study

__all__ = ["check_study"]

_REPORTS = {True: ("residual", "converged", "labels"), False: ("n_labels", "residual", "converged")}
"""What learners of this package report, online and offline."""

Chosen = Sequence[tuple[WorldItem, LearnerItem]]


def check_study(
    study: Study,
    worlds: Sequence[WorldItem],
    learners: Sequence[LearnerItem],
    chosen: Chosen,
    names: Mapping[str, str],
    say: Say,
) -> None:
    """Report what is wrong between the parts of a study, each of which is fine alone.

    Parameters
    ----------
    study
        Its tables; its items need not be set yet.
    worlds, learners
        Its entries.
    chosen
        Which learner runs in which world.
    names
        How the study calls its lists of entries.
    say
        Where mistakes go.
    """
    for role, items in (("world", worlds), ("learner", learners)):
        if not items:
            say((names[role],), f"is missing: a study needs at least one {role}.")
    _check_length(study, learners, say)
    if study.record.grid == "all" and study.record.points is not None:
        say(("record", "points"), 'is not for grid = "all", which keeps every round.')
    if study.run_options.options:
        _check_backend(study, say)
    known = _metrics(chosen)
    for index, metric in enumerate(study.record.metrics or ()):
        if metric not in known and _closed(learners):
            _unknown(("record", "metrics", index), metric, known, say)
    _check_plots(study, chosen, known, names, say)


def _check_length(study: Study, learners: Sequence[LearnerItem], say: Say) -> None:
    online = [le.label for le in learners if le.online]
    offline = [le.label for le in learners if not le.online]
    if online and study.rounds is None:
        say(("rounds",), f"is missing: {online[0]!r} is an online learner and plays rounds.")
    if offline and study.pairs is None:
        text = f"is missing: {offline[0]!r} is an offline learner and gets numbers of pairs."
        say(("pairs",), text)
    if learners and not online and study.rounds is not None:
        say(("rounds",), "is for online learners, and the study has none; leave it out.")
    if learners and not offline and study.pairs is not None:
        say(("pairs",), "is for offline learners, and the study has none; leave it out.")


def _check_backend(study: Study, say: Say) -> None:
    make = importlib.import_module("rlhf_theory.studies.backends").make_backend
    try:
        make(study.run_options.backend, study.run_options.options)
    except (ValueError, TypeError) as error:
        say(("run", "options"), str(error))


def _metrics(chosen: Chosen) -> list[str]:
    """Return everything that a run is known to record."""
    names = [m for world, _ in chosen for m in world.metrics]
    names += [r for _, learner in chosen for r in _REPORTS[learner.online]]
    return list(dict.fromkeys(names))


def _closed(learners: Sequence[LearnerItem]) -> bool:
    """Return whether all learners are of this package, so that their reports are known."""
    kinds = [registry.find("learner", le.spec["kind"]) for le in learners]
    return all(entry.source == "built in" for entry in kinds)


def _unknown(path: tuple[str | int, ...], word: str, known: Sequence[str], say: Say) -> None:
    text = f"{shown(word)} is not here; known are {choices(known)}.{suggestion(word, known)}"
    say(path, text)


def _check_plots(
    study: Study, chosen: Chosen, known: Sequence[str], names: Mapping[str, str], say: Say
) -> None:
    columns = ["world", "learner", "family", "metric"]
    for world, learner in chosen:
        cell = Cell(
            world=world.spec,
            learner=learner.spec,
            world_label="",
            learner_label="",
            family="",
            metric=None,
            rounds=0,
            replicas=1,
            block=1,
        )
        columns += cell.settings()
    columns = list(dict.fromkeys(columns))
    closed = _closed([learner for _, learner in chosen])
    for index, plot in enumerate(study.plots):
        here = (names["plot"], index)
        if plot.metric is not None and plot.metric not in (*known, "regret") and closed:
            _unknown((*here, "metric"), plot.metric, [*known, "regret"], say)
        for name in ("facet", "hue"):
            value = getattr(plot, name)
            if value not in (None, "none") and value not in columns:
                _unknown((*here, name), value, columns, say)
        if plot.window is not None and not plot.window[0] < plot.window[1]:
            say((*here, "window"), f"must be two increasing numbers; got {shown(plot.window)}.")
