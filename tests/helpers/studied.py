"""A small study that has run, for tests of what is made of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf_theory.study import Study, StudyResult

TOML = """\
format = 2
name = "small"
title = "Two learners in two worlds"
seed = 3
replicas = 12
block = 5
rounds = 6
pairs = [5, 40]

[record]
grid = "all"

[[world]]
kind = "linear"
label = "easy"
family = "rewards"
contexts = 3
actions = 4
dim = { grid = [2, 3] }

[[world]]
kind = "intransitive"
label = "game"
family = "games"
contexts = 3
actions = 4
dim = 2

[[learner]]
kind = "offline-greedy"
label = "greedy"

[[learner]]
kind = "online-iterative"
label = "GSHF"
batch_size = 8
enhancer = "from-reference"

[[plot]]
kind = "suboptimality"
facet = "world"

[quick]
replicas = 4
block = 4
rounds = 2
pairs = [5]
"""

WORLDS = ("easy dim=2", "easy dim=3", "game")


def small_file(folder: Path) -> Path:
    """Write the study file."""
    path = folder / "small.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def small_result(folder: Path, **options: Any) -> StudyResult:
    """Run the study in this process; the result lies in ``folder/out``."""
    study = Study.from_toml(small_file(folder))
    settings = {"backend": "serial", "jobs": 1, "quiet": True, "toml": TOML, **options}
    return study.run(folder / "out", **settings)
