"""Over-optimisation on pools of the tiny model: gold reward and J against KL, and pessimism.

Labels are Bradley-Terry's with the gold reward of the tiny world, of pairs from pi0 x pi0. Gibbs
and best-of-n policies of a linear reward on the tiny model's hidden states, projected and frozen,
ever stronger, exact on wide pools of held-out prompts. Pessimism: the lower confidence bound (LCB)
in place of the estimate, or mean - w variance of an ensemble (UWO).

J is always E r - eta KL with the eta of the problem, whatever strength a policy was planned at. The
gold reward is no linear function of the features. Trained policies: `over-optimisation.toml`.

    python -m benchmarks.llm.cards over-optimised-pools [--quick] [--jobs 2]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.llm.intervals import stacked, t_interval, text
from benchmarks.llm.tiny_runs import gold, tiny_policy
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.algorithms.offline_pessimistic import LowerBound
from rlhf_theory.arrays import to_numpy
from rlhf_theory.core import RewardModel
from rlhf_theory.data import Contexts, PreferenceData
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.estimators.ensembles import bootstrap_ensemble
from rlhf_theory.evaluation.gaps import mean_kl, over_contexts
from rlhf_theory.evaluation.over_optimisation import drop_from_peak
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.planners.best_of_n import best_of_n_path
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.policies import expectation
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward, TableReward
from rlhf_theory.theorems.card import Check, Part, Sweep, Theorem
from rlhf_theory.theorems.checks import estimate
from rlhf_theory.theorems.sweeps import replica_parts
from rlhf_theory.worlds.bandit import Bandit

PLAIN = "plain"
WAYS = ("Gibbs", "best-of-n")


# --------------------------------------------------------------------------- what all parts share


@dataclass(frozen=True, eq=False)
class Pools:
    """Prompts with pools to learn from, and held-out ones with wide pools to be judged on."""

    problem: PromptProblem
    near: TableReward
    far: TableReward
    x: Contexts
    weights: Any


@lru_cache(maxsize=1)
def pools_of(dim: int, prompts: int, pool: int, eta: float, n: int, wide: int) -> Pools:
    """Return pools with the gold rewards of all responses; those asked for last are kept."""
    world, pi0 = tiny_policy()
    order = np.argsort(Key(0).child("prompts").uniform_numpy(1, len(world.prompts))[0])
    problem = PromptProblem(
        [world.prompts[i] for i in order[:prompts]],
        pi0,
        features=TransformerFeatures(pi0, dim=dim, progress=False),
        pool_size=pool,
        eta=eta,
        seed=Key(0).child("pools").seed_int(),
    )
    held = problem.held_out(world.held_out[:n], pool_size=wide)
    near, far = (TableReward(to_numpy(gold().rewards(p.table))) for p in (problem, held))
    return Pools(problem, near, far, *held.finite().to(np.zeros(1)).population(Key(0), 0))


def proxies(
    sweep: Sweep, data: PreferenceData, problem: Any, key: Key
) -> Iterator[tuple[str, float, RewardModel]]:
    """Yield method, multiplier and reward: the ridge fit, its lower bounds, ensembles."""
    rule = Constant(beta=1.0, lam=sweep["ridge"])
    fit = rule.fit(data)
    yield PLAIN, 0.0, LinearReward(fit.value)
    for c in sweep["lcb"]:
        yield "LCB", c, LowerBound(rule.confidence_set(fit, data, problem).rescaled(c))
    if sweep["uwo"]:
        members = bootstrap_ensemble(
            data, key, n_members=sweep["members"], ridge=sweep["ridge"]
        ).value
        for w in sweep["uwo"]:
            yield "UWO", w, members.uncertainty_weighted(w)


# --------------------------------------------------------------------------- exact policies


def parts(sweep: Sweep) -> list[Part]:
    """Return a part for every block of replicas of every number of labels."""
    return replica_parts(sweep, [{"labels": labels} for labels in sweep["labels"]])


def measure(sweep: Sweep, part: Part, _key: Key) -> pd.DataFrame:
    """Return exact Gibbs and best-of-n paths on held-out pools."""
    labels, first, stop = (part.settings[k] for k in ("labels", "first", "stop"))
    names = ("dim", "prompts", "pool", "eta", "wide_prompts", "wide_pool")
    pools = pools_of(*(sweep[name] for name in names))
    finite = pools.problem.finite(stop - first).to(np.zeros(1))
    world = Bandit(name="pools", problem=finite, oracle=BradleyTerry(pools.near), reward=pools.near)
    key = Key(sweep["instance"]).child("exact", labels).block(first)
    # Pairs of two different responses are labels: so many of them in expectation.
    same = float((finite.weights * np.exp(2.0 * finite.log_pi0).sum(axis=-1)).sum())
    data = world.offline_data(key.child("pairs"), round(labels / (1.0 - same)))
    rows: list[dict[str, Any]] = []
    for method, c, proxy in proxies(sweep, data, finite, key.child("ensemble")):
        rewards = to_numpy(proxy.rewards(pools.x))
        for point in paths(sweep, pools.x, pools.weights, rewards, pools.far.table):
            arrays = {
                k: np.broadcast_to(point.pop(k), (stop - first,)) for k in ("kl", "gold", "proxy")
            }
            for r in range(stop - first):
                about = {"seed": first + r, "labels": labels, "method": method, "multiplier": c}
                numbers = {k: float(values[r]) for k, values in arrays.items()}
                numbers["objective"] = numbers["gold"] - sweep["eta"] * numbers["kl"]
                rows.append(about | point | numbers)
    return pd.DataFrame(rows)


def paths(
    sweep: Sweep, x: Contexts, weights: Any, proxy: np.ndarray, rewards: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yield the policies of both paths, with arrays over replicas."""
    # A pessimistic reward is not 0 on average under pi0, as the plain one is.
    proxy = proxy - expectation(x.log_pi0, proxy)[..., None]
    gibbs = [x.log_pi0, *(gibbs_log_probs(proxy, x.log_pi0, eta) for eta in sweep["exact_eta"])]
    best = best_of_n_path(proxy, x.log_pi0, sweep["best_of"])
    for way, dials, laws in (
        ("Gibbs", [0.0, *sweep["exact_eta"]], gibbs),
        ("best-of-n", sweep["best_of"], best),
    ):
        for step, (dial, law) in enumerate(zip(dials, laws, strict=True)):
            yield {
                "way": way,
                "step": step,
                "dial": float(dial),
                "kl": mean_kl(law, x.log_pi0, weights),
                "gold": over_contexts(expectation(law, rewards), weights),
                "proxy": over_contexts(expectation(law, proxy), weights),
            }


