"""What the theorem ``nash-general-preference`` measures: exploitability and bounds per replica."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rlhf_theory import worlds
from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy
from rlhf_theory.algorithms.game_enhancers import InformationRatio, exploitability_bound
from rlhf_theory.algorithms.nash_game import NashGame
from rlhf_theory.algorithms.offline_nash import OfflinePessimisticNash, PessimisticPreference
from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.arrays import Array, inner, to_numpy
from rlhf_theory.core import ConfidenceSet, Enhancer, OfflineAlgorithm, Policy, Solution
from rlhf_theory.estimators.confidence import Adaptive, Ellipsoid, Scaled
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.evaluation.gaps import mean_kl, over_contexts
from rlhf_theory.evaluation.misspecified import expected_comparisons, self_consistent_fit
from rlhf_theory.oracles.labels import feedback_from
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.policies import ReferencePolicy, TablePolicy
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Part, Sweep, in_order
from rlhf_theory.theorems.frames import by_replica, select
from rlhf_theory.theorems.nash_general_preference_limits import Linearised
from rlhf_theory.theorems.nash_general_preference_sabotages import (
    sabotaged_game,
    sabotaged_pessimist,
)
from rlhf_theory.theorems.online_exploration import unseen_arms
from rlhf_theory.theorems.sweeps import block_of, nested_data, replica_parts
from rlhf_theory.worlds.bandit import Bandit, Game

COLUMNS = ["study", "game", "learner", "multiplier", "x", "labels", "replica", "value", "bound"]
COLUMNS += ["distance", "limit", "shift"]
"""``value`` is an exploitability; with ``eta KL(pi* || pi)`` added in ``offline``; a distance of
log-probabilities in ``truth``, of probabilities in ``cycle``. ``x`` counts rounds or pairs
(``offline``, ``limit``), labels of a round (``labels``), or is the dial c (``dial``,
``population``) or eta (``truth``). ``labels`` are those used, ``distance`` is that of the truth
from the estimate, in radii of the confidence set. ``limit`` and ``shift`` are those of
`Linearised`: what the value should be with many labels, and how far the pessimist has moved. In
``arms``, where the multiplier is the number of unseen arms, the value is the gap."""

GAMES: tuple[Game, ...] = ("logit", "probability")
NASH = ("Nash, information ratio", "Nash, from π0", "Nash, self-play")
BRADLEY_TERRY = "Bradley–Terry, from π0"
PESSIMISTIC = "pessimistic Nash"
EQUILIBRIUM, GIBBS = "equilibrium of the general fit", "Gibbs policy of the Bradley–Terry fit"
_ENHANCERS: dict[str, Enhancer] = {
    NASH[0]: InformationRatio(),
    NASH[1]: FromReference(),
    NASH[2]: OnPolicy(),
}


def world_of(sweep: Sweep, game: Game, **changes: Any) -> Bandit:
    """Return the world of a payoff, with all replicas."""
    settings = {**sweep["worlds"][game], "replicas": sweep["replicas"], **changes}
    return worlds.intransitive(**settings, game=game)


def _rule(sweep: Sweep, world: Bandit) -> Adaptive:
    """Return the anytime radius for a learner that knows ``|theta*|`` up to a factor."""
    norm = float(np.max(np.linalg.norm(to_numpy(world.theta_star), axis=-1)))
    bound = sweep["norm_slack"] * norm
    return Adaptive(theta_bound=bound, delta=sweep["delta"], lam=sweep["lam"])


def _learner(name: str, sweep: Sweep, world: Bandit, batch_size: int) -> Any:
    rule = _rule(sweep, world)
    if name == BRADLEY_TERRY:
        return OnlineIterative(enhancer=FromReference(), radius=rule, batch_size=batch_size)
    return NashGame(
        enhancer=_ENHANCERS[name],
        radius=rule,
        batch_size=batch_size,
        game=world.game or "logit",
    )


# --------------------------------------------------------------------------- measure


def parts(sweep: Sweep) -> Sequence[Part]:
    """Return a part for the exact values, then the parts of each block of replicas."""
    learners = (*NASH, BRADLEY_TERRY)
    rounds = [{"study": "rounds", "game": g, "learner": name} for g in GAMES for name in learners]
    dial = [{"study": "dial", "cycle": c} for c in sweep["cycles"]]
    cells = [*rounds, {"study": "offline"}, *dial]
    labels = [{"study": "labels", "learner": name} for name in NASH]
    arms = [{"study": "arms", "learner": name, "arms": d} for name in NASH for d in sweep["arms"]]
    return [
        Part({"study": "population"}),
        *(Part({**cell, **block.settings}) for block in replica_parts(sweep) for cell in cells),
        Part({"study": "limit", "first": 0, "stop": sweep["limit_replicas"]}),
        *(Part({**cell, "first": 0, "stop": sweep["labels_replicas"]}) for cell in labels),
        *(Part({**cell, "first": 0, "stop": sweep["arms_replicas"]}) for cell in arms),
    ]


def measure(sweep: Sweep, part: Part, key: Key) -> pd.DataFrame:
    """Run a part of the sweep; see `COLUMNS`."""
    study = part.settings["study"]
    if study == "population":
        return pd.concat(_population(sweep), ignore_index=True)[COLUMNS]
    if study in ("limit", "labels", "arms"):
        found = {"limit": _limit, "labels": _labels, "arms": _arms}[study](sweep, part, key)
        return pd.concat(found, ignore_index=True)[COLUMNS]
    game = part.settings.get("game", "logit")
    cycle = {name: value for name, value in part.settings.items() if name == "cycle"}
    first, world, own = block_of(part, world_of(sweep, game, **cycle), key)
    if study == "rounds":
        found = _rounds(sweep, world, part.settings["learner"], own.child("rounds", game))
    elif study == "offline":
        found = _offline(sweep, world, own.child("offline"))
    else:
        found = _dial(sweep, world, cycle["cycle"], own.child("dial"))
    table = pd.concat(found, ignore_index=True)[COLUMNS]
    table["replica"] += first
    return table


def gather(tables: Sequence[pd.DataFrame], sweep: Sweep) -> pd.DataFrame:
    """Return the tables in order, with names as categories: there are many rows."""
    kinds = dict.fromkeys(("study", "game", "learner"), "category")
    return in_order(tables, sweep).astype(kinds)


def _frame(
    study: str,
    game: str,
    learner: str,
    x: float,
    value: Array,
    labels: Array = np.nan,
    *,
    bound: Array = np.nan,
    distance: Array = np.nan,
    limit: Array = np.nan,
    shift: Array = np.nan,
    multiplier: float = 1.0,
) -> pd.DataFrame:
    value = to_numpy(value)
    columns = {"labels": labels, "value": value, "bound": bound, "distance": distance}
    columns |= {"limit": limit, "shift": shift}
    host = {k: np.broadcast_to(to_numpy(v), value.shape) for k, v in columns.items()}
    named = {"study": study, "game": game, "learner": learner, "multiplier": multiplier, "x": x}
    return pd.DataFrame({**named, **host, "replica": np.arange(value.shape[0])})


def _play(learner: Any, world: Bandit, key: Key, rounds: int) -> Iterator[tuple[int, Any]]:
    """Yield the round and the state after it, from before the first round on."""
    feedback = feedback_from(world.oracle)
    state = learner.init(world.problem, world.problem.empty_data(), key.child("init"))
    yield 0, state
    for t in range(rounds):
        state, _ = learner.step(state, world.problem, feedback, key.child("round", t))
        # A fit or an equilibrium that is not solved would make every number here meaningless.
        state.plan.given(state.fit).require()
        yield t + 1, state


def _rounds(sweep: Sweep, world: Bandit, name: str, key: Key) -> Iterator[pd.DataFrame]:
    """Play all rounds: exploitability of every main agent, and its bounds where there are some."""
    learner = sabotaged_game(_learner(name, sweep, world, sweep["batch_size"]), sweep)
    multipliers = sweep["multipliers"] if name == NASH[0] else [1.0]
    if world.game != "logit" or name == BRADLEY_TERRY:
        multipliers = []
    last: dict[float, Solution[Array]] = {}
    for t, state in _play(learner, world, key, sweep["rounds"]):
        gap = world.evaluate(learner.policy(state))["exploitability"]
        here = str(world.game), name, t, gap, state.data.n_labels
        if not multipliers:
            yield _frame("rounds", *here)
        for c in multipliers:
            ball: Ellipsoid = state.confidence.rescaled(c)
            last[c] = exploitability_bound(
                world.problem,
                state.plan.value,
                ball,
                key.child("bound", t),
                n_random=2,
                start=last[c].warm if c in last else None,
            )
            distance = _distance(ball, world)
            bound = sweep["bound_factor"] * last[c].value
            yield _frame("rounds", *here, bound=bound, distance=distance, multiplier=c)


def _distance(ball: Ellipsoid, world: Bandit) -> np.ndarray:
    """Return how far the truth is from the estimate, in radii."""
    with np.errstate(divide="ignore"):
        return np.asarray(to_numpy(ball.distance(world.theta_star)) / to_numpy(ball.beta))


def _offline(sweep: Sweep, world: Bandit, key: Key) -> Iterator[pd.DataFrame]:
    """Fit nested data from pi0; both sides of the offline theorem."""
    for n, data in nested_data(world, sweep["pairs"], key):
        for c in sweep["offline_multipliers"]:
            rule = Scaled(_rule(sweep, world), c)
            learner = sabotaged_pessimist(OfflinePessimisticNash(radius=rule), sweep)
            plan = learner(world.problem, data, key)
            plan.require()
            fit = rule.fit(data, data.skew)
            ball: Any = rule.confidence_set(fit, data, world.problem, data.skew)
            left, right = _offline_sides(world, plan, ball)
            yield _frame(
                "offline",
                "logit",
                PESSIMISTIC,
                n,
                left,
                data.n_labels,
                bound=right,
                distance=_distance(ball, world),
                multiplier=c,
            )


def _limit(sweep: Sweep, part: Part, key: Key) -> Iterator[pd.DataFrame]:
    """Fit to very many pairs from pi0; what the exploitability and the policy should be there."""
    world = world_of({**sweep, "replicas": part.settings["stop"]}, "logit")
    near, n = Linearised.of(world), sweep["limit_pairs"]
    data = world.offline_data(key.child("limit"), n)
    x, _ = world.population
    for c in sweep["limit_multipliers"]:
        rule = Scaled(_rule(sweep, world), c)
        plan = sabotaged_pessimist(OfflinePessimisticNash(radius=rule), sweep)(
            world.problem, data, key
        )
        policy = plan.require()
        fit = rule.fit(data, data.skew)
        ball = rule.confidence_set(fit, data, world.problem, data.skew)
        bonus = to_numpy(PessimisticPreference(ball).bonus(x))
        yield _frame(
            "limit",
            "logit",
            PESSIMISTIC,
            n,
            world.evaluate(policy)["exploitability"],
            data.n_labels,
            limit=near.pessimist(data, bonus),
            shift=near.shift(to_numpy(policy.log_probs(x)), bonus),
            multiplier=c,
        )


def _labels(sweep: Sweep, part: Part, key: Key) -> Iterator[pd.DataFrame]:
    """Play a few rounds of many labels; what the exploitability after the last should be."""
    name, m = part.settings["learner"], sweep["large_batch"]
    world = world_of({**sweep, "replicas": part.settings["stop"]}, "logit")
    learner = sabotaged_game(_learner(name, sweep, world, m), sweep)
    *_, (_, state) = _play(learner, world, key.child("labels"), sweep["large_rounds"])
    gap = world.evaluate(learner.policy(state))["exploitability"]
    limit = Linearised.of(world).noise(state.data)
    yield _frame("labels", "logit", name, m, gap, state.data.n_labels, limit=limit)


def _arms(sweep: Sweep, part: Part, key: Key) -> Iterator[pd.DataFrame]:
    """Play among unseen arms: for Bradley-Terry and logits the exploitability is the gap."""
    name, dim = part.settings["learner"], part.settings["arms"]
    world = unseen_arms(dim, part.settings["stop"])
    learner = sabotaged_game(_learner(name, sweep, world, sweep["arms_batch"]), sweep)
    own, start = key.child("arms", dim), None
    for t, state in _play(learner, world, own, 2 * dim + 1):
        found = exploitability_bound(
            world.problem,
            state.plan.value,
            state.confidence,
            own.child("bound", t),
            n_random=2,
            start=start,
        )
        start = found.warm
        gap = world.evaluate(learner.policy(state))["gap"]
        labels = state.data.n_labels
        frame = _frame("arms", "logit", name, t, gap, labels, bound=found.value)
        yield frame.assign(multiplier=float(dim))


def _offline_sides(
    world: Bandit, plan: Solution[Policy], ball: ConfidenceSet
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``gap + eta KL(pi* || pi1)`` and ``2 E b`` under pi* and the computed min player."""
    x, weights = world.population
    star, log_pi1 = world.nash.require(), plan.value.log_probs(x)
    left = world.evaluate(plan.value)["exploitability"]
    left = left + world.problem.eta * mean_kl(star, log_pi1, weights)
    bonus = to_numpy(PessimisticPreference(ball).bonus(x))
    p_star, p2 = np.exp(to_numpy(star)), np.exp(to_numpy(plan.warm.log_probs(x)))
    mean = np.sum(p_star[..., :, None] * bonus * p2[..., None, :], axis=(-2, -1))
    return to_numpy(left), 2.0 * to_numpy(over_contexts(mean, to_numpy(weights)))


