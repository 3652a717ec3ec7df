"""Small cells of studies, and learners that misbehave in them."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf_theory.algorithms.enhancers import Uniform
from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.studies.cells import Cell

HERE = "tests.helpers.study_cells"

WORLD = {
    "kind": "linear", "contexts": 4, "actions": 3, "dim": 2, "eta": 0.2, "seed": 3,
    "instances": "own",
}  # fmt: skip


def online_cell(kind: str = "online-iterative", **changes: Any) -> Cell:
    """An online cell: five rounds, eight replicas in blocks of four, every round kept."""
    fast = {"batch_size": 8, "enhancer": {"kind": "from-reference"}}
    settings = changes.pop("learner", fast)
    world = {**WORLD, **changes.pop("world", {})}
    base = Cell(
        world=world,
        learner={"kind": kind, **settings},
        world_label="small",
        learner_label="A",
        family="linear",
        metric="gap",
        rounds=5,
        replicas=8,
        block=4,
        grid="all",
        points=None,
    )
    return replace(base, **changes)


def offline_cell(**changes: Any) -> Cell:
    """An offline cell: three numbers of pairs."""
    changes = {"learner": {}, "rounds": None, "pairs": (10, 40, 160), "coverage": 0.3, **changes}
    return online_cell("offline-greedy", **changes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Raising:
    """A learner that raises at once."""

    error: str = "ValueError"
    text: str = "no good"

    def init(self, problem, data, key):
        if self.error == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise {"ValueError": ValueError, "MemoryError": MemoryError}[self.error](self.text)

    def step(self, state, problem, feedback, key):
        raise NotImplementedError

    def policy(self, state):
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class Moody:
    """A learner whose batch size is in a file: the same settings, other results."""

    file: str = ""

    def _now(self) -> OnlineIterative:
        size = int(Path(self.file).read_text())
        return OnlineIterative(enhancer=Uniform(), radius=Constant(beta=1.0), batch_size=size)

    def init(self, problem, data, key):
        return self._now().init(problem, data, key)

    def step(self, state, problem, feedback, key):
        return self._now().step(state, problem, feedback, key)

    def policy(self, state):
        return self._now().policy(state)


@dataclass(frozen=True, eq=False, kw_only=True)
class Clashing:
    """A learner that reports a name which every table has, or that the world evaluates."""

    name: str = "regret"

    def init(self, problem, data, key):
        return OnlineIterative().init(problem, data, key)

    def step(self, state, problem, feedback, key):
        state, report = OnlineIterative().step(state, problem, feedback, key)
        return state, {**report, self.name: report["residual"]}

    def policy(self, state):
        return OnlineIterative().policy(state)


@dataclass(frozen=True, eq=False, kw_only=True)
class Odd:
    """A learner that reports one value too few."""

    def init(self, problem, data, key):
        return OnlineIterative().init(problem, data, key)

    def step(self, state, problem, feedback, key):
        state, report = OnlineIterative().step(state, problem, feedback, key)
        return state, {**report, "mine": report["residual"][1:]}

    def policy(self, state):
        return OnlineIterative().policy(state)


@dataclass(frozen=True, eq=False, kw_only=True)
class Silent:
    """A learner that reports nothing."""

    def init(self, problem, data, key):
        return OnlineIterative().init(problem, data, key)

    def step(self, state, problem, feedback, key):
        return OnlineIterative().step(state, problem, feedback, key)[0], {}

    def policy(self, state):
        return OnlineIterative().policy(state)


class Clock:
    """A clock that `Slow` and `SlowFit` move on."""

    now = 0.0

    def __call__(self) -> float:
        return Clock.now


@dataclass(frozen=True, eq=False, kw_only=True)
class Slow:
    """Takes ``start`` seconds before the rounds, and ``each`` per round and replica."""

    start: float = 0.5
    each: float = 0.001

    def init(self, problem, data, key):
        Clock.now += self.start
        return OnlineIterative().init(problem, data, key)

    def step(self, state, problem, feedback, key):
        Clock.now += self.each * problem.n_replicas
        return state, {}

    def policy(self, state):
        return OnlineIterative().policy(state)


@dataclass(frozen=True, eq=False, kw_only=True)
class SlowFit:
    """Takes ``start`` seconds per fit and ``each`` per label."""

    start: float = 0.5
    each: float = 0.001

    def __call__(self, problem, data, key):
        Clock.now += self.start + self.each * float(data.n_labels.mean())
        return OfflineGreedy()(problem, data, key)
