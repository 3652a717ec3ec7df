"""What a study must satisfy as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf_theory.engine.backends import make_backend
from rlhf_theory.store import canonical
from rlhf_theory.studies.entries import find
from rlhf_theory.studies.fields import StudyFields
from rlhf_theory.studies.items import LearnerItem, WorldItem, count_cells
from rlhf_theory.studies.messages import not_here, place_of
from rlhf_theory.studies.plot_checks import Chosen, check_plots
from rlhf_theory.studies.resolve import Say

MOST_CELLS = 100_000
"""Cells that a study may have."""

MOST_BLOCKS = 1_000_000
"""Blocks that a study may have: each is a file, and two hundred thousand are much."""

_REPORTS = ("residual", "converged")
"""What learners of this package report; labels are counted by the runner."""


def check_size(
    worlds: Sequence[WorldItem],
    learners: Sequence[LearnerItem],
    repeats: tuple[int, int],
    say: Say,
) -> bool:
    """Report a study of more than `MOST_CELLS` cells; return whether it has no more.

    Parameters
    ----------
    worlds, learners
        Its entries.
    repeats
        Numbers of seeds and of sizes of blocks.
    say
        Where mistakes go.
    """
    seeds, blocks = repeats
    count = count_cells(worlds, learners, seeds=seeds, blocks=blocks)
    if count <= MOST_CELLS:
        return True
    text = (
        f"The study has {count} cells, at most {MOST_CELLS} are allowed: it has {len(worlds)} "
        f"worlds, {len(learners)} learners, seeds: {seeds}, sizes of blocks: {blocks}. Make its "
        "grids smaller, or several studies of it."
    )
    say((), text)
    return False


def check_study(
    study: StudyFields,
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
    _check_blocks(study, len(chosen), say)
    _check_length(study, learners, say)
    _check_twice(learners, chosen, say)
    if study.record.grid == "all" and study.record.points is not None:
        say(("record", "points"), 'is not for grid = "all", which keeps every round.')
    if study.run_options.options:
        _check_backend(study, say)
    known = _metrics(chosen)
    for index, metric in enumerate(study.record.metrics or ()):
        if metric not in known and _closed(learners):
            say(("record", "metrics", index), not_here(metric, known))
    check_plots(study.plots, chosen, known if _closed(learners) else None, names["plot"], say)


def _check_blocks(study: StudyFields, pairs: int, say: Say) -> None:
    """Report a study of more than `MOST_BLOCKS` blocks, without making them."""
    seeds = len(study.seed) if isinstance(study.seed, tuple) else 1
    sizes = study.block if isinstance(study.block, tuple) else (study.block,)
    count = pairs * seeds * sum(-(-study.replicas // size) for size in sizes)
    if count > MOST_BLOCKS:
        text = (
            f"makes {count} blocks, at most {MOST_BLOCKS} are allowed: {pairs * seeds} times "
            f"{study.replicas} replicas, cut into blocks of {' and of '.join(map(str, sizes))}. "
            "Make block larger, or replicas or the grids smaller."
        )
        say(("replicas",), text)


def _check_length(study: StudyFields, learners: Sequence[LearnerItem], say: Say) -> None:
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


def _check_twice(learners: Sequence[LearnerItem], chosen: Chosen, say: Say) -> None:
    """Report learners that differ in their worlds alone and share some: one cell would be two."""
    contents = {id(le): canonical([le.spec, le.offline_pairs, le.coverage]) for le in learners}
    found: dict[tuple[int, str], LearnerItem] = {}
    reported: set[int] = set()
    for world, learner in chosen:
        other = found.setdefault((id(world), contents[id(learner)]), learner)
        if other is not learner and id(learner) not in reported:
            reported.add(id(learner))
            text = (
                f"{learner.label!r} is the same as {other.label!r} ({place_of(other.path)}), and "
                f"both run in {world.label!r}; give each `worlds` of its own, or leave one out."
            )
            say(learner.path, text)


def _check_backend(study: StudyFields, say: Say) -> None:
    try:
        make_backend(study.run_options.backend, study.run_options.options)
    except (ValueError, TypeError) as error:
        say(("run", "options"), str(error))


def _metrics(chosen: Chosen) -> list[str]:
    """Return everything that a run is known to record."""
    names = [m for world, _ in chosen for m in world.metrics]
    return list(dict.fromkeys([*names, "labels", *_REPORTS]))


def _closed(learners: Sequence[LearnerItem]) -> bool:
    """Return whether all learners are of this package, so that their reports are known."""
    kinds = [find("learner", le.spec["kind"]) for le in learners]
    return all(entry.source == "built in" for entry in kinds)
