import math
from dataclasses import replace

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, namespace, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import PairList, PairTable
from rlhf_theory.errors import ShapeError
from rlhf_theory.policies import FunctionPolicy, ReferencePolicy, TablePolicy
from rlhf_theory.problems import FiniteProblem, FreshProblem, check_contexts
from rlhf_theory.randomness import Key
from rlhf_theory.visited_pairs import VisitedPairs
from tests.helpers.assembled import compared
from tests.helpers.backends import LIBRARIES, library_array
from tests.helpers.small import finite_problem, log
from tests.helpers.statistics import assert_frequencies


def arguments(**changes):
    half = np.full((1, 2, 2), math.log(0.5))
    given = {
        "phi": np.ones((1, 2, 2, 3)),
        "log_pi0": half,
        "weights": np.full((1, 2), 0.5),
        "eta": 0.1,
        "n_replicas": 2,
    }
    return given | changes


# ------------------------------------------------------------------ finite


def test_single_precision_weights_sum_to_one_up_to_rounding(xp_like):
    # 11 times 1/11 is off by more than 1e-9 there.
    wide = finite_problem(xp_like, x=11)
    single = namespace(xp_like).astype(xp_like, namespace(xp_like).float32)
    narrow = FiniteProblem(
        as_like(wide.phi, single),
        as_like(wide.log_pi0, single),
        as_like(np.full((1, 11), 1 / 11), single),
        0.3,
        2,
    )
    assert narrow.weights.dtype == single.dtype
    with pytest.raises(ValueError, match="weights must be probabilities"):
        replace(narrow, weights=narrow.weights * 1.001)


def test_population_is_all_contexts_with_their_law(xp_like):
    problem = finite_problem(xp_like)
    x, w = problem.population(Key(0), 5)
    assert x is problem.table
    assert w is problem.weights
    assert problem.dim == 2
    np.testing.assert_array_equal(to_numpy(x.ids), [[0, 1, 2]])


@pytest.mark.statistical
def test_contexts_are_drawn_from_their_law():
    # A context of weight 0, in front, in the middle or behind, is never drawn.
    for w in ([0.2, 0.5, 0.3], [0.0, 0.7, 0.3], [0.7, 0.3, 0.0], [0.4, 0.0, 0.6]):
        problem = FiniteProblem(**arguments(
            phi=np.ones((1, 3, 2, 1)), log_pi0=np.full((1, 3, 2), math.log(0.5)),
            weights=np.array([w]),
        ))  # fmt: skip
        ids = problem.sample_contexts(Key(1), 20_000).ids
        assert ids.shape == (2, 20_000)
        for row in ids:
            assert_frequencies(np.bincount(row, minlength=3), w)


def test_contexts_are_the_same_in_all_libraries_and_any_block(xp_like):
    problem = finite_problem(xp_like, replicas=4)
    ids = to_numpy(problem.sample_contexts(Key(1), 30).ids)
    host = finite_problem(np.zeros(1), replicas=4)
    np.testing.assert_array_equal(ids, host.sample_contexts(Key(1), 30).ids)
    part = problem.block(1, 3).sample_contexts(Key(1).block(1), 30)
    np.testing.assert_array_equal(to_numpy(part.ids), ids[1:3])


def test_tabulate_computes_the_policy_once(xp_like):
    problem = finite_problem(xp_like)
    table = problem.tabulate(ReferencePolicy())
    assert isinstance(table, TablePolicy)
    np.testing.assert_array_equal(to_numpy(table.table), to_numpy(problem.log_pi0))
    assert problem.tabulate(table) is table


def ask(data, n):
    """Add ``n`` comparisons of the same two actions of one context to every replica."""
    like, replicas = data.frame.table.like, data.count.shape[0]
    zero = int_like(np.zeros((replicas, n)), like)
    x = Contexts.rows(data.frame.table, zero)
    return data.add(compared(x, zero, zero + 1, as_like(np.ones((replicas, n)), like)))


@pytest.mark.parametrize(
    ("x", "a", "d", "room"),
    [
        (4, 30, 2, 290),  # a sixth of 1740 cells
        (1, 60, 60, 120),  # one-hot items: d^2 a pair against A d (A + d) for the table
    ],
)
def test_data_become_a_table_by_the_number_of_pairs_asked(xp_like, x, a, d, room):
    # It counts what was asked, though only one cell is ever visited here.
    problem = finite_problem(xp_like, x=x, a=a, d=d)
    data = problem.empty_data()
    assert isinstance(data, VisitedPairs)
    almost = ask(ask(data, room - 10), 9)
    assert isinstance(almost, VisitedPairs)
    assert almost.count.shape[1] == 1
    for full in (ask(almost, 1), ask(data, room), ask(data, 5 * room)):
        assert isinstance(full, PairTable)
        assert full.frame is data.frame  # its designs are computed once per problem
    np.testing.assert_array_equal(to_numpy(ask(almost, 1).count)[:, :2], [[room, 0.0]] * 3)


def test_small_problems_have_a_table_from_the_start():
    problem = FiniteProblem(**arguments())
    assert isinstance(problem.empty_data(), PairTable)
    assert isinstance(finite_problem(np.zeros(1), x=20, a=10).empty_data(), PairTable)


def test_pairs_of_equal_actions_count_as_asked(xp_like):
    # Which of the pairs drawn are comparisons differs from replica to replica, and from block to
    # block; how many were asked does not.
    data = finite_problem(xp_like, x=4, a=30).empty_data()
    same = int_like(np.zeros((3, 290)), xp_like)
    x = Contexts.rows(data.frame.table, same)
    full = data.add(compared(x, same, same, as_like(np.zeros((3, 290)), xp_like)))
    assert isinstance(full, PairTable)
    assert to_numpy(full.count).sum() == 0.0


