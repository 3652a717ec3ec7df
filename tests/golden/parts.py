"""Parts: losses, planners on random contexts, and what worlds say about themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tests.golden import api
from tests.golden.runs import WORLDS, Case

# ---------------------------------------------------------------- losses

LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo", {"beta": 0.7}),
    "cdpo": ("cdpo", {"beta": 0.7, "smoothing": 0.15}),
    "robust-dpo": ("robust-dpo", {"beta": 0.7, "smoothing": 0.15}),
    "r-dpo": ("r-dpo", {"beta": 0.7, "alpha": 0.05}),
    **{
        f"f-dpo {d}": ("f-dpo", {"beta": 0.7, "divergence": d})
        for d in ("reverse-kl", "forward-kl", "js", "chi2-kl")
    },
    "f-dpo alpha": ("f-dpo", {"beta": 0.7, "divergence": "alpha", "alpha": 0.4}),
    "chi-po": ("chi-po", {"beta": 0.7, "r_max": 3.0}),
    "xpo": ("xpo", {"beta": 0.7, "alpha": 0.1}),
    "vpo online": ("vpo", {"beta": 0.7, "alpha": 0.1, "direction": "online"}),
    "vpo offline": ("vpo", {"beta": 0.7, "alpha": 0.1, "direction": "offline"}),
    "ipo": ("ipo", {"tau": 0.3}),
    "ipo-per-token": ("ipo-per-token", {"tau": 0.3}),
    "inpo": ("inpo", {"tau": 0.3, "step": 0.8}),
    **{
        name: (name, {"beta": 0.7})
        for name in ("hinge", "squared-hinge", "exponential", "savage", "nca-pair", "bco", "sppo")
    },
    "sppo-hard": ("sppo-hard", {"beta": 0.7}),
    "exo": ("exo", {"beta": 0.7, "smoothing": 0.05}),
    "kto": ("kto", {"beta": 0.7, "desirable": 1.2, "undesirable": 0.9}),
    "cpo": ("cpo", {"beta": 0.7, "lam": 0.3}),
    "simpo": ("simpo", {"beta": 0.7, "gamma": 0.4}),
    "orpo": ("orpo", {"lam": 0.3}),
    "slic-hf": ("slic-hf", {"delta": 0.8, "lam": 0.3}),
    "infonca": ("infonca", {"beta": 0.7, "alpha": 0.6}),
    "nca": ("nca", {"beta": 0.7, "alpha": 0.6}),
    "rrhf": ("rrhf", {"lam": 0.5}),
}

PLANNING = {
    "xpo": {"alpha": 0.1},
    "vpo": {"alpha": 0.1, "direction": "online"},
    "f-dpo": {"divergence": "js"},
    "chi-po": {"r_max": 3.0},
}
"""What `planning` needs besides the weight of the KL."""


def random_pairs(n: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Everything that a comparison can have, shape ``(n,)``."""
    draw = np.random.default_rng(seed)
    a = {f"length_{s}": draw.integers(1, 9, n).astype(float) for s in "wl"}
    for s in "wl":
        a[f"log_ref_{s}"] = -a[f"length_{s}"] * draw.uniform(0.2, 2.0, n)
        a[f"log_pi_{s}"] = a[f"log_ref_{s}"] * draw.uniform(0.5, 1.5, n)
        a[f"win_{s}"] = draw.uniform(0.0, 1.0, n)
    a["margin"] = draw.normal(0.0, 0.5, n)
    a["z0"] = np.full(n, 0.1)
    a["log_pi_sample"] = -draw.uniform(0.5, 5.0, n)
    return a


