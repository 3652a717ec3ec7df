"""A block: some replicas of one cell, computed in a worker, written as one Parquet file."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from threadpoolctl import threadpool_limits

from rlhf_theory.core import World
from rlhf_theory.engine.attempts import undisturbed
from rlhf_theory.engine.seals import encode
from rlhf_theory.engine.tasks import Made
from rlhf_theory.experiments.runner import run
from rlhf_theory.store import write_atomic
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.identities import keep_identity
from rlhf_theory.studies.registry import build_learner, cell_world, check_codes, kept_in
from rlhf_theory.studies.tables import (
    REPEATED,
    About,
    about_of,
    block_table,
    difference,
    read_block,
)
from rlhf_theory.worlds.recipe import Leaving

LEFT = ".files"
"""Ends the name of the folder beside a block with what its world has left."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker needs to know to compute one block.

    Attributes
    ----------
    folder
        Folder of the study; made absolute, for a worker may be somewhere else.
    cell
        The cell.
    first, stop
        Replicas ``first .. stop - 1``; ``first`` is a multiple of ``cell.block``.
    replaces
        Names of shorter blocks with the same first replica, which go when this one is there.
    """

    folder: str
    cell: Cell
    first: int
    stop: int
    replaces: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Not by `Path`, which takes a while if there are thousands of tasks.
        if not os.path.isabs(self.folder):  # noqa: PTH117
            object.__setattr__(self, "folder", str(Path(self.folder).absolute()))

    @property
    def name(self) -> str:
        """Name in journals and messages: the key of the cell, and the replicas."""
        return f"{self.cell.key}/r{self.first:06d}-{self.stop:06d}"

    @property
    def at_once(self) -> tuple[str, int] | None:
        """Blocks of worlds of one kind that may run together; None for any number."""
        limit = self.cell.at_once
        return None if limit is None else (str(self.cell.world["kind"]), limit)

    @property
    def path(self) -> Path:
        """The file that the block is written to."""
        return self.beside(".parquet")

    def beside(self, ending: str, name: str = "") -> Path:
        """Return the path of a file of this block, or of the one of a name, with an ending."""
        return Path(self.folder) / "cells" / f"{name or self.name}{ending}"

    def make(self) -> Made:
        """Compute the block and write its file.

        One BLAS thread unless the world needs more, on every path, so that the bits do not depend
        on the number of workers.

        A file of the same block with fewer rounds is replaced if the longer run repeats what it
        holds, exactly; else it is kept, and the block has failed. A file with more rounds keeps
        them where another primary metric needs it computed anew.
        """
        task, held = self, _held(self)
        if held is not None and held[1].serves(self.cell):
            return Made("skipped", held[2], held[1])
        if held is not None:
            task = _not_shorter(self, held[1])
        with undisturbed():
            table, world = _table(task)
        if held is not None:
            _check_repeats(task, held[0], held[1], table)
        content = encode(table, REPEATED)
        keep_identity(task.path.parent, task.cell)
        _leave_files(task, world)
        file = write_atomic(task.path, content)
        _clear_superseded(task)
        return Made("done", file, about_of(table))


def _held(task: Task) -> tuple[pa.Table, About, os.stat_result] | None:
    """Return what the block's file holds, or None where there is none that can be read."""
    try:
        # First: if somebody replaces the file meanwhile, this is no state of the new one.
        state = task.path.stat()
        return (*read_block(task.path, task.cell), state)
    except (OSError, ValueError):
        return None


def _not_shorter(task: Task, about: About) -> Task:
    """Return the task with at least the rounds that its file holds: they are not thrown away."""
    rounds = task.cell.rounds
    if rounds is None or about.rounds is None or about.rounds <= rounds:
        return task
    return replace(task, cell=replace(task.cell, rounds=about.rounds))


def _table(task: Task) -> tuple[pa.Table, World]:
    """Return the table of a block, and its world, which knows what else came out."""
    cell, first, stop = task.cell, task.first, task.stop
    kept = Path(task.folder) / "kept"
    with threadpool_limits(limits=cell.threads), ExitStack() as stack:
        world = cell_world(cell, first, stop, kept, stack)
        trace = run(
            kept_in(build_learner(cell.learner), kept / _trainings(cell.threads)),
            world,
            rounds=cell.rounds,
            offline_pairs=cell.offline_pairs,
            pairs=cell.pairs,
            seed=cell.seed,
            block=cell.block,
            first_replica=first,
        )
    # What was imported only now may have been edited since the look before.
    for spec in (cell.world, cell.learner):
        check_codes(spec)
    return block_table(cell, first, stop, trace), world


def _trainings(threads: int) -> str:
    """Return the folder of trainings: those with other threads are not the same to the last bit."""
    return "trainings" if threads == 1 else f"trainings-{threads}-threads"


def _leave_files(task: Task, world: World) -> None:
    """Write what the world leaves beside the table, such as weights and answers, if it does."""
    if not isinstance(world, Leaving):
        return
    final = task.beside(LEFT)
    # By this name a later run removes it, should this process be killed.
    new = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
    new.mkdir()
    try:
        world.leave(new, {**task.cell.settings(), "rounds": task.cell.rounds})
        shutil.rmtree(final, ignore_errors=True)
        if any(new.iterdir()):
            new.rename(final)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check_repeats(task: Task, old: pa.Table, about: About, new: pa.Table) -> None:
    """Raise ``ValueError`` unless the new table repeats the rounds of the old one."""
    now = about_of(new).metric
    # Beside metrics that were chosen, the primary one is kept, which may be another one now.
    drop = {about.metric, now} & (set(old.column_names) ^ set(new.column_names))
    if now != about.metric:
        drop.add("regret")  # it sums another metric now
    old, new = (t.drop_columns([n for n in t.column_names if n in drop]) for t in (old, new))
    found = difference(old, new)
    if found is not None:
        message = (
            f"The run over {task.cell.rounds} rounds must repeat the {about.rounds} that are "
            f"stored, and does not: {found}. The code, a library or the machine has changed. "
            f"The stored file is kept; raise VERSION of what has changed, or choose a new folder."
        )
        raise ValueError(message)


def _clear_superseded(task: Task) -> None:
    """Remove what the finished file replaces: failures, and a last block that was shorter."""
    for name in (task.name, *task.replaces):
        task.beside(".failed.json", name).unlink(missing_ok=True)
        task.beside(".damaged", name).unlink(missing_ok=True)
    for name in task.replaces:
        task.beside(".parquet", name).unlink(missing_ok=True)
        shutil.rmtree(task.beside(LEFT, name), ignore_errors=True)
