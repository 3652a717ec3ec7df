"""The only part of the golden record that calls the package: change it when the API changes.

Everything that leaves this file has the names of the record: rounds, pairs, labels, the speaking
kinds of confidence rules. ``labels`` of row ``t`` are those that the policy of row ``t`` has used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlhf_theory import losses
from rlhf_theory.algorithms.offline_nash import PessimisticPreference
from rlhf_theory.data import Contexts, PairQuery
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
from rlhf_theory.register import found, named
from rlhf_theory.rewards import LinearReward, SkewBilinear
from rlhf_theory.studies.tables import read_block
from rlhf_theory.study import Study
from rlhf_theory.visited_pairs import VisitedPairs

REWARD_PLANNERS = {
    "gibbs": Gibbs,
    "argmax": Argmax,
    "best-of-n": partial(BestOfN, 4),
    "chi-squared": ChiSquared,
}
GAME_PLANNERS = {"nash": Nash, "pessimistic-nash": PessimisticNash}
PLANNERS = (*REWARD_PLANNERS, *GAME_PLANNERS, "option-one", "pessimistic-preference")

CARDS = tuple(found("theorem"))

finite_problem = FiniteProblem
make_loss, planning_loss = losses.make, losses.planning
comparisons, groups = losses.Comparisons, losses.Groups
LOSS_FIELDS = losses.comparisons.FIELDS

LOSSES = {name: entry.facts.examples for name, entry in found("loss").items()}

PLANNING_LOSSES = (
    *("dpo", "cdpo", "robust-dpo", "r-dpo", "f-dpo", "chi-po", "xpo", "vpo", "ipo", "hinge"),
    *("squared-hinge", "exponential", "savage", "exo", "nca-pair", "bco", "sppo", "sppo-hard"),
    *("infonca", "nca"),
)


def rule(kind: str, *, multiplier: float | None = None, **settings: Any) -> Any:
    """A confidence rule; with a multiplier its scaled version."""
    plain = named("radius", kind)(**settings)
    return plain if multiplier is None else confidence.Scaled(plain, multiplier)


def learner(kind: str, **settings: Any) -> Any:
    return named("learner", kind)(**settings)


def enhancer(kind: str, **settings: Any) -> Any:
    return named("enhancer", kind)(**settings)


def bandit(kind: str, *, coverage: float = 0.0, **settings: Any) -> Any:
    """A world of the register with the dial of its offline pairs."""
    return replace(named("world", kind)(**settings), behaviour=coverage)


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
    length = {"pairs": pairs} if rounds is None else {"rounds": rounds, "offline_pairs": pairs}
    trace = run_package(learner, world, seed=seed, block=block, **length)
    return {trace.index_name: np.asarray(trace.index), **trace.arrays}


def card(name: str, seed: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    """Return the columns of the curves of a theorem card in quick form."""
    theorem = named("theorem", name)
    sweep = {**theorem.sweep("quick"), **changes}
    return columns(theorem.curves(sweep, Key(seed=seed).child(theorem.name)))


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
        y = Key(2).uniform_numpy(3, 30) < 0.7
        data = problem.empty_data().add(PairQuery(x, a1, a2).answered(y))
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
    world = bandit(kind, **settings)
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
        "half way": world.covering(0.5),
    }
    for name, policy in others.items():
        found |= {f"{name} {metric}": v for metric, v in world.evaluate(policy).items()}
    for name, value in world.summary().items():
        found[f"summary {name}"] = np.asarray(value)
    for k, pairs in enumerate((9, 5000)):
        data = world.offline_data(Key(6).child("offline", k), pairs, behaviour=world.covering(0.3))
        if isinstance(data, VisitedPairs):
            data = data.tabulated()  # the counts of all pairs, whatever the form of the data
        found[f"{pairs} pairs: labels"] = data.n_labels
        found[f"{pairs} pairs: count"], found[f"{pairs} pairs: wins"] = data.count, data.wins
    return found


def _uniform(contexts: Contexts) -> np.ndarray:
    return uniform_log_probs(contexts.log_pi0)


def columns(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the columns of a frame by name."""
    found = {}
    for name, column in frame.items():
        values = column.to_numpy()
        if values.dtype == object:
            values = np.array(["" if v is None or v != v else str(v) for v in values])
        found[str(name)] = values
    return found


def study(toml: str) -> dict[str, np.ndarray]:
    """Return the block tables of a study, ``cell/block/column``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.toml"
        path.write_text(toml, encoding="utf-8")
        given = Study.from_toml(path)
        given.run(Path(folder) / "out", backend="serial", jobs=1, quiet=True, toml=toml)
        found = {}
        for cell in given.cells():
            for block in sorted((Path(folder) / "out" / "cells" / cell.key).glob("r*.parquet")):
                table, _ = read_block(block, cell)
                for name, values in columns(table.to_pandas()).items():
                    found[f"{cell.world_label}/{cell.learner_label}/{block.stem}/{name}"] = values
    return found
