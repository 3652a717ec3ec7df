import math
from decimal import Decimal, getcontext

import array_api_compat as compat
import numpy as np
import pytest
from scipy import special

from rlhf_theory import arrays
from rlhf_theory.arrays import as_like, to_numpy
from tests.helpers.backends import LIBRARIES, library_array


def test_new_arrays_follow_library_device_and_dtype(xp_like):
    made = [
        as_like([1.0, 2.0], xp_like),
        as_like(np.float32(3.0) * np.ones(2, dtype=np.float32), xp_like),
        arrays.full_like((2, 3), 1.5, xp_like),
        arrays.eye_like(3, xp_like),
        arrays.one_hot(arrays.int_like([0, 2], xp_like), 3, xp_like),
    ]
    for x in made:
        assert type(x) is type(xp_like)
        assert x.dtype == xp_like.dtype
        assert compat.device(x) == compat.device(xp_like)
    for x in (arrays.int_like([1, 2], xp_like), arrays.arange_like(4, xp_like)):
        assert x.dtype == arrays.namespace(x).int64
        assert compat.device(x) == compat.device(xp_like)


@pytest.mark.parametrize("source", LIBRARIES)
def test_values_move_between_all_libraries(source, xp_like):
    values = np.array([[0.1, -2.5], [1e300, 3.0]])
    there = as_like(values, library_array(source))
    np.testing.assert_array_equal(to_numpy(as_like(there, xp_like)), values)
    numbers = arrays.int_like([3, 1], library_array(source))
    np.testing.assert_array_equal(to_numpy(arrays.int_like(numbers, xp_like)), [3, 1])


def test_as_like_copies_a_read_only_host_array(xp_like):
    values = np.broadcast_to(np.array([1.0]), (3,))
    np.testing.assert_array_equal(to_numpy(as_like(values, xp_like)), np.ones(3))


def test_mixed_libraries_raise():
    with pytest.raises(TypeError, match="All arrays must come from one array library"):
        arrays.namespace(np.zeros(1), library_array("strict"))


def test_library_by_name():
    assert arrays.library("numpy").asarray([1.0]).shape == (1,)
    with pytest.raises(ImportError, match="rlhf-theory"):
        arrays.library("no_such_library")


def test_check_finite(xp_like):
    arrays.check_finite("phi", as_like([0.0, -1e308], xp_like))
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match=r"^phi must be finite"):
            arrays.check_finite("phi", as_like([0.0, bad], xp_like))


# ------------------------------------------------------------------ scalar functions

POINTS = np.concatenate([[0.0], np.geomspace(1e-12, 700.0, 60), -np.geomspace(1e-12, 700.0, 60)])


def exact_softplus(u):
    getcontext().prec = 400
    return float((Decimal(1) + Decimal(u).exp()).ln())


def test_softplus_and_log_sigmoid_are_exact_in_both_tails(xp_like):
    u = as_like(POINTS, xp_like)
    want = np.array([exact_softplus(v) for v in POINTS])
    np.testing.assert_allclose(to_numpy(arrays.softplus(u)), want, rtol=1e-14)
    np.testing.assert_allclose(to_numpy(arrays.log_sigmoid(-u)), -want, rtol=1e-14)


def test_softplus_at_infinity(xp_like):
    u = as_like([np.inf, -np.inf], xp_like)
    np.testing.assert_array_equal(to_numpy(arrays.softplus(u)), [np.inf, 0.0])


def test_sigmoid_agrees_with_scipy_and_is_symmetric_to_the_bit(xp_like):
    p = to_numpy(arrays.sigmoid(as_like(POINTS, xp_like)))
    np.testing.assert_allclose(p, special.expit(POINTS), atol=2e-16, rtol=1e-14)
    q = to_numpy(arrays.sigmoid(as_like(-POINTS, xp_like)))
    np.testing.assert_array_equal(p + q, 1.0)
    far = to_numpy(arrays.sigmoid(as_like([800.0, -800.0, np.inf, -np.inf], xp_like)))
    np.testing.assert_array_equal(far, [1.0, 0.0, 1.0, 0.0])


def test_sigmoid_leaves_its_argument_alone():
    u = np.array([0.3, -0.2])
    arrays.sigmoid(u)
    np.testing.assert_array_equal(u, [0.3, -0.2])


def test_logsumexp_agrees_with_scipy(xp_like):
    x = np.random.default_rng(0).normal(size=(3, 4, 5)) * 300.0
    x[0, 0, :3] = -np.inf
    for axis in (-1, 0):
        got = to_numpy(arrays.logsumexp(as_like(x, xp_like), axis=axis))
        np.testing.assert_allclose(got, special.logsumexp(x, axis=axis), rtol=1e-14)
    kept = arrays.logsumexp(as_like(x, xp_like), keepdims=True)
    assert tuple(kept.shape) == (3, 4, 1)


def test_logsumexp_of_nothing_is_minus_infinity_and_nan_stays(xp_like):
    x = as_like([[-np.inf, -np.inf], [np.nan, 0.0]], xp_like)
    got = to_numpy(arrays.logsumexp(x))
    assert got[0] == -np.inf
    assert np.isnan(got[1])


def test_log_softmax_keeps_absent_actions_absent(xp_like):
    x = np.array([[1e4, 1e4 + 1.0, -np.inf]])
    got = to_numpy(arrays.log_softmax(as_like(x, xp_like)))
    np.testing.assert_allclose(got[0, :2], np.log(special.expit([-1.0, 1.0])), rtol=1e-14)
    assert got[0, 2] == -np.inf