def _dial(sweep: Sweep, world: Bandit, c: float, key: Key) -> Iterator[pd.DataFrame]:
    """Fit both models to the same pairs from pi0, at one setting of the dial; no pessimism."""
    data = world.offline_data(key, sweep["dial_pairs"])
    rule = _rule(sweep, world)
    learners: dict[str, OfflineAlgorithm] = {
        EQUILIBRIUM: OfflinePessimisticNash(radius=Scaled(rule, 0.0)),
        GIBBS: OfflineGreedy(theta_bound=rule.theta_bound),
    }
    for name, learner in learners.items():
        policy = learner(world.problem, data, key).require()
        gap = world.evaluate(policy)["exploitability"]
        yield _frame("dial", "logit", name, c, gap, data.n_labels)


# --------------------------------------------------------------------------- exact values


def _population(sweep: Sweep) -> Iterator[pd.DataFrame]:
    """Yield what infinitely many labels give, and how far Nash and Gibbs policies are apart."""
    reference = ReferencePolicy()
    for game in GAMES:
        world = world_of(sweep, game, replicas=1)
        fit = self_consistent_fit(_finite(world), world.preferences, reference)
        yield _frame("floor", game, BRADLEY_TERRY, 0.0, _gibbs_gap(world, fit))
        yield _frame("start", game, "π0", 0.0, world.evaluate(reference)["exploitability"])
    for c in np.linspace(0.0, max(sweep["cycles"]), sweep["dial_points"]):
        world = world_of(sweep, "logit", replicas=1, cycle=float(c))
        pi0 = world.problem.population(Key(0), 0)[0].log_pi0
        pairs = expected_comparisons(_finite(world), world.preferences, pi0, pi0)
        yield _frame("population", "logit", GIBBS, c, _gibbs_gap(world, bradley_terry_mle(pairs)))
    for game in GAMES:
        for eta in sweep["etas"]:
            changes = {**sweep["worlds"]["logit"], "cycle": 0.0, "eta": eta}
            world = worlds.intransitive(**changes, replicas=1, game=game)
            distance = np.abs(to_numpy(world.nash.require()) - to_numpy(world.log_pi_star))
            yield _frame("truth", game, EQUILIBRIUM, eta, np.max(distance, axis=(1, 2)))
        # Three annotators in a cycle, each Bradley-Terry: by symmetry no action is best.
        cycle = worlds.annotator_cycle(replicas=1, game=game)
        distance = np.abs(np.exp(to_numpy(cycle.nash.require())) - 1.0 / 3.0)
        yield _frame("cycle", game, EQUILIBRIUM, 0.0, np.max(distance, axis=(1, 2)))


