"""The only part of the golden record that calls the package: change it when the API changes.

Everything that leaves this file has the names of the record: rounds, pairs, labels, the speaking
kinds of confidence rules. ``labels`` of row ``t`` are those that the policy of row ``t`` has used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlhf_theory import losses, theorems, worlds
from rlhf_theory.algorithms import (
    EnsembleMinimum,
    NashGame,
    OfflineGreedy,
    OfflinePessimistic,
    OfflinePessimisticNash,
    OnlineIterative,
    UncertaintyWeighted,
    baselines,
    enhancers,
    game_enhancers,
)
from rlhf_theory.algorithms.offline_nash import PessimisticPreference
from rlhf_theory.arrays import to_numpy
from rlhf_theory.data import Contexts
from rlhf_theory.estimators import confidence
from rlhf_theory.experiments import run as run_package
from rlhf_theory.planners.argmax import Argmax
from rlhf_theory.planners.best_of_n import BestOfN
from rlhf_theory.planners.chi_squared import ChiSquared
from rlhf_theory.planners.gibbs import Gibbs
from rlhf_theory.planners.nash import Nash
from rlhf_theory.planners.option_one import ExpectedLowerBound, OptionOne
from rlhf_theory.planners.saddle import PessimisticNash
from rlhf_theory.policies import FunctionPolicy, ReferencePolicy, uniform_log_probs
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward, SkewBilinear
from rlhf_theory.studies.schema import Study
from rlhf_theory.studies.tables import read_block
from rlhf_theory.theorems.card import Silent

RULES = {
    "constant": confidence.Constant,
    "fixed-design": confidence.R1Prime,
    "global-fixed-design": confidence.R1,
    "adaptive": confidence.R2Prime,
    "global-adaptive": confidence.R2,
    "adaptive-ridge": confidence.R2Ridge,
    "likelihood-ratio": confidence.R3,
    "marginal-likelihood": confidence.R4,
    "wald": confidence.R5,
}

LEARNERS = {
    "offline-greedy": OfflineGreedy,
    "offline-pessimistic": OfflinePessimistic,
    "ensemble-minimum": EnsembleMinimum,
    "uncertainty-weighted": UncertaintyWeighted,
    "offline-pessimistic-nash": OfflinePessimisticNash,
    "online-iterative": OnlineIterative,
    "same-law-pairs": baselines.SameLawPairs,
    "nash-game": NashGame,
}

ENHANCERS = {
    "optimistic": enhancers.Optimistic,
    "from-reference": enhancers.FromReference,
    "on-policy": enhancers.OnPolicy,
    "uniform": enhancers.Uniform,
    "information-ratio": game_enhancers.InformationRatio,
}

REWARD_PLANNERS = {
    "gibbs": Gibbs,
    "argmax": Argmax,
    "best-of-n": partial(BestOfN, 4),
    "chi-squared": ChiSquared,
}
GAME_PLANNERS = {"nash": Nash, "pessimistic-nash": PessimisticNash}
PLANNERS = (*REWARD_PLANNERS, *GAME_PLANNERS, "option-one", "pessimistic-preference")

CARDS = theorems.NAMES

finite_problem = FiniteProblem
make_loss, planning_loss = losses.make, losses.planning
comparisons, groups = losses.Comparisons, losses.Groups

PAIR_LOSSES, GROUP_LOSSES = (
    tuple(name for name, (kind, _) in losses.CATALOGUE.items() if kind.takes == takes)
    for takes in ("pairs", "groups")
)

PLANNING_LOSSES = (
    *("dpo", "cdpo", "robust-dpo", "r-dpo", "f-dpo", "chi-po", "xpo", "vpo", "ipo", "hinge"),
    *("squared-hinge", "exponential", "savage", "exo", "nca-pair", "bco", "sppo", "sppo-hard"),
    *("infonca", "nca"),
)

# The record speaks of pairs and rounds where tables of today speak of n and t.
_COLUMNS = {"n": "pairs", "t": "round"}


def rule(kind: str, *, multiplier: float | None = None, **settings: Any) -> Any:
    """A confidence rule; with a multiplier its scaled version."""
    plain = RULES[kind](**settings)
    return plain if multiplier is None else confidence.Scaled(plain, multiplier)


def learner(kind: str, **settings: Any) -> Any:
    return LEARNERS[kind](**settings)


def enhancer(kind: str, **settings: Any) -> Any:
    return ENHANCERS[kind](**settings)


def bandit(kind: str, *, coverage: float = 0.0, **settings: Any) -> Any:
    """A world of the catalogue and the dial of its offline pairs."""
    return worlds.CATALOGUE[kind][0](**settings), coverage


def run(
    learner: Any,
    world: Any,
    *,
    rounds: int | None = None,
    pairs: int | Sequence[int] = 0,
    seed: int = 0,
    block: int = 64,
) -> dict[str, np.ndarray]:
    """Return the trace of a run: online for ``rounds`` after ``pairs``, or offline."""
    bandit, coverage = world
    if rounds is None:
        trace = run_package(
            learner, bandit, n=list(pairs), seed=seed, block=block, behaviour=coverage
        )
        found = dict(trace.arrays)
        found["labels"] = found.pop("n_labels")
        return {"pairs": np.asarray(trace.index), **found}
    trace = run_package(
        learner,
        bandit,
        n_rounds=rounds,
        seed=seed,
        block=block,
        n_offline=pairs,
        behaviour=coverage,
    )
    start = []
    for first in range(0, bandit.n_replicas, block):
        part = bandit.block(first, min(first + block, bandit.n_replicas))
        key = Key(seed).block(0).block(first).child("offline")
        start.append(to_numpy(part.offline_data(key, pairs, part.behaviour(coverage)).n_labels))
    return online_trace(trace, np.concatenate(start))


def online_trace(trace: Any, start: np.ndarray) -> dict[str, np.ndarray]:
    """Return a trace in which the labels of a row are those behind its policy."""
    found = dict(trace.arrays)
    before = np.asarray(start, dtype=float)[:, None]
    later = found.pop("labels", np.empty((trace.n_replicas, len(trace.index))))[:, :-1]
    found["labels"] = np.concatenate([before, later], axis=1)
    return {"round": np.asarray(trace.index), **found}


def card(name: str, seed: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    """Return the columns of the curves of a theorem card in quick form."""
    theorem = theorems.load(name)
    sweep = {**theorem.sweep("quick"), **changes}
    return columns(theorem.measure(sweep, Key(seed=seed).child(theorem.name), Silent()))


def loss_and_gradients(
    loss: Any, given: Mapping[str, np.ndarray], p: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return values in torch, and gradients of their sum; under labels ``p`` where given."""
    import torch  # noqa: PLC0415

    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in given.items()}
    moving = {name: t.requires_grad_() for name, t in tensors.items() if name.startswith("log_pi")}
    made = (groups if loss.takes == "groups" else comparisons)(**tensors)
    value = (
        loss(made) if p is None else losses.soft(loss, made, torch.tensor(p, dtype=torch.float64))
    )
    slopes = torch.autograd.grad(value.sum(), list(moving.values()), allow_unused=True)
    found = {"value": value.detach().numpy()}
    for name, slope in zip(moving, slopes, strict=True):
        found[f"gradient {name}"] = np.zeros(1) if slope is None else slope.numpy()
    return found


