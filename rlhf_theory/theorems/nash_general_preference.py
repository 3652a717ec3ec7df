"""Theorem ``nash-general-preference``: learning the game where no reward explains the labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from rlhf_theory.algorithms.certificates import best_round
from rlhf_theory.arrays import to_numpy
from rlhf_theory.evaluation.statistics import (
    Interval,
    clopper_pearson,
    mean_interval,
    paired_difference,
    ratio_interval,
    slope_bootstrap,
)
from rlhf_theory.theorems.card import Check, Part, Sabotage, Sweep, Theorem
from rlhf_theory.theorems.checks import above, below, estimate, fact, near, often
from rlhf_theory.theorems.frames import select
from rlhf_theory.theorems.nash_general_preference_figure import draw
from rlhf_theory.theorems.nash_general_preference_sabotages import RIGHT
from rlhf_theory.theorems.nash_general_preference_study import (
    BRADLEY_TERRY,
    EQUILIBRIUM,
    GAMES,
    GIBBS,
    NASH,
    PESSIMISTIC,
    exact,
    gather,
    held,
    measure,
    parts,
    rows,
    table,
    world_of,
)
from rlhf_theory.theorems.spread import label_spread
from rlhf_theory.worlds.bandit import Game

# The rules, set before looking at full runs.
_SLACK = 0.1  # between a learner after finitely many rounds and its limit
_SOLVED = 1e-8  # largest difference of log-probabilities of the same policy
_DECADE = 10.0  # labels over which the slope is fitted, up to the last
# Agreement with limits beyond 95 % intervals, whose half widths are .07 (offline, 1024 replicas,
# .01 with the whole bonus) and .09 (online, 512): terms of higher order are 2 % at most.
_LIMIT_SLACK = 0.05
# A tenth of the first exploitability, in twice as many rounds as there are unseen arms.
_EPSILON, _ROUNDS_PER_DIM = 0.1, 2.0


# --------------------------------------------------------------------------- judge


def _judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    checks = []
    for game in GAMES:
        checks += [_vanishes(frame, game), _worse(frame, game), _levels_off(frame, game)]
    return [
        *checks,
        *_growth(frame),
        _same_policy(frame),
        _uniform(frame),
        _bound_held(frame, sweep),
        _bound_says(frame),
        _implied(frame),
        _offline_held(frame, sweep),
        *_limits(frame, sweep),
        *_many_labels(frame),
        *_rounds_needed(frame, sweep),
    ]


def _last(frame: pd.DataFrame, name: str, game: Game) -> np.ndarray:
    """Return the exploitability after the last round, shape ``(R,)``."""
    return table(rows(frame, "rounds", name, game))[1][:, -1]


def _asked(frame: pd.DataFrame, name: str, game: Game) -> str:
    part = rows(frame, "rounds", name, game)
    return f"{part[part['x'] == part['x'].max()]['labels'].mean():,.0f}"


def _vanishes(frame: pd.DataFrame, game: Game) -> Check:
    """Compare the slope of the slowest game learner with the rate of the theorem."""
    fits = {}
    for name in NASH:
        part = rows(frame, "rounds", name, game)
        labels, gap = table(part, "labels")[1].mean(axis=0), table(part)[1]
        fits[name] = slope_bootstrap(
            labels[1:],
            gap[:, 1:],
            window=(labels[-1] / _DECADE, np.inf),
            level=1.0 - 0.05 / len(NASH),
        )
    slowest = max(fits, key=lambda name: float(fits[name].upper))
    return below(
        f"{game} payoff: slope of exploitability over the last decade of labels, slowest "
        f"enhancer ({slowest})",
        fits[slowest],
        -0.5,
        "below −1/2: at least as fast as the theorem",
    )


def _worse(frame: pd.DataFrame, game: Game) -> Check:
    return above(
        f"{game} payoff: exploitability of Bradley–Terry minus Nash, both against π0, after "
        f"{_asked(frame, BRADLEY_TERRY, game)} labels",
        paired_difference(_last(frame, BRADLEY_TERRY, game), _last(frame, NASH[1], game)),
        0.0,
        "above 0 (all of the paired interval)",
    )


def _levels_off(frame: pd.DataFrame, game: Game) -> Check:
    limit = exact(frame, "floor", game)
    ratio = mean_interval(_last(frame, BRADLEY_TERRY, game) / limit)
    return estimate(
        f"{game} payoff: exploitability of Bradley–Terry over that with infinitely many "
        f"labels, {limit:.4f}",
        ratio,
        f"1 within {_SLACK:.0%} and the 95 % interval, and a limit above 0",
        passed=ratio.lower <= 1.0 + _SLACK and ratio.upper >= 1.0 - _SLACK and limit > 1e-6,
    )


def _growth(frame: pd.DataFrame) -> list[Check]:
    """Return whether the excess of Bradley-Terry grows from point to point of the dial."""
    steps = table(rows(frame, "population", GIBBS))[1][0]
    c, gibbs = table(rows(frame, "dial", GIBBS))
    nash = table(rows(frame, "dial", EQUILIBRIUM))[1]
    level = 1.0 - 0.05 / (c.size - 1)
    rise = mean_interval(np.diff(gibbs - nash, axis=1), level=level)
    least = int(np.argmin(rise.lower))
    return [
        fact(
            "smallest growth of the exploitability of the Bradley–Terry fit to infinitely "
            f"many pairs, between {steps.size} settings of the dial c",
            np.diff(steps).min(),
            "above 0",
            passed=np.diff(steps).min() > 0.0,
        ),
        above(
            f"growth of the gap between Bradley–Terry and Nash from c = {c[least]:g} to "
            f"{c[least + 1]:g}, the smallest of {c.size - 1}",
            rise.at(least),
            0.0,
            f"above 0 (all of the {level:.1%} interval)",
        ),
    ]


def _same_policy(frame: pd.DataFrame) -> Check:
    same = float(table(rows(frame, "truth", EQUILIBRIUM))[1].max())
    other = float(table(rows(frame, "truth", EQUILIBRIUM, "probability"))[1].min())
    return fact(
        "Bradley–Terry truth, logit payoff: largest |log π_Nash − log π_Gibbs| over penalties",
        same,
        f"at most {_SOLVED:g}; not so for the probability payoff, at least {other:.2g} there",
        passed=same <= _SOLVED,
    )


def _uniform(frame: pd.DataFrame) -> Check:
    worst = select(frame, study="cycle")["value"].max()
    return fact(
        "three annotators in a cycle, both payoffs: largest |π_Nash − 1/3|",
        worst,
        f"at most {_SOLVED:g}",
        passed=worst <= _SOLVED,
    )


def _bound_held(frame: pd.DataFrame, sweep: Sweep) -> Check:
    level = 1.0 - 0.05 / len(NASH)
    shares = {name: _share_held(rows(frame, "rounds", name), level) for name in NASH}
    worst = min(shares, key=lambda name: float(shares[name].lower))
    return often(
        "how often the observable bound on exploitability held at all rounds at once, worst "
        f"enhancer ({worst})",
        shares[worst],
        1.0 - sweep["delta"],
        f"at least 1 − δ = {1 - sweep['delta']:g} (all of the {level:.1%} interval)",
    )


def _share_held(part: pd.DataFrame, level: float = 0.95) -> Interval:
    """Return in which share of the replicas a bound held at all rounds, or sample sizes."""
    ok = held(part)
    return clopper_pearson(int(ok.sum()), ok.size, level=level)


def _chosen(frame: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the round t0 = argmin of the bound, the bound and the exploitability there."""
    part = rows(frame, "rounds", name)
    gap, bound = table(part)[1], table(part, "bound")[1]
    t0 = np.argmin(bound, axis=1)
    at = np.arange(t0.size), t0
    return t0, bound[at], gap[at]


