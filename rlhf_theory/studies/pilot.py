"""How long a study will take, from a few seconds of trying."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from threadpoolctl import threadpool_limits

from rlhf_theory.engine.attempts import undisturbed
from rlhf_theory.engine.exceptions import in_one_line, line_of
from rlhf_theory.engine.progress import duration
from rlhf_theory.errors import check_positive
from rlhf_theory.experiments.runner import run
from rlhf_theory.studies.blocks import Task
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.registry import build_learner, cell_world
from rlhf_theory.studies.tables import block_table

_FEW = 4
_GROWTH = 4


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a study will cost, good to a factor of about two.

    Attributes
    ----------
    seconds
        By key of the cell, computing time of its blocks, in one worker; empty if nothing ran.
    longest
        The longest block, in seconds.
    jobs
        Workers.
    measured, cells
        Cells that were tried, and that there are.
    untried
        Cells of language models, which are not tried and not in the time.
    errors
        By ``WORLD/LEARNER``, what was raised where a cell was tried and could not be run, with the
        line: ``"TypeError: ... (mymod.py, line 74)"``.
    """

    seconds: dict[str, float]
    longest: float
    jobs: int
    measured: int
    cells: int
    untried: int = 0
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Computing time of everything, in one worker."""
        return sum(self.seconds.values())

    @property
    def wall(self) -> float:
        """Time until the last block is done, if every worker has a core of its own."""
        return max(self.total / self.jobs, self.longest)

    def __str__(self) -> str:
        models = f"{self.untried} cells of language models take what their rounds take."
        said = [models] if self.untried else []
        if self.cells == 0:
            return "\n".join(said or ["Nothing is left to compute."])
        return "\n".join([self._cost(), *said, *self._failures()])

    def _cost(self) -> str:
        if self.measured == 0:
            return "No estimate: none of the cells that were tried could be run."
        workers = "1 worker" if self.jobs == 1 else f"{self.jobs} workers"
        return (
            f"About {duration(self.wall)} with {workers} ({duration(self.total)} of computing), "
            f"good to a factor of two; {self.measured} of {self.cells} cells were tried."
        )

    def _failures(self) -> list[str]:
        """Return one line per error; cells that it stops alike are counted."""
        alike: dict[str, list[str]] = {}
        for name, error in self.errors.items():
            alike.setdefault(error, []).append(name)
        return [
            f"could not be run: {names[0]}"
            + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
            + f": {error}"
            for error, names in alike.items()
        ]


@dataclass(frozen=True)
class _Cost:
    """Seconds of one block: what does not depend on the replicas before it, and the building."""

    block: float
    build_per_replica: float


def estimate(
    tasks: Sequence[Task],
    jobs: int,
    *,
    budget: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Try the cells of some tasks for a few seconds; return what all tasks will cost.

    A third of the budget goes to a glance at every cell: one round (or fit) with few replicas. The
    rest is shared out equally: the first block runs over few rounds (or numbers of pairs), with all
    its replicas if that seems to fit in the share, else with few. Costs are extrapolated linearly
    in rounds, in blocks, and in replicas where few were tried; the building of the world, which
    every block repeats, linearly in the replicas up to its last. Fits on more pairs cost more along
    the line through those that were tried. A cell that got no time is taken to cost what cells of
    the same learner and world kinds (or all) do, in proportion to the glance if it got one, else
    per replica and round; so is one that fails, whose error is kept. Cells of language models are
    left out: the first round may take hours. Nothing is written.

    Parameters
    ----------
    tasks
        What is to be computed.
    jobs
        Number of workers.
    budget
        Seconds to spend in all. A single round that is longer than its share is still finished.
    clock
        Seconds that only grow; for tests.
    """
    check_positive("jobs", jobs)
    check_positive("budget", budget)
    cells = {task.cell.key: task.cell for task in tasks if task.cell.at_once is None}
    glances, costs, errors = _tried(list(cells.values()), budget, clock)
    seconds: dict[str, float] = {}
    longest = 0.0
    for task in tasks if costs else ():
        if task.cell.key not in cells:
            continue
        key, cell = task.cell.key, task.cell
        cost = costs.get(key) or _Cost(_typical(cell, cells, glances, costs), 0.0)
        share = (task.stop - task.first) / min(cell.block, cell.replicas)
        here = cost.block * share + cost.build_per_replica * task.stop
        seconds[key] = seconds.get(key, 0.0) + here
        longest = max(longest, here)
    return Estimate(
        seconds=seconds,
        longest=longest,
        jobs=jobs,
        measured=len(costs),
        cells=len(cells),
        untried=len({task.cell.key for task in tasks}) - len(cells),
        errors=errors,
    )


def _tried(
    cells: list[Cell], budget: float, clock: Callable[[], float]
) -> tuple[dict[str, float], dict[str, _Cost], dict[str, str]]:
    """Return the seconds of a glance at the cells, the costs of those that were tried, errors."""
    start = clock()
    probes: dict[str, _Probe] = {}
    glances: dict[str, float] = {}
    costs: dict[str, _Cost] = {}
    errors: dict[str, str] = {}
    order = list(_varied(cells))
    with threadpool_limits(limits=1):
        for cell in order:
            if clock() - start > budget / 3:
                break
            with _kept(cell, errors):
                probe = _Probe(cell, min(_FEW, cell.block, cell.replicas), clock)
                if not glances:
                    probe.steps(1)  # pays for what is loaded once
                glances[cell.key], probes[cell.key] = probe.steps(1), probe
        left = [cell for cell in order if cell.key in probes]
        for position, cell in enumerate(left):
            share = (start + budget - clock()) / (len(left) - position)
            if share <= 0:
                break
            with _kept(cell, errors):
                costs[cell.key] = _try(probes[cell.key], glances[cell.key], share)
    return glances, costs, errors