def _finite(world: Bandit) -> FiniteProblem:
    if not isinstance(world.problem, FiniteProblem):
        message = "The study needs finitely many contexts."
        raise TypeError(message)
    return world.problem


def _gibbs_gap(world: Bandit, fit: Solution[Array]) -> Array:
    """Return the exploitability of the Gibbs policy of a fitted reward."""
    x, _ = world.population
    log_pi = gibbs_log_probs(inner(x.phi, fit.require()), x.log_pi0, world.problem.eta)
    return world.evaluate(TablePolicy(log_pi))["exploitability"]


# --------------------------------------------------------------------------- curves


def rows(
    frame: pd.DataFrame, study: str, learner: str, game: str = "logit", multiplier: float = 1.0
) -> pd.DataFrame:
    """Return the rows of one learner."""
    return select(frame, study=study, learner=learner, game=game, multiplier=multiplier)


def table(part: pd.DataFrame, column: str = "value") -> tuple[np.ndarray, np.ndarray]:
    """Return ``x`` ``(T,)`` and a column per replica ``(R, T)``."""
    return by_replica(part, "x", column)


def exact(frame: pd.DataFrame, study: str, game: Game) -> float:
    """Return the one exact number of a study and payoff, ``floor`` or ``start``."""
    return float(select(frame, study=study, game=game)["value"].iloc[0])


def held(part: pd.DataFrame) -> np.ndarray:
    """Return whether the bound held at all rounds, or all sample sizes, shape ``(R,)``."""
    # Games are solved to an exploitability of 1e-12, and the search for the bound to 1e-8 of it.
    ok = table(part)[1] <= (1.0 + 1e-8) * table(part, "bound")[1] + 1e-11
    return np.asarray(np.all(ok, axis=1))
