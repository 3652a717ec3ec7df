"""Run a study, go on with one, make one longer: from cells to blocks to a backend."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import loky

from rlhf_theory.engine.backends import make_backend
from rlhf_theory.engine.execution import Tally, execute
from rlhf_theory.engine.progress import Progress
from rlhf_theory.store import DamageWarning
from rlhf_theory.studies import curves
from rlhf_theory.studies.blocks import Task
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.folder import StudyFolder
from rlhf_theory.studies.identities import Older, adopt, drop, older
from rlhf_theory.studies.provenance import Provenance
from rlhf_theory.studies.schema import StudyData

_Study = TypeVar("_Study", bound=StudyData)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run of a study would do.

    Attributes
    ----------
    folder
        Where results go.
    cells
        Cells that were chosen.
    todo
        Blocks to compute.
    done, failed
        Numbers of blocks that are done, and that failed and are left alone.
    damaged
        What is wrong with what is not what was written, a sentence each.
    older
        Results of older code that the folder holds, by key of their cell now.
    """

    folder: Path
    cells: tuple[Cell, ...]
    todo: tuple[Task, ...]
    done: int
    failed: int
    damaged: tuple[str, ...]
    older: Mapping[str, list[Older]]


OldResults = Literal["keep", "drop"]
"""What to do with results of older code: adopt or remove them."""


def default_folder(study: StudyData) -> Path:
    """Return ``results/NAME``."""
    return Path("results") / study.name


def n_workers(study: StudyData, jobs: int | None = None) -> int:
    """Return the workers asked for: ``jobs``, else the study's, else one per core."""
    workers = (study.run_options.jobs or loky.cpu_count()) if jobs is None else jobs
    if workers < 1:
        message = f"jobs must be at least 1; got {workers}."
        raise ValueError(message)
    return workers


def chosen_cells(study: StudyData, only: Sequence[str] = ()) -> list[Cell]:
    """Return the cells of a study whose world, learner, ``WORLD/LEARNER`` or key match.

    Raises
    ------
    ValueError
        If a pattern matches no cell.
    """
    cells = study.cells()
    if not only:
        return cells
    for pattern in only:
        if not any(_matches(cell, pattern) for cell in cells):
            names = sorted({c.world_label for c in cells} | {c.learner_label for c in cells})
            message = (
                f"A pattern must match the label of a world or a learner, or WORLD/LEARNER; "
                f"{pattern!r} matches none of {', '.join(names)}."
            )
            raise ValueError(message)
    return [cell for cell in cells if any(_matches(cell, pattern) for pattern in only)]


def _matches(cell: Cell, pattern: str) -> bool:
    world, learner = cell.world_label, cell.learner_label
    names = (world, learner, f"{world}/{learner}", cell.key)
    # A label with brackets matches itself, which as a pattern it need not.
    return pattern in names or any(fnmatch.fnmatchcase(name, pattern) for name in names)


def plan_study(
    study: StudyData,
    out: Path | str | None = None,
    *,
    only: Sequence[str] = (),
    retry_failed: bool = False,
    verify: bool = False,
) -> Plan:
    """Return what `run_study` would do; writes nothing.

    Parameters
    ----------
    study, out, only, retry_failed, verify
        As in `run_study`.
    """
    folder, cells = _folder(study, out), chosen_cells(study, only)
    damaged = folder.verify(cells, drop=False) if verify else []
    return _plan(folder, cells, retry_failed, damaged)


def _folder(study: StudyData, out: Path | str | None) -> StudyFolder:
    return StudyFolder(default_folder(study) if out is None else out)


def _plan(
    folder: StudyFolder, cells: list[Cell], retry_failed: bool, damaged: Sequence[str]
) -> Plan:
    look = folder.look(cells)
    left_alone = set() if retry_failed else set(look.failed)
    return Plan(
        folder=folder.path,
        cells=tuple(cells),
        todo=tuple(task for task in look.todo if task.name not in left_alone),
        done=len(look.done),
        failed=len(left_alone),
        damaged=tuple(dict.fromkeys([*damaged, *look.damaged])),
        older=older(folder.path, cells),
    )


