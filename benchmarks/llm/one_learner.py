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

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from embedded_world import embedded_problem, embedded_world
from matplotlib.figure import Figure
from scipy.stats import t as student
from tiny_runs import RESULTS, tiny_policy

from llm_bridge.planning.planners import DPOPlanner
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.pools.world import PromptWorld
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory import OnlineIterative, enhancers, worlds
from rlhf_theory.arrays import to_numpy
from rlhf_theory.estimators.confidence import Adaptive, Scaled
from rlhf_theory.evaluation.gaps import mean_kl, suboptimality
from rlhf_theory.evaluation.statistics import Interval
from rlhf_theory.experiments.runner import run_online
from rlhf_theory.oracles import BradleyTerry, feedback_from
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.policies import expectation
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.theorems.card import Bar, Check, Progress, Sweep, Theorem
from rlhf_theory.theorems.spread import label_spread
from rlhf_theory.theorems.stored import Task, carry_out
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


def values(problem: Any, reward: LinearReward) -> Any:
    """Return what is measured of a policy: gap, KL and reward over all contexts, exactly."""
    x, w = problem.population(Key(0), 0)
    r = reward.rewards(x)
    # Measured from pi0: a constant per context is no reward that comparisons could tell.
    zero = expectation(x.log_pi0, r)
    best = gibbs_log_probs(r, x.log_pi0, problem.eta)

    def measured(log_pi: Any) -> dict[str, Any]:
        return {
            "gap": suboptimality(log_pi, best, w, problem.eta),
            "kl": mean_kl(log_pi, x.log_pi0, w),
            "reward": (w * (expectation(log_pi, r) - zero)).sum(-1),
        }

    optimum = measured(best)

    def evaluate(policy: Any) -> dict[str, Any]:
        values = measured(policy.log_probs(x))
        # The same in every row, so that the curves know where they should end.
        more = {f"best_{name}": optimum[name] + 0.0 * values[name] for name in ("kl", "reward")}
        return values | more

    return evaluate


@dataclass(frozen=True, eq=False)
class Measured:
    """Judges policies by a function of `values`."""

    evaluate: Any
    metrics: tuple[str, ...] = ("gap", "kl", "reward", "best_kl", "best_reward")

    def __call__(self, policy: Any) -> dict[str, Any]:
        return dict(self.evaluate(policy))


def frame_of(trace: Any, world: str, planner: str, first: int = 0) -> pd.DataFrame:
    r, t = trace["gap"].shape
    columns = {
        "world": world,
        "planner": planner,
        "replica": np.repeat(np.arange(first, first + r), t),
        "round": np.tile(np.arange(t), r),
        "labels": trace["labels"].ravel(),
    }
    measured = ("gap", "kl", "reward", "best_kl", "best_reward")
    return pd.DataFrame(columns | {name: trace[name].ravel() for name in measured})


def in_world(world: Bandit, sweep: Sweep, key: Key, name: str) -> pd.DataFrame:
    assert world.theta_star is not None  # noqa: S101  (a linear world)
    judge = Measured(values(world.problem, LinearReward(world.theta_star)))
    judged = PromptWorld(problem=world.problem, feedback=world.feedback, judge=judge)
    trace = run_online(
        LEARNER, judged, sweep["rounds"], seed=key.seed_int(), block=sweep["replicas"]
    )
    return frame_of(trace, name, "exact planning")


def on_prompts(
    problem: PromptProblem, theta: np.ndarray, sweep: Sweep, key: Key, progress: Progress
) -> list[pd.DataFrame]:
    """Run the learner on prompts, label by label noise, with both planning oracles."""
    reward = LinearReward(torch.from_numpy(theta))
    judge, feedback = Measured(values(problem, reward)), feedback_from(BradleyTerry(reward))
    world = PromptWorld(problem=problem, feedback=feedback, judge=judge)
    settings = TrainingSettings(**sweep["training"])
    trained = replace(LEARNER, planner=DPOPlanner(settings=settings, tol=1.0))
    frames = []
    for seed in range(sweep["seeds"]):
        for planner, learner in (("exact planning", LEARNER), ("training as planning", trained)):
            trace = run_online(learner, world, sweep["rounds"], seed=key.child(seed).seed_int())
            frames.append(frame_of(trace, "trained policy", planner, seed))
            progress.advance(f"{planner}, seed {seed}")
    return frames


def measure(sweep: Sweep, key: Key, progress: Progress) -> pd.DataFrame:
    tiny, policy = tiny_policy()
    problem = embedded_problem(tiny, policy, dict(sweep))
    real = embedded_world(problem, dict(sweep), tiny.reward)
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
        progress.advance(name)
    frames += on_prompts(problem, to_numpy(real.theta_star), sweep, key.child("prompts"), progress)
    return pd.concat(frames, ignore_index=True)


# --------------------------------------------------------------------------- judge


def select(frame: pd.DataFrame, world: str, planner: str) -> pd.DataFrame:
    return frame[(frame["world"] == world) & (frame["planner"] == planner)]


def table(part: pd.DataFrame, column: str) -> np.ndarray:
    """Return one column as ``(R, T + 1)``."""
    return part.pivot_table(index="replica", columns="round", values=column).to_numpy()


def interval(values: np.ndarray) -> Interval:
    """Return means over replicas with Student's 95 % intervals: some worlds have few replicas."""
    n = values.shape[0]
    mean = values.mean(axis=0)
    reach = student.ppf(0.975, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)
    return Interval(mean, mean - reach, mean + reach)


def judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    checks = []
    for world, planners in WORLDS.items():
        for planner in planners:
            gap = table(select(frame, world, planner), "gap")
            left = interval(gap[:, -1] / gap[:, 0])  # the gap of π0 is no random number
            checks.append(
                Check(
                    name=f"{world}, {planner}: gap after {sweep['rounds']} rounds over the gap of "
                    f"π0, {gap.shape[0]} replicas",
                    measured=float(left.value),
                    interval=(float(left.lower), float(left.upper)),
                    required=f"below {sweep['share']:g}, by the upper end of the 95 % interval",
                    passed=bool(left.upper < sweep["share"]),
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
            look, part = style.series(index), select(frame, world, planner)
            gap, at = interval(table(part, "gap")), table(part, "labels").mean(axis=0)
            curves.curve(above, at, gap.value, gap.lower, gap.upper, planner, look.color, look.line)
            kl, r = (table(part, name).mean(axis=0) for name in ("kl", "reward"))
            curves.curve(below, kl, r, None, None, planner, look.color, look.line, marker=".")
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
            part = select(frame, world, planner)
            for name in ("gap", "kl", "reward"):
                numbers[f"{world}, {planner}: {name} after {sweep['rounds']} rounds"] = float(
                    table(part, name)[:, -1].mean()
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "one_learner")
    given = parser.parse_args()
    mode = "quick" if given.quick else "full"
    bar = Bar(STUDY.name)
    task = Task(theorem=STUDY, folder=given.out, sweep=STUDY.sweep(mode), mode=mode, seed=0)
    verdict = carry_out(task, bar)
    bar.close()
    for check in verdict.checks:
        print(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.measured:.4g}")
    print(verdict.error or f"{verdict.seconds:.0f} s, passed: {verdict.passed}")
    raise SystemExit(0 if verdict.passed else 1)


if __name__ == "__main__":
    main()
