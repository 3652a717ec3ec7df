"""Online against offline labels at equal numbers, on the tiny model, and what theory predicts.

All arms are one learner, `IterativeDirect` with DPO at beta = eta, that gets its labels in equal
rounds, trains on all of them from pi0 after each, and differs in its pairs alone:

* offline: both responses from pi0, in every round (so after the last round it is offline DPO);
* on-policy: both from pi_t;
* against pi0: one from pi_t, one from pi0;
* best-worst: the extremes of four draws from pi_t by its own reward.

Labels are Bradley-Terry's with the gold reward of the tiny world, and only pairs of two different
responses count as labels. Every arm chooses its number of optimiser steps on validation prompts,
seed by seed; what is reported are test prompts, J = E r - eta KL by fresh responses (k1 estimator).

The prediction is theory sheet 12.19: for the linear account of the gold reward on the model's own
frozen features, labels times gap tends to tr(F^-1 C*) / (2 eta) with the Fisher matrix per label of
the limiting law of each arm. Linear plug-in learners show what is left of it at so few labels.

    python benchmarks/llm/online_against_offline.py [--quick] [--seeds 5] [--jobs 2] [--work FOLDER]

Stores results/online_against_offline/. Resumable: finished parts are read from the work folder.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from cells import Cells, Rows
from matplotlib.figure import Figure
from online_pieces import ARMS, OFFLINE, ONLINE, RULES, Different, plug_in, predicted
from studies import carried_out, stacked, t_interval, text, whiskers
from tiny_runs import gold, judge_on, problem_of_seed, tiny_policy

from llm_bridge.embeddings.featureless import NoFeatures
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.labels.oracles import RewardModelOracle
from llm_bridge.planning.direct import IterativeDirect
from llm_bridge.planning.rejection import Imitation
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.training.train import TrainingSettings
from rlhf_theory.evaluation.statistics import Interval, ratio_interval
from rlhf_theory.oracles import feedback_from
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Check, Part, Sweep, Theorem
from rlhf_theory.theorems.checks import estimate

J = "fresh_objective"
KEPT = (
    "fresh_gold",
    "fresh_kl_k1",
    "fresh_kl_k3",
    J,
    "fresh_win_rate",
    "fresh_length",
    "fresh_finished",
    "fresh_grammatical",
    "pool_gold",
    "pool_kl",
    "pool_objective",
    "pool_gap",
    "pool_ess",
)
# The prediction is judged where n eta^2 is at least so many times tr(F^-1 C*): set before looking.
LARGE = 10.0
IMITATION = "imitating the gold reward"
LINEAR = ("dims", "times", "ridges", "linear_prompts", "linear_pool", "linear_replicas")
OPTIMUM = ("gold_steps", "optimum_pool")
LOOKS = {arm: style.series(k) for k, arm in enumerate(ARMS)}
SHIFTS = {arm: k - 0.5 * (len(ARMS) - 1) for k, arm in enumerate(ARMS)}


# --------------------------------------------------------------------------- measure


def judged(split: str, sweep: Sweep) -> HeldOut:
    """Return the judge of a split."""
    prompts, n = tiny_policy()[0].held_out, sweep[split]
    chosen = prompts[:n] if split == "validation" else prompts[-n:]
    seed = Key(0).child(split).seed_int()
    return judge_on(chosen, sweep["samples"], sweep["held_pool"], sweep["eta"], seed)


def prompts_of(seed: int, sweep: Sweep) -> PromptProblem:
    """Return the prompts of a seed with pools from pi0."""
    return problem_of_seed(seed, sweep["prompts"], NoFeatures(), sweep["pool"], sweep["eta"])


def with_pools(problem: PromptProblem, policy: Any, key: Key) -> PromptProblem:
    """Return pools for the round: those of pi0 at first, half from the policy afterwards."""
    return problem if policy is problem.policy else problem.refresh(policy, key)


@lru_cache(maxsize=16)
def new_draws(problem: PromptProblem, played: int, key: Key) -> PromptProblem:
    """Return new pools from pi0 alone, the same for every number of steps."""
    return problem.refresh(problem.policy, key) if played else problem


def row(arm: str, seed: int, epochs: float, labels: int, split: str, found: Any) -> dict[str, Any]:
    about = {"part": "trained", "arm": arm, "seed": seed, "epochs": epochs}
    values = {n: float(found.mean(n)[0]) for n in KEPT if n in found.per_prompt}
    return about | {"labels": labels, "split": split} | values


def trained(sweep: Sweep, arm: str, seed: int, epochs: float) -> Rows:
    """Run one arm with one seed and one number of steps."""
    problem = prompts_of(seed, sweep)
    learner = IterativeDirect.of(
        TrainingSettings(
            epochs=epochs,
            batch_size=sweep["train_batch"],
            learning_rate=sweep["rate"],
            progress=False,
        ),
        batch_size=sweep["batch"],
        pairs=Different(RULES[arm]),
    )
    feedback = feedback_from(RewardModelOracle(gold()))
    key = Key(seed).child("run")  # arms with one seed meet the same prompts and label noise
    state = learner.init(problem, problem.empty_data(), key.child("init"))
    rows, test = [], judged("test", sweep)
    for t in range(sweep["rounds"]):
        here = key.child("round", t)
        policy = learner.policy(state)
        pools = here.child("between")
        now = new_draws(problem, t, pools) if arm == OFFLINE else with_pools(problem, policy, pools)
        state, _ = learner.step(state, now, feedback, here)
        labels = int(state.data.n_labels[0])
        last = t == sweep["rounds"] - 1
        found = test.details(learner.policy(state)) if last else test.fresh(learner.policy(state))
        rows.append(row(arm, seed, epochs, labels, "test", found))
    found = judged("validation", sweep).fresh(learner.policy(state))
    return [*rows, row(arm, seed, epochs, labels, "validation", found)]


def standards(sweep: Sweep) -> Rows:
    """Return what pi0 is worth, and the optimum, on test prompts.

    The optimum is eta log E_pi0 exp(r / eta) over pools half from pi0 and half from a policy that
    imitates the gold reward's own Gibbs policy: draws where the integral is, none weighs above 2.
    """
    test, pi0 = judged("test", sweep), tiny_policy()[1]
    start = row("π0", 0, 0.0, 0, "test", test.details(pi0))
    problem = prompts_of(0, sweep)
    settings = TrainingSettings(steps=sweep["gold_steps"], learning_rate=1e-3, progress=False)
    planner = Imitation.of(settings, stages=3)
    plan = planner(gold(), problem, Key(0).child("gold")).value
    prompts = [p.text for p in test.problem.prompts]
    wide = test.problem.held_out(prompts, pool_size=sweep["optimum_pool"])
    exact = HeldOut(wide.refresh(plan, Key(0).child("optimum")), gold(), n_samples=0).pool(pi0)
    best = exact.per_prompt["pool_objective"] + exact.per_prompt["pool_gap"]
    reached = row(IMITATION, 0, 0.0, 0, "test", test.details(plan))
    optimum = {"part": "trained", "arm": "optimum", "seed": 0, "epochs": 0.0, "labels": 0}
    return [start, reached, optimum | {"split": "test", J: float(best.mean())}]


PARTS = {"trained": trained, "standards": standards, "prediction": predicted, "linear": plug_in}


def measure(sweep: Sweep, _part: Part, _key: Key, cells: Cells) -> pd.DataFrame:
    # The number of seeds is no setting of a part: more seeds keep what is there. Nor is what only
    # other parts read.
    shared = {k: v for k, v in sweep.items() if k not in ("replicas", "epochs", *LINEAR, *OPTIMUM)}
    linear = {k: sweep[k] for k in ("instance", "eta", "rounds", "batch", *LINEAR)}
    runs = [
        ("trained", arm, seed, epochs)
        for seed in range(sweep["replicas"])
        for arm in ARMS
        for epochs in sweep["epochs"]
    ]
    known = [("prediction", dim) for dim in sweep["dims"]]
    known += [("linear", times) for times in sweep["times"]]
    best = shared | {k: sweep[k] for k in OPTIMUM}
    frames = [
        cells.rows(settings, STUDY.version, tasks, PARTS)
        for settings, tasks in ((best, [("standards",)]), (linear, known), (shared, runs))
    ]
    return pd.concat(frames, ignore_index=True)


# --------------------------------------------------------------------------- curves


def choices(frame: pd.DataFrame) -> pd.Series:
    """Return the epochs that every arm and seed chooses by its validation prompts."""
    seen = frame[(frame.part == "trained") & (frame.split == "validation")]
    best = seen.loc[seen.groupby(["arm", "seed"])[J].idxmax()]
    return best.set_index(["arm", "seed"]).epochs


def tuned_at(frame: pd.DataFrame) -> dict[str, float]:
    """Return the epochs that are best on validation prompts in the mean over seeds, by arm."""
    seen = frame[(frame.part == "trained") & (frame.split == "validation")]
    mean = seen.pivot_table(index="arm", columns="epochs", values=J)
    return {str(arm): float(best) for arm, best in mean.idxmax(axis=1).items()}


def tuned(frame: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """Return the test rows of the chosen runs, all rounds."""
    seen = frame[(frame.part == "trained") & (frame.split == "test") & frame.arm.isin(ARMS)]
    chosen = choices(frame)
    wanted = [chosen[arm, seed] for arm, seed in zip(seen.arm, seen.seed, strict=True)]
    return seen[seen.epochs == wanted].assign(round=lambda f: f.labels // sweep["batch"])


def final(frame: pd.DataFrame, sweep: Sweep, arm: str, name: str = J) -> np.ndarray:
    """Return one number per seed of an arm's chosen runs, after all labels."""
    rows = tuned(frame, sweep)
    rows = rows[(rows.arm == arm) & (rows["round"] == sweep["rounds"])].sort_values("seed")
    return rows[name].to_numpy(dtype=float)


