"""A learner that gets into trouble on cue, and a study of it: real blocks, real processes.

Cues are files in the folder that the environment variable ``RLHF_TEST_CUES`` names; they are no
settings, so a block in trouble has the key, and must get the bits, of one without. Only the block
with tag 1 and 2 replicas heeds them:

* ``die-once``: whoever removes the file kills its own process
* ``die``: kills its own process as long as the file is there
* ``raise``: raises as long as the file is there
* ``wait``: leaves its process number in ``waits.<number>`` and waits until the file is gone

Run as a program, it runs the study: ``python -m tests.helpers.cued FOLDER BACKEND``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_theory.algorithms import OnlineIterative
from rlhf_theory.engine.backends import BackendError
from rlhf_theory.study import Study

CUES = "RLHF_TEST_CUES"
LAST = 2
"""Replicas of the last block, which is smaller than the others."""

BLOCKS = 6


@dataclass(frozen=True, kw_only=True)
class Cued:
    """The online-iterative learner, after what the cues say."""

    tag: int = 0
    inner: OnlineIterative = field(default_factory=lambda: OnlineIterative(batch_size=4))

    def init(self, problem: Any, data: Any, key: Any) -> Any:
        if self.tag == 1 and problem.n_replicas == LAST:
            heed()
        return self.inner.init(problem, data, key)

    def step(self, state: Any, problem: Any, feedback: Any, key: Any) -> tuple[Any, Mapping]:
        return self.inner.step(state, problem, feedback, key)

    def policy(self, state: Any) -> Any:
        return self.inner.policy(state)


def heed() -> None:
    """Do what the cues say."""
    folder = os.environ.get(CUES)
    if not folder:
        return
    cues = Path(folder)
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


def cued_study(seed: int = 0) -> Study:
    """Return a study of six blocks, of a hundredth of a second each."""
    return Study(
        name="cued",
        seed=seed,
        worlds=[{"kind": "linear", "contexts": 3, "actions": 3, "dim": 2}],
        learners=[
            {"kind": "tests.helpers.cued:Cued", "label": f"tag {tag}", "tag": tag} for tag in (0, 1)
        ],
        rounds=10,
        replicas=10,
        block=4,
    )


def main(folder: str, backend: str) -> int:
    options = {"cluster": "local"} if backend == "slurm" else {}
    try:
        result = cued_study().run(folder, backend=backend, options=options, jobs=2, quiet=True)
    except KeyboardInterrupt:
        return 130
    except BackendError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    tally = result.tally
    sys.stdout.write(f"{tally}\n")
    return 1 if tally.failed or tally.left else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
