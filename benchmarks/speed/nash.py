"""Time of the regularised Nash solver, on one thread.

The claim: 500 random skew games of 50 actions at eta = 0.001 in about a second, to an
exploitability below 1e-12; and a warm start in every round of a learner costs a few Newton steps.
Each line shows the time next to the residual reached.

Run it by ``python benchmarks/speed/nash.py``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.timing import fastest
from rlhf_theory.arrays import keep_freed_memory
from rlhf_theory.core import Solution
from rlhf_theory.planners.nash import nash_policy
from rlhf_theory.planners.saddle import two_player_saddle
from rlhf_theory.randomness import Key

REPEATS = 3


def skew(key: Key, replicas: int, contexts: int, actions: int) -> np.ndarray:
    """Return standard normal skew payoffs, shape (R, X, A, A)."""
    x = key.normal_numpy(replicas, contexts, actions, actions) / np.sqrt(2.0)
    return x - x.swapaxes(-1, -2)


def dirichlet(key: Key, replicas: int, contexts: int, actions: int) -> np.ndarray:
    """Return logarithms of Dirichlet(1) distributions, shape (R, X, A)."""
    x = -np.log1p(-key.uniform_numpy(replicas, contexts, actions))
    return np.log(x / x.sum(axis=-1, keepdims=True))


def show(label: str, solver: Callable[..., Solution[Any]], *args: Any, **options: Any) -> None:
    """Print time, games and residual of the fastest of a few runs."""
    games = args[0].shape[0] * args[0].shape[1]
    seconds, found = fastest(lambda: solver(*args, **options), REPEATS)
    print(
        f"{label:<46} {games:5d} games {seconds:7.3f} s {1e6 * seconds / games:8.1f} us/game "
        f"{found.n_iter:3d} iterations, residual {float(found.residual.max()):.1e}, "
        f"all converged {bool(found.converged.all())}"
    )


def main() -> None:
    """Print all lines."""
    keep_freed_memory()
    key = Key(1).child("speed", "nash")
    payoff = skew(key.child("large"), 500, 1, 50)
    uniform = np.full((1, 1, 50), -np.log(50.0))
    random = dirichlet(key.child("pi0"), 500, 1, 50)
    for eta in (10.0, 1.0, 0.1, 0.01, 0.001):
        show(f"50 actions, eta {eta:g}, uniform pi0", nash_policy, payoff, uniform, eta)
    show("50 actions, eta 0.001, Dirichlet pi0", nash_policy, payoff, random, 0.001)
    show("the same as two players", two_player_saddle, payoff, random, 0.001)

    log_pi0 = np.full((1, 20, 10), -np.log(10.0))
    for replicas in (64, 256):
        payoff = skew(key.child("round", replicas), replicas, 20, 10)
        change = skew(key.child("change", replicas), replicas, 20, 10)
        for eta in (0.3, 0.03):
            last = nash_policy(payoff, log_pi0, eta).value
            case = f"{replicas} x 20 games of 10, eta {eta:g}"
            show(f"{case}, cold", nash_policy, payoff + 0.02 * change, log_pi0, eta)
            show(
                f"{case}, warm (2 % change)",
                nash_policy,
                payoff + 0.02 * change,
                log_pi0,
                eta,
                start=last,
            )


if __name__ == "__main__":
    main()
