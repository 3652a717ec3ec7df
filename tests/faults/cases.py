"""What is computed in the tests of faults: a study, a theorem card, trainings of a language model.

Each has tasks of which one gets into trouble on cue. Cues are files in the folder that the
environment variable ``RLHF_TEST_CUES`` names; they are no settings, so a task in trouble has the
identity, and must get the bits, of one without:

* ``die-once``: whoever removes the file kills its own process
* ``die``: kills its own process as long as the file is there
* ``raise``: raises as long as the file is there
* ``wait``: leaves its process number in ``waits.<number>`` and waits until the file is gone

As a program it gives the command that computes a case: ``python -m tests.faults.cases CASE FOLDER
BACKEND``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

from rlhf_theory.algorithms import OnlineIterative
from rlhf_theory.randomness import Key
from rlhf_theory.store import read_json
from rlhf_theory.study import Study
from rlhf_theory.theorems.reproduce import reproduce
from tests.helpers.fake_theorems import fake, registered

CUES = "RLHF_TEST_CUES"
MODEL = "RLHF_TEST_MODEL"
"""Names the folder of a tiny model, which has prompts beside its files."""

HERE = "tests.faults.cases"


def heed() -> None:
    """Do what the cues say."""
    folder = os.environ.get(CUES)
    if not folder:
        return
    cues = Path(folder)
    with (cues / "heeded").open("a") as stream:
        stream.write(".")
    if (cues / "wait").exists():
        (cues / f"waits.{os.getpid()}").touch()
    while (cues / "wait").exists():
        time.sleep(0.01)
    if (cues / "raise").exists():
        message = "raised on cue"
        raise ArithmeticError(message)
    try:
        (cues / "die-once").unlink()
    except FileNotFoundError:
        if not (cues / "die").exists():
            return
    os.kill(os.getpid(), signal.SIGKILL)


# ---- who gets into trouble


@dataclass(frozen=True, kw_only=True)
class Cued:
    """The online-iterative learner; the last block of tag 1, which is smaller, heeds the cues."""

    tag: int = 0
    inner: OnlineIterative = field(default_factory=lambda: OnlineIterative(batch_size=4))

    def init(self, problem: Any, data: Any, key: Any) -> Any:
        if self.tag == 1 and problem.n_replicas == 2:
            heed()
        return self.inner.init(problem, data, key)

    def step(self, state: Any, problem: Any, feedback: Any, key: Any) -> tuple[Any, Mapping]:
        return self.inner.step(state, problem, feedback, key)

    def policy(self, state: Any) -> Any:
        return self.inner.policy(state)


def measured(sweep: Any, part: Any, key: Key) -> pd.DataFrame:
    """Return the numbers of a part; that with 100 pairs heeds the cues."""
    n = part.settings["pairs"]
    if n == 100:
        heed()
    gap = key.child("gap", n).uniform_numpy(sweep["replicas"], 1).mean()
    return pd.DataFrame({"pairs": [n], "gap": [gap / n]})


@dataclass(frozen=True, kw_only=True)
class CuedPlanner:
    """Trains by DPO; that of replica 1 heeds the cues after its first step and checkpoint."""

    folder: str | Path | None = field(default=None, repr=False)

    def __call__(self, model: Any, problem: Any, key: Any, start: Any = None) -> Any:
        from llm_bridge.planning.planners import DPOPlanner  # noqa: PLC0415
        from llm_bridge.training.trainer import PreferenceTrainer  # noqa: PLC0415

        original = PreferenceTrainer.training_step

        def step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            if problem.seed == 1 and trainer.state.global_step == 1:
                heed()
            return original(trainer, *args, **kwargs)

        inner = DPOPlanner(steps=3, learning_rate=1e-3, checkpoint_every=1, folder=self.folder)
        with mock.patch.object(PreferenceTrainer, "training_step", step):
            return inner(model, problem, key, start)


def reward(_prompt: str, response: str) -> float:
    return 0.3 * len(response.split())


STUDY = """\
format = 2
name = "study"
rounds = 10
replicas = 10
block = 4
world = [{ kind = "linear", contexts = 3, actions = 3, dim = 2 }]
learner = [{ kind = "tests.faults.cases:Cued", tag = { grid = [0, 1] } }]
"""

TRAINING = """\
format = 2
name = "training"
rounds = 2
replicas = 2

