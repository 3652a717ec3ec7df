"""Many pairs, few comparisons: what a round costs, and all win probabilities of a world.

Rounds of 32 uniform pairs a replica, 64 replicas: add them, fit Bradley-Terry with ridge 1 from
where the last round ended, sum the design. Once onto a table of all (context, pair) cells, once
onto the data that the problem gives, which start as a list of visited pairs and become a table when
a sixth of the cells could be filled. Both see the same pairs and labels. Then the win probabilities
of all pairs of 200 actions: pair after pair, as of a user's oracle that tells no more, and at once.

    python benchmarks/speed/pairs.py [--rounds 50] [--out FILE.json]

Some minutes, nearly all of it tables. Seconds are processor time of one thread.
The exit code is 1 if a target is missed: no world slower than with a table (a fifth of slack for
the clock), the largest 10 times faster; parameters equal to 1e-10; win probabilities 20 times
faster and equal to the bit.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.timing import command_line, finish
from rlhf_theory.arrays import Array
from rlhf_theory.contexts import Contexts
from rlhf_theory.core import PreferenceOracle
from rlhf_theory.data import PairQuery, PairTable, PreferenceData
from rlhf_theory.estimators.ellipsoid import design_matrix
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.oracles import BradleyTerry, preference_matrix
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward

WORLDS = {"20 x 100": (20, 100), "100 x 20": (100, 20), "10 x 40": (10, 40), "20 x 10": (20, 10)}
DIM = 8
BATCH = 32
REPLICAS = 64


@dataclass(frozen=True)
class Row:
    """Seconds of both ways, and how far apart their results are."""

    name: str
    slow: float
    fast: float
    distance: float

    @property
    def ratio(self) -> float:
        """How many times faster."""
        return self.slow / self.fast


@dataclass(frozen=True)
class PairByPair:
    """An oracle that tells nothing but single probabilities."""

    oracle: PreferenceOracle

    def prob(self, contexts: Contexts, a1: Array, a2: Array) -> Array:
        """Return the probability that ``a1`` wins, shape ``(R, B)``."""
        return self.oracle.prob(contexts, a1, a2)


def problem_of(contexts: int, actions: int) -> FiniteProblem:
    """Return a problem with features on the unit sphere and a uniform reference policy."""
    phi = Key(0).child("phi").normal_numpy(1, contexts, actions, DIM)
    phi = phi / np.linalg.norm(phi, axis=-1, keepdims=True)
    log_pi0 = np.full((1, contexts, actions), -math.log(actions))
    weights = np.full((1, contexts), 1.0 / contexts)
    return FiniteProblem(phi, log_pi0, weights, eta=0.1, n_replicas=REPLICAS)


def oracle_of() -> BradleyTerry:
    """Return Bradley-Terry labels of a linear reward of norm 1."""
    theta = Key(0).child("theta").normal_numpy(1, DIM)
    return BradleyTerry(LinearReward(theta / np.linalg.norm(theta)))


def rounds_onto(data: PreferenceData, problem: FiniteProblem, rounds: int) -> tuple[float, Array]:
    """Play rounds; return the processor time of data and fits, and the last parameters."""
    oracle, fit, seconds = oracle_of(), None, 0.0
    for t in range(rounds):
        key = Key(1).child("round", t)
        x = problem.sample_contexts(key.child("contexts"), BATCH)
        actions = key.child("actions").uniform_numpy(REPLICAS, BATCH, 2) * problem.phi.shape[2]
        a1, a2 = np.moveaxis(actions.astype(np.int64), -1, 0)
        chance = oracle.prob(x, a1, a2)
        y = (key.child("labels").uniform_numpy(REPLICAS, BATCH) < chance).astype(float)
        start = time.process_time()
        data = data.add(PairQuery(x, a1, a2).answered(y))
        fit = bradley_terry_mle(data, ridge=1.0, start=fit)
        design_matrix(data.differences, data.count, 1.0)
        seconds += time.process_time() - start
    return seconds, fit.require() if fit is not None else np.zeros((REPLICAS, DIM))


def rounds_row(name: str, rounds: int) -> Row:
    """Compare both forms of the data in one world."""
    problem = problem_of(*WORLDS[name])
    fast, mine = rounds_onto(problem.empty_data(), problem, rounds)
    table = PairTable.empty(problem.table, REPLICAS)
    slow, theirs = rounds_onto(table, problem, rounds)
    return Row(f"{rounds} rounds, {name}", slow, fast, float(np.abs(mine - theirs).max()))


def preferences_row(actions: int) -> Row:
    """Compare both ways to all win probabilities."""
    table, oracle = problem_of(20, actions).table, oracle_of()
    start = time.process_time()
    one_by_one = preference_matrix(PairByPair(oracle), table)
    middle = time.process_time()
    at_once = preference_matrix(oracle, table)
    end = time.process_time()
    distance = float(np.abs(one_by_one - at_once).max())
    return Row(f"win probabilities, 20 x {actions}", middle - start, end - middle, distance)


def main() -> int:
    """Run all; return 1 if a target is missed."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="rounds in every world")
    args = parser.parse_args()
    with threadpool_limits(limits=1):
        rows = [rounds_row(name, args.rounds) for name in WORLDS]
        asked = preferences_row(200)
    print(f"{'':<30}{'before':>10}{'after':>10}{'ratio':>8}  difference")
    for row in (*rows, asked):
        print(f"{row.name:<30}{row.slow:9.3f}s{row.fast:9.3f}s{row.ratio:8.1f}  {row.distance:.1e}")
    met = (
        all(row.ratio > 0.8 and row.distance <= 1e-10 for row in rows)
        and rows[0].ratio >= 10.0
        and asked.ratio >= 20.0
        and asked.distance == 0.0
    )
    print(f"\ntargets {'met' if met else 'MISSED'}")
    told = [asdict(row) | {"ratio": row.ratio} for row in (*rows, asked)]
    return finish({"met": met, "rows": told}, args.out)


if __name__ == "__main__":
    sys.exit(main())
