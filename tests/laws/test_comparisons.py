"""Laws of comparisons and fits: what may change in the data without changing the estimate."""

import numpy as np
import pytest

from rlhf_theory import problems
from rlhf_theory.algorithms import OnlineIterative
from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import PairList, PairTable
from rlhf_theory.estimators.margin_mle import bounded_margin_mle
from rlhf_theory.estimators.mle import bradley_terry_mle, logistic_mle
from rlhf_theory.estimators.preference_fit import bilinear_mle
from rlhf_theory.experiments import run
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.visited_pairs import VisitedPairs
from rlhf_theory.worlds import linear
from tests.helpers.assembled import compared
from tests.helpers.small import comparisons, finite_problem

FORMS = {
    "table": lambda p: PairTable.empty(p.table, p.n_replicas),
    "visited": lambda p: VisitedPairs.empty(p.table, p.n_replicas),
    "list": lambda p: PairList.empty(p.n_replicas, p.dim, p.phi),
}


def fits(data):
    """The ridge fit, the fit in a ball, and the bilinear fit."""
    values = [
        bradley_terry_mle(data, ridge=0.3),
        bradley_terry_mle(data, bound=0.5),
        bilinear_mle(data, ridge=0.5),
    ]
    return [to_numpy(v.require()) for v in values]


def assert_same_fits(one, two, atol=1e-7):
    for mine, theirs in zip(fits(one), fits(two), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=atol)


@pytest.fixture(params=FORMS)
def empty(request):
    return FORMS[request.param]


def drawn(like, n=60, rows=1):
    problem = finite_problem(like, rows=rows)
    _, (ids, a1, a2, y) = comparisons(like, 3, 3, 4, n)
    return problem, ids, a1, a2, y


@pytest.mark.parametrize("rows", [1, 3])
def test_swapping_the_actions_and_flipping_the_label_changes_nothing(xp_like, empty, rows):
    problem, ids, a1, a2, y = drawn(xp_like, rows=rows)
    x = Contexts.rows(problem.table, ids)
    one, two = (
        empty(problem).add(compared(x, a1, a2, y)),
        empty(problem).add(compared(x, a2, a1, 1.0 - y)),
    )
    assert_same_fits(one, two)
    # Only some of them.
    turn = as_like(np.arange(60)[None] % 3 == 0, xp_like) > 0.5
    mixed = [np.where(to_numpy(turn), to_numpy(p), to_numpy(q)) for p, q in ((a2, a1), (a1, a2))]
    flip = np.where(to_numpy(turn), 1.0 - to_numpy(y), to_numpy(y))
    some = empty(problem).add(
        compared(
            x, int_like(mixed[0], xp_like), int_like(mixed[1], xp_like), as_like(flip, xp_like)
        )
    )
    assert_same_fits(one, some)


def test_replicated_data_are_counts(xp_like, empty):
    problem, ids, a1, a2, y = drawn(xp_like, n=20)
    x = Contexts.rows(problem.table, ids)
    once = empty(problem).add(compared(x, a1, a2, y))
    thrice = once.add(compared(x, a1, a2, y)).add(compared(x, a1, a2, y))
    counted = once.reweighted(3.0 * once.count, 3.0 * once.wins)
    assert_same_fits(thrice, counted)
    np.testing.assert_array_equal(to_numpy(thrice.n_labels), to_numpy(counted.n_labels))


def test_all_forms_of_the_data_give_one_fit(xp_like):
    problem, ids, a1, a2, y = drawn(xp_like)
    x = Contexts.rows(problem.table, ids)
    table, visited, listed = (make(problem).add(compared(x, a1, a2, y)) for make in FORMS.values())
    assert_same_fits(table, visited)
    assert_same_fits(table, listed)


def test_the_order_of_the_labels_does_not_matter(xp_like, empty):
    problem, ids, a1, a2, y = drawn(xp_like, n=20)
    order = np.random.default_rng(0).permutation(20)
    mixed = [to_numpy(v)[:, order] for v in (ids, a1, a2)]
    shuffled = [int_like(v, xp_like) for v in mixed]
    one = empty(problem).add(compared(Contexts.rows(problem.table, ids), a1, a2, y))
    x = Contexts.rows(problem.table, shuffled[0])
    two = empty(problem).add(
        compared(x, shuffled[1], shuffled[2], as_like(to_numpy(y)[:, order], xp_like))
    )
    assert_same_fits(one, two)


def test_pairs_of_equal_actions_teach_nothing(xp_like, empty):
    problem, ids, a1, a2, y = drawn(xp_like, n=20)
    x = Contexts.rows(problem.table, ids)
    once = empty(problem).add(compared(x, a1, a2, y))
    assert_same_fits(once, once.add(compared(x, a1, a1, y)))


def test_a_rotation_of_the_features_rotates_the_fit(xp_like):
    # Ridge and ball are round, so only coordinates change.
    problem, ids, a1, a2, y = drawn(xp_like)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))
    rotated = type(problem)(
        as_like(to_numpy(problem.phi) @ turn, xp_like),
        problem.log_pi0,
        problem.weights,
        problem.eta,
        3,
    )
    fitted = []
    for p in (problem, rotated):
        data = p.empty_data().add(compared(Contexts.rows(p.table, ids), a1, a2, y))
        fitted.append(
            [
                to_numpy(v.value)
                for v in (bradley_terry_mle(data, ridge=0.3), bradley_terry_mle(data, bound=0.5))
            ]
        )
    for plain, turned in zip(*fitted, strict=True):
        np.testing.assert_allclose(turned, plain @ turn, atol=1e-7)


