"""Traces: every learner in every world, every confidence rule, hybrid runs and coverage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.golden import api
from tests.golden.api import bandit, enhancer, learner, rule

Case = Callable[[], dict[str, Any]]

SMALL = {"contexts": 4, "actions": 4, "dim": 3, "eta": 0.3, "replicas": 5, "seed": 3}
FRESH = {**SMALL, "contexts": None}
BLOCK = 3
"""Five replicas in blocks of three: every run has two."""

WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", SMALL),
    "linear own": ("linear", {**SMALL, "instances": "own", "reference": "dirichlet"}),
    "linear peaked": (
        "linear",
        {**SMALL, "reference": "peaked", "decay": 1.5, "scale": 2.0},
    ),
    "linear fresh": ("linear", FRESH),
    "linear fresh own": ("linear", {**FRESH, "instances": "own", "reference": "dirichlet"}),
    "linear wide": ("linear", {**SMALL, "contexts": 12, "actions": 40}),
    "linear vast": ("linear", {**SMALL, "contexts": 1000, "actions": 12}),
    "misspecified": ("misspecified", SMALL),
    "misspecified fresh": ("misspecified", FRESH),
    "annotators": ("annotators", SMALL),
    "annotators probability": (
        "annotators",
        {**SMALL, "types": 2, "weights": [0.9, 0.1], "game": "probability"},
    ),
    "annotators fresh own": (
        "annotators",
        {**FRESH, "instances": "own", "reference": "dirichlet"},
    ),
    "intransitive": ("intransitive", {**SMALL, "cycle": 1.0}),
    "intransitive own": (
        "intransitive",
        {
            **SMALL,
            "cycle": 5.0,
            "instances": "own",
            "reference": "dirichlet",
            "game": "probability",
        },
    ),
    "intransitive transitive": ("intransitive", {**SMALL, "cycle": 0.0}),
    "annotator-cycle": ("annotator-cycle", {"replicas": 5}),
    "greedy-failure": ("greedy-failure", {"replicas": 5}),
    "chi-squared": ("chi-squared", {"replicas": 5}),
    "tie-cycle": ("tie-cycle", {"replicas": 5, "shift": 0.05}),
}

SET = {"kind": "constant", "beta": 0.5}
BATCH = 6


def _online(kind: str, batch_size: int = BATCH, **parts: Any) -> Any:
    """A learner that asks; an enhancer is given as its kind and settings, a radius too."""
    made = {"radius": rule(**SET), "batch_size": batch_size}
    for name, (part, settings) in parts.items():
        made[name] = (rule if name == "radius" else enhancer)(part, **settings)
    return learner(kind, **made)


OFFLINE: dict[str, Callable[[], Any]] = {
    "offline-greedy": partial(learner, "offline-greedy"),
    "offline-greedy ball": partial(learner, "offline-greedy", theta_bound=1.0),
    "offline-pessimistic I": lambda: learner("offline-pessimistic", radius=rule(**SET), option="I"),
    "offline-pessimistic II": lambda: learner("offline-pessimistic", radius=rule(**SET)),
    "ensemble-minimum": partial(learner, "ensemble-minimum"),
    "uncertainty-weighted": partial(learner, "uncertainty-weighted"),
    "offline-pessimistic-nash": lambda: learner("offline-pessimistic-nash", radius=rule(**SET)),
}

_FEW = {"n_random": 1, "contexts": 16}

ONLINE: dict[str, Callable[[], Any]] = {
    **{
        f"online-iterative optimistic {form}": partial(
            _online, "online-iterative", enhancer=("optimistic", {"form": form, **_FEW})
        )
        for form in ("constrained", "penalised", "free")
    },
    **{
        f"online-iterative {kind}": partial(_online, "online-iterative", enhancer=(kind, {}))
        for kind in ("from-reference", "on-policy", "uniform")
    },
    **{
        f"same-law-pairs {kind}": lambda kind=kind: learner(
            "same-law-pairs",
            sampler=enhancer(kind),
            learner=_online("online-iterative", enhancer=("from-reference", {})),
        )
        for kind in ("uniform", "from-reference", "on-policy")
    },
    **{
        f"nash-game {kind}": partial(_online, "nash-game", enhancer=(kind, settings))
        for kind, settings in {
            "information-ratio": _FEW,
            "from-reference": {},
            "on-policy": {},
            "uniform": {},
        }.items()
    },
    "nash-game probability": lambda: learner(
        "nash-game", game="probability", enhancer=enhancer("on-policy"), batch_size=BATCH
    ),
}

_KNOWN = {"theta_bound": 1.0}

RULES: dict[str, Callable[[], Any]] = {
    "constant": partial(rule, "constant", beta=0.7, lam=0.5, scale=2.0),
    **{
        kind: partial(rule, kind, multiplier=0.1, **_KNOWN)
        for kind in (
            "fixed-design",
            "global-fixed-design",
            "adaptive",
            "global-adaptive",
            "adaptive-ridge",
            "likelihood-ratio",
            "marginal-likelihood",
            "wald",
        )
    },
    **{f"{kind} whole": partial(rule, kind) for kind in ("adaptive", "likelihood-ratio", "wald")},
    **{
        f"{kind} likelihood": partial(rule, kind, multiplier=0.3, form="likelihood")
        for kind in ("likelihood-ratio", "marginal-likelihood", "wald")
    },
    "marginal-likelihood importance": partial(
        rule, "marginal-likelihood", multiplier=0.3, integral="importance", n_draws=50
    ),
    **{
        f"{kind} scaled": partial(rule, kind, multiplier=0.1, scale=2.0, lam=0.5, z_max=3.0)
        for kind in ("fixed-design", "adaptive", "adaptive-ridge", "wald")
    },
}


def offline_run(make: Callable[[], Any], world: str, **more: Any) -> dict[str, np.ndarray]:
    kind, settings = WORLDS[world]
    settings = {**settings, **{k: more.pop(k) for k in ("coverage", "replicas") if k in more}}
    given = {"pairs": [0, 7, 60], "seed": 2, "block": BLOCK} | more
    return api.run(make(), bandit(kind, **settings), **given)


def online_run(make: Callable[[], Any], world: str, **more: Any) -> dict[str, np.ndarray]:
    kind, settings = WORLDS[world]
    settings = {**settings, **{k: more.pop(k) for k in ("coverage", "replicas") if k in more}}
    given = {"rounds": 4, "seed": 2, "block": BLOCK} | more
    return api.run(make(), bandit(kind, **settings), **given)


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for world in WORLDS:
        for name, make in OFFLINE.items():
            found[f"runs/{world}/{name}"] = partial(offline_run, make, world)
        for name, make in ONLINE.items():
            found[f"runs/{world}/{name}"] = partial(online_run, make, world)
    for world in ("linear peaked", "linear fresh", "annotators", "intransitive own", "chi-squared"):
        for name, make in OFFLINE.items():
            found[f"coverage/{world}/{name}"] = partial(
                offline_run, make, world, coverage=0.5, pairs=[5, 4000], block=2
            )
        for name, make in ONLINE.items():
            found[f"hybrid/{world}/{name}"] = partial(
                online_run, make, world, coverage=0.25, pairs=20, rounds=3, seed=4
            )
    for world in ("linear own", "linear fresh", "intransitive"):
        for name, make in RULES.items():
            by_likelihood = "likelihood" in name.split()[1:]
            if by_likelihood and world == "linear fresh":
                continue  # minutes: a convex program for every action of every context
            for kind in ("offline-pessimistic", "offline-pessimistic-nash"):
                found[f"rules/{world}/{kind}/{name}"] = partial(
                    offline_run,
                    lambda kind=kind, make=make: learner(kind, radius=make()),
                    world,
                    pairs=[7, 80],
                )
            if by_likelihood:
                continue  # a set that is no ellipsoid has no bonus for an enhancer
            for kind, explores in (
                ("online-iterative", "optimistic"),
                ("nash-game", "information-ratio"),
            ):
                found[f"rules/{world}/{kind}/{name}"] = partial(
                    online_run,
                    lambda kind=kind, make=make, explores=explores: learner(
                        kind, radius=make(), batch_size=BATCH, enhancer=enhancer(explores, **_FEW)
                    ),
                    world,
                    rounds=3,
                )
    return found


def small_cases() -> dict[str, Case]:
    """Short runs of every learner and every rule, for the test."""
    found: dict[str, Case] = {}
    short = {"replicas": 2, "block": 1}
    for world in ("linear own", "linear fresh", "intransitive"):
        for name, make in OFFLINE.items():
            found[f"runs/{world}/{name}"] = partial(
                offline_run, make, world, pairs=[7, 60], coverage=0.25, **short
            )
        for name, make in ONLINE.items():
            found[f"runs/{world}/{name}"] = partial(
                online_run, make, world, rounds=2, pairs=5, **short
            )
    for name, make in RULES.items():
        found[f"rules/linear own/{name}"] = partial(
            offline_run,
            lambda make=make: learner("offline-pessimistic", radius=make()),
            "linear own",
            pairs=[40],
            **short,
        )
    return found
