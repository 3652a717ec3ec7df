import itertools

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import PairTable
from rlhf_theory.errors import ShapeError
from rlhf_theory.rewards import (
    LinearReward,
    ProbabilityPreference,
    RewardDifference,
    SkewBilinear,
    TablePreference,
    TableReward,
    skew_matrix,
)
from tests.helpers import reference
from tests.helpers.small import finite_problem


def sampled(problem, like):
    ids = np.random.default_rng(1).integers(3, size=(3, 5))
    return Contexts.rows(problem.table, int_like(ids, like)), ids


@pytest.mark.parametrize(("rows", "theta_rows"), [(1, 1), (1, 3), (3, 3), (3, 1)])
def test_linear_rewards_are_inner_products(xp_like, rows, theta_rows):
    problem = finite_problem(xp_like, rows=rows)
    theta = np.random.default_rng(0).normal(size=(theta_rows, 2))
    model = LinearReward(as_like(theta, xp_like))
    x, ids = sampled(problem, xp_like)
    phi = to_numpy(problem.phi)
    table = np.array(
        [[[f @ theta[r % theta_rows] for f in c] for c in phi[r % rows]] for r in range(3)]
    )
    got = np.broadcast_to(to_numpy(model.rewards(problem.table)), (3, 3, 4))
    np.testing.assert_allclose(got, table, rtol=1e-12, atol=1e-13)
    want = np.take_along_axis(table, ids[..., None], axis=1)
    np.testing.assert_allclose(to_numpy(model.rewards(x)), want, rtol=1e-12, atol=1e-13)


def test_tables_of_rewards_and_preferences_are_looked_up(xp_like):
    problem = finite_problem(xp_like)
    x, ids = sampled(problem, xp_like)
    r, p = np.arange(12.0).reshape(1, 3, 4), np.arange(48.0).reshape(1, 3, 4, 4)
    reward, payoff = TableReward(as_like(r, xp_like)), TablePreference(as_like(p, xp_like))
    np.testing.assert_array_equal(to_numpy(reward.rewards(x)), r[0][ids])
    np.testing.assert_array_equal(to_numpy(payoff.payoff(x)), p[0][ids])
    np.testing.assert_array_equal(to_numpy(reward.rewards(problem.table)), r)


def test_reward_difference_is_a_skew_game(xp_like):
    problem = finite_problem(xp_like)
    x, _ = sampled(problem, xp_like)
    reward = LinearReward(as_like([[1.0, -2.0]], xp_like))
    payoff = to_numpy(RewardDifference(reward).payoff(x))
    r = to_numpy(reward.rewards(x))
    for a, b in itertools.product(range(4), range(4)):
        np.testing.assert_allclose(payoff[..., a, b], r[..., a] - r[..., b], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(payoff, -np.swapaxes(payoff, -1, -2))


def test_skew_matrix_holds_its_parameters_row_by_row(xp_like):
    got = to_numpy(skew_matrix(as_like([[1.0, 2.0, 3.0]], xp_like), 2))
    np.testing.assert_array_equal(got, [[[0, 1, 2], [-1, 0, 3], [-2, -3, 0]]])


@pytest.mark.parametrize("size", [2, 4])
def test_skew_matrix_refuses_a_wrong_number_of_parameters(size):
    with pytest.raises(ShapeError, match=f"d=2 features has 3 parameters; got {size}"):
        skew_matrix(np.zeros((1, size)), 2)


@pytest.mark.parametrize(("rows", "d"), [(1, 2), (3, 3), (1, 1)])
def test_bilinear_payoff_is_the_form_and_the_design_of_the_data(xp_like, rows, d):
    problem = finite_problem(xp_like, rows=rows, d=d)
    p = d * (d + 1) // 2
    theta = np.random.default_rng(0).normal(size=(3, p))
    model = SkewBilinear(as_like(theta, xp_like))
    payoff = to_numpy(model.payoff(problem.table))
    np.testing.assert_array_equal(payoff, -np.swapaxes(payoff, -1, -2))
    w, phi = to_numpy(skew_matrix(as_like(theta, xp_like), d)), to_numpy(problem.phi)
    for r, x, a, b in itertools.product(range(3), range(3), range(4), range(4)):
        want = reference.bilinear(w[r], phi[r % rows, x, a], phi[r % rows, x, b])
        np.testing.assert_allclose(payoff[r, x, a, b], want, rtol=1e-11, atol=1e-12)
    # What an estimator of theta sees as margins are the entries a < b of the payoff.
    design = PairTable.empty(problem.table, 3).skew
    margins = to_numpy(design.margins(as_like(theta, xp_like)))
    i, j = np.triu_indices(4, k=1)
    np.testing.assert_allclose(margins, payoff[..., i, j].reshape(3, -1), rtol=1e-11, atol=1e-12)


def test_a_bradley_terry_reward_is_a_bilinear_preference(xp_like):
    # The docstring of skew_matrix: theta = (-theta_bt, 0).
    problem = finite_problem(xp_like, d=3)
    bt = np.random.default_rng(0).normal(size=(3, 3))
    theta = np.concatenate([-bt, np.zeros((3, 3))], axis=-1)
    skew = to_numpy(SkewBilinear(as_like(theta, xp_like)).payoff(problem.table))
    reward = RewardDifference(LinearReward(as_like(bt, xp_like)))
    np.testing.assert_allclose(skew, to_numpy(reward.payoff(problem.table)), rtol=1e-12, atol=1e-13)


def test_probability_payoff_is_the_centred_win_probability(xp_like):
    problem = finite_problem(xp_like)
    logit = RewardDifference(LinearReward(as_like([[3.0, 1.0]], xp_like)))
    u = to_numpy(logit.payoff(problem.table))
    got = to_numpy(ProbabilityPreference(logit).payoff(problem.table))
    want = [reference.sigmoid(v) - 0.5 for v in u.ravel()]
    np.testing.assert_allclose(got.ravel(), want, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(got, -np.swapaxes(got, -1, -2))
