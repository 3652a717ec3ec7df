"""Getting tasks done, whatever happens to the workers, the disk or the patience."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_theory.engine.attempts import Marks
from rlhf_theory.engine.backends import Backend
from rlhf_theory.engine.interrupts import Interrupt
from rlhf_theory.engine.loop import Folder, Loop, Report, Tally
from rlhf_theory.engine.tasks import Named, Outcome, compute
from rlhf_theory.engine.workers import Worker

__all__ = ["Folder", "Tally", "execute"]


def execute(
    tasks: Sequence[Named],
    backend: Backend,
    *,
    jobs: int,
    folder: Folder,
    progress: Report | None = None,
    max_time: float | None = None,
    fail_fast: bool = False,
    compute: Callable[[Any], Outcome] = compute,
    hired: Callable[[Worker], object] | None = None,
) -> Tally:
    """Get tasks done.

    A task whose worker dies is tried again alone, after the others; the third death is a failure of
    the task. Tasks that ran beside it are tried again too, and not blamed. What is done stays done,
    however the run ends. A worker with other code or other versions than this process stops the
    run: nothing new is started.

    Parameters
    ----------
    tasks
        What to do; anything that pickles and has a ``name``.
    backend
        Where.
    jobs
        Number of workers, at least 1.
    folder
        Folder of the study; hears of every outcome.
    progress
        Called with the tally and the number of tasks in flight, at most ten times a second.
    max_time
        Seconds after which nothing new is started; what runs then ends. None: no limit.
    fail_fast
        Start nothing new after the first failure.
    compute
        What to do with a task, in a worker. Tells of failures by its outcome; an exception means
        that the call itself did not work.
    hired
        Called with the worker of every answer.

    Raises
    ------
    KeyboardInterrupt
        At Ctrl-C, after the workers have been killed.
    BackendError
        If workers cannot be had, or no call works.
    ValueError
        If ``jobs`` or ``max_time`` is not positive.
    """
    if jobs < 1:
        message = f"jobs must be at least 1; got {jobs}."
        raise ValueError(message)
    if max_time is not None and not max_time > 0:
        message = f"max_time must be positive; got {max_time}."
        raise ValueError(message)
    marks = Marks(folder.path)
    if not tasks:
        marks.sweep()  # a run that was killed at its very end has left its own
        return Tally()
    with Interrupt() as interrupt, marks:
        loop = Loop(tasks, backend, jobs, folder, compute, interrupt, marks)
        loop.progress, loop.fail_fast, loop.hired = progress, fail_fast, hired
        loop.deadline = None if max_time is None else time.monotonic() + max_time
        return loop.run()
