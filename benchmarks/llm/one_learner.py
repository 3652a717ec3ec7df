"""One learner object in three worlds: a synthetic bandit, real embeddings, a trained model.

`LEARNER` runs in all of them as it is. In the third its planning oracle, exact on pools until
then, is also replaced by the training of a language model, as a setting of the same learner.

* a synthetic linear bandit;
* prompts with pools of responses of the tiny model, features from MiniLM, frozen, realisable gold;
* the same prompts one by one, as a `PromptProblem`: re-ranking of the pools, and policies trained
  by DPO-type training (`DPOPlanner`).

    python benchmarks/llm/one_learner.py [--quick] [--out FOLDER]

Writes verdict.json, curves.parquet, figure.svg, .pdf and .csv with its caption. One thread.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from embedded_world import embedded_problem, embedded_world
from matplotlib.figure import Figure
from studies import carried_out, t_interval

from llm_bridge.planning.planners import DPOPlanner
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.pools.world import PromptWorld
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory import OnlineIterative, enhancers, worlds
from rlhf_theory.arrays import to_numpy
from rlhf_theory.estimators.confidence import Adaptive, Scaled
from rlhf_theory.evaluation.gaps import mean_kl, suboptimality
from rlhf_theory.experiments.runner import run_online
from rlhf_theory.oracles import BradleyTerry, feedback_from
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.policies import expectation
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.theorems.card import Check, Part, Sweep, Theorem
from rlhf_theory.theorems.checks import estimate
from rlhf_theory.theorems.frames import by_replica
from rlhf_theory.theorems.spread import label_spread
from rlhf_theory.worlds.bandit import Bandit

LEARNER = OnlineIterative(
    enhancer=enhancers.Optimistic(tol=1e-8),
    radius=Scaled(Adaptive(theta_bound=7.0), 0.1),
    batch_size=64,
)
"""The object that all three worlds meet."""

WORLDS = {
    "synthetic bandit": ("exact planning",),
    "real embeddings": ("exact planning",),
    "trained policy": ("exact planning", "training as planning"),
}


# --------------------------------------------------------------------------- measure


METRICS = ("gap", "kl", "reward", "best_kl", "best_reward")


@dataclass(frozen=True, eq=False)
class Measured:
    """Judges policies by gap, KL and reward over all contexts, exactly."""

    problem: Any
    reward: LinearReward
    metrics: tuple[str, ...] = METRICS

    def __call__(self, policy: Any) -> dict[str, Any]:
        x, w = self.problem.population(Key(0), 0)
        r = self.reward.rewards(x)
        # Measured from pi0: a constant per context is no reward that comparisons could tell.
        zero = expectation(x.log_pi0, r)
        best = gibbs_log_probs(r, x.log_pi0, self.problem.eta)

        def measured(log_pi: Any) -> dict[str, Any]:
            return {
                "gap": suboptimality(log_pi, best, w, self.problem.eta),
                "kl": mean_kl(log_pi, x.log_pi0, w),
                "reward": (w * (expectation(log_pi, r) - zero)).sum(-1),
            }

        values, optimum = measured(policy.log_probs(x)), measured(best)
        # The same in every row, so that the curves know where they should end.
        more = {f"best_{name}": optimum[name] + 0.0 * values[name] for name in ("kl", "reward")}
        return values | more


def frame_of(trace: Any, world: str, planner: str, first: int = 0) -> pd.DataFrame:
    frame = trace.to_pandas(("labels", *METRICS))
    frame["replica"] += first
    return frame.assign(world=world, planner=planner)[["world", "planner", *frame.columns]]


def in_world(world: Bandit, sweep: Sweep, key: Key, name: str) -> pd.DataFrame:
    assert world.theta_star is not None  # noqa: S101  (a linear world)
    judge = Measured(world.problem, LinearReward(world.theta_star))
    judged = PromptWorld(problem=world.problem, feedback=world.feedback, judge=judge)
    trace = run_online(
        LEARNER, judged, sweep["rounds"], seed=key.seed_int(), block=sweep["replicas"]
    )
    return frame_of(trace, name, "exact planning")


def on_prompts(
    problem: PromptProblem, theta: np.ndarray, sweep: Sweep, key: Key
) -> list[pd.DataFrame]:
    """Run the learner on prompts, label by label noise, with both planning oracles."""
    reward = LinearReward(torch.from_numpy(theta))
    judge, feedback = Measured(problem, reward), feedback_from(BradleyTerry(reward))
    world = PromptWorld(problem=problem, feedback=feedback, judge=judge)
    settings = TrainingSettings(**sweep["training"])
    trained = replace(LEARNER, planner=DPOPlanner.of(settings, tol=1.0))
    frames = []
    for seed in range(sweep["seeds"]):
        for planner, learner in (("exact planning", LEARNER), ("training as planning", trained)):
            trace = run_online(learner, world, sweep["rounds"], seed=key.child(seed).seed_int())
            frames.append(frame_of(trace, "trained policy", planner, seed))
    return frames


def measure(sweep: Sweep, _part: Part, key: Key) -> pd.DataFrame:
    problem = embedded_problem(sweep)
    real = embedded_world(problem, sweep)
    synthetic = worlds.linear(
        contexts=sweep["prompts"],
        actions=sweep["pool_size"],
        dim=sweep["dim"],
        eta=sweep["eta"],
        theta_norm=sweep["synthetic_norm"],
        replicas=sweep["replicas"],
        seed=sweep["instance"],
    )
    frames = []
    for name, world in (("synthetic bandit", synthetic), ("real embeddings", real)):
        frame = in_world(world, sweep, key.child(name), name)
        frames.append(frame.assign(spread=next(iter(label_spread(world).values()))))
    frames += on_prompts(problem, to_numpy(real.theta_star), sweep, key.child("prompts"))
    return pd.concat(frames, ignore_index=True)


# --------------------------------------------------------------------------- judge


def select(frame: pd.DataFrame, world: str, planner: str) -> pd.DataFrame:
    return frame[(frame["world"] == world) & (frame["planner"] == planner)]


def table(frame: pd.DataFrame, world: str, planner: str, column: str) -> np.ndarray:
    """Return one column of one learner as ``(R, T + 1)``."""
    return by_replica(select(frame, world, planner), "round", column)[1]


def judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    checks = []
    for world, planners in WORLDS.items():
        for planner in planners:
            gap = table(frame, world, planner, "gap")
            left = t_interval(gap[:, -1] / gap[:, 0])  # the gap of π0 is no random number
            checks.append(
                estimate(
                    f"{world}, {planner}: gap after {sweep['rounds']} rounds over the gap of π0, "
                    f"{gap.shape[0]} replicas",
                    left,
                    f"below {sweep['share']:g}, by the upper end of the 95 % interval",
                    passed=left.upper < sweep["share"],
                )
            )
    return checks


# --------------------------------------------------------------------------- draw


def draw(frame: pd.DataFrame, _sweep: Sweep) -> Figure:
    fig, panels = style.figure(3, 2, aspect=0.82)
    for column, (world, planners) in enumerate(WORLDS.items()):
        above, below = panels[column], panels[column + 3]
        axes.log_axes(above, "y")
        for index, planner in enumerate(planners):
            look = style.series(index)
            gap, at, kl, r = (
                table(frame, world, planner, name) for name in ("gap", "labels", "kl", "reward")
            )
            mean = t_interval(gap)
            band = (mean.value, mean.lower, mean.upper)
            curves.curve(above, at.mean(axis=0), *band, planner, look.color, look.line)
            path = (kl.mean(axis=0), r.mean(axis=0), None, None)
            curves.curve(below, *path, planner, look.color, look.line, marker=".")
        best = frame[frame["world"] == world].iloc[0]
        curves.points(
            below, [best["best_kl"]], [best["best_reward"]], label="π*", color="ink", marker="*"
        )
        above.set(title=world.capitalize(), xlabel="labels", ylabel="gap J(π*) − J(π)")
        below.set(title=f"Path, {world}", xlabel="KL(π ‖ π0)", ylabel="E r* − E_π0 r*")
    axes.legend(fig)
    return fig


def caption(frame: pd.DataFrame, sweep: Sweep) -> str:
    seeds = select(frame, "trained policy", "exact planning")["replica"].nunique()
    return (
        "One learner object (online iterative, optimistic enhancer, a tenth of the radius R2′, "
        f"{LEARNER.batch_size} pairs a round) in three worlds of {sweep['prompts']} contexts with "
        f"{sweep['pool_size']} actions each, d = {sweep['dim']}, η = {sweep['eta']:g}. Top: gap "
        "against labels, bottom: the path from π0 in reward and divergence. Real embeddings: "
        "MiniLM features of the tiny model's responses, frozen, realisable reward. Trained policy: "
        "the same prompts and reward as a prompt problem, with exact planning on the pools and "
        "with DPO-type training of the tiny model as the planning oracle; all values are exact "
        "on the pools. Bands: Student's 95 % intervals of the mean over "
        f"{sweep['replicas']} replicas of the labels, {seeds} in the third world."
    )


def constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    for world, planners in WORLDS.items():
        for planner in planners:
            for name in ("gap", "kl", "reward"):
                numbers[f"{world}, {planner}: {name} after {sweep['rounds']} rounds"] = float(
                    table(frame, world, planner, name)[:, -1].mean()
                )
        spread = frame.loc[frame["world"] == world, "spread"].dropna()
        if len(spread):
            numbers[f"{world}: win probabilities (5 %, 50 %, 95 %)"] = str(spread.iloc[0])
    return numbers


FULL: dict[str, Any] = {
    "replicas": 64,
    "seeds": 8,
    "instance": 0,
    "prompts": 16,
    "pool_size": 8,
    "dim": 8,
    "eta": 0.3,
    "norm": 6.0,
    "synthetic_norm": 1.0,
    "rounds": 8,
    "share": 0.5,
    "training": {"steps": 60, "batch_size": 8, "learning_rate": 3e-3, "progress": False},
}

STUDY = Theorem(
    name="one-learner",
    title="One learner object in three worlds",
    claim=(
        "The object that learns in a synthetic bandit learns, unchanged, from comparisons of a "
        "language model's responses, and with training as its planning oracle it yields a model."
    ),
    source="[2312.11456], Algorithm 2",
    assumptions=("Realisable rewards in all three worlds.",),
    departures=("The planning gap of training is measured on the pools, not bounded elsewhere.",),
    quick={**FULL, "seeds": 2, "rounds": 3, "share": 1.0},
    full=FULL,
    measure=measure,
    judge=judge,
    draw=draw,
    caption=caption,
    constants=constants,
)


if __name__ == "__main__":
    sys.exit(carried_out(STUDY, "one_learner"))
