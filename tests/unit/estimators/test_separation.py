import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import PairList, PairTable
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.estimators.separation import separable
from rlhf_theory.problems import FiniteProblem
from tests.helpers import reference
from tests.helpers.assembled import compared
from tests.helpers.small import finite_problem


def table(like, z, count, wins):
    """Data whose differences are exactly the rows ``z``: pair (0, 1) of one context each."""
    z, count, wins = np.asarray(z, float), np.atleast_2d(count), np.atleast_2d(wins)
    phi = np.stack([z, np.zeros_like(z)], axis=1)[None]
    n = len(z)
    problem = FiniteProblem(
        as_like(phi, like), as_like(np.full((1, n, 2), -np.log(2.0)), like),
        as_like(np.full((1, n), 1.0 / n), like), 0.1, len(count),
    )  # fmt: skip
    return problem.empty_data().reweighted(as_like(count, like), as_like(wins, like))


CASES = {
    # name: rows, count, wins, separable
    "one win": ([[1.0, 0.0]], [1], [1], True),
    "one win one loss of the same pair": ([[1.0, 0.0]], [2], [1], False),
    "complete": ([[1.0, 0.2], [0.3, 1.0], [-1.0, -1.0]], [3, 2, 1], [3, 2, 0], True),
    "quasi-complete": ([[1.0, 0.0], [0.0, 1.0]], [2, 2], [2, 1], True),
    "a cycle": ([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]], [1] * 3, [1] * 3, False),
    "a broken cycle": ([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], [1, 1], [1, 1], True),
    "overlap": ([[1.0], [2.0]], [1, 1], [1, 0], False),
    "overlap through a mixed pair": ([[1.0, 0.0], [1.0, 1.0]], [2, 2], [2, 1], True),
    "mixed pairs span everything": (
        [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
        [2] * 3,
        [1, 1, 2],
        False,
    ),
    "equal features": ([[0.0, 0.0]], [4], [4], False),
    "no data": ([[1.0, 0.0]], [0], [0], False),
    "soft labels": ([[1.0, 0.0]], [1], [0.9], False),
    "huge counts": ([[1.0], [1.0]], [1e9, 1e9], [1e9, 1e9 - 1], False),
    "duplicates of a mixed row": ([[0.3, 0.1]] * 5, [2] * 5, [1, 2, 2, 2, 2], False),
    "tiny features": ([[1e-9, 0.0]], [3], [3], True),
    "tiny overlapping features": ([[1e-9], [1.0]], [3, 3], [3, 0], False),
}


@pytest.mark.parametrize("name", CASES)
def test_known_cases(name):
    z, count, wins, want = CASES[name]
    assert separable(table(np.zeros(1), z, count, wins)).tolist() == [want]


def test_the_verdict_is_per_replica_and_in_the_library(xp_like):
    z = [[1.0, 0.0], [0.0, 1.0]]
    data = table(xp_like, z, [[2, 2]] * 3, [[2, 1], [1, 1], [0, 2]])
    got = separable(data)
    assert type(got) is type(xp_like)
    assert to_numpy(got).tolist() == [True, False, True]


def brute(z, count, wins):
    """Albert and Anderson by a program that maximises one row at a time, free of scale."""
    signed, equal = [], []
    for row, c, w in zip(z, count, wins, strict=True):
        if c > 0 and 0 < w < c:
            equal.append(row)
        elif c > 0:
            signed.append(row if w == c else -row)
    for row in signed:
        answer = linprog(
            -row,
            A_ub=-np.array(signed),
            b_ub=np.zeros(len(signed)),
            A_eq=np.array(equal) if equal else None,
            b_eq=np.zeros(len(equal)) if equal else None,
            bounds=(-1, 1),
        )
        if -answer.fun > 1e-8:
            return True
    return False


@pytest.mark.parametrize("form", [PairTable, PairList])
def test_random_data_agree_with_one_program_per_row(form):
    problem = finite_problem(np.zeros(1), replicas=40, d=3)
    rng = np.random.default_rng(0)
    data = form.empty(problem.table, 40) if form is PairTable else form.empty(40, 3, np.zeros(1))
    n = 16
    ids, a1, a2 = rng.integers(3, size=(40, n)), *rng.integers(4, size=(2, 40, n))
    theta = rng.normal(size=3)
    phi = problem.phi[0]
    u = (phi[ids, a1] - phi[ids, a2]) @ theta
    y = (rng.random((40, n)) < 1 / (1 + np.exp(-u))).astype(float)
    data = data.add(compared(Contexts.rows(problem.table, int_like(ids, u)), a1, a2, y))
    z, got = reference.difference_rows(problem.phi)[0], separable(data)
    full = PairTable.empty(problem.table, 40).add(
        compared(Contexts.rows(problem.table, ids), a1, a2, y)
    )
    want = [brute(z, full.count[r], full.wins[r]) for r in range(40)]
    assert got.tolist() == want
    assert 5 < got.sum() < 35  # both verdicts were tried


def test_the_fit_converges_exactly_where_data_are_not_separable():
    problem = finite_problem(np.zeros(1), replicas=60, x=2, a=3, d=2)
    rng = np.random.default_rng(1)
    ids, a1, a2 = rng.integers(2, size=(60, 8)), *rng.integers(3, size=(2, 60, 8))
    y = rng.integers(2, size=(60, 8)).astype(float)
    data = problem.empty_data().add(compared(Contexts.rows(problem.table, ids), a1, a2, y))
    fit = bradley_terry_mle(data, ridge=0.0)
    z = reference.difference_rows(problem.phi)[0]
    seen = np.array([np.linalg.matrix_rank(z[c > 0]) == 2 for c in data.count])
    # The fit does not vouch for logits beyond 30, which doubles can hardly tell from certainty.
    wide = np.abs(data.differences.margins(fit.value) * (data.count > 0)).max(axis=-1) > 30.0
    assert (wide & ~separable(data)).sum() <= 2
    np.testing.assert_array_equal(fit.converged, ~separable(data) & seen & ~wide)
    assert 5 < fit.converged.sum() < 55


def test_every_small_tournament_agrees_with_its_graph():
    # One-hot items: the MLE exists iff the graph of wins is strongly connected (Ford 1957), that
    # is iff no split into two groups has all its games won by one side.
    games = list(itertools.combinations(range(3), 2))
    for outcome in itertools.product([(0, 0), (1, 0), (1, 1), (2, 1)], repeat=3):
        count, wins = np.array(outcome, dtype=float).T
        beats = np.zeros((3, 3))
        for (i, j), c, w in zip(games, count, wins, strict=True):
            beats[i, j], beats[j, i] = w, c - w
        one_sided = False
        for group in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
            rest = [k for k in range(3) if k not in group]
            won, lost = beats[np.ix_(group, rest)].sum(), beats[np.ix_(rest, group)].sum()
            one_sided = one_sided or (won > 0 and lost == 0)
        z = [np.eye(3)[i] - np.eye(3)[j] for i, j in games]
        assert separable(table(np.zeros(1), z, count, wins))[0] == one_sided, outcome
