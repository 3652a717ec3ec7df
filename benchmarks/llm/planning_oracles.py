"""How far planning oracles are from the exact Gibbs policy, loss by loss, on the tiny model.

Every oracle gets the same rewards (the gold reward of the tiny world), the same pools, the same
model to start from and the same number of optimiser steps; its learning rate is the better of a
small grid, since losses differ in scale. What is left is measured on the pools that it saw and on
pools of held-out prompts, where the exact Gibbs policy of the reward is known:

    planning gap  J(pi*) - J(pi) = eta KL(pi || pi*)      (identity I1)

The verdict asks what theory says: the losses whose population minimiser is the Gibbs policy come
nearer to it than pi0 is, and than the losses whose minimiser is another policy.

    python -m benchmarks.llm.cards planning-oracles [--quick] [--jobs 2]

About 20 minutes on one core.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.llm.tiny_runs import gold, tiny_policy
from llm_bridge.embeddings.featureless import NoFeatures
from llm_bridge.planning.planners import DPOPlanner, plan_quality
from llm_bridge.planning.rejection import Imitation
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.core import Policy
from rlhf_theory.losses import planning
from rlhf_theory.planners.best_of_n import BestOfN
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Check, Part, Sweep, Theorem

ETA = 1.0
EXACT = ("dpo", "savage", "exponential", "infonca")
OTHER = ("ipo", "hinge", "squared-hinge", "exo", "nca-pair", "bco", "sppo-hard", "nca", "chi-po")
BEST = "imitate best of 8"
IMITATIONS = ("rejection", "rejection, 3 stages", BEST)
NOTHING = "pi0, no planning"
FIXED = (NOTHING, "best of 8, exact")


def oracle(name: str, rate: float, steps: int) -> Any:
    """Return a planner by its name."""
    how = {"batch_size": 8, "learning_rate": rate, "progress": False}
    if name == BEST:
        return Imitation(steps=steps, rule="best", draws=8, **how)
    if name in IMITATIONS:
        stages = 1 if name == "rejection" else 3
        return Imitation(steps=max(1, steps // stages), stages=stages, draws=32, **how)
    extra = {"chi-po": {"r_max": 10.0}}.get(name, {})
    return DPOPlanner(steps=steps, loss=planning(name, ETA, **extra), **how)


def kind_of(name: str) -> str:
    """Return what is known of the minimiser of an oracle."""
    if name in FIXED:
        return "none"
    return "exact" if name in EXACT else "other" if name in OTHER else "imitation"


@lru_cache(maxsize=1)
def pools_of(seed: int, n_prompts: int) -> dict[str, PromptProblem]:
    """Return the pools of a seed, which has prompts of its own; those asked for last are kept."""
    world, pi0 = tiny_policy()
    problem = PromptProblem(
        world.prompts[seed * n_prompts : (seed + 1) * n_prompts],
        pi0,
        features=NoFeatures(),
        pool_size=16,
        eta=ETA,
        seed=key_of(seed).seed_int(),
    )
    return {"seen": problem, "held out": problem.held_out(world.held_out[:64], pool_size=32)}


def key_of(seed: int) -> Key:
    return Key(seed).child("planning-oracles")


def parts(sweep: Sweep) -> list[Part]:
    """Return a part for every oracle at every rate with every seed."""
    chosen = [(name, 0.0) for name in FIXED]
    chosen += [(name, rate) for name in (*EXACT, *OTHER, *IMITATIONS) for rate in sweep["rates"]]
    return [
        Part({"seed": seed, "oracle": name, "rate": rate})
        for seed in range(sweep["replicas"])
        for name, rate in chosen
    ]


def measure(sweep: Sweep, part: Part, _key: Key) -> pd.DataFrame:
    """Return what a policy is worth on seen and on held-out pools: a row for either."""
    seed, name, rate = (part.settings[k] for k in ("seed", "oracle", "rate"))
    pools, reward = pools_of(seed, sweep["prompts"]), gold()
    problem, key = pools["seen"], key_of(seed)
    if name == NOTHING:
        policy: Policy = ReferencePolicy()
    elif name in FIXED:
        policy = BestOfN(8)(reward, problem, key).value
    else:
        policy = oracle(name, rate, sweep["steps"])(reward, problem, key.child(name)).value
    rows = []
    for where, judged in pools.items():
        quality = vars(plan_quality(policy, reward, judged, Key(0)))
        about = {"seed": seed, "oracle": name, "kind": kind_of(name), "rate": rate}
        rows.append(about | {"pools": where} | {n: float(v[0]) for n, v in quality.items()})
    return pd.DataFrame(rows)


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """Return the runs at each oracle's better rate, judged by its mean gap on seen pools."""
    seen = table[table.pools == "seen"].groupby(["oracle", "rate"]).gap.mean()
    best = {oracle: rates.idxmin()[1] for oracle, rates in seen.groupby(level=0)}
    return table[table.rate == table.oracle.map(best)]


def judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:  # noqa: ARG001  (of the curves alone)
    mean = chosen(frame).groupby(["oracle", "pools"]).gap.mean()

    def check(name: str, ratio: float, required: str, *, passed: bool) -> Check:
        return Check(name=name, measured=ratio, interval=None, required=required, passed=passed)

    checks = []
    for where in ("seen", "held out"):
        ratio = max(float(mean[o, where]) for o in EXACT) / float(mean[NOTHING, where])
        name = f"losses with the Gibbs policy as minimiser plan, {where} pools"
        checks.append(check(name, ratio, "largest gap at most half of pi0's", passed=ratio <= 0.5))
    exact, other = (float(np.mean([mean[o, "seen"] for o in own])) for own in (EXACT, OTHER))
    name = "they come nearer than losses with another minimiser, in the mean"
    required = "ratio of mean gaps on seen pools below 1"
    return [*checks, check(name, exact / other, required, passed=exact < other)]


def draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:  # noqa: ARG001  (of the curves alone)
    best = chosen(frame)
    order = best[best.pools == "seen"].groupby("oracle").gap.mean().sort_values().index
    fig, (ax,) = style.figure(1, 1, width="column", aspect=1.45)
    place = np.arange(len(order))
    for where, color, hollow in (("seen", "blue", False), ("held out", "orange", True)):
        part = best[best.pools == where].groupby("oracle").kl_to_gibbs
        mean, low, high = part.mean(), part.min(), part.max()
        curves.points(ax, mean[order], place, label=f"{where} pools", color=color, hollow=hollow)
        ax.hlines(place, low[order], high[order], color=style.COLORS[color], linewidth=1.0)
    ax.set_yticks(place, list(order))
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlabel("KL(π ‖ Gibbs policy), nats")
    axes.legend(fig)
    return fig


def caption(frame: pd.DataFrame, sweep: Sweep) -> str:  # noqa: ARG001  (of the sweep alone)
    return (
        f"Distance of planning oracles from the exact Gibbs policy of the gold reward at eta = "
        f"{ETA:g}, after {sweep['steps']} optimiser steps each from the same model, at the better "
        f"of the learning rates {', '.join(f'{r:g}' for r in sweep['rates'])}. Dots: mean of "
        f"{sweep['replicas']} runs with other prompts and pools ({sweep['prompts']} prompts with "
        "pools of 16 to train on, 64 held-out prompts with pools of 32); lines: smallest to "
        "largest run."
    )


def constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:  # noqa: ARG001
    best = chosen(frame)
    numbers: dict[str, float | str] = {}
    for (name, where), own in best.groupby(["oracle", "pools"]):
        numbers[f"gap, {name}, {where} pools"] = float(own.gap.mean())
    return numbers


FULL: dict[str, Any] = {"replicas": 3, "prompts": 160, "steps": 120, "rates": [1e-3, 3e-3, 1e-2]}

STUDY = Theorem(
    name="planning-oracles",
    title="How far planning oracles are from the exact Gibbs policy",
    claim=(
        "Losses whose population minimiser is the Gibbs policy come nearer to it than pi0 is, and "
        "than losses whose minimiser is another policy."
    ),
    source="identity I1 of the theory sheet",
    assumptions=("All oracles get the gold reward, the same pools, model and number of steps.",),
    departures=("Learning rates are each oracle's best of the grid, by its gap on seen pools.",),
    quick={**FULL, "replicas": 1, "prompts": 16, "steps": 20},
    full=FULL,
    parts=parts,
    measure=measure,
    judge=judge,
    draw=draw,
    caption=caption,
    constants=constants,
)
