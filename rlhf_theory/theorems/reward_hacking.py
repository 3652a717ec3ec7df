"""Theorem ``reward-hacking``: gold reward falls where a proxy is optimised far; pessimism helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_theory.arrays import Array, inner, namespace, to_numpy
from rlhf_theory.data import PreferenceData
from rlhf_theory.estimators.ellipsoid import ellipsoid
from rlhf_theory.estimators.ensembles import bootstrap_ensemble
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.evaluation.gaps import mean_kl, over_contexts
from rlhf_theory.evaluation.over_optimisation import (
    Law,
    drop_from_peak,
    over_optimisation_fit,
    over_optimisation_law,
    peak_distance,
)
from rlhf_theory.evaluation.statistics import (
    Interval,
    line_slope,
    mean_interval,
    resample_means,
)
from rlhf_theory.features import centred
from rlhf_theory.planners.best_of_n import best_of_n_path
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.plots.style import SeriesStyle
from rlhf_theory.policies import expectation
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Check, Part, Sabotage, Sweep, Theorem, in_order
from rlhf_theory.theorems.checks import above, estimate, fact
from rlhf_theory.theorems.frames import select
from rlhf_theory.theorems.panels import dotted, interval_curve
from rlhf_theory.theorems.sabotaged_learners import misread
from rlhf_theory.theorems.spread import label_spread
from rlhf_theory.theorems.sweeps import block_of, linear_world, nested_data, replica_parts
from rlhf_theory.worlds.bandit import Bandit

_PLAIN = "plain proxy"
_LAWS: dict[str, Law] = {"Gibbs": "rl", "best-of-n": "best-of-n"}
_PATHS = tuple(_LAWS)
_KEYS = ["replica", "labels", "method", "multiplier", "path", "step"]
_LEANING, _UNIFORM = "leaning", "uniform"
_TWO = "two draws"
"""The path with the best of two draws only, enumerated."""

# Set before looking. Single precision of what is stored; and what a pessimist may lose of the gold
# reward of the plain proxy where there is nothing to be careful of.
_ROUNDING = 1e-5
_LOSS = 0.1


# --------------------------------------------------------------------------- measure


def _world(sweep: Sweep, replicas: int, name: str = _LEANING) -> Bandit:
    # A negative peak leans pi0 towards good actions, as fine-tuning on demonstrations does.
    peak = -sweep["lean"] if name == _LEANING else 0.0
    return linear_world(sweep, replicas, reference="peaked", peak=peak, name=name)


def _parts(sweep: Sweep) -> Sequence[Part]:
    return replica_parts(sweep, [{"world": _LEANING}, {"world": _UNIFORM}])


def _measure(sweep: Sweep, part: Part, key: Key) -> pd.DataFrame:
    """Return the paths of every method: one row per replica, label count, multiplier and step."""
    name = part.settings["world"]
    first, world, own = block_of(part, _world(sweep, sweep["replicas"], name), key)
    if name == _UNIFORM:  # only the ends of the paths are compared there
        sweep = {**sweep, "eta": sweep["eta"][-1:], "best_of": sweep["best_of"][-1:]}
    frames = []
    for labels, drawn in nested_data(world, sweep["labels"], own):
        data = misread(drawn, sweep["misread"])
        refits = own.child("bootstrap", labels)
        for method, multiplier, rewards in _proxies(sweep, world, data, refits):
            frame = _paths(sweep, world, rewards)
            frame["replica"] += first
            frame = frame.assign(labels=labels, method=method, multiplier=multiplier)
            frames.append(frame.assign(world=name))
    return pd.concat(frames, ignore_index=True)


def _gather(tables: Sequence[pd.DataFrame], sweep: Sweep) -> pd.DataFrame:
    return in_order(tables, sweep).astype(dict.fromkeys(("world", "method", "path"), "category"))


def _proxies(
    sweep: Sweep, world: Bandit, data: PreferenceData, key: Key
) -> Iterator[tuple[str, float, Array]]:
    """Yield method, multiplier and the reward it optimises, measured from pi0: ``(R, X, A)``."""
    x, _ = world.population
    phi = centred(x)
    fit = bradley_terry_mle(data, ridge=sweep["ridge"])
    plain, factor = inner(phi, fit.require()), sweep["estimate_factor"]
    yield _PLAIN, 0.0, plain
    width = ellipsoid(fit.value, data, sweep["lam"], 1.0).width(phi)
    for c in sweep["lcb"]:
        yield "LCB", c, factor * plain - sweep["width_factor"] * c * width
    members = bootstrap_ensemble(
        data,
        key,
        n_members=sweep["members"],
        ridge=sweep["ridge"],
    ).require()
    for w in sweep["uwo"]:
        yield "UWO", w, factor * members.uncertainty_weighted(w).rewards(x)


def _paths(sweep: Sweep, world: Bandit, rewards: Array) -> pd.DataFrame:
    """Return KL, gold reward and own reward along both paths, measured from pi0."""
    x, weights = world.population
    gold = inner(centred(x), world.theta_star)
    # A pessimistic reward is not 0 on average under pi0, as the others are.
    rewards = rewards - expectation(x.log_pi0, rewards)[..., None]
    gibbs = [gibbs_log_probs(rewards, x.log_pi0, eta) for eta in sweep["eta"]]
    draws = [max(n + sweep["draws_shift"], 1) for n in sweep["best_of"]]
    best = best_of_n_path(rewards, x.log_pi0, draws)
    rows = []
    for path, dials, laws in (
        ("Gibbs", sweep["eta"], gibbs),
        ("best-of-n", sweep["best_of"], best),
        (_TWO, [2], [_best_of_two(rewards, x.log_pi0)]),
    ):
        for step, (dial, law) in enumerate(zip(dials, laws, strict=True)):
            numbers = {
                "kl": mean_kl(law, x.log_pi0, weights),
                "gold": over_contexts(expectation(law, gold), weights),
                "proxy": over_contexts(expectation(law, rewards), weights),
            }
            # A million rows are stored: single precision is plenty for what Monte Carlo leaves.
            host = {name: to_numpy(value).astype(np.float32) for name, value in numbers.items()}
            replica = np.arange(world.n_replicas)
            rows.append({"replica": replica, "path": path, "step": step, "dial": dial, **host})
    return pd.concat([pd.DataFrame(row) for row in rows], ignore_index=True)


def _best_of_two(rewards: Array, log_pi0: Array) -> Array:
    """Return log-probabilities of the better of two draws from pi0, by going through all pairs."""
    xp = namespace(rewards, log_pi0)
    p, other = xp.exp(log_pi0)[..., None, :], rewards[..., None, :]
    worse, equal = (
        xp.astype(how, p.dtype) for how in (other < rewards[..., None], other == rewards[..., None])
    )
    # An action wins as the first draw or as the second; of equal ones either does.
    beats = xp.sum(p * (2.0 * worse + equal), axis=-1)
    return log_pi0 + xp.log(beats)


# --------------------------------------------------------------------------- curves


@dataclass(frozen=True, eq=False)
class _Curves:
    """Paths of one method, shape ``(R, labels, multipliers, steps)``."""

    labels: np.ndarray
    multipliers: np.ndarray
    kl: np.ndarray
    gold: np.ndarray
    proxy: np.ndarray

    def distance(self, count: int, option: int = 0) -> np.ndarray:
        """Return the root of the mean KL at one label count and multiplier, shape ``(steps,)``."""
        return np.asarray(np.sqrt(self.kl[:, count, option].mean(axis=0)))


def _curves(frame: pd.DataFrame, method: str, path: str, world: str = _LEANING) -> _Curves:
    part = select(frame, world=world, method=method, path=path).sort_values(_KEYS)
    labels, multipliers = np.unique(part["labels"]), np.unique(part["multiplier"])
    shape = (-1, labels.size, multipliers.size, int(part["step"].max()) + 1)
    kl, gold, proxy = (
        part[c].to_numpy(dtype=float).reshape(shape) for c in ("kl", "gold", "proxy")
    )
    return _Curves(labels, multipliers, kl, gold, proxy)


# --------------------------------------------------------------------------- judge


def _judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    """Judge every sentence of the claim.

    It rises: the first step away from pi0; it falls: the drop from the peak; the proxy rises in
    every replica; the peak moves right; a pessimist ends higher, and is no coward. Best-of-n has
    the law of the best of n: the two draws are enumerated. Of the intervals of level 95 %, only
    the lower ends count, of effects of more than 5 standard errors.
    """
    checks = [_two_draws(frame)]
    for path in _PATHS:
        plain = _curves(frame, _PLAIN, path)
        least = f"{plain.labels[0]:g} labels"
        drop = resample_means([plain.gold[:, 0, 0]], lambda g: drop_from_peak(g)[:, None])
        moves = resample_means([plain.kl[:, :, 0], plain.gold[:, :, 0]], _moves(plain.labels))
        checks += [
            above(
                f"{path}: gold reward of the plain proxy near π0, mean over label counts",
                mean_interval(plain.gold[:, :, 0, 1].mean(axis=1)),
                0.0,
                "above 0 (it rises first)",
            ),
            above(
                f"{path}: gold reward the plain proxy loses from its peak, {least}",
                drop.at(0),
                0.0,
                "above 0 (else nothing was over-optimised)",
            ),
            _rises(plain, path),
            above(
                f"{path}: how far √KL at the peak moves as labels grow e-fold",
                moves.at(0),
                0.0,
                "above 0 (the peak moves right)",
            ),
        ]
        checks += [_pessimism(frame, method, path) for method in ("LCB", "UWO")]
    return checks


def _two_draws(frame: pd.DataFrame) -> Check:
    """Compare best-of-n at n = 2 with all pairs of draws."""
    plain = select(frame, world=_LEANING, method=_PLAIN)
    keys = ["replica", "labels"]
    by_law = select(plain, path="best-of-n", dial=2).set_index(keys)
    by_pairs = select(plain, path=_TWO).set_index(keys)
    numbers = ["kl", "gold", "proxy"]
    difference = (by_law[numbers] - by_pairs[numbers]).abs().to_numpy()
    worst = float(difference.max()) if len(by_law) == len(by_pairs) > 0 else np.nan
    return fact(
        "best of 2: largest difference of KL, gold and proxy reward from all pairs of draws",
        worst,
        f"at most {_ROUNDING:g}",
        passed=worst <= _ROUNDING,
    )


def _rises(plain: _Curves, path: str) -> Check:
    """Return whether the proxy rises along the path in every replica."""
    proxy = plain.proxy[:, :, 0]
    least, whole = float(np.diff(proxy).min()), float((proxy[..., -1] - proxy[..., 0]).min())
    return fact(
        f"{path}: least step of the plain proxy's own reward, all replicas and label counts",
        least,
        f"at least 0 (up to {_ROUNDING:g}), and more than that over the whole path",
        passed=least >= -_ROUNDING and whole > _ROUNDING,
    )


def _moves(labels: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the slope of the distance of the peak in the logarithm of the labels."""
    fit = line_slope(np.log(labels))

    def slope(kl: np.ndarray, gold: np.ndarray) -> np.ndarray:
        at = [peak_distance(kl[:, c], gold[:, c]) for c in range(labels.size)]
        return np.asarray(fit(np.exp(np.stack(at, axis=1))))

    return slope


