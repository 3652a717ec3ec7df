"""Over-optimisation on the tiny model: gold reward and gold J against KL, and pessimism.

Labels are Bradley-Terry's with the gold reward of the tiny world, of pairs from pi0 x pi0.

* Direct: offline DPO at beta = eta for ever more steps, policies judged by fresh responses (KL by
  the k1 estimator). Pessimism: the margin Gamma(x, a_w) - Gamma(x, a_l) of a confidence set (GSHF,
  direct version), with the tiny model's hidden states, projected and frozen, as features; and
  chi-PO, whose chi-squared penalty is pessimism without a confidence set.
* Gibbs and best-of-n policies of a linear reward on those features, ever stronger, exact on wide
  pools of held-out prompts. Pessimism: the lower confidence bound (LCB) in place of the estimate,
  or mean - w variance of an ensemble (UWO).

J is always E r - eta KL with the eta of the problem, whatever strength a policy was planned at. The
gold reward is no linear function of the features.

    python benchmarks/llm/over_optimisation.py [--quick] [--seeds 5] [--jobs 2] [--work FOLDER]

Stores results/over_optimisation/. Resumable: finished parts are read from the work folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from cells import Cells, Rows
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from online_pieces import Different, FromPi0
from studies import carried_out, stacked, t_interval, text, whiskers
from tiny_runs import gold, judge_on, problem_of_seed, tiny_policy

from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.labels.oracles import RewardModelOracle
from llm_bridge.planning.direct import DirectPreference
from llm_bridge.pools.data import PromptData
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.training.train import TrainingSettings
from rlhf_theory.algorithms.offline_pessimistic import LowerBound
from rlhf_theory.arrays import to_numpy
from rlhf_theory.core import RewardModel
from rlhf_theory.data import Contexts, PreferenceData
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.estimators.ensembles import bootstrap_ensemble
from rlhf_theory.evaluation.gaps import mean_kl, over_contexts
from rlhf_theory.evaluation.over_optimisation import drop_from_peak
from rlhf_theory.losses import planning
from rlhf_theory.oracles import BradleyTerry, feedback_from
from rlhf_theory.planners.best_of_n import best_of_n_path
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.policies import ReferencePolicy, expectation
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward, TableReward
from rlhf_theory.theorems.card import Check, Part, Sweep, Theorem
from rlhf_theory.theorems.checks import estimate
from rlhf_theory.worlds.bandit import Bandit

PLAIN = "plain"
WAYS = ("direct", "Gibbs", "best-of-n")
EXACT = ("Gibbs", "best-of-n")
FRESH = {"gold": "fresh_gold", "kl": "fresh_kl_k1", "objective": "fresh_objective"}
MORE = ("fresh_kl_k3", "fresh_length", "fresh_finished", "fresh_grammatical")
CHI = "χPO"


# --------------------------------------------------------------------------- what all parts share


_SETTINGS: dict[int, tuple[PromptProblem, PromptData]] = {}


def setting(sweep: Sweep, seed: int) -> tuple[PromptProblem, PromptData]:
    """Return the prompts of a seed with their pools, and its labels; those of one seed are kept."""
    if seed not in _SETTINGS:
        _SETTINGS.clear()
        features = TransformerFeatures(tiny_policy()[1], dim=sweep["dim"], progress=False)
        problem = problem_of_seed(seed, sweep["prompts"], features, sweep["pool"], sweep["eta"])
        feedback = feedback_from(RewardModelOracle(gold()))
        draw = Different(FromPi0())
        data = draw(
            problem,
            problem.empty_data(),
            ReferencePolicy(),
            feedback,
            sweep["labels"],
            Key(seed).child("labels"),
        )
        _SETTINGS[seed] = problem, data
    return _SETTINGS[seed]


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


def row_of(found: Any, **about: Any) -> dict[str, Any]:
    values = {short: float(found.mean(name)[0]) for short, name in FRESH.items()}
    more = {name: float(found.mean(name)[0]) for name in MORE if name in found.per_prompt}
    return about | values | more


# --------------------------------------------------------------------------- trained policies


def losses(sweep: Sweep, method: str, multiplier: float) -> dict[str, Any]:
    """Return what makes DPO pessimistic."""
    if method == "margin":
        return {"radius": Constant(beta=multiplier, lam=sweep["ridge"])}
    if method == CHI:
        return {"loss": planning("chi-po", sweep["eta"], r_max=sweep["r_max"])}
    return {}


def direct(sweep: Sweep, seed: int, method: str, multiplier: float) -> Rows:
    """Train on the labels for ever more steps."""
    problem, data = setting(sweep, seed)
    chosen = tiny_policy()[0].held_out[-sweep["test"] :]
    test = judge_on(chosen, sweep["samples"], 2, sweep["eta"])
    about = {"way": "direct", "seed": seed, "method": method, "multiplier": multiplier}
    about["labels"] = sweep["labels"]
    rows = [row_of(test.fresh(tiny_policy()[1]), **about, step=0, dial=0.0)]
    for step, epochs in enumerate(sweep["epochs"], start=1):
        settings = TrainingSettings(
            epochs=epochs,
            batch_size=sweep["train_batch"],
            learning_rate=sweep["rate"],
            schedule="constant",  # so that a shorter training is the first part of a longer one
            progress=False,
        )
        more = losses(sweep, method, multiplier)
        learner = DirectPreference.of(settings, **more)
        policy = learner(problem, data, Key(seed).child("direct")).value
        rows.append(row_of(test.fresh(policy), **about, step=step, dial=epochs))
    return rows


# --------------------------------------------------------------------------- exact policies


def exact(sweep: Sweep, labels: int) -> Rows:
    """Return exact Gibbs and best-of-n paths on held-out pools, for many replicas of labels."""
    problem, _ = setting(sweep, 0)
    chosen = tiny_policy()[0].held_out[: sweep["wide_prompts"]]
    held = problem.held_out(chosen, pool_size=sweep["wide_pool"])
    near, far = (TableReward(to_numpy(gold().rewards(p.table))) for p in (problem, held))
    x, weights = held.finite().to(np.zeros(1)).population(Key(0), 0)
    rows: Rows = []
    for first in range(0, sweep["exact_replicas"], BLOCK):
        n = min(BLOCK, sweep["exact_replicas"] - first)
        finite = problem.finite(n).to(np.zeros(1))
        world = Bandit(name="pools", problem=finite, oracle=BradleyTerry(near), reward=near)
        key = Key(sweep["instance"]).child("exact", labels).block(first)
        # Pairs of two different responses are labels: so many of them in expectation.
        same = float((finite.weights * np.exp(2.0 * finite.log_pi0).sum(axis=-1)).sum())
        data = world.offline_data(key.child("pairs"), round(labels / (1.0 - same)))
        for method, c, proxy in proxies(sweep, data, finite, key.child("ensemble")):
            for point in paths(sweep, x, weights, to_numpy(proxy.rewards(x)), far.table):
                arrays = [np.broadcast_to(point.pop(k), (n,)) for k in ("kl", "gold", "proxy")]
                for r, (kl, value, own) in enumerate(zip(*arrays, strict=True), start=first):
                    about = {"seed": r, "labels": labels, "method": method, "multiplier": c}
                    numbers = {"kl": float(kl), "gold": float(value), "proxy": float(own)}
                    numbers["objective"] = numbers["gold"] - sweep["eta"] * numbers["kl"]
                    rows.append(about | point | numbers)
    return rows


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


PARTS = {"direct": direct, "exact": exact}


def measure(sweep: Sweep, _part: Part, _key: Key, cells: Cells) -> pd.DataFrame:
    arms = [(PLAIN, 0.0), *(("margin", c) for c in sweep["margins"]), (CHI, 1.0)]
    runs = [("direct", seed, *arm) for seed in range(sweep["replicas"]) for arm in arms]
    known = [("exact", labels) for labels in sweep["exact_labels"]]
    # What only the other part reads is no setting of a part; nor is the number of seeds.
    frames = [
        cells.rows({k: sweep[k] for k in keys}, STUDY.version, tasks, PARTS)
        for keys, tasks in (((*SHARED, *DIRECT), runs), ((*SHARED, *POOLS), known))
    ]
    return pd.concat(frames, ignore_index=True)


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
        alone = self.method in (PLAIN, CHI)
        return self.method if alone else f"{self.method} × {self.multiplier:g}"


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
    order = {PLAIN: 0, "margin": 1, "LCB": 1, "UWO": 2, CHI: 3}
    return sorted(found, key=lambda p: (order[p.method], p.multiplier))


def drops(path: Path, value: str) -> np.ndarray:
    """Return what each seed loses from its peak to the end of the path, shape ``(seeds,)``."""
    return drop_from_peak(getattr(path, value))


VALUE = {"direct": "objective", "Gibbs": "gold", "best-of-n": "gold"}
"""What must not drop: J where eta stays, gold reward where ever more strength asks for more KL."""


# --------------------------------------------------------------------------- judge


def judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    checks = []
    for way in WAYS:
        plain, *others = paths_of(frame, way, fewest(sweep, way))
        words = {"objective": "J", "gold": "gold reward"}
        for value in dict.fromkeys(("gold", VALUE[way])):
            found = t_interval(drops(plain, value))
            checks.append(
                estimate(
                    f"{way}, {fewest(sweep, way)} labels: {words[value]} that plain loses from its "
                    "peak",
                    found,
                    "above 0 (else nothing was over-optimised)",
                    passed=found.lower > 0.0,
                )
            )
        checks += [
            less(way, words[VALUE[way]], plain, [p for p in others if p.method == method])
            for method in dict.fromkeys(p.method for p in others)
        ]
    return checks


def fewest(sweep: Sweep, way: str) -> int:
    """Return the number of labels that a way is judged and drawn at."""
    return int(sweep["exact_labels"][0] if way in EXACT else sweep["labels"])


def less(way: str, words: str, plain: Path, options: list[Path]) -> Check:
    """Compare the drop at the best of a grid of multipliers with that of the plain path."""
    # The choice among K multipliers is paid for by intervals of level 1 - .05 / K (Bonferroni).
    level = 1.0 - 0.05 / len(options)
    found = [t_interval(drops(p, VALUE[way]) - drops(plain, VALUE[way]), level) for p in options]
    best = int(np.argmin([f.value for f in found]))
    return estimate(
        f"{way}: drop of {words} with {options[best].name} (best of {len(options)}) minus that of "
        "plain",
        found[best],
        f"below 0, by the upper end of the {level:.2%} t interval over seeds",
        passed=found[best].upper < 0.0,
    )


# --------------------------------------------------------------------------- draw


LOOKS = {
    PLAIN: style.SeriesStyle("ink", "-", "o"),
    "margin × 2": style.SeriesStyle("sky", (0, (5, 1.6)), "s"),
    "margin × 8": style.SeriesStyle("blue", (0, (3, 1.2, 1, 1.2)), "^"),
    CHI: style.SeriesStyle("vermillion", "-", "D"),
    "LCB × 2": style.SeriesStyle("sky", (0, (5, 1.6)), "s"),
    "LCB × 8": style.SeriesStyle("blue", "-", "^"),
    "LCB × 32": style.SeriesStyle("purple", (0, (3, 1.2, 1, 1.2)), "v"),
    "UWO × 0.5": style.SeriesStyle("orange", (0, (1.2, 1.2)), "P"),
    "UWO × 4": style.SeriesStyle("green", (0, (5, 1.6)), "D"),
}


def draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    fig, panels = style.figure(len(WAYS), 2, aspect=0.9)
    titles = {"direct": "DPO", "Gibbs": "Gibbs", "best-of-n": "Best-of-n"}
    for column, way in enumerate(WAYS):
        above, below = panels[column], panels[column + len(WAYS)]
        for path in paths_of(frame, way, fewest(sweep, way)):
            show(above, path, path.gold, few=way == "direct")
            show(below, path, path.objective, few=way == "direct")
        above.set(title=f"{titles[way]}, {fewest(sweep, way)} labels", ylabel="gold reward")
        below.set(xlabel="KL(π‖π0), nats", ylabel=f"J = E r − {sweep['eta']:g} KL")
        for ax in (above, below):
            # Distances are roots of KL; the axis keeps nats.
            ax.set_xscale("function", functions=(root, np.square))
            ax.set_xticks([0, 1, 4, 9, 16] if way == "direct" else [0, 0.5, 1, 2, 3, 4, 5])
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.legend(fig, [panels[0]], inside=panels[0], loc="lower left")
    axes.legend(fig, panels[1:3])
    return fig


def root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0.0))


def show(ax: Axes, path: Path, values: np.ndarray, *, few: bool) -> None:
    """Draw a path; with intervals as bars where it has few seeds."""
    found = stacked([t_interval(column) for column in values.T])
    look, kl = LOOKS[path.name], path.kl.mean(axis=0)
    if few:
        whiskers(ax, kl, found, path.name, look)
        return
    band = (found.value, found.lower, found.upper)
    curves.curve(ax, kl, *band, path.name, look.color, look.line, marker=look.marker)


def caption(frame: pd.DataFrame, sweep: Sweep) -> str:  # noqa: ARG001  (of the sweep alone)
    return (
        "Gold reward (top) and J (bottom) against KL from π0 along paths of growing optimisation. "
        f"Left: DPO with β = η = {sweep['eta']:g} on {sweep['labels']} labels after "
        f"{', '.join(f'{e:g}' for e in sweep['epochs'])} epochs at a constant learning rate, with "
        "the margin of a confidence set in the loss (GSHF, direct version) and with χPO; fresh "
        f"responses to {sweep['test']} held-out prompts, KL by the k1 estimator; bars: 95 % t "
        f"intervals over {sweep['replicas']} seeds (other prompts, pools, labels). Middle and "
        f"right: Gibbs and best-of-n policies of a linear reward from {sweep['exact_labels'][0]} "
        f"labels on {sweep['dim']} frozen features, of its lower confidence bounds (LCB) and of "
        f"mean − w variance of {sweep['members']} bootstraps (UWO); exact on pools of "
        f"{sweep['wide_pool']} responses to {sweep['wide_prompts']} held-out prompts, which end at "
        f"log {sweep['wide_pool']} = {np.log(sweep['wide_pool']):.1f} nats; bands: 95 % t "
        f"intervals over {sweep['exact_replicas']} replicas of the labels. The horizontal axes are "
        "spaced by √KL."
    )


def constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    for way in WAYS:
        for labels in sweep["exact_labels"] if way in EXACT else [sweep["labels"]]:
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


SHARED = ("instance", "eta", "dim", "prompts", "pool", "labels", "ridge")
DIRECT = ("test", "samples", "epochs", "rate", "train_batch", "r_max")
POOLS = (
    "wide_prompts",
    "wide_pool",
    "exact_replicas",
    "exact_eta",
    "best_of",
    "lcb",
    "uwo",
    "members",
)
# Replicas whose policies are in memory together: best-of-n compares all pairs of a pool.
BLOCK = 4

FULL: dict[str, Any] = {
    "replicas": 5,
    "instance": 0,
    "eta": 0.5,
    "dim": 64,
    "prompts": 192,
    "pool": 16,
    "labels": 384,
    "ridge": 0.3,
    "test": 128,
    "samples": 8,
    "epochs": [0.5, 1.0, 2.0, 4.0, 8.0],
    "rate": 1e-3,
    "train_batch": 16,
    "margins": [2.0, 8.0],
    "r_max": 10.0,
    "wide_prompts": 48,
    "wide_pool": 256,
    "exact_replicas": 64,
    "exact_labels": [96, 384],
    "exact_eta": [32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03],
    "best_of": [1, 2, 4, 8, 16, 32, 64, 256, 1024],
    "lcb": [2.0, 8.0, 32.0],
    "uwo": [0.5, 4.0],
    "members": 8,
}

QUICK: dict[str, Any] = {
    **FULL,
    "replicas": 2,
    "dim": 16,
    "prompts": 32,
    "pool": 8,
    "labels": 48,
    "test": 16,
    "samples": 2,
    "epochs": [1.0, 4.0],
    "margins": [2.0],
    "wide_prompts": 8,
    "wide_pool": 32,
    "exact_replicas": 8,
    "exact_labels": [48],
    "members": 4,
}

STUDY = Theorem(
    name="over-optimisation-lm",
    title="Over-optimisation on a language model, and what pessimism changes",
    claim=(
        "Optimised far enough against few labels, gold reward and gold J fall from their peaks; "
        "with a margin, a chi-squared penalty, a lower confidence bound or an ensemble's variance "
        "they fall less."
    ),
    source="the talk; [2210.10760]; [2312.11456], Algorithm 1 (direct version); χPO: [2407.13399]; "
    "UWO: [2310.02743]",
    assumptions=(
        "An observation, not a theorem: the gold reward is no linear function of the features, and "
        "a language model trained for so many steps is no minimiser.",
    ),
    departures=(
        "A label is a pair of two different responses.",
        "χPO has no multiplier here: the strengths of both penalties are β = η.",
        "The confidence set of margins and lower bounds is an ellipsoid of radius 1 times the "
        "multiplier around a ridge fit; the radii of theorems are larger.",
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
    sys.exit(carried_out(STUDY, "over_optimisation", measure))