# ------------------------------------------------------------------ gather and tally


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("id_rows", [1, 3])
def test_take_rows_is_an_index(xp_like, rows, id_rows):
    rng = np.random.default_rng(1)
    table = rng.normal(size=(rows, 5, 2, 4))
    ids = rng.integers(5, size=(id_rows, 7))
    got = to_numpy(arrays.take_rows(as_like(table, xp_like), arrays.int_like(ids, xp_like)))
    r = max(rows, id_rows)
    want = [[table[i % rows, ids[i % id_rows, b]] for b in range(7)] for i in range(r)]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("rows", "action_rows"), [(3, 3), (1, 3), (3, 1)])
def test_take_actions_is_an_index(xp_like, rows, action_rows):
    rng = np.random.default_rng(2)
    values, a = rng.normal(size=(rows, 4, 5)), rng.integers(5, size=(action_rows, 4))
    got = to_numpy(arrays.take_actions(as_like(values, xp_like), arrays.int_like(a, xp_like)))
    want = [
        [values[i % rows, b, a[i % action_rows, b]] for b in range(4)]
        for i in range(max(rows, action_rows))
    ]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("index_rows", [1, 3])
def test_tally_is_add_at(xp_like, index_rows):
    rng = np.random.default_rng(3)
    index, w = rng.integers(6, size=(index_rows, 40)), rng.normal(size=(3, 40))
    want = np.zeros((3, 6))
    for r in range(3):
        np.add.at(want[r], index[r % index_rows], w[r])
    got = to_numpy(arrays.tally(arrays.int_like(index, xp_like), 6, as_like(w, xp_like)))
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


def test_tally_of_nothing_is_zero(xp_like):
    empty = arrays.full_like((2, 0), 0.0, xp_like)
    index = arrays.namespace(empty).astype(empty, arrays.namespace(empty).int64)
    np.testing.assert_array_equal(to_numpy(arrays.tally(index, 3, empty)), np.zeros((2, 3)))


def test_expand_rows_broadcasts_only_length_one(xp_like):
    x = as_like([[1.0, 2.0]], xp_like)
    assert tuple(arrays.expand_rows(x, 3).shape) == (3, 2)
    with pytest.raises((ValueError, RuntimeError)):
        arrays.expand_rows(arrays.expand_rows(x, 2), 3)


# ------------------------------------------------------------------ linear algebra


@pytest.mark.parametrize("middle", [(), (4,), (4, 5)])
@pytest.mark.parametrize(("rows", "theta_rows"), [(1, 3), (3, 3), (3, 1)])
def test_inner_and_quadratic_are_loops(xp_like, middle, rows, theta_rows):
    rng = np.random.default_rng(4)
    v, theta = rng.normal(size=(rows, *middle, 3)), rng.normal(size=(theta_rows, 3))
    root = rng.normal(size=(theta_rows, 3, 3))
    a = root @ np.swapaxes(root, 1, 2)
    got = to_numpy(arrays.inner(as_like(v, xp_like), as_like(theta, xp_like)))
    square = to_numpy(arrays.quadratic(as_like(v, xp_like), as_like(a, xp_like)))
    for r in range(max(rows, theta_rows)):
        t, m = theta[r % theta_rows], a[r % theta_rows]
        flat = v[r % rows].reshape(-1, 3)
        want = np.array([np.dot(row, t) for row in flat]).reshape(middle)
        np.testing.assert_allclose(got[r], want, rtol=1e-12, atol=1e-13)
        want = np.array([row @ m @ row for row in flat]).reshape(middle)
        np.testing.assert_allclose(square[r], want, rtol=1e-12, atol=1e-13)


def test_quadratic_is_never_negative_and_keeps_nan(xp_like):
    v = as_like([[[1.0, 1.0 + 1e-16]]], xp_like)
    a = as_like([[[1.0, -1.0], [-1.0, 1.0]]], xp_like)
    assert to_numpy(arrays.quadratic(v, a))[0, 0] >= 0.0
    bad = as_like([[[np.nan, 1.0]]], xp_like)
    assert np.isnan(to_numpy(arrays.quadratic(bad, a))[0, 0])


def test_solve_matvec_and_inverse_agree(xp_like):
    rng = np.random.default_rng(5)
    root = rng.normal(size=(3, 4, 4))
    a, b = root @ np.swapaxes(root, 1, 2) + np.eye(4), rng.normal(size=(3, 4))
    a_x, b_x = as_like(a, xp_like), as_like(b, xp_like)
    want = np.array([np.linalg.solve(m, v) for m, v in zip(a, b, strict=True)])
    np.testing.assert_allclose(to_numpy(arrays.solve(a_x, b_x)), want, rtol=1e-11)
    inverse = arrays.batched_inverse(a_x)
    np.testing.assert_array_equal(to_numpy(inverse), np.swapaxes(to_numpy(inverse), 1, 2))
    np.testing.assert_allclose(to_numpy(arrays.matvec(inverse, b_x)), want, rtol=1e-11)


def test_one_hot(xp_like):
    got = to_numpy(arrays.one_hot(arrays.int_like([[0, 2]], xp_like), 3, xp_like))
    np.testing.assert_array_equal(got, [[[1, 0, 0], [0, 0, 1]]])


def test_keep_freed_memory_answers_whether_it_could():
    assert arrays.keep_freed_memory() in (True, False)
    assert math.isfinite(1.0)