[[world]]
kind = "prompts"
prompts = "MODEL/prompts.txt"
model = "MODEL"
labels = "tests.faults.cases:reward"
features = { dim = 3 }
pool_size = 3
max_new_tokens = 6
samples = 0
held_out = 0.0
replicas = 2

[[learner]]
kind = "online-iterative"
batch_size = 8
planner = { kind = "tests.faults.cases:CuedPlanner" }
"""


# ---- how it is computed, and what comes out


@dataclass(frozen=True)
class Case:
    """Something that the engine computes.

    Attributes
    ----------
    run
        Computes it into a folder, on a backend, with options; returns why it stopped, "" at an end.
    arguments
        Those of the command that computes it into a folder, on a backend.
    results
        What comes out, without times.
    tasks
        Patterns of the files of finished tasks.
    """

    run: Callable[..., str]
    arguments: Callable[[Path, str], list[str]]
    results: Callable[[Path], dict[str, object]]
    tasks: tuple[str, ...]

    def done(self, folder: Path) -> list[Path]:
        """Return the files of finished tasks."""
        return sorted(path for pattern in self.tasks for path in folder.glob(pattern))


def _contents(folder: Path, *patterns: str) -> dict[str, object]:
    paths = [path for pattern in patterns for path in folder.glob(pattern)]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.is_file()}


def _study_file(text: str, folder: Path) -> Path:
    file = folder.with_name(f"{folder.name}.toml")
    file.write_text(text.replace("MODEL", os.environ.get(MODEL, "")))
    return file


def study_case(text: str, jobs: int, *tasks: str) -> Case:
    """Return the case of a study file, computed by so many workers."""

    def run(folder: Path, backend: str, **options: object) -> str:
        if backend == "slurm":
            options["options"] = {"cluster": "local", "group": 3}
        study = Study.from_toml(_study_file(text, folder))
        done = study.run(folder, backend=backend, jobs=jobs, quiet=True, **options)
        return done.tally.stopped

    def arguments(folder: Path, backend: str) -> list[str]:
        more = ["--option", "cluster=local"] if backend == "slurm" else []
        file = str(_study_file(text, folder))
        return ["run", file, "--out", str(folder), "--backend", backend, "--jobs", str(jobs), *more]

    def results(folder: Path) -> dict[str, object]:
        weights = ("cells/*/r*.files/model/*.safetensors", "kept/trainings/*/model/*.safetensors")
        found = _contents(folder, "cells/*/r*.parquet", "curves.parquet", *weights)
        for path in folder.glob("kept/trainings/*/result.json"):
            found[path.parent.name] = (read_json(path) or {})["losses"]
        return found

    return Case(run, arguments, results, ("cells/*/r*.parquet", *tasks))


def card() -> Any:
    """Return a theorem in five parts."""
    made = fake("card", Path("unused"), cut=True, measure=measured)
    return replace(made, quick={**made.quick, "pairs": [10, 20, 50, 100, 200]})


def _run_card(folder: Path, backend: str, **options: object) -> str:
    said: list[str] = []
    if backend == "slurm":
        options["options"] = {"cluster": "local", "group": 3}
    options.pop("retry_failed", None)  # a card that has failed is always tried again
    reproduce([card()], folder, backend=backend, jobs=2, say=said.append, **options)
    return " ".join(line for line in said if "disk is full" in line or "is refused" in line)


def _card_arguments(folder: Path, backend: str) -> list[str]:
    more = ["--option", "cluster=local"] if backend == "slurm" else []
    return ["reproduce", "--out", str(folder), "--backend", backend, "--jobs", "2", *more]


def _card_results(folder: Path) -> dict[str, object]:
    verdict = json.loads((folder / "card" / "verdict.json").read_text())
    del verdict["seconds"], verdict["digest"]
    return {**_contents(folder, "card/[cf]*"), "verdict": verdict}


CASES = {
    "study": study_case(STUDY, 2),
    "card": Case(
        _run_card, _card_arguments, _card_results, ("card/parts/*.parquet", "card/verdict.json")
    ),
    "training": study_case(TRAINING, 1, "kept/trainings/*/result.json"),
}


if __name__ == "__main__":
    from rlhf_theory.cli import main
    from tests.faults import cases  # as a module, which workers can import

    with registered(cases.card()):
        main(cases.CASES[sys.argv[1]].arguments(Path(sys.argv[2]), sys.argv[3]))