def _pessimism(frame: pd.DataFrame, method: str, path: str) -> Check:
    """Compare ends of paths with the plain proxy's: where pi0 leans, and where it does not.

    One multiplier has to do both: to end higher where the plain proxy is over-optimised, and to
    lose at most a tenth where there is nothing to be careful of. A proxy that is constant, or only
    careful, does the first and not the second.
    """
    # The choice among K multipliers is paid for by intervals of level 1 - .05 / K (Bonferroni).
    multipliers = _curves(frame, method, path).multipliers
    level = 1.0 - 0.05 / multipliers.size
    theirs, own = _ends(frame, method, path, _LEANING)
    gain = resample_means([theirs, own[:, None]], lambda a, b: a - b, level=level)
    theirs, own = _ends(frame, method, path, _UNIFORM)
    kept = resample_means([theirs, own[:, None]], lambda a, b: a / b, level=level)
    fair = kept.lower >= 1.0 - _LOSS
    best = int(np.argmax(np.where(fair, gain.value, -np.inf)))
    return estimate(
        f"{path}: gold reward at the end, {method} × {multipliers[best]:g} (the best of the "
        "grid that is fair) minus the plain proxy, mean over label counts",
        gain.at(best),
        f"above 0, where the same keeps {1 - _LOSS:.0%} of the plain proxy's with a uniform π0 "
        f"({kept.value[best]:.0%} [{kept.lower[best]:.0%}, {kept.upper[best]:.0%}]; "
        f"{level:.2%} intervals)",
        passed=bool(fair[best]) and gain.lower[best] > 0.0,
    )