def standard(frame: pd.DataFrame, arm: str, name: str = J) -> float:
    return float(frame.loc[(frame.arm == arm) & (frame.split == "test"), name].iloc[0])


def measured_ratio(frame: pd.DataFrame, sweep: Sweep, arm: str) -> Interval:
    """Return the gap of offline labels over that of an arm."""
    best = standard(frame, "optimum")
    return ratio_interval(best - final(frame, sweep, OFFLINE), best - final(frame, sweep, arm))


def linear_ratio(frame: pd.DataFrame, times: int, arm: str) -> Interval:
    """Return the same ratio of linear learners, each at its best ridge."""
    rows = frame[(frame.part == "linear") & (frame.times == times)]

    def gaps(name: str) -> np.ndarray:
        own = rows[rows.arm == name]
        ridge = own.groupby("ridge").gap.mean().idxmin()
        return own[own.ridge == ridge].sort_values("seed").gap.to_numpy()

    return ratio_interval(gaps(OFFLINE), gaps(arm))


def predicted_ratio(frame: pd.DataFrame, dim: int, arm: str, kind: str = "schedule") -> float:
    rows = frame[(frame.part == "prediction") & (frame.dim == dim)].set_index("arm")
    return float(rows.loc[OFFLINE, kind] / rows.loc[arm, kind])


