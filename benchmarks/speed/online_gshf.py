"""Online GSHF with pi0 as enhancer: this package against the script that a paper would ship.

The script runs one seed at a time, loops over comparisons in Python and refits scikit-learn's
LogisticRegression on all pairs every round. Both record the gap every round, both run on one
thread, and both meet the same contexts, actions and labels, so parameters can be compared.

    python benchmarks/speed/online_gshf.py [--rounds 1000] [--replicas 256] [--out FILE.json]
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from benchmarks.timing import command_line, fastest, finish, show
from rlhf_theory.algorithms.enhancers import FromReference
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.arrays import keep_freed_memory
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.estimators.mle import log_likelihood_gradient
from rlhf_theory.evaluation.gaps import suboptimality
from rlhf_theory.oracles import feedback_from
from rlhf_theory.randomness import Key
from rlhf_theory.worlds import Bandit, linear

LAM, ETA, BATCH, BLOCK = 1.0, 0.1, 32, 64


def make_world(replicas: int, instances: str) -> Bandit:
    return linear(
        contexts=20, actions=10, dim=10, eta=ETA, replicas=replicas, instances=instances, seed=0
    )


def ours(world: Bandit, rounds: int, seed: int) -> dict[str, np.ndarray]:
    """Run all replicas in blocks; return gaps, seconds per round and final parameters."""
    learner = OnlineIterative(
        enhancer=FromReference(), batch_size=BATCH, radius=Constant(beta=1.0, lam=LAM)
    )
    gaps, seconds, thetas, residuals = [], np.zeros(rounds), [], []
    keep_freed_memory()
    for first in range(0, world.n_replicas, BLOCK):
        part = world.block(first, min(first + BLOCK, world.n_replicas))
        key = Key(seed).block(first)
        feedback = feedback_from(part.oracle)
        x, weights = part.population
        state = learner.init(part.problem, part.problem.empty_data(), key.child("init"))
        gap = np.empty((part.n_replicas, rounds))
        for t in range(rounds):
            start = time.perf_counter()
            state, _ = learner.step(state, part.problem, feedback, key.child("round", t))
            policy = learner.policy(state).log_probs(x)
            gap[:, t] = suboptimality(policy, part.log_pi_star, weights, ETA)
            seconds[t] += time.perf_counter() - start
        data = state.data
        gradient = log_likelihood_gradient(
            state.fit.value, data.differences, data.count, data.wins, LAM
        )
        residuals.append(np.abs(gradient).max())
        gaps.append(gap)
        thetas.append(state.fit.value)
    return {
        "gap": np.concatenate(gaps),
        "seconds": seconds,
        "theta": np.concatenate(thetas),
        "residual": np.array(max(residuals)),
    }


def script(world: Bandit, rounds: int, seed: int, replica: int) -> dict[str, np.ndarray]:
    """Run one seed as a paper's script would."""
    part = world.block(replica, replica + 1)
    phi = part.problem.phi[0]
    n_contexts, _, dim = phi.shape
    theta_star = part.theta_star[0]
    reward = phi @ theta_star
    pi0 = np.exp(part.problem.log_pi0[0])
    pi_star = pi0 * np.exp(reward / ETA)
    pi_star /= pi_star.sum(axis=1, keepdims=True)
    key = Key(seed).block(replica)
    policy = pi0.copy()
    features: list[np.ndarray] = []
    labels: list[float] = []
    gaps = np.empty(rounds)
    theta = np.zeros(dim)
    for t in range(rounds):
        here = key.child("round", t)
        names = ("contexts", "a1", "a2", "labels")
        draws = [here.child(name).uniform_numpy(1, BATCH)[0] for name in names]
        for u_x, u_1, u_2, u_y in zip(*draws, strict=True):
            x = min(int(u_x * n_contexts), n_contexts - 1)
            a1 = int(np.searchsorted(np.cumsum(policy[x]), u_1, side="right"))
            a2 = int(np.searchsorted(np.cumsum(pi0[x]), u_2, side="right"))
            if a1 == a2:
                continue
            p = 1.0 / (1.0 + np.exp(-(reward[x, a1] - reward[x, a2])))
            features.append(phi[x, a1] - phi[x, a2])
            labels.append(1.0 if u_y < p else 0.0)
        y = np.array(labels)
        if y.min() < y.max():  # scikit-learn needs both classes
            model = LogisticRegression(C=1.0 / LAM, fit_intercept=False, tol=1e-7, max_iter=1000)
            theta = model.fit(np.array(features), y).coef_[0]
        logits = np.log(pi0) + phi @ theta / ETA
        policy = np.exp(logits - logits.max(axis=1, keepdims=True))
        policy /= policy.sum(axis=1, keepdims=True)
        gaps[t] = ETA * np.mean(np.sum(policy * np.log(policy / pi_star), axis=1))
    return {"gap": gaps, "theta": theta}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=256)
    args = parser.parse_args()
    results = {}
    for instances, goal in (("shared", 200), ("own", 100)):
        world = make_world(args.replicas, instances)
        t_fast, fast = fastest(partial(ours, world, args.rounds, seed=1), 1)
        t_slow, slow = fastest(partial(script, world, args.rounds, seed=1, replica=0), 1)
        ours_rate = args.replicas * args.rounds / t_fast
        script_rate = args.rounds / t_slow
        seconds = fast["seconds"]
        flat = seconds[-100:].sum() / seconds[100:200].sum() if args.rounds >= 300 else float("nan")
        results[instances] = {
            "ours_seconds": t_fast,
            "script_seconds_one_replica": t_slow,
            "ours_replica_rounds_per_second": ours_rate,
            "script_replica_rounds_per_second": script_rate,
            "ratio": ours_rate / script_rate,
            "goal": goal,
            "largest_parameter_difference": float(np.abs(fast["theta"][0] - slow["theta"]).max()),
            "largest_gap_difference": float(np.abs(fast["gap"][0] - slow["gap"]).max()),
            "largest_gradient": float(fast["residual"]),
            "last_100_rounds_over_second_100": float(flat),
        }
        show(f"{instances} features", results[instances])
    finish(results, args.out)


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