@pytest.mark.parametrize("rows", [1, 4])
def test_a_block_of_a_finite_problem_holds_its_replicas(xp_like, rows):
    problem = finite_problem(xp_like, rows=rows, replicas=4)
    part = problem.block(1, 3)
    assert part.n_replicas == 2
    want = np.broadcast_to(to_numpy(problem.phi), (4, 3, 4, 2))[1:3]
    np.testing.assert_array_equal(np.broadcast_to(to_numpy(part.phi), want.shape), want)
    assert tuple(part.empty_data().count.shape) == (2, 18)


@pytest.mark.parametrize("source", LIBRARIES)
def test_problems_move_between_libraries(source, xp_like):
    problem = finite_problem(library_array(source)).to(xp_like)
    host = finite_problem(np.zeros(1))
    assert type(problem.phi) is type(xp_like)
    assert type(problem.empty_data().count) is type(xp_like)
    for name in ("phi", "log_pi0", "weights"):
        np.testing.assert_array_equal(to_numpy(getattr(problem, name)), getattr(host, name))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"eta": 0.0}, r"eta must be positive and finite; got 0\.0"),
        ({"eta": -0.5}, r"eta must be positive and finite; got -0\.5"),
        ({"eta": math.nan}, "eta must be positive"),
        ({"phi": np.full((1, 2, 2, 3), np.nan)}, "phi must be finite"),
        ({"log_pi0": np.full((1, 2, 2), math.log(0.4))}, "sum to one in every context"),
        ({"log_pi0": np.full((1, 2, 2), -np.inf)}, "sum to one in every context"),
        ({"log_pi0": np.full((1, 2, 2), np.nan)}, "sum to one in every context"),
        ({"weights": np.array([[0.5, 0.6]])}, "weights must be probabilities"),
        ({"weights": np.array([[1.5, -0.5]])}, "weights must be probabilities"),
        ({"weights": np.array([[np.nan, 1.0]])}, "weights must be probabilities"),
    ],
)
def test_a_problem_that_makes_no_sense_raises(changes, match):
    with pytest.raises(ValueError, match=match):
        FiniteProblem(**arguments(**changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"phi": np.ones((2, 2, 3))}, r"phi must have shape \(R, X, A, d\)"),
        ({"log_pi0": np.full((1, 3, 2), math.log(0.5))}, "log_pi0 must have shape"),
        ({"weights": np.ones((1, 3)) / 3}, "weights must have shape"),
        ({"phi": np.ones((3, 2, 2, 3))}, "phi must have 1 or n_replicas=2 rows; got 3"),
        ({"weights": np.full((3, 2), 0.5)}, "weights must have 1 or n_replicas=2 rows"),
    ],
)
def test_wrong_shapes_raise(changes, match):
    with pytest.raises(ShapeError, match=match):
        FiniteProblem(**arguments(**changes))


def test_arrays_of_two_libraries_raise(xp_like):
    if isinstance(xp_like, np.ndarray):
        pytest.skip("one library")
    with pytest.raises(TypeError, match="one array library"):
        FiniteProblem(**arguments(phi=as_like(np.ones((1, 2, 2, 3)), xp_like)))


def test_check_contexts_allows_absent_actions(xp_like):
    p = np.array([[[0.5, 0.5, 0.0]]])
    check_contexts(Contexts(as_like(np.ones((1, 1, 3, 2)), xp_like), as_like(log(p), xp_like)))


# ------------------------------------------------------------------ fresh


def draw(key, rows, n):
    return key.child("phi").normal_numpy(rows, n, 3, 2), np.full((rows, n, 3), 7.0)


def test_fresh_contexts_follow_the_replica(xp_like):
    problem = FreshProblem(draw, 2, 0.1, 4, xp_like)
    x = problem.sample_contexts(Key(1), 5)
    assert x.shape == (4, 5, 3, 2)
    assert x.ids is None
    np.testing.assert_allclose(np.exp(to_numpy(x.log_pi0)), 1 / 3, rtol=1e-14)
    part = problem.block(1, 3).sample_contexts(Key(1).block(1), 5)
    np.testing.assert_array_equal(to_numpy(part.phi), to_numpy(x.phi)[1:3])
    assert type(problem.to(xp_like).sample_contexts(Key(1), 5).phi) is type(xp_like)


def test_population_of_fresh_contexts_is_draws_of_equal_weight(xp_like):
    problem = FreshProblem(draw, 2, 0.1, 4, xp_like)
    x, w = problem.population(Key(1), 8)
    assert x.shape == (4, 8, 3, 2)
    np.testing.assert_allclose(to_numpy(w), np.full((4, 8), 1 / 8))
    shared = problem.shared_contexts(Key(1), 6)
    assert shared.shape == (1, 6, 3, 2)


def test_fresh_problems_keep_policies_and_grow_lists(xp_like):
    problem = FreshProblem(draw, 2, 0.1, 4, xp_like)
    policy = FunctionPolicy(lambda c: c.log_pi0)
    assert problem.tabulate(policy) is policy
    data = problem.empty_data()
    assert isinstance(data, PairList)
    assert tuple(data.pairs.phi.shape) == (4, 0, 2, 2)


def test_fresh_problems_check_eta():
    with pytest.raises(ValueError, match="eta must be positive"):
        FreshProblem(draw, 2, 0.0, 4, np.zeros(1))