def reach(frame: pd.DataFrame, sweep: Sweep, dim: int, times: int = 1) -> float:
    """Return ``n eta^2 / tr(F^-1 C*)`` of offline labels; the prediction needs it to be large."""
    rows = frame[(frame.part == "prediction") & (frame.dim == dim)].set_index("arm")
    trace = 2.0 * sweep["eta"] * float(rows.loc[OFFLINE, "limit"])
    return times * sweep["rounds"] * sweep["batch"] * sweep["eta"] ** 2 / trace


# --------------------------------------------------------------------------- judge


def judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    checks = []
    level = 1.0 - 0.05 / len(ONLINE)
    offline, labels = final(frame, sweep, OFFLINE), sweep["rounds"] * sweep["batch"]
    for arm in ONLINE:
        found = t_interval(final(frame, sweep, arm) - offline, level)
        checks.append(
            estimate(
                f"J({arm}) − J(offline), language model, {labels} labels, steps tuned",
                found,
                f"the {level:.2%} t interval over seeds lies above 0",
                passed=found.lower > 0.0,
            )
        )
    dim = sweep["dims"][0]
    for times in sweep["times"]:
        if reach(frame, sweep, dim, times) < LARGE:
            continue  # the prediction is a limit that so few labels are not near
        for arm in ONLINE:
            want, found = predicted_ratio(frame, dim, arm), linear_ratio(frame, times, arm)
            checks.append(
                estimate(
                    f"linear learners, {times * labels} labels: gap offline / {arm}, "
                    f"predicted {want:.2f}",
                    found,
                    "the 95 % interval lies on the predicted side of 1",
                    passed=found.lower > 1.0 if want > 1.0 else found.upper < 1.0,
                )
            )
    peak = tuned_at(frame)[OFFLINE]
    checks.append(
        Check(
            name="tuning: epochs at which offline labels reach the largest mean J on validation "
            "prompts",
            measured=peak,
            interval=None,
            required="inside the grid: a longer one could only favour the other arms",
            passed=min(sweep["epochs"]) < peak < max(sweep["epochs"]),
        )
    )
    return checks


# --------------------------------------------------------------------------- draw


def draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    fig, panels = style.figure(3, 1, aspect=1.02)
    draw_rounds(panels[0], frame, sweep)
    draw_tuning(panels[1], frame, sweep)
    draw_ratios(panels[2], frame, sweep)
    axes.legend(fig)
    return fig