def random_groups(n: int = 4, k: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Everything that a group can have, shape ``(n, K)``."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 9, (n, k)).astype(float)
    log_ref = -lengths * draw.uniform(0.2, 2.0, (n, k))
    log_pi = log_ref * draw.uniform(0.5, 1.5, (n, k))
    rewards = draw.normal(0.0, 1.0, (n, k))
    return {"log_pi": log_pi, "log_ref": log_ref, "lengths": lengths, "rewards": rewards}


def losses_of(loss: Any) -> dict[str, np.ndarray]:
    """Values and gradients of a loss on random responses; of pairs also under soft labels."""
    fields = api.LOSS_FIELDS[loss.takes]
    further = [name for what in loss.needs | loss.accepts for name in fields[what]]
    if loss.takes == "groups":
        arrays = random_groups()
        given = {name: arrays[name] for name in ("log_pi", "rewards", *further)}
        found = api.loss_and_gradients(loss, given)
        return {**found, "value numpy": np.asarray(loss(api.groups(**given)))}
    arrays = random_pairs()
    given = {name: arrays[name] for name in ("log_pi_w", "log_pi_l", *further)}
    p = np.linspace(0.0, 1.0, arrays["margin"].size)
    found = api.loss_and_gradients(loss, given)
    soft = api.loss_and_gradients(loss, given, p)
    return {
        **found,
        **{f"soft {name}": value for name, value in soft.items()},
        "value numpy": np.asarray(loss(api.comparisons(**given))),
    }


def made_loss(kind: str, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    return losses_of(api.make_loss(kind, **settings))


def other_losses() -> dict[str, tuple[str, dict[str, Any]]]:
    """The losses of the register that are not in the list, by their examples."""
    listed = {kind for kind, _ in LOSSES.values()}
    return {
        f"{kind} {k}" if k else kind: (kind, dict(settings))
        for kind, examples in api.LOSSES.items()
        for k, settings in enumerate(examples)
        if kind not in listed
    }


def planned_loss(name: str, eta: float) -> dict[str, Any]:
    loss = api.planning_loss(name, eta, **PLANNING.get(name, {}))
    return {**losses_of(loss), "settings": repr(loss)}


# ---------------------------------------------------------------- planners


def random_problem(absent: bool) -> Any:
    """A random finite problem of three replicas, with a few absent actions or none."""
    draw = np.random.default_rng(4)
    rows, x, a, d = 3, 4, 5, 3
    phi = draw.normal(size=(rows, x, a, d))
    p = draw.dirichlet(np.ones(a), size=(rows, x))
    if absent:
        p[:, 0, 1] = p[:, 1, 0] = p[:, 1, 3] = 0.0
    p /= p.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_pi0 = np.log(p)
    return api.finite_problem(phi, log_pi0, draw.dirichlet(np.ones(x), size=1), 0.3, rows)


def planned(name: str, absent: bool) -> dict[str, np.ndarray]:
    """Plans for random models, cold and from the first plan."""
    problem = random_problem(absent)
    return api.plans(name, problem, np.random.default_rng(5).normal(size=(3, 6)))


# ---------------------------------------------------------------- worlds


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for name, (kind, settings) in {**LOSSES, **other_losses()}.items():
        found[f"losses/make/{name}"] = partial(made_loss, kind, settings)
    for name in api.PLANNING_LOSSES:
        for eta in (0.05, 0.3, 1.0):
            found[f"losses/planning {eta}/{name}"] = partial(planned_loss, name, eta)
    for name in api.PLANNERS:
        for absent in (False, True):
            label = f"planners/{name}{' absent' if absent else ''}"
            found[label] = partial(planned, name, absent)
    for name, (kind, settings) in WORLDS.items():
        found[f"worlds/{name}"] = partial(api.about_world, kind, settings)
    return found


def small_cases() -> dict[str, Case]:
    """Every loss of the list once, made and planned, and every planner, for the test."""
    names = [f"losses/make/{name}" for name in LOSSES]
    names += [f"losses/planning 0.3/{name}" for name in api.PLANNING_LOSSES]
    names += [f"planners/{name} absent" for name in api.PLANNERS]
    every = cases()
    return {name: every[name] for name in names}