# --------------------------------------------------------------------------- draw


def _draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    fig, panels = style.figure(3, 2, aspect=0.95)
    _draw_plain(panels[:3], frame)
    for ax, method in zip(panels[3:5], ("LCB", "UWO"), strict=True):
        _draw_grid(fig, ax, frame, method)
    _draw_ends(fig, panels[5], frame)
    for ax in panels[:5]:
        ax.set_xlabel("√KL(π‖π0)")
    axes.legend(fig, [panels[1]])
    return fig


def _draw_plain(panels: list[Axes], frame: pd.DataFrame) -> None:
    for path, line in zip(_PATHS, ("-", (0, (3, 1.5))), strict=True):
        plain = _curves(frame, _PLAIN, path)
        ax = panels[1 + _PATHS.index(path)]
        for count, labels in enumerate(plain.labels):
            color, d = style.series(count).color, plain.distance(count)
            gold = mean_interval(plain.gold[:, count, 0])
            name = f"{labels:g} labels"
            interval_curve(ax, d, gold, name, SeriesStyle(color, "-", "o"))
            peak = int(np.argmax(gold.value))
            curves.points(ax, d[peak], gold.value[peak], color=color)
            proxy = mean_interval(plain.proxy[:, count, 0]).value
            curves.curve(panels[0], d, proxy, label=f"{name}, {path}", color=color, style=line)
            alpha, beta = _fit(plain, count, path).value
            dense = np.linspace(0.0, d[-1], 50)
            fitted = over_optimisation_law(dense, alpha, beta, _LAWS[path])
            dotted(ax, dense, fitted, color, width=0.9)
        ax.set(title=f"Gold, {path}", ylabel="gold reward over π0")
    panels[0].set(title="Proxy", ylabel="proxy reward over π0")