@contextmanager
def _kept(cell: Cell, errors: dict[str, str]) -> Iterator[None]:
    """Let nothing come out of a cell but Ctrl-C; write down what was raised."""
    with undisturbed():
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a learner may call `sys.exit`
            name = f"{cell.world_label}/{cell.learner_label}"
            place = line_of(error)
            errors[name] = f"{in_one_line(error)} ({place})" if place else in_one_line(error)


def _varied(cells: list[Cell]) -> Iterator[Cell]:
    """Yield cells such that every pair of a learner and a world kind comes early."""
    groups: dict[object, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_kinds(cell), []).append(cell)
    while groups:
        for name in list(groups):
            yield groups[name].pop(0)
            if not groups[name]:
                del groups[name]


def _kinds(cell: Cell) -> tuple[object, object]:
    return cell.learner["kind"], cell.world["kind"]


def _size(cell: Cell) -> float:
    """Return rounds (or fits) times replicas of a block; one for the policy before any round."""
    steps = len(cell.pairs) if cell.pairs is not None else 1 + (cell.rounds or 0)
    return float(steps * min(cell.block, cell.replicas))


def _typical(
    cell: Cell, cells: dict[str, Cell], glances: dict[str, float], costs: dict[str, _Cost]
) -> float:
    """Return the seconds of a block in a cell that was not tried, from those that were."""
    alike = [key for key in costs if _kinds(cells[key]) == _kinds(cell)] or list(costs)
    glance = glances.get(cell.key)
    if glance is not None and all(glances[key] > 0 for key in alike):
        units = [costs[key].block / _size(cells[key]) / glances[key] for key in alike]
        return statistics.median(units) * glance * _size(cell)
    return statistics.median(costs[key].block / _size(cells[key]) for key in alike) * _size(cell)


def _try(glance: _Probe, first: float, share: float) -> _Cost:
    """Return the costs of a cell, of which ``first`` seconds of a glance are known."""
    cell, clock, start = glance.cell, glance.clock, glance.clock()
    full = min(cell.block, cell.replicas)
    fits = (glance.build + first) * full / glance.replicas <= share / 2
    probe = _Probe(cell, full, clock) if fits and full > glance.replicas else glance
    # Online: 0, 1, 4, 16 ... rounds; the first two tell the start from the rounds. Offline: one
    # more number of pairs at a time.
    most = len(cell.pairs) if cell.pairs is not None else (cell.rounds or 0)
    steps = 0 if cell.pairs is None else 1
    times = {steps: probe.steps(steps)}
    while steps < most:
        if cell.pairs is None:
            wanted = min(most, max(1, steps * _GROWTH))
            growth = wanted / max(steps, 1)
        else:
            wanted = steps + 1
            growth = cell.pairs[steps] / max(cell.pairs[steps - 1], 1)
        if steps > 0 and clock() - start + times[steps] * growth > share:
            break
        times[wanted], steps = probe.steps(wanted), wanted
    block = _extrapolated(cell, times, most) * full / probe.replicas
    return _Cost(block, probe.build / probe.replicas)


class _Probe:
    """Runs the beginning of a cell with some replicas; ``build`` is what their world took."""

    def __init__(self, cell: Cell, replicas: int, clock: Callable[[], float]) -> None:
        self.cell, self.replicas, self.clock = cell, replicas, clock
        start = clock()
        self.world = cell_world(cell, 0, replicas)
        self.build = clock() - start
        self.learner = build_learner(cell.learner)

    def steps(self, count: int) -> float:
        """Return the seconds of a run over the first rounds or numbers of pairs."""
        cell, start = self.cell, self.clock()
        trace = run(
            self.learner,
            self.world,
            rounds=None if cell.rounds is None else min(count, cell.rounds),
            offline_pairs=cell.offline_pairs,
            pairs=None if cell.pairs is None else cell.pairs[:count],
            seed=cell.seed,
            block=cell.block,
        )
        seconds = self.clock() - start
        # What was recorded must make a table, too.
        block_table(cell, 0, self.replicas, trace)
        return seconds


def _extrapolated(cell: Cell, times: dict[int, float], most: int) -> float:
    """Return the seconds of the whole run from those of its beginnings, by number of steps."""
    steps = sorted(times)
    last = steps[-1]
    if last == most or len(steps) == 1:
        return times[last] * max(most, 1) / max(last, 1)
    if cell.pairs is None:
        per_round = max(0.0, (times[last] - times[steps[0]]) / (last - steps[0]))
        return times[last] + per_round * (most - last)
    # Costs of single fits; the line through the first and the last gives the others.
    n = cell.pairs
    fits = [times[1], *(times[k] - times[k - 1] for k in steps[1:])]
    slope = max(0.0, (fits[-1] - fits[0]) / (n[last - 1] - n[0]))
    rest = [max(0.0, fits[-1]) + slope * (n[k] - n[last - 1]) for k in range(last, most)]
    return times[last] + sum(rest)