def _bound_says(frame: pd.DataFrame) -> Check:
    floor = exact(frame, "floor", "logit")
    _, bound, _ = _chosen(frame, NASH[0])
    return below(
        "bound at t0 = argmin, information ratio: what the learner can vouch for",
        mean_interval(bound),
        floor,
        f"below {floor:.4f}, where the Bradley–Terry learner levels off",
    )


def _implied(frame: pd.DataFrame) -> Check:
    """Return whether bounds hold whenever the set contains the truth, whatever the multiplier."""
    part = frame[frame["bound"].notna()]
    inside = part[part["distance"] <= 1.0]
    broken = inside["value"] > (1.0 + 1e-8) * inside["bound"] + 1e-11
    return fact(
        "bounds broken while the set contains R*, online and offline, any multiplier "
        f"({len(inside):,} policies)",
        broken.sum(),
        "0",
        passed=not broken.any() and len(inside) > 0,
    )


def _offline_held(frame: pd.DataFrame, sweep: Sweep) -> Check:
    return often(
        "offline: how often 2 E b bounded exploitability + η KL(π*‖π̂) at all n at once",
        _share_held(rows(frame, "offline", PESSIMISTIC)),
        1.0 - sweep["delta"],
        f"at least 1 − δ = {1 - sweep['delta']:g} (all of the interval)",
    )