def draw_rounds(ax: Any, frame: pd.DataFrame, sweep: Sweep) -> None:
    rows = tuned(frame, sweep)
    start = standard(frame, "π0")
    for arm in ARMS:
        own = rows[rows.arm == arm]
        at = sorted(own["round"].unique())
        found = [t_interval(own[own["round"] == t][J]) for t in at]
        x = np.array([0, *(int(t) * sweep["batch"] for t in at)]) + 14.0 * SHIFTS[arm]
        whiskers(ax, x, stacked([Interval(start, start, start), *found]), arm, LOOKS[arm])
    ax.set(title="Steps tuned", xlabel="labels", ylabel="J = E r − η KL, test prompts")
    ax.set_xticks([k * sweep["batch"] for k in range(sweep["rounds"] + 1)])


def draw_tuning(ax: Any, frame: pd.DataFrame, sweep: Sweep) -> None:
    rows = frame[(frame.part == "trained") & (frame.split == "test") & frame.arm.isin(ARMS)]
    rows = rows[rows.labels == sweep["rounds"] * sweep["batch"]]
    axes.log_axes(ax, "x")
    for arm in ARMS:
        own = rows[rows.arm == arm]
        found = stacked([t_interval(own[own.epochs == e][J]) for e in sweep["epochs"]])
        x = np.array(sweep["epochs"]) * 1.05 ** SHIFTS[arm]
        whiskers(ax, x, found, arm, LOOKS[arm])
    ax.set(title="All numbers of steps", xlabel="epochs", ylabel="J, test prompts")
    ax.set_xticks(sweep["epochs"], [f"{e:g}" for e in sweep["epochs"]])


def draw_ratios(ax: Any, frame: pd.DataFrame, sweep: Sweep) -> None:
    """Draw predicted and measured ratios of gaps, arm by arm."""
    axes.log_axes(ax, "x")
    dim, labels = sweep["dims"][0], sweep["rounds"] * sweep["batch"]
    shown: list[tuple[str, str, str, list[Interval]]] = []
    point = [predicted_ratio(frame, dim, arm) for arm in ONLINE]
    shown.append(("predicted", "ink", "D", [Interval(v, v, v) for v in point]))
    for times, color in zip(sweep["times"][::-1], ("green", "sky"), strict=False):
        found = [linear_ratio(frame, times, arm) for arm in ONLINE]
        shown.append((f"linear, {times * labels} labels", color, "s", found))
    found = [measured_ratio(frame, sweep, arm) for arm in ONLINE]
    shown.append((f"language model, {labels}", "vermillion", "o", found))
    shifts = np.linspace(-0.27, 0.27, len(shown))
    for (label, color, marker, intervals), shift in zip(shown, shifts, strict=True):
        found, place = stacked(intervals), np.arange(len(ONLINE)) + shift
        curves.points(ax, found.value, place, label=label, color=color, marker=marker)
        ax.hlines(place, found.lower, found.upper, color=style.COLORS[color], linewidth=1.0)
    curves.level(ax, 1.0, axis="x")
    ax.set_yticks(range(len(ONLINE)), list(ONLINE))
    ax.set_ylim(len(ONLINE) - 0.4, -0.6)
    ax.set(title="Who wins", xlabel="gap offline / gap online")


def caption(frame: pd.DataFrame, sweep: Sweep) -> str:
    dim = sweep["dims"][0]
    explained = frame.loc[frame.dim == dim, "explained"].dropna().iloc[0]
    labels = sweep["rounds"] * sweep["batch"]
    return (
        f"DPO with β = η = {sweep['eta']:g} on {labels} Bradley-Terry labels of the tiny world's "
        f"gold reward, in {sweep['rounds']} rounds, always from π0 on all labels so far; arms "
        "differ in where their pairs come from. J = E r − η KL on "
        f"{sweep['test']} test prompts, {sweep['samples']} fresh responses each, KL by the k1 "
        f"estimator. Left: with the steps that each arm and seed chose on {sweep['validation']} "
        "other held-out prompts; middle: after all labels, for every number of steps; arms are "
        f"set apart horizontally. Bars: 95 % t intervals over {sweep['replicas']} seeds (other "
        "prompts, pools, labels). Right: gap to "
        "J* with offline labels over that of each arm; above 1 online wins. Predicted: ratio of "
        "tr(F⁻¹C*)/(2η) for the linear account of the gold reward on "
        f"{dim} principal features of the model (it explains {explained:.0%} of the "
        "variance within prompts), with the first round from π0 and the others from the limiting "
        "law. Linear: plug-in learners in that linear world. Lines: 95 % bootstrap intervals over "
        f"{sweep['linear_replicas']} replicas of those, and over seeds of the language model."
    )


def constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {
        "J of π0": standard(frame, "π0"),
        "J* (importance-weighted pools)": standard(frame, "optimum"),
        "J of imitating the gold reward's Gibbs policy": standard(frame, IMITATION),
    }
    for arm in ARMS:
        for name, words in ((J, "J"), ("fresh_gold", "gold reward"), ("fresh_kl_k1", "KL")):
            found = t_interval(final(frame, sweep, arm, name))
            numbers[f"{arm}: {words}"] = text(found)
    for dim in sweep["dims"]:
        for arm in ONLINE:
            limit, here = (predicted_ratio(frame, dim, arm, k) for k in ("limit", "schedule"))
            line = f"{limit:.2f} in the limit, {here:.2f} for these rounds"
            numbers[f"gap offline / {arm}: predicted, d = {dim}"] = line
        numbers[f"n η² / tr(F⁻¹C*), d = {dim}"] = reach(frame, sweep, dim)
    for arm in ONLINE:
        for times in sweep["times"]:
            words = f"of linear learners, {times * sweep['rounds'] * sweep['batch']} labels"
            numbers[f"gap offline / {arm}: {words}"] = text(linear_ratio(frame, times, arm))
        found = measured_ratio(frame, sweep, arm)
        numbers[f"gap offline / {arm}: of the language model"] = text(found)
    return numbers


def summary(frame: pd.DataFrame, sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands in summary.json beside checks and constants."""
    chosen = choices(frame)
    offline = final(frame, sweep, OFFLINE)
    arms = {}
    for arm in ARMS:
        values = {n: t_interval(final(frame, sweep, arm, n)) for n in KEPT}
        arms[arm] = {n: [i.value, *i.ends] for n, i in values.items()}
        arms[arm]["epochs"] = chosen[arm].tolist()
        difference = t_interval(final(frame, sweep, arm) - offline)
        arms[arm]["J - J(offline)"] = [difference.value, *difference.ends]
    return {"arms": arms}


FULL: dict[str, Any] = {
    "replicas": 5,
    "instance": 0,
    "eta": 0.5,
    "prompts": 192,
    "pool": 12,
    "rounds": 3,
    "batch": 256,
    "epochs": [0.75, 1.5, 3.0, 6.0],
    "rate": 1e-3,
    "train_batch": 16,
    "validation": 64,
    "test": 128,
    "held_pool": 16,
    "samples": 8,
    "optimum_pool": 128,
    "gold_steps": 100,
    "dims": [64, 128],
    "linear_prompts": 96,
    "linear_pool": 48,
    "linear_replicas": 64,
    "times": [1, 32],
    "ridges": [0.3, 3.0, 30.0],
}

QUICK: dict[str, Any] = {
    **FULL,
    "replicas": 2,
    "prompts": 32,
    "pool": 8,
    "batch": 24,
    "epochs": [1.0, 3.0],
    "validation": 8,
    "test": 16,
    "held_pool": 8,
    "samples": 2,
    "optimum_pool": 16,
    "gold_steps": 20,
    "dims": [16],
    "linear_prompts": 24,
    "linear_pool": 16,
    "linear_replicas": 4,
    "times": [1],
    "ridges": [1.0],
}

STUDY = Theorem(
    name="online-against-offline-lm",
    title="Online against offline labels on a language model, and what the constant predicts",
    claim=(
        "With equally many labels, and each arm's steps tuned on held-out prompts, DPO on pairs "
        "from the current policies reaches a larger J than on pairs from π0. The constants "
        "tr(F⁻¹C*)/(2η) say whom linear learners with enough labels let win."
    ),
    source="the talk, first experimental result; theory sheet 12.19",
    assumptions=(
        "Labels are Bradley-Terry's with the gold reward of the tiny world, which is no linear "
        "function of the features: the constants are those of its best linear account.",
        "The constants are limits of many labels for linear models with exact planning, judged "
        f"where n η² is at least {LARGE:g} tr(F⁻¹C*); a language model trained for so many steps "
        "is no such learner, and what it does is reported beside the prediction.",
    ),
    departures=(
        "A label is a pair of two different responses.",
        "Pairs are drawn from pools, refreshed every round, half from π0 and half from π_t.",
        "Steps are tuned with gold rewards of validation prompts, which a user would not have.",
    ),
    quick=QUICK,
    full=FULL,
    measure=lambda *_: pd.DataFrame(),
    judge=judge,
    draw=draw,
    caption=caption,
    constants=constants,
)


if __name__ == "__main__":
    sys.exit(carried_out(STUDY, "online_against_offline", measure, summary))