def test_flipping_every_label_flips_the_fit(xp_like, empty):
    problem, ids, a1, a2, y = drawn(xp_like)
    x = Contexts.rows(problem.table, ids)
    one, two = (
        empty(problem).add(compared(x, a1, a2, y)),
        empty(problem).add(compared(x, a1, a2, 1.0 - y)),
    )
    for mine, theirs in zip(fits(one), fits(two), strict=True):
        np.testing.assert_allclose(mine, -theirs, atol=1e-7)


def test_a_soft_label_is_an_average_of_hard_ones(xp_like, empty):
    problem, ids, a1, a2, _ = drawn(xp_like, n=20)
    x = Contexts.rows(problem.table, ids)
    one, zero = as_like(np.ones((3, 20)), xp_like), as_like(np.zeros((3, 20)), xp_like)
    hard = (
        empty(problem)
        .add(compared(x, a1, a2, one))
        .add(compared(x, a1, a2, zero))
        .add(compared(x, a1, a2, one))
    )
    soft = empty(problem)
    for _ in range(3):
        soft = soft.add(compared(x, a1, a2, one * (2.0 / 3.0)))
    assert_same_fits(hard, soft)


def test_a_ball_fit_is_a_ridge_fit_with_the_right_multiplier():
    # On the sphere the multiplier of the constraint is a ridge.
    problem, ids, a1, a2, y = drawn(np.zeros(1))
    data = problem.empty_data().add(compared(Contexts.rows(problem.table, ids), a1, a2, y))
    free = bradley_terry_mle(data, ridge=0.7).require()
    for r in range(3):
        norm = float(np.linalg.norm(free[r]))
        one = slice(r, r + 1)
        ball = logistic_mle(data.differences, data.count[one], data.wins[one], bound=norm)
        np.testing.assert_allclose(ball.require()[0], free[r], atol=1e-6)


# ------------------------------------------------------------------ the form of the data


def items(like, wins):
    """Four one-hot items in one context, compared as in ``wins``: {(winner, loser): times}."""
    even = np.full((1, 1, 4), np.log(0.25))
    problem = FiniteProblem(
        as_like(np.eye(4)[None, None], like),
        as_like(even, like),
        as_like(np.ones((1, 1)), like),
        1.0,
        1,
    )
    won, lost = (np.array([p[k] for p, n in wins.items() for _ in range(n)])[None] for k in (0, 1))
    x = Contexts.rows(problem.table, int_like(0 * won, like))
    y = as_like(np.ones(won.shape), like)
    a1, a2 = int_like(won, like), int_like(lost, like)
    return [FORMS[name](problem).add(compared(x, a1, a2, y)) for name in ("table", "visited")]


@pytest.mark.parametrize(
    ("wins", "exists"),
    [
        ({(0, 1): 2, (1, 2): 3, (2, 3): 1, (3, 0): 1}, True),
        ({(0, 1): 2, (1, 2): 3, (2, 0): 1}, False),  # nobody has met item 3
        ({(0, 1): 2, (1, 0): 3, (1, 2): 1, (2, 3): 1}, False),  # separable
    ],
)
def test_whether_an_estimate_exists_does_not_depend_on_the_form(xp_like, wins, exists):
    # The sum of one-hot items is a direction that no pair can have. A list that did not know so
    # would call every fit undetermined.
    fitted = [bradley_terry_mle(data) for data in items(xp_like, wins)]
    assert [bool(to_numpy(fit.converged)[0]) for fit in fitted] == [exists, exists]
    if exists:
        table, visited = (to_numpy(fit.value) for fit in fitted)
        np.testing.assert_allclose(visited, table, atol=1e-8)


def test_bounded_margins_see_every_pair_whatever_the_form(xp_like):
    data = items(xp_like, {(0, 1): 3, (1, 2): 2, (2, 0): 1})
    table, visited = (to_numpy(bounded_margin_mle(d, bound=0.5).require()) for d in data)
    np.testing.assert_allclose(visited, table, atol=1e-8)
    assert np.ptp(visited) <= 0.5


def test_a_run_agrees_in_every_block_while_its_data_change_form(monkeypatch):
    # 1104 cells, 48 pairs a round: a table from the fourth round on. Were the cells visited to
    # decide, blocks would change form in rounds of their own.
    def gaps(block, replicas=8):
        world = linear(contexts=4, actions=24, dim=3, replicas=replicas, seed=1)
        trace = run(OnlineIterative(batch_size=48), world, rounds=5, seed=2, block=block)
        return trace["gap"]

    whole = gaps(8)
    for other in (gaps(2), gaps(3)):
        np.testing.assert_allclose(other, whole, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(gaps(1, replicas=1), whole[:1], rtol=1e-8, atol=1e-12)
    # And as if there had been a table from the start.
    monkeypatch.setattr(problems, "SMALL_TABLE", 10_000)
    np.testing.assert_allclose(gaps(8), whole, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("before", [0, 5])
def test_counts_are_drawn_alike_onto_either_form(monkeypatch, before):
    # More pairs than cells: counts for a whole table, whatever the form of the data so far.
    def data():
        world = linear(contexts=6, actions=30, dim=3, replicas=2, seed=1)
        first = world.offline_data(Key(1).child("first"), before)
        return first, world.offline_data(Key(1).child("more"), 3000, onto=first)

    (some, got), _ = data(), monkeypatch.setattr(problems, "SMALL_TABLE", 10_000)
    table, want = data()
    assert [type(d) for d in (some, table, got)] == [VisitedPairs, PairTable, PairTable]
    np.testing.assert_array_equal(got.count, want.count)
    np.testing.assert_array_equal(got.wins, want.wins)