# --------------------------------------------------------------------------- curves


@dataclass(frozen=True, eq=False)
class Path:
    """Policies of growing optimisation, one row per seed: shape ``(seeds, steps)``."""

    method: str
    multiplier: float
    kl: np.ndarray
    gold: np.ndarray
    objective: np.ndarray

    @property
    def name(self) -> str:
        """For legends."""
        return PLAIN if self.method == PLAIN else f"{self.method} × {self.multiplier:g}"


def paths_of(frame: pd.DataFrame, way: str, labels: int) -> list[Path]:
    """Return the paths of one way to optimise, the plain one first."""
    rows = frame[(frame.way == way) & (frame.labels == labels)]
    found = []
    for (method, c), own in rows.groupby(["method", "multiplier"]):
        tables = [
            own.pivot_table(index="seed", columns="step", values=v).to_numpy()
            for v in ("kl", "gold", "objective")
        ]
        found.append(Path(str(method), float(c), *tables))
    order = {PLAIN: 0, "LCB": 1, "UWO": 2}
    return sorted(found, key=lambda p: (order[p.method], p.multiplier))


def drops(path: Path, value: str) -> np.ndarray:
    """Return what each seed loses from its peak to the end of the path, shape ``(seeds,)``."""
    return drop_from_peak(getattr(path, value))


# --------------------------------------------------------------------------- judge


def judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    checks, fewest = [], sweep["labels"][0]
    for way in WAYS:
        plain, *others = paths_of(frame, way, fewest)
        found = t_interval(drops(plain, "gold"))
        checks.append(
            estimate(
                f"{way}, {fewest} labels: gold reward that plain loses from its peak",
                found,
                "above 0 (else nothing was over-optimised)",
                passed=found.lower > 0.0,
            )
        )
        checks += [
            less(way, plain, [p for p in others if p.method == method])
            for method in dict.fromkeys(p.method for p in others)
        ]
    return checks


def less(way: str, plain: Path, options: list[Path]) -> Check:
    """Compare the drop at the best of a grid of multipliers with that of the plain path."""
    # The choice among K multipliers is paid for by intervals of level 1 - .05 / K (Bonferroni).
    level = 1.0 - 0.05 / len(options)
    found = [t_interval(drops(p, "gold") - drops(plain, "gold"), level) for p in options]
    best = int(np.argmin([f.value for f in found]))
    return estimate(
        f"{way}: drop of gold reward with {options[best].name} (best of {len(options)}) minus that "
        "of plain",
        found[best],
        f"below 0, by the upper end of the {level:.2%} t interval over replicas",
        passed=found[best].upper < 0.0,
    )


# --------------------------------------------------------------------------- draw


LOOKS = {
    PLAIN: style.SeriesStyle("ink", "-", "o"),
    "LCB × 2": style.SeriesStyle("sky", (0, (5, 1.6)), "s"),
    "LCB × 8": style.SeriesStyle("blue", "-", "^"),
    "LCB × 32": style.SeriesStyle("purple", (0, (3, 1.2, 1, 1.2)), "v"),
    "UWO × 0.5": style.SeriesStyle("orange", (0, (1.2, 1.2)), "P"),
    "UWO × 4": style.SeriesStyle("green", (0, (5, 1.6)), "D"),
}


def draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    fig, panels = style.figure(len(WAYS), 2, aspect=0.9)
    titles, fewest = {"Gibbs": "Gibbs", "best-of-n": "Best-of-n"}, sweep["labels"][0]
    for column, way in enumerate(WAYS):
        above, below = panels[column], panels[column + len(WAYS)]
        for path in paths_of(frame, way, fewest):
            show(above, path, path.gold)
            show(below, path, path.objective)
        above.set(title=f"{titles[way]}, {fewest} labels", ylabel="gold reward")
        below.set(xlabel="KL(π‖π0), nats", ylabel=f"J = E r − {sweep['eta']:g} KL")
        for ax in (above, below):
            # Distances are roots of KL; the axis keeps nats.
            ax.set_xscale("function", functions=(root, np.square))
            ax.set_xticks([0, 0.5, 1, 2, 3, 4, 5])
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.legend(fig, panels[:2])
    return fig


def root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0.0))


def show(ax: Axes, path: Path, values: np.ndarray) -> None:
    found = stacked([t_interval(column) for column in values.T])
    look, kl = LOOKS[path.name], path.kl.mean(axis=0)
    band = (found.value, found.lower, found.upper)
    curves.curve(ax, kl, *band, path.name, look.color, look.line, marker=look.marker)


def caption(frame: pd.DataFrame, sweep: Sweep) -> str:  # noqa: ARG001  (of the sweep alone)
    return (
        "Gold reward (top) and J (bottom) against KL from π0 along paths of growing optimisation: "
        f"Gibbs and best-of-n policies of a linear reward from {sweep['labels'][0]} labels on "
        f"{sweep['dim']} frozen features, of its lower confidence bounds (LCB) and of "
        f"mean − w variance of {sweep['members']} bootstraps (UWO); exact on pools of "
        f"{sweep['wide_pool']} responses to {sweep['wide_prompts']} held-out prompts, which end at "
        f"log {sweep['wide_pool']} = {np.log(sweep['wide_pool']):.1f} nats; bands: 95 % t "
        f"intervals over {sweep['replicas']} replicas of the labels. The horizontal axes are "
        "spaced by √KL."
    )


def constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    for way in WAYS:
        for labels in sweep["labels"]:
            where = f"{way}, {labels} labels"
            for path in paths_of(frame, way, labels):
                numbers[f"{where}, {path.name}"] = "; ".join(
                    f"{words} {text(found)}"
                    for words, found in (
                        ("gold peaks at", t_interval(path.gold.max(axis=1))),
                        ("ends", t_interval(path.gold[:, -1])),
                        ("J peaks at", t_interval(path.objective.max(axis=1))),
                        ("ends", t_interval(path.objective[:, -1])),
                        ("drop of gold", t_interval(drops(path, "gold"))),
                        ("drop of J", t_interval(drops(path, "objective"))),
                    )
                )
    return numbers


FULL: dict[str, Any] = {
    "replicas": 64,
    # Replicas whose policies are in memory together: best-of-n compares all pairs of a pool.
    "block": 4,
    "instance": 0,
    "eta": 0.5,
    "dim": 64,
    "prompts": 192,
    "pool": 16,
    "labels": [96, 384],
    "ridge": 0.3,
    "wide_prompts": 48,
    "wide_pool": 256,
    "exact_eta": [32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03],
    "best_of": [1, 2, 4, 8, 16, 32, 64, 256, 1024],
    "lcb": [2.0, 8.0, 32.0],
    "uwo": [0.5, 4.0],
    "members": 8,
}

QUICK: dict[str, Any] = {
    **FULL,
    "replicas": 8,
    "dim": 16,
    "prompts": 32,
    "pool": 8,
    "labels": [48],
    "wide_prompts": 8,
    "wide_pool": 32,
    "members": 4,
}

STUDY = Theorem(
    name="over-optimised-pools",
    title="Over-optimisation of exact policies on pools, and what pessimism changes",
    claim=(
        "Optimised far enough against few labels, gold reward falls from its peak; with a lower "
        "confidence bound or an ensemble's variance it falls less."
    ),
    source="the talk; [2210.10760]; UWO: [2310.02743]",
    assumptions=(
        "An observation, not a theorem: the gold reward is no linear function of the features.",
    ),
    departures=(
        "A label is a pair of two different responses.",
        "The confidence set of lower bounds is an ellipsoid of radius 1 times the multiplier "
        "around a ridge fit; the radii of theorems are larger.",
    ),
    quick=QUICK,
    full=FULL,
    parts=parts,
    measure=measure,
    judge=judge,
    draw=draw,
    caption=caption,
    constants=constants,
)
