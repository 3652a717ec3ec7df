"""The study runner: what it costs to run blocks through it, to resume, and what workers gain.

    python benchmarks/speed/study_runner.py [--blocks 10000] [--only overhead resume commands ...]
                                            [--out FILE.json]

Goals: computing and writing a block of about one second costs at most 5 % more than calling the
runner; a finished study of 10 000 blocks is looked through within 3 s, and one of 200 000 by the
commands `run` and `status` within 20 s and 1 GB (`--only commands --blocks 200000`; its first `run`
makes the table of all blocks and the page); two workers are at least 1.8 times as fast as one.
`read_compacted` is what every plot and table of a finished study waits for.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from benchmarks.timing import command_line, finish, show
from rlhf_theory.engine.backends import make_backend
from rlhf_theory.engine.execution import execute
from rlhf_theory.engine.seals import encode
from rlhf_theory.engine.tasks import Outcome, compute
from rlhf_theory.experiments.runner import run
from rlhf_theory.studies.blocks import Task
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.folder import StudyFolder
from rlhf_theory.studies.pilot import estimate
from rlhf_theory.studies.registry import build_learner, build_world
from rlhf_theory.studies.tables import REPEATED, about_of, block_table
from rlhf_theory.study import Study

WORLD = {"kind": "linear", "contexts": 20, "actions": 10, "dim": 8, "eta": 0.1, "seed": 0}
LEARNER = {"kind": "online-iterative", "batch_size": 32, "enhancer": {"kind": "from-reference"}}


def make_cell(**changes: Any) -> Cell:
    """A cell of a usual size: 64 replicas a block, logarithmic grid, everything recorded."""
    cell = Cell(
        world=WORLD,
        learner=LEARNER,
        world_label="linear",
        learner_label="GSHF",
        family="linear",
        metric="gap",
        rounds=100,
        replicas=256,
        block=64,
        grid="log",
        points=20,
    )
    return replace(cell, **changes)


@dataclass(frozen=True)
class Named:
    """What a folder needs to know of a study."""

    name: str = "benchmark"

    def resolved(self) -> dict[str, Any]:
        return {"name": self.name}


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Return wall time and processor time; the second minds no other process, nor the disk."""
    start, processor = time.perf_counter(), time.process_time()
    call(*arguments)
    return time.perf_counter() - start, time.process_time() - processor


def seconds(call: Callable[[], Any]) -> float:
    """Return wall time alone."""
    return timed(call)[0]


def cell_of_one_second() -> Cell:
    """Return a cell whose blocks take about one second, on this machine."""
    cell = make_cell(rounds=50)
    direct(cell, 0, 64)  # warm
    return replace(cell, rounds=max(1, round(50 / seconds(lambda: direct(cell, 0, 64)))))


@contextmanager
def claimed() -> Iterator[StudyFolder]:
    """A new folder of a study, removed in the end."""
    with tempfile.TemporaryDirectory() as place:
        folder = StudyFolder(Path(place) / "study")
        folder.claim(Named())
        yield folder


def direct(cell: Cell, first: int, stop: int) -> None:
    """What somebody would write without the study runner."""
    with threadpool_limits(limits=1):
        world = build_world(cell.world, stop).block(first, stop)
        run(
            build_learner(cell.learner),
            world,
            rounds=cell.rounds,
            seed=cell.seed,
            block=cell.block,
            first_replica=first,
        )


def overhead(_: int) -> dict[str, float]:
    """Compute blocks with and without the study runner, in turn, at about one second a block."""
    cell = cell_of_one_second()
    ours, theirs = [], []
    with claimed() as folder:
        for k in range(10):
            task = folder.tasks([replace(cell, seed=k)])[k % 4]
            calls = [
                lambda task=task: theirs.append(timed(direct, task.cell, task.first, task.stop)),
                lambda task=task: ours.append(timed(compute, task)),
            ]
            for call in calls if k % 2 else calls[::-1]:
                call()
    wall, processor = (
        100 * (statistics.median(a[i] / b[i] for a, b in zip(ours, theirs, strict=True)) - 1)
        for i in (0, 1)
    )
    return {
        "direct_seconds": statistics.median(t[0] for t in theirs),
        "compute_and_write_seconds": statistics.median(t[0] for t in ours),
        "overhead_percent": wall,
        "overhead_percent_of_processor_time": processor,
        "goal_at_most": 5.0,
    }


def filled(folder: StudyFolder, cells: list[Cell]) -> None:
    """Fill a folder with blocks that are whole but for their numbers, which are all the same."""
    cell = cells[0]
    world = build_world(cell.world, cell.block)
    trace = run(build_learner(cell.learner), world, rounds=cell.rounds, block=cell.block)
    with folder.running():
        for task in folder.tasks(cells):
            table = block_table(task.cell, task.first, task.stop, trace)
            task.path.parent.mkdir(exist_ok=True)
            task.path.write_bytes(encode(table, REPEATED))
            file = task.path.stat()
            outcome = Outcome(
                name=task.name,
                state="done",
                seconds=1.0,
                size=file.st_size,
                modified=file.st_mtime_ns,
                about=about_of(table),
            )
            folder.note(outcome)
    folder.close()