def run_study(
    study: StudyData,
    out: Path | str | None = None,
    *,
    jobs: int | None = None,
    backend: str | None = None,
    options: Mapping[str, object] | None = None,
    only: Sequence[str] = (),
    retry_failed: bool = False,
    fail_fast: bool = False,
    max_time: float | None = None,
    verify: bool = False,
    old: OldResults | None = None,
    toml: str | None = None,
    quiet: bool = False,
    say: Callable[[str], None] | None = None,
    command: Sequence[str] = ("Study.run",),
) -> Tally:
    """Run a study, or go on where it was stopped.

    What is stored already is not computed again, whether it comes from this study or from an
    earlier version of it: a block belongs to its settings. Numbers depend on the block size alone,
    not on ``jobs`` or the backend.

    Parameters
    ----------
    study
        The study.
    out
        Folder; ``results/NAME`` if none. It may hold an earlier run of the study of this name.
    jobs
        Workers; None takes the study's, else one per core.
    backend, options
        ``"local"``, ``"serial"``, ``"dask"``, ``"ray"`` or ``"slurm"``, and its settings; None
        takes the study's.
    only
        Patterns of worlds, learners or ``WORLD/LEARNER``.
    retry_failed
        Compute blocks again that have failed before.
    fail_fast
        Stop at the first failure.
    max_time
        Seconds after which no block is started.
    verify
        Read all that is there, instead of trusting size and time of change, and compute anew what
        is not what was written.
    old
        What to do with results of older code in the folder: ``"keep"`` adopts them as results of
        the code that is here, ``"drop"`` removes them. None leaves them where they are, unread.
    toml
        The study as it was written, to be kept with the results.
    quiet, say
        Whether to show progress, and where lines go that are not for a terminal.
    command
        For the provenance: what was typed.

    Returns
    -------
    How the run ended.

    Raises
    ------
    ValueError
        If something cannot work, or the folder holds something else. Nothing is written then.
    KeyboardInterrupt
        At Ctrl-C; what is finished is kept.
    """
    workers = n_workers(study, jobs)
    name = backend or study.run_options.backend
    settings = {**({} if backend else study.run_options.options), **(options or {})}
    place = make_backend(name, settings)
    # One object for plan and run: it remembers the files that it had to open.
    folder, cells = _folder(study, out), chosen_cells(study, only)
    damaged = folder.verify(cells) if verify else []
    plan = _plan(folder, cells, retry_failed, damaged)
    folder.claim(study, toml)
    for said in plan.damaged:
        warnings.warn(f"{said} It is made anew.", DamageWarning, stacklevel=3)
    found = plan.older
    if found and old == "keep":
        adopt(folder.path, plan.cells, found)
        plan = _plan(folder, cells, retry_failed, damaged)
    elif found and old == "drop":
        drop(folder.path, found)
    record = Provenance(
        plan.folder,
        list(command),
        study.resolved(),
        origins=study.resolved_origins(),
        backend=name,
        jobs=workers,
        older=None if old is None else {"done": old, "results": found},
    )
    tally = Tally(left=len(plan.todo), stopped="Interrupted.")
    try:
        with (
            folder.running(),
            Progress(len(plan.todo), ready=plan.done, say=say, quiet=quiet) as progress,
        ):
            tally = execute(
                plan.todo,
                place,
                jobs=workers,
                folder=folder,
                progress=progress,
                fail_fast=fail_fast,
                max_time=max_time,
                hired=record.hire,
            )
    finally:
        folder.close()
        record.end(tally)
    wanted = tally.done + tally.skipped or not (plan.folder / curves.NAME).exists()
    if wanted and not tally.left and not only:
        # One file for readers in a hurry. It can be made again, so no disk may fail because of it.
        with suppress(OSError):
            folder.compact(plan.cells)
    return tally


def longer(
    study: _Study,
    *,
    replicas: int | None = None,
    rounds: int | None = None,
    old: OldResults | None = None,
) -> _Study:
    """Return a study with more replicas or more rounds.

    Parameters
    ----------
    study
        The study, as it is stored.
    replicas, rounds
        Numbers to reach; None leaves them.
    old
        As in `run_study`; with it, the study has the code that is here, which is demanded without.

    Raises
    ------
    ValueError
        If something would become smaller: results are never thrown away.
    """
    changes: dict[str, int] = {}
    for label, new, there in (
        ("replicas", replicas, study.replicas),
        ("rounds", rounds, study.rounds),
    ):
        if new is None:
            continue
        if there is None:
            message = f"The study has no online learner, so no {label} to extend."
            raise ValueError(message)
        if new < there:
            message = f"{label} can only grow, from {there}; got {new}."
            raise ValueError(message)
        changes[label] = new
    return study.changed(changes, origin="extend", renew=old is not None)
