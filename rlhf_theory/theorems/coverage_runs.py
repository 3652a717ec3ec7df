"""Runs of the study of confidence sets: labels by several rules, looked at after every round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from rlhf_theory.arrays import Array
from rlhf_theory.core import Solution
from rlhf_theory.data import PairQuery, PreferenceData
from rlhf_theory.estimators.ball_mle import ball_mle
from rlhf_theory.estimators.confidence import LikelihoodRule, MarginalLikelihood
from rlhf_theory.estimators.ellipsoid import design_matrix
from rlhf_theory.estimators.mle import fisher_information, neg_log_likelihood
from rlhf_theory.oracles import feedback_from
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Part, Sweep
from rlhf_theory.theorems.coverage_formulas import Collected, formulas
from rlhf_theory.theorems.coverage_sets import Sets, sabotaged_sets, settings
from rlhf_theory.theorems.query_rules import QUERY_RULES, Query
from rlhf_theory.theorems.sabotaged_learners import misread, recounted
from rlhf_theory.theorems.sweeps import block_of, linear_world, replica_parts
from rlhf_theory.worlds.bandit import Bandit

ALL = 0
"""The look at the ends of all rounds at once."""


def coverage_world(sweep: Sweep, norm: float, replicas: int | None = None) -> Bandit:
    """Return the linear world with ``|theta*| = norm``, which is also the bound of the sets."""
    return linear_world(sweep, replicas, eta=sweep["eta"], theta_norm=norm)


def schedule(sweep: Sweep) -> list[int]:
    """Return the labels of every round: one at first, later a fixed share of those so far."""
    total, rounds, stops = 0, [], sorted(sweep["labels"])
    while total < stops[-1]:
        step = max(1, int(sweep["growth"] * total))
        # Rounds end exactly where the fixed-time looks are.
        step = min(step, next(n for n in stops if n > total) - total)
        rounds.append(step)
        total += step
    return rounds


def coverage_parts(sweep: Sweep) -> Sequence[Part]:
    """Return a part for every norm, rule that chooses pairs, and block of replicas."""
    cells = [{"norm": norm, "design": design} for norm in sweep["norms"] for design in QUERY_RULES]
    return replica_parts(sweep, cells)


def measure_coverage(sweep: Sweep, part: Part, key: Key) -> pd.DataFrame:
    """Return how much of each radius is used, per replica.

    Columns: norm (of theta*, and bound), design, look (the number of labels, or 0 for all times at
    once), rule, replica, radius (at a look; for all times at the end), used (error over radius; for
    a threshold on the likelihood, the root of excess over threshold; at most 1 where the set
    contains the truth; for all times the largest), formula (the radius as the claim says it, worked
    out a second way; NaN for all times), laplace (threshold by Laplace's integral minus
    that by importance sampling, in nats, where it was checked).
    """
    norm, design = part.settings["norm"], part.settings["design"]
    first, world, own = block_of(part, coverage_world(sweep, norm), key)
    frame = _run(sweep, norm, design, world, own, first == 0)
    return frame.assign(replica=frame["replica"] + first)


def _run(
    sweep: Sweep, norm: float, design: str, world: Bandit, key: Key, first: bool
) -> pd.DataFrame:
    """Collect labels by one rule, look at every round, and keep the fixed-time looks."""
    problem = world.problem
    if not isinstance(problem, FiniteProblem) or world.theta_star is None:
        message = "The study needs a finite world with a known theta."
        raise TypeError(message)
    ask = QUERY_RULES[design]
    feedback = feedback_from(world.oracle)
    data, key = problem.empty_data(), key.child(design)
    seen: PreferenceData = data
    fit = _fit(seen, norm, None)
    collected = Collected.none(problem)
    peak: dict[str, np.ndarray] = {}
    rows: list[pd.DataFrame] = []
    for t, m in enumerate(schedule(sweep)):
        at = key.child(t)
        x = problem.sample_contexts(at.child("contexts"), m)
        a1, a2 = ask(Query(problem, seen, fit.value, x.ids, at.child("query")))
        data = data.add(feedback(PairQuery(x, a1, a2), at.child("labels")))
        collected = collected.add(x, a1, a2)
        seen = misread(data, sweep["misread"])
        fit = _fit(seen, norm, fit)
        total = collected.labels
        sets = sabotaged_sets(sweep, norm, seen)
        counted = recounted(seen, sweep["counted"])
        found = used_shares(sets, sweep["lam"], counted, fit, world.theta_star)
        for rule, (_, used) in found.items():
            peak[rule] = np.maximum(peak.get(rule, 0.0), used)
        if total in sweep["labels"]:
            found |= _used_in_hessian(sets, sweep["lam"], counted, fit, world.theta_star)
            said = formulas(collected, norm, sweep)
            check = first and design == "fixed"
            error = _laplace_error(sweep, norm, seen, fit) if check else np.nan
            rows += [
                _row(total, rule, *pair, said.get(rule, np.nan), error if rule == "R4" else np.nan)
                for rule, pair in found.items()
            ]
    rows += [_row(ALL, rule, found[rule][0], used, np.nan, np.nan) for rule, used in peak.items()]
    frame = pd.concat(rows, ignore_index=True)
    return frame.assign(norm=norm, design=design)


def _row(
    look: int,
    rule: str,
    radius: np.ndarray,
    used: np.ndarray,
    formula: np.ndarray | float,
    laplace: np.ndarray | float,
) -> pd.DataFrame:
    columns = {"look": look, "rule": rule, "replica": np.arange(used.size)}
    more = {"radius": radius, "used": used, "formula": formula, "laplace": laplace}
    return pd.DataFrame({**columns, **more})


def _fit(data: PreferenceData, norm: float, start: Solution[Array] | None) -> Solution[Array]:
    # The excess is flat at the estimate: an error of 1e-6 there costs n times its square.
    args = (data.differences, data.count, data.wins)
    return ball_mle(*args, bound=norm, start=start, tol=1e-6)


def used_shares(
    sets: Sets, lam: float, data: PreferenceData, fit: Solution[Array], theta: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return radius and its used share for every rule, each of shape ``(R,)``.

    The set contains the truth where the share is at most 1.

    Parameters
    ----------
    sets
        What the rules are made of, such as `right_sets`.
    lam
        ``lambda`` inside ``V``.
    data
        Comparisons.
    fit
        The maximum likelihood estimate over the ball that the sets assume.
    theta
        The truth, shape ``(1, d)`` or ``(R, d)``.
    """
    in_v = _norm(theta - fit.value, design_matrix(data.differences, data.count, lam))
    truth = np.broadcast_to(theta, fit.value.shape)
    args = (data.differences, data.count, data.wins)
    # The estimate is not exact, so the excess may come out a little below 0.
    excess = np.maximum(neg_log_likelihood(truth, *args) - neg_log_likelihood(fit.value, *args), 0)
    found = {}
    for name, parts in sets.items():
        if isinstance(parts, LikelihoodRule):
            tau = parts.threshold(data, fit=fit)
            # An empty set (a threshold below 0) has lost the truth.
            share = np.sqrt(excess / np.where(tau > 0, tau, 1.0))
            found[name] = (tau, np.where(tau > 0, share, np.inf))
        else:
            beta = parts.beta(data)
            found[name] = (beta, in_v / beta)
    return found


def _used_in_hessian(
    sets: Sets, lam: float, data: PreferenceData, fit: Solution[Array], theta: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the same for the ellipsoids in ``H(theta_hat) + lambda I`` that R3 and R4 imply."""
    sigma = fisher_information(fit.value, data.differences, data.count, lam)
    error = _norm(theta - fit.value, sigma)
    found = {}
    for name, parts in sets.items():
        if isinstance(parts, LikelihoodRule) and name in ("R3", "R4"):
            beta = parts.beta(data, fit=fit)
            found[f"{name} in H"] = (beta, error / beta)
    return found


def _norm(v: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.einsum("ri,rij,rj->r", v, sigma, v)))


def _laplace_error(
    sweep: Sweep, norm: float, data: PreferenceData, fit: Solution[Array]
) -> np.ndarray:
    """Return how much longer the threshold is by Laplace than by importance sampling, nats."""
    laplace = MarginalLikelihood(**settings(sweep, norm))
    exact = replace(laplace, integral="importance")
    return np.asarray(laplace.parts.threshold(data, fit=fit) - exact.parts.threshold(data, fit=fit))
