"""How far planning oracles are from the exact Gibbs policy, loss by loss, on the tiny model.

Every oracle gets the same rewards (the gold reward of the tiny world), the same pools, the same
model to start from and the same number of optimiser steps; its learning rate is the better of a
small grid, since losses differ in scale. What is left is measured on the pools that it saw and on
pools of held-out prompts, where the exact Gibbs policy of the reward is known:

    planning gap  J(pi*) - J(pi) = eta KL(pi || pi*)      (identity I1)

The verdict asks what theory says: the losses whose population minimiser is the Gibbs policy come
nearer to it than pi0 is, and than the losses whose minimiser is another policy.

    python benchmarks/llm/planning_oracles.py [--quick] [--seeds 3]

Stores results/planning_oracles/ (curves.parquet, verdict, figure). About 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from studies import store
from tiny_runs import RESULTS, gold, tiny_policy

from llm_bridge.embeddings.featureless import NoFeatures
from llm_bridge.labels.oracles import TextReward
from llm_bridge.planning.planners import DPOPlanner, plan_quality
from llm_bridge.planning.rejection import Imitation
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.training.train import TrainingSettings
from rlhf_theory.core import Policy
from rlhf_theory.losses import planning
from rlhf_theory.planners.best_of_n import BestOfN
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.plots.figures import save
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.randomness import Key

ETA = 1.0
EXACT = ("dpo", "savage", "exponential", "infonca")
OTHER = ("ipo", "hinge", "squared-hinge", "exo", "nca-pair", "bco", "sppo-hard", "nca", "chi-po")
RATES = (1e-3, 3e-3, 1e-2)


def settings(rate: float, steps: int) -> TrainingSettings:
    return TrainingSettings(steps=steps, batch_size=8, learning_rate=rate, progress=False)


def oracles(steps: int) -> Iterator[tuple[str, str, Any]]:
    """Yield name, kind and planner."""
    for name in (*EXACT, *OTHER):
        kind = "exact" if name in EXACT else "other"
        extra = {"chi-po": {"r_max": 10.0}}.get(name, {})
        for rate in RATES:
            loss = planning(name, ETA, **extra)
            yield name, kind, DPOPlanner.of(settings(rate, steps), loss=loss)
    for stages in (1, 3):
        for rate in RATES:
            per_stage = settings(rate, max(1, steps // stages))
            planner = Imitation.of(per_stage, stages=stages, draws=32)
            label = "rejection" if stages == 1 else f"rejection, {stages} stages"
            yield label, "imitation", planner
    for rate in RATES:
        best = Imitation.of(settings(rate, steps), rule="best", draws=8)
        yield "imitate best of 8", "imitation", best


def compared(
    policy: Policy, reward: TextReward, pools: dict[str, PromptProblem]
) -> Iterator[dict[str, Any]]:
    """Yield what a policy is worth on seen and on held-out pools."""
    for where, problem in pools.items():
        quality = plan_quality(policy, reward, problem, Key(0))
        yield {"pools": where} | {name: float(v[0]) for name, v in vars(quality).items()}


def measure(seeds: int, n_prompts: int, steps: int) -> pd.DataFrame:
    world, pi0 = tiny_policy()
    reward = gold()
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        key = Key(seed).child("planning-oracles")
        first = seed * n_prompts  # other prompts for every seed
        problem = PromptProblem(
            world.prompts[first : first + n_prompts],
            pi0,
            features=NoFeatures(),
            pool_size=16,
            eta=ETA,
            seed=key.seed_int(),
        )
        pools = {"seen": problem, "held out": problem.held_out(world.held_out[:64], pool_size=32)}
        best = BestOfN(8)(reward, problem, key).value
        fixed = {"pi0, no planning": ReferencePolicy(), "best of 8, exact": best}
        for name, policy in fixed.items():
            about = {"seed": seed, "oracle": name, "kind": "none", "rate": 0.0}
            rows += [about | row for row in compared(policy, reward, pools)]
        for name, kind, planner in oracles(steps):
            plan = planner(reward, problem, key.child(name))
            rate = planner.learning_rate
            about = {"seed": seed, "oracle": name, "kind": kind, "rate": rate}
            rows += [about | row for row in compared(plan.value, reward, pools)]
            gaps = ", ".join(f"{row['pools']} {row['gap']:.3f}" for row in rows[-2:])
            print(f"seed {seed}  {name:20s} rate {rate:.0e}  gap: {gaps}", flush=True)
    return pd.DataFrame(rows)


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """Return the runs at each oracle's better rate, judged by its mean gap on seen pools."""
    seen = table[table.pools == "seen"].groupby(["oracle", "rate"]).gap.mean()
    best = {oracle: rates.idxmin()[1] for oracle, rates in seen.groupby(level=0)}
    return table[table.rate == table.oracle.map(best)]