def _draw_grid(fig: Figure, ax: Axes, frame: pd.DataFrame, method: str) -> None:
    """Draw gold reward along the Gibbs path at the fewest labels for every multiplier."""
    plain, other = _curves(frame, _PLAIN, "Gibbs"), _curves(frame, method, "Gibbs")
    ink = SeriesStyle("ink", "-", "o")
    curves.mean_curve(ax, plain.distance(0), plain.gold[:, 0, 0], "plain", ink)
    for option, multiplier in enumerate(other.multipliers):
        look, d = style.series(option), other.distance(0, option)
        curves.mean_curve(ax, d, other.gold[:, 0, option], f"× {multiplier:g}", look)
    ax.set(title=f"{method}, {plain.labels[0]:g} labels", ylabel="gold reward over π0")
    axes.legend(fig, [ax], inside=ax, loc="lower left")


def _draw_ends(fig: Figure, ax: Axes, frame: pd.DataFrame) -> None:
    """Draw what pessimism gains and costs at the end of the Gibbs path, mean over label counts."""
    axes.log_axes(ax, "x")
    for method, color in (("LCB", "ink"), ("UWO", style.MUTED)):
        for world, line in ((_LEANING, "-"), (_UNIFORM, (0, (3, 1.5)))):
            theirs, own = _ends(frame, method, "Gibbs", world)
            gain = resample_means([theirs, own[:, None]], lambda a, b: a - b)
            at = _curves(frame, method, "Gibbs", world).multipliers
            interval_curve(ax, at, gain, f"{method}, {world}", SeriesStyle(color, line, "o"))
    curves.level(ax, 0.0)
    ax.set(title="Ends against plain", xlabel="multiplier", ylabel="difference of gold reward")
    axes.legend(fig, [ax], inside=ax, loc="lower left")