def plans(name: str, problem: Any, theta: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a planner plans for ``theta`` ``(R, 6)``, cold and from its own plan."""
    if name in REWARD_PLANNERS:
        planner, model = REWARD_PLANNERS[name](), LinearReward(theta[:, :3])
    elif name in GAME_PLANNERS:
        planner, model = GAME_PLANNERS[name](), SkewBilinear(theta)
    else:
        x = problem.sample_contexts(Key(1), 30)
        a1, a2 = (np.argmax(x.log_pi0 + Key(1).child(k).normal_numpy(3, 30, 5), -1) for k in "ab")
        data = problem.empty_data().add(x, a1, a2, Key(2).uniform_numpy(3, 30) < 0.7)
        radius = confidence.Constant(beta=0.4)
        design = data.skew if name == "pessimistic-preference" else None
        around = radius.confidence_set(radius.fit(data, design), data, problem, design)
        if name == "option-one":
            planner, model = OptionOne(), ExpectedLowerBound(around)
        else:
            planner, model = PessimisticNash(), PessimisticPreference(around)
    cold = planner(model, problem, Key(0), None)
    warm = planner(model, problem, Key(0), cold.value)
    found = {}
    for label, plan in (("cold", cold), ("warm", warm)):
        found[f"{label} log_pi"] = plan.value.log_probs(problem.table)
        found[f"{label} residual"] = plan.residual
        found[f"{label} converged"] = plan.converged
    return found


def about_world(kind: str, settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return what a world says: truth, preferences, values of policies, offline data."""
    world, _ = bandit(kind, **settings)
    x, weights = world.population
    found = {
        "phi": x.phi[:, :50],
        "log_pi0": x.log_pi0,
        "weights": weights,
        "preferences": world.preferences[:, :50],
        "logits": world.logits[:, :50],
    }
    if world.reward is not None:
        found["log_pi_star"] = world.log_pi_star
        found["rewards"] = world.reward.rewards(x)
    if world.game is not None:
        found["nash"] = world.nash.value
    others = {
        "reference": ReferencePolicy(),
        "uniform": FunctionPolicy(_uniform),
        "optimum": world.optimum,
        "half way": world.behaviour(0.5),
    }
    for name, policy in others.items():
        found |= {f"{name} {metric}": v for metric, v in world.evaluate(policy).items()}
    for name, value in world.summary().items():
        found[f"summary {name}"] = np.asarray(value)
    for k, pairs in enumerate((9, 5000)):
        data = world.offline_data(Key(6).child("offline", k), pairs, world.behaviour(0.3))
        found[f"{pairs} pairs: labels"] = data.n_labels
        found[f"{pairs} pairs: count"], found[f"{pairs} pairs: wins"] = data.count, data.wins
    return found


def _uniform(contexts: Contexts) -> np.ndarray:
    return uniform_log_probs(contexts.log_pi0)


def columns(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the columns of a frame in the names of the record."""
    found = {}
    for name, column in frame.items():
        values = column.to_numpy()
        if values.dtype == object:
            values = np.array(["" if v is None or v != v else str(v) for v in values])
        found[_COLUMNS.get(str(name), str(name))] = values
    return found


# What a study file of the record says, and what it has to say today.
_STUDY_WORDS = {
    "format = 2": "format = 1",
    'kind = "adaptive"': 'kind = "r2-prime"',
    "\npairs = 20\n": "\nn_offline = 20\n",
}


def study(toml: str) -> dict[str, np.ndarray]:
    """Return the block tables of a study, ``cell/block/column``."""
    for word, today in _STUDY_WORDS.items():
        toml = toml.replace(word, today)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.toml"
        path.write_text(toml, encoding="utf-8")
        given = Study.from_toml(path)
        given.run(Path(folder) / "out", backend="serial", jobs=1, quiet=True, toml=toml)
        found = {}
        for cell in given.cells():
            for block in sorted((Path(folder) / "out" / "cells" / cell.key).glob("r*.parquet")):
                table, _ = read_block(block)
                for name, values in columns(table.to_pandas()).items():
                    found[f"{cell.world_label}/{cell.learner_label}/{block.stem}/{name}"] = values
    return found
