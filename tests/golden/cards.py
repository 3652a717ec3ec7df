"""The curves of the theorem cards, and the block tables of a study with every kind of learner."""

from __future__ import annotations

from functools import partial

from tests.golden import api
from tests.golden.runs import Case

STUDY = """\
format = 2
name = "golden"
title = "Every kind of learner"
seed = 3
replicas = 5
block = 3
rounds = 6
pairs = [5, 40]

[record]
grid = "all"

[[world]]
kind = "linear"
label = "easy"
family = "rewards"
metric = "gap"
contexts = 3
actions = 4
dim = { grid = [2, 3] }
reference = "peaked"

[[world]]
kind = "intransitive"
label = "game"
family = "games"
metric = "exploitability"
contexts = 3
actions = 4
dim = 2

[[learner]]
kind = "offline-greedy"
label = "greedy"

[[learner]]
kind = "offline-pessimistic"
label = "pessimistic"
radius = { kind = "scaled", multiplier = 0.1, rule = { kind = "adaptive", theta_bound = 1.0 } }

[[learner]]
kind = "ensemble-minimum"
label = "ensemble minimum"

[[learner]]
kind = "uncertainty-weighted"
label = "UWO"
coverage = 0.3

[[learner]]
kind = "offline-pessimistic-nash"
label = "pessimistic Nash"
radius = { kind = "constant", beta = 0.3 }

[[learner]]
kind = "online-iterative"
label = "GSHF"
batch_size = 8
enhancer = { kind = "optimistic", form = "constrained" }

[[learner]]
kind = "online-iterative"
label = "hybrid"
batch_size = 8
offline_pairs = 20
coverage = 0.5
enhancer = "from-reference"

[[learner]]
kind = "same-law-pairs"
label = "uniform pairs"
learner = { kind = "online-iterative", batch_size = 8 }
sampler = "uniform"

[[learner]]
kind = "nash-game"
label = "Nash"
batch_size = 8
enhancer = "information-ratio"
"""


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {f"cards/{name}": partial(api.card, name) for name in api.CARDS}
    found["study/tables"] = partial(api.study, STUDY)
    found["study/log grid"] = partial(
        api.study, STUDY.replace('grid = "all"', 'grid = "log"\npoints = 4')
    )
    return found


def small_cases() -> dict[str, Case]:
    """A short study and two cards with few replicas, for the test."""
    short = STUDY.replace(
        "replicas = 5\nblock = 3\nrounds = 6", "replicas = 2\nblock = 1\nrounds = 2"
    )
    return {
        "study/tables": partial(api.study, short.replace("{ grid = [2, 3] }", "2")),
        "cards/online-against-offline": partial(api.card, "online-against-offline", replicas=2),
        "cards/fast-rates": partial(api.card, "fast-rates", replicas=2),
    }