def resume(blocks: int) -> dict[str, float]:
    """Look through a finished study, with and without its journals; read it, compact it."""
    with claimed() as folder:
        cells = [make_cell(rounds=20, seed=k) for k in range(max(1, blocks // 4))]
        filled(folder, cells)

        def again() -> None:
            here = StudyFolder(folder.path)
            here.claim(Named())
            if here.look(cells).todo:
                message = "A finished study must have nothing left."
                raise RuntimeError(message)
            here.close()

        found = {"blocks": float(len(folder.tasks(cells)))}
        found["resume_seconds"] = seconds(again)
        found["resume_goal_at_most"] = 3.0
        shutil.rmtree(folder.path / "journal")
        found["resume_without_journals_seconds"] = seconds(again)
        found["read_blocks_seconds"] = seconds(lambda: StudyFolder(folder.path).read(cells))
        found["compact_seconds"] = seconds(lambda: StudyFolder(folder.path).compact(cells))
        found["read_compacted_seconds"] = seconds(lambda: StudyFolder(folder.path).read(cells))
        found["rows"] = float(len(folder.read(cells, ["gap"])))
    return found


def commands(blocks: int) -> dict[str, float]:
    """Have `run` and `status` look through a finished study: seconds, and the most memory."""
    study = Study(
        name="many",
        worlds=[WORLD],
        learners=[LEARNER],
        seed={"grid": list(range(200))},
        replicas=max(1, blocks // 200),
        block=1,
        rounds=1,
    )
    found: dict[str, float] = {"blocks": 200.0 * study.replicas}
    with tempfile.TemporaryDirectory() as place:
        folder, file = StudyFolder(Path(place) / "study"), Path(place) / "many.toml"
        folder.claim(study)
        filled(folder, study.cells())
        seeds, replicas = list(range(200)), study.replicas
        file.write_text(
            f'format = 2\nname = "many"\nseed = {{ grid = {seeds} }}\nreplicas = {replicas}\n'
            f"block = 1\nrounds = 1\n[[world]]\n{_toml(WORLD)}[[learner]]\n{_toml(LEARNER)}"
        )
        for name, words in (
            ("first_run", ["run", str(file), "--out", str(folder.path), "--quiet"]),
            ("run", ["run", str(file), "--out", str(folder.path), "--quiet"]),
            ("status", ["status", str(folder.path)]),
        ):
            found |= {f"{name}_{what}": value for what, value in _cost(words).items()}
    return found | {"goal_seconds_at_most": 20.0, "goal_megabytes_at_most": 1000.0}


def _toml(entry: Mapping[str, Any]) -> str:
    values = {k: v["kind"] if isinstance(v, dict) else v for k, v in entry.items()}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _cost(words: list[str]) -> dict[str, float]:
    """Run the command; return its seconds and the most memory that it had."""
    program = "import sys; from rlhf_theory.cli import main; main(sys.argv[1:])"
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.DEVNULL
    ) as run:
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        message = f"{words[0]} must find all blocks done; it ended with {run.returncode}."
        raise RuntimeError(message)
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "megabytes": usage.ru_maxrss / 1024,
    }


def workers(_: int) -> dict[str, float]:
    """Run sixteen blocks of about one second with one and with two local workers."""
    cell = cell_of_one_second()
    found = {}
    for jobs in (1, 2):
        with claimed() as folder:
            cells = [replace(cell, seed=k) for k in range(4)]
            tasks = folder.tasks(cells)
            found[f"seconds_{jobs}"] = seconds(lambda: sent(tasks, jobs, folder))  # noqa: B023
    found["speed_up"] = found["seconds_1"] / found["seconds_2"]
    found["goal_at_least"] = 1.8
    return found


def sent(tasks: list[Task], jobs: int, folder: StudyFolder) -> None:
    """Run tasks on the local backend, starting its workers included."""
    tally = execute(tasks, make_backend("local", {}), jobs=jobs, folder=folder)
    if tally.done != len(tasks):
        message = f"All tasks must be done; got {tally}."
        raise RuntimeError(message)


def pilot(_: int) -> dict[str, float]:
    """Compare the estimate before a run with the run."""
    cells = [
        make_cell(rounds=60),
        make_cell(rounds=60, learner={"kind": "online-iterative", "batch_size": 32}),
        make_cell(learner={"kind": "offline-greedy"}, rounds=None, pairs=(100, 1000, 10_000)),
    ]
    with claimed() as folder:
        tasks = folder.tasks(cells)
        start = time.perf_counter()
        guess = estimate(tasks, 1)
        spent = time.perf_counter() - start
        truth = sum(compute(task).seconds for task in tasks)
    return {
        "estimated_seconds": guess.total,
        "measured_seconds": truth,
        "estimate_over_truth": guess.total / truth,
        "seconds_for_the_estimate": spent,
        "goal_at_most_about": 5.0,
    }


PARTS = {
    "overhead": overhead,
    "resume": resume,
    "commands": commands,
    "workers": workers,
    "pilot": pilot,
}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--blocks", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args()
    results = {}
    for name in args.only:
        results[name] = PARTS[name](args.blocks)
        show(name, results[name])
    finish(results, args.out)


if __name__ == "__main__":
    main()