def judge(best: pd.DataFrame) -> list[dict[str, Any]]:
    mean = best.groupby(["oracle", "pools"]).gap.mean()
    checks = []
    for where in ("seen", "held out"):
        none = float(mean["pi0, no planning", where])
        worst = max(float(mean[o, where]) for o in EXACT)
        checks.append(
            {
                "name": f"losses with the Gibbs policy as minimiser plan, {where} pools",
                "measured": worst / none,
                "required": "largest gap at most half of pi0's",
                "passed": worst <= 0.5 * none,
            }
        )
    exact = float(np.mean([mean[o, "seen"] for o in EXACT]))
    other = float(np.mean([mean[o, "seen"] for o in OTHER]))
    checks.append(
        {
            "name": "they come nearer than losses with another minimiser, in the mean",
            "measured": exact / other,
            "required": "ratio of mean gaps on seen pools below 1",
            "passed": exact < other,
        }
    )
    return checks


def draw(best: pd.DataFrame) -> Any:
    order = best[best.pools == "seen"].groupby("oracle").gap.mean().sort_values().index
    with style.theme():
        fig, (ax,) = style.figure(1, 1, width="column", aspect=1.45)
        place = np.arange(len(order))
        for where, color, hollow in (("seen", "blue", False), ("held out", "orange", True)):
            part = best[best.pools == where].groupby("oracle").kl_to_gibbs
            mean, low, high = part.mean(), part.min(), part.max()
            curves.points(
                ax, mean[order], place, label=f"{where} pools", color=color, hollow=hollow
            )
            ax.hlines(place, low[order], high[order], color=style.COLORS[color], linewidth=1.0)
        ax.set_yticks(place, list(order))
        ax.invert_yaxis()
        ax.set_xscale("log")
        ax.set_xlabel("KL(π ‖ Gibbs policy), nats")
        axes.legend(fig)
    return fig


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few steps")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    seeds, n_prompts, steps = (1, 16, 20) if args.quick else (args.seeds, 160, 120)
    table = measure(seeds, n_prompts, steps)
    best = chosen(table)
    checks = judge(best)
    for check in checks:
        print(f"{'ok ' if check['passed'] else 'NO '} {check['name']}: {check['measured']:.3f}")
    if args.quick:
        return 0
    folder = RESULTS / "planning_oracles"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "curves.parquet")
    summary = best.groupby(["oracle", "kind", "pools"])[
        ["rate", "gap", "kl_to_gibbs", "kl_to_reference", "objective", "best"]
    ].mean()
    caption = (
        f"Distance of planning oracles from the exact Gibbs policy of the gold reward at eta = "
        f"{ETA:g}, after {steps} optimiser steps each from the same model, at the better of the "
        f"learning rates {', '.join(f'{r:g}' for r in RATES)}. Dots: mean of {seeds} runs with "
        f"other prompts and pools ({n_prompts} prompts with pools of 16 to train on, 64 held-out "
        "prompts with pools of 32); lines: smallest to largest run."
    )
    save(draw(best), folder, caption)
    store(
        folder / "summary.json",
        {
            "seeds": seeds,
            "eta": ETA,
            "steps": steps,
            "prompts": n_prompts,
            "checks": checks,
            "oracles": summary.reset_index().to_dict("records"),
        },
    )
    return 0 if all(c["passed"] for c in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