def _limits(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    """Return whether the offline learner does what it says, by exact limits.

    The bound of the theorem is many times the exploitability (see the constants of the card), so
    that no wrong bonus could break it.
    """
    checks = []
    for c in sweep["limit_multipliers"]:
        part = select(frame, study="limit", multiplier=c)
        ratio = ratio_interval(part["value"].to_numpy(), part["limit"].to_numpy())
        words = f"offline, {c:g} times the radius, n = {sweep['limit_pairs']:.0e}"
        checks.append(
            near(
                f"{words}: exploitability over its limit",
                ratio,
                1.0,
                _LIMIT_SLACK,
                f"1 within {_LIMIT_SLACK:.0%} and the 95 % interval",
            )
        )
        if c > 0.0:
            checks.append(
                near(
                    f"{words}: how far the bonus moves the policy, over what it should",
                    mean_interval(part["shift"].to_numpy()),
                    1.0,
                    _LIMIT_SLACK,
                    f"1 within {_LIMIT_SLACK:.0%} and the 95 % interval",
                )
            )
    return checks


def _many_labels(frame: pd.DataFrame) -> list[Check]:
    checks = []
    for name in NASH:
        part = select(frame, study="labels", learner=name)
        checks.append(
            near(
                f"{name}: exploitability over E tr(H⁻¹G)/(2η) of the pairs collected, "
                f"{part['labels'].mean():,.0f} labels",
                ratio_interval(part["value"].to_numpy(), part["limit"].to_numpy()),
                1.0,
                _LIMIT_SLACK,
                f"1 within {_LIMIT_SLACK:.0%} and the 95 % interval",
            )
        )
    return checks


def _rounds_needed(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    """Return whether rounds of order d are enough, where pi0 never shows the good action."""
    most, still = 0.0, dict[str, float]()
    for d in sweep["arms"]:
        part = select(frame, study="arms", learner=NASH[0], multiplier=float(d))
        gap, bound = table(part)[1], table(part, "bound")[1]
        at_t0 = np.take_along_axis(gap, to_numpy(best_round(bound)), axis=1)
        small = at_t0 <= _EPSILON * gap[:, :1]
        needed = np.where(small.any(axis=1), small.argmax(axis=1), np.inf)
        most = max(most, float(needed.max()) / d)
        for name in NASH[1:]:
            other = table(select(frame, study="arms", learner=name, multiplier=float(d)))[1]
            kept = other[:, -1].mean() / other[:, 0].mean()
            still[name] = min(still.get(name, np.inf), kept)
    dims = ", ".join(map(str, sweep["arms"]))
    return [
        fact(
            f"unseen arms, {NASH[0]}: rounds over d until the exploitability at t0 is a tenth, "
            f"largest over d = {dims} and replicas",
            most,
            f"at most {_ROUNDS_PER_DIM:g}: rounds of order d",
            passed=most <= _ROUNDS_PER_DIM,
        ),
        *(
            fact(
                f"unseen arms, {name}: exploitability after {_ROUNDS_PER_DIM:g}d rounds over the "
                "first, smallest mean",
                kept,
                "at least 0.9: without exploration nothing is learnt there",
                passed=kept >= 0.9,
            )
            for name, kept in still.items()
        ),
    ]


# --------------------------------------------------------------------------- card


def _caption(frame: pd.DataFrame, sweep: Sweep) -> str:
    logit, probability = sweep["worlds"]["logit"], sweep["worlds"]["probability"]
    replicas = select(frame, study="rounds")["replica"].nunique()
    return (
        "Top: exact exploitability of the main agent against the labels used, for the game learner "
        "with three enhancers and for the Bradley–Terry learner, on two worlds with intransitive "
        f"preferences (c = {logit['cycle']:g}; logit payoff, d = {logit['dim']}, "
        f"η = {logit['eta']:g}; payoff P − 1/2, d = {probability['dim']}, "
        f"η = {probability['eta']:g}, where the Gibbs policy is not the equilibrium even of "
        "Bradley–Terry preferences). Dotted: Bradley–Terry with infinitely many labels, and π0. "
        f"Right: both fits to the same {sweep['dial_pairs']:,} pairs from π0 as the cyclic part c "
        "of the preference grows. Bottom: the observable bound of the information-ratio learner, "
        "mean over replicas, as proved and with smaller radii, and the Bradley–Terry limit "
        "(dotted); how often bounds held at all rounds, or all n, when the radius is multiplied, "
        "and how often the set contained the truth at all rounds; pessimistic Nash on pairs from "
        "π0 with its bound. Bands and bars: 95 % intervals over "
        f"{replicas} replicas, bootstrap for means, Clopper–Pearson for shares."
    )


def _constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    for game in GAMES:
        numbers[f"{game} payoff: exploitability of π0"] = exact(frame, "start", game)
        for name in (*NASH, BRADLEY_TERRY):
            labels = _asked(frame, name, game)
            numbers[f"{game} payoff: {name}, {labels} labels"] = _text(_last(frame, name, game))
    for name in NASH:
        t0, bound, gap = _chosen(frame, name)
        numbers[f"{name}: t0 (mean), exploitability there, bound"] = (
            f"{t0.mean():.1f} of {rows(frame, 'rounds', name)['x'].max():.0f}; {gap.mean():.2g}; "
            f"{bound.mean():.2g}"
        )
    part = rows(frame, "offline", PESSIMISTIC)
    looseness = float((part["bound"] / part["value"]).median())
    numbers["offline: 2 E b over what it bounds, median over n"] = looseness
    for game in GAMES:
        eta, distance = table(rows(frame, "truth", EQUILIBRIUM, game))
        numbers[f"Bradley–Terry truth, {game} payoff: |log π_Nash − log π_Gibbs|, η"] = "; ".join(
            f"{v:.1e} ({e:g})" for e, v in zip(eta, distance[0], strict=True)
        )
    for game in GAMES:
        world = world_of({**sweep, "replicas": 1}, game)
        numbers |= label_spread(world, f", {game} world")
        numbers[f"intransitivity index, {game} world"] = world.summary()["intransitivity"]
    return numbers


def _text(values: np.ndarray) -> str:
    mean = mean_interval(values)
    return f"{mean.value:.2e} [{mean.lower:.2e}, {mean.upper:.2e}]"


_LOGIT = {
    "contexts": 10,
    "actions": 6,
    "dim": 2,
    "eta": 0.1,
    "theta_norm": 0.3,
    "cycle": 0.3,
    "reference": "uniform",
    "seed": 0,
}


def _of(*studies: str) -> Callable[[Part], bool]:
    def touches(part: Part) -> bool:
        return part.settings["study"] in studies

    return touches


def _main(part: Part) -> bool:
    return part.settings == {
        **part.settings,
        "study": "rounds",
        "learner": NASH[0],
        "game": "logit",
    }


_SABOTAGES = (
    Sabotage(name="offline: sign of the bonus flipped", settings={"bonus_flipped": True},
             touches=_of("limit", "offline")),
    Sabotage(name="radius halved", settings={"radius_factor": 0.5}, touches=_of("limit")),
    Sabotage(name="bound times 0.02", settings={"bound_factor": 0.02}, touches=_main),
    Sabotage(name="the main agent is its own enhancer", settings={"explores": False},
             touches=_of("arms")),
    Sabotage(name="no pair counted in Σ", settings={"counted": 0.0}, touches=_of("arms")),
    Sabotage(name="best reply to π0 for the equilibrium", settings={"one_step": True},
             touches=_of("limit", "labels")),
    Sabotage(name="plans with 1.2 η", settings={"planning_factor": 1.2},
             touches=_of("limit", "labels")),
    Sabotage(name="a tenth of the labels misread", settings={"misread": 0.1},
             touches=_of("limit", "labels")),
    Sabotage(name="labels ignored", settings={"misread": 0.5}, touches=_of("limit", "labels")),
    Sabotage(name="winners taken for losers", settings={"misread": 1.0},
             touches=_of("limit", "labels")),
    Sabotage(name="fits to the last round alone", settings={"remembers": False},
             touches=_of("labels", "arms")),
)  # fmt: skip

_FULL = {
    "replicas": 1024,
    "block": 256,
    "worlds": {
        "logit": _LOGIT,
        "probability": {**_LOGIT, "dim": 3, "eta": 0.05, "reference": "dirichlet", "seed": 1},
    },
    "delta": 0.05,
    "lam": 1.0,
    "norm_slack": 1.1,
    "rounds": 32,
    "batch_size": 320,
    "multipliers": [1.0, 0.5, 0.3, 0.2, 0.1],
    "shown": [1.0, 0.3, 0.1],
    "pairs": [30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000],
    "offline_multipliers": [1.0, 0.3, 0.1, 0.0],
    "cycles": [0.0, 0.1, 0.2, 0.3, 0.45, 0.6],
    "dial_pairs": 5000,
    "dial_points": 25,
    "etas": [3.0, 1.0, 0.3, 0.1, 0.03],
    "limit_pairs": 10**10,
    "limit_multipliers": [1.0, 0.0],
    "limit_replicas": 1024,
    "large_batch": 512,
    "large_rounds": 4,
    "labels_replicas": 512,
    "arms": [2, 4, 8],
    "arms_batch": 1024,
    "arms_replicas": 8,
    **RIGHT,
}

THEOREM = Theorem(
    name="nash-general-preference",
    order=5,
    version=2,
    title="Where no reward explains the labels, learn the game: its equilibrium is found",
    claim=(
        "Online learning of a general preference R, with the equilibrium π̂ of the estimate as main "
        "agent, drives the exploitability max_π [J(π,π̂)] of the KL-regularised game to 0, for some "
        "t0 within O~(d) rounds below ε. With probability at least 1 − δ, at all rounds at once, "
        "it is at most max_π { β |E ψ(x,π̂,π)|_{Σ⁻¹} − η KL(π‖π̂) }, which the learner can compute "
        "and choose t0 by. Offline, exploitability + η KL(π*‖π̂) ≤ 2 E_{π*,π2} b. A reward fitted "
        "to the same labels levels off above 0, the higher the less transitive the preference. "
        "For Bradley–Terry preferences and the logit payoff the equilibrium is the Gibbs policy."
    ),
    source="[2402.07314], Theorems 1 and 2 (v3, in a summary), Theorem 3 of the talk; the "
    "observable bounds as derived in the theory sheet, 2.2 and 2.3",
    assumptions=(
        "The logit of the preference is bilinear in (1, φ): inside the class that the learner "
        "fits, whose norm bound B = 1.1 |θ*| is known.",
        "The radius is R2′, valid at all rounds and for any rule that chooses pairs.",
        "The bounds are for the logit payoff; the search for their maximum starts from many "
        "directions and is certified only as far as it is global.",
    ),
    departures=(
        "Bilinear maximum likelihood and explicit radii in place of a finite class and O~ "
        "constants; η multiplies the KL, the paper writes 1/η.",
        "Payoff log(P/(1−P)) as in the talk, and P − 1/2 as in version 3 of the paper, both shown.",
        "The talk prints arg min for the enhancer. It is arg max here: the smallest information "
        "ratio is 0, of the main agent against itself, so arg min is the self-play curve.",
        "Self-play and pairs against π0 are baselines; no enhancer is required to win.",
        "Offline, the version space is the confidence ellipsoid and the bonus is pointwise. Its "
        "bound is many times what it bounds, so that exact limits of exploitability and policy are "
        "judged beside it; derived here.",
        "Rounds of order d are judged where exploration is needed: a good arm that π0 never plays, "
        "in one of d directions, with Bradley–Terry labels.",
    ),
    quick={
        **_FULL,
        "replicas": 128,
        "block": 128,
        "rounds": 20,
        "batch_size": 512,
        "multipliers": [1.0, 0.3, 0.1],
        "pairs": [30, 300, 3000, 30_000],
        "dial_points": 13,
    },
    full=_FULL,
    cost=3.0,
    parts=parts,
    measure=measure,
    gather=gather,
    judge=_judge,
    draw=draw,
    caption=_caption,
    constants=_constants,
    sabotages=_SABOTAGES,
)