def _ends(frame: pd.DataFrame, method: str, path: str, world: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean ends over label counts: ``(R, multipliers)``, and plain ``(R,)``."""
    plain, other = (_curves(frame, m, path, world) for m in (_PLAIN, method))
    return other.gold[..., -1].mean(axis=1), plain.gold[:, :, 0, -1].mean(axis=1)


def _fit(plain: _Curves, count: int, path: str) -> Interval:
    """Return alpha and beta of the law of a path, at one label count."""
    return resample_means(
        [plain.kl[:, count, 0], plain.gold[:, count, 0]],
        lambda kl, gold: over_optimisation_fit(kl, gold, _LAWS[path]),
    )


def _caption(frame: pd.DataFrame, sweep: Sweep) -> str:
    return (
        "Rewards are measured from those of π0. Top: proxy and gold reward of the plain proxy "
        "(maximum likelihood) as it is optimised, along the Gibbs path (solid in the left panel) "
        "and by best-of-n with its exact KL (dashed); dots are the peaks, dotted lines the fitted "
        "laws d(α − β log d) and d(α − βd), d = √KL. Bottom: the same along the Gibbs path for the "
        f"lower confidence bound and for mean − w × variance over {sweep['members']} bootstrap "
        "fits, all multipliers; and the gold reward at the end of the path minus that of the "
        "plain proxy, mean over label counts, here and where π0 is uniform (LCB black, UWO grey; "
        "above 0 is better). The last point of a path is the most "
        f"optimised: η = {sweep['eta'][-1]:g}, n = {sweep['best_of'][-1]:,}. Bands: 95 % bootstrap "
        f"intervals over {frame['replica'].nunique()} replicas."
    )


def _constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    for path in _PATHS:
        plain = _curves(frame, _PLAIN, path)
        for count, labels in enumerate(plain.labels):
            peak = resample_means(
                [plain.kl[:, count, 0], plain.gold[:, count, 0]],
                lambda kl, gold: peak_distance(kl, gold)[:, None],
            )
            numbers[f"{path}: √KL at the peak, {labels:g} labels"] = _text(peak.at(0))
            fit = _fit(plain, count, path)
            numbers[f"{path}: α, β, {labels:g} labels"] = f"{_text(fit.at(0))}; {_text(fit.at(1))}"
    return numbers | label_spread(_world(sweep, 1))


def _text(found: Interval) -> str:
    return f"{found.value:.3f} [{found.lower:.3f}, {found.upper:.3f}]"


_FULL = {
    "replicas": 1024,
    "block": 64,
    "instance": 0,
    "contexts": 10,
    "actions": 20,
    "dim": 8,
    "lean": 2.0,
    "labels": [50, 150, 500, 2000],
    "eta": [100.0, 10.0, 3.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015, 0.006, 0.003],
    "best_of": [1, 2, 3, 4, 8, 16, 64, 512, 65_536],
    "lcb": [0.5, 2.0, 8.0, 32.0, 128.0],
    "uwo": [0.1, 0.5, 2.0, 8.0, 32.0],
    "members": 5,
    "ridge": 0.01,
    "lam": 1.0,
    "misread": 0.0,
    "estimate_factor": 1.0,
    "width_factor": 1.0,
    "draws_shift": 0,
}

_SABOTAGES = (
    Sabotage(
        name="pessimists whose proxy is 0",
        settings={"estimate_factor": 0.0, "width_factor": 0.0},
    ),
    Sabotage(name="a bound that is only the width (θ̂ = 0)", settings={"estimate_factor": 0.0}),
    Sabotage(name="sign of the width flipped", settings={"width_factor": -1.0}),
    Sabotage(name="best of n − 1 in place of n", settings={"draws_shift": -1}),
    Sabotage(name="labels ignored", settings={"misread": 0.5}),
    Sabotage(name="winners taken for losers", settings={"misread": 1.0}),
    Sabotage(name="an ensemble of one", settings={"members": 1}),
)

THEOREM = Theorem(
    name="reward-hacking",
    order=8,
    title="Optimise a learned reward too far and the true one falls; pessimism flattens the fall",
    claim=(
        "With a reward learned from few comparisons, the gold reward rises and then falls as the "
        "policy moves away from π0, while the proxy rises throughout; the peak moves right with "
        "more labels. Planned with a lower confidence bound, or with mean − w × variance over an "
        "ensemble, the most optimised policy has more gold reward than that of the plain proxy, "
        "with a multiplier that costs next to nothing where π0 is uniform and nothing is "
        "over-optimised."
    ),
    source="the talk; [2210.10760], whose laws of section 3 in √KL are drawn; UWO: [2310.02743]",
    assumptions=(
        "Linear rewards, Bradley–Terry labels of pairs from π0 × π0; replicas share π0, φ and θ*.",
        "π0 leans towards good actions, as after fine-tuning on demonstrations: with a uniform π0 "
        "and features of equal norm nothing is over-optimised. It also favours pessimism: very "
        "large multipliers stay where π0 puts its mass, which is good here. Where π0 leans to bad "
        "actions every multiplier costs gold reward (50 labels: from .69 to .66 with LCB × 0.5, "
        "to .17 with × 8).",
    ),
    departures=(
        "An observation, not a theorem of the papers: the two laws are empirical fits there and "
        "here, and nothing is claimed of them; in a finite bandit the distance is capped.",
        "The RL path is the Gibbs path: the exact optimum for every penalty. Best-of-n uses its "
        "exact law and KL, not log n − (n − 1)/n, which ties and atoms make an upper bound.",
        "LCB is pointwise: ⟨θ̂, φ − ν⟩ − c ‖φ − ν‖ in the norm of Σ⁻¹, Σ = λI + Σzzᵀ, ν = φ(x, π0), "
        "λ = 1; UWO is centred per context, variance with ddof 0.",
        "A ridge of 0.01 keeps the estimators finite on separable data.",
    ),
    quick={**_FULL, "replicas": 128},
    full=_FULL,
    version=2,
    cost=1.5,
    parts=_parts,
    measure=_measure,
    gather=_gather,
    judge=_judge,
    draw=_draw,
    caption=_caption,
    constants=_constants,
    sabotages=_SABOTAGES,
)
