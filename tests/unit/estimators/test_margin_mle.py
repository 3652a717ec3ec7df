import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.estimators.margin_mle import bounded_margin_mle
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.problems import FiniteProblem, FreshProblem

PAIRS = np.array([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])


def one_hot_problem(like, replicas):
    return FiniteProblem(
        as_like(np.eye(3)[None, None], like),
        as_like(np.full((1, 1, 3), -np.log(3.0)), like),
        as_like(np.ones((1, 1)), like),
        0.1,
        replicas,
    )


def counts(seed, replicas, size):
    rng = np.random.default_rng(seed)
    count = rng.integers(0, size, size=(replicas, 3)).astype(float)
    return count, rng.binomial(count.astype(int), 0.7).astype(float)


def neg_log_likelihood(theta, count, wins, scale=1.0):
    u = scale * PAIRS @ theta
    return float(np.sum(count * np.logaddexp(0.0, u) - wins * u))


def test_agrees_with_slsqp(xp_like):
    count, wins = counts(0, 12, 9)
    data = one_hot_problem(xp_like, 12).empty_data()
    data = data.reweighted(as_like(count, xp_like), as_like(wins, xp_like))
    theta = to_numpy(bounded_margin_mle(data, bound=0.8).require())
    assert np.all(np.ptp(theta, axis=1) <= 0.8)
    for r in range(12):
        found = minimize(
            neg_log_likelihood,
            np.zeros(3),
            args=(count[r], wins[r]),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda t: 0.8 - np.abs(PAIRS @ t)},
            options={"ftol": 1e-14},
        )
        # The barrier leaves at most its complementarity gap.
        assert neg_log_likelihood(theta[r], count[r], wins[r]) <= found.fun + 1e-7


@pytest.mark.parametrize(
    ("count", "wins", "bound"),
    [([1915, 0, 6], [826, 0, 3], 0.163), ([0, 2, 1907], [0, 1, 15], 2.2)],
)
def test_unbalanced_counts_have_an_estimate(count, wins, bound):
    """Rounding keeps the residual above 1e-8: it went on until the slack was 0, to NaN."""
    count, wins = np.array([count], dtype=float), np.array([wins], dtype=float)
    data = one_hot_problem(np.zeros(1), 1).empty_data().reweighted(count, wins)
    [theta] = bounded_margin_mle(data, bound=bound).require()
    # On a grid of the two differences: no estimate within the bound is better by more than 1e-5.
    one, two = np.meshgrid(np.linspace(-bound, bound, 801), np.linspace(-bound, bound, 801))
    inside = np.abs(one - two) <= bound
    values = sum(
        n * np.logaddexp(0.0, u) - k * u
        for n, k, u in zip(count[0], wins[0], (one, two, two - one), strict=True)
    )
    assert neg_log_likelihood(theta, count[0], wins[0]) <= values[inside].min() + 1e-5
    assert np.ptp(theta) <= bound


def test_random_unbalanced_counts_all_converge():
    """Of these 31 in 800 were NaN."""
    rng = np.random.default_rng(1)
    count = np.round(10.0 ** rng.uniform(0.0, 5.0, size=(800, 3))) * (rng.random((800, 3)) > 0.2)
    wins = rng.binomial(count.astype(int), rng.random((800, 3))).astype(float)
    data = one_hot_problem(np.zeros(1), 800).empty_data().reweighted(count, wins)
    for bound in (0.163, 2.2):
        found = bounded_margin_mle(data, bound=bound)
        assert np.all(np.isfinite(found.value))
        assert found.converged.mean() == 1.0


def test_too_few_iterations_are_no_convergence():
    count, wins = counts(3, 4, 50)
    data = one_hot_problem(np.zeros(1), 4).empty_data().reweighted(count, wins)
    assert not np.any(bounded_margin_mle(data, bound=0.5, max_iter=2).converged)


def test_equals_the_plain_mle_where_the_bound_is_slack():
    count = np.array([[4000.0, 3000.0, 5000.0]])
    wins = np.round(count * np.array([[0.6, 0.55, 0.45]]))
    data = one_hot_problem(np.zeros(1), 1).empty_data().reweighted(count, wins)
    plain = bradley_terry_mle(data).require()
    for scale in (1.0, 3.0):
        bounded = bounded_margin_mle(data, bound=5.0, scale=scale).require()
        assert np.allclose(scale * bounded, plain, atol=1e-7)


def test_separable_data_go_to_the_bound_and_no_data_to_the_middle():
    count = np.array([[5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 2.0, 2.0]])
    wins = np.array([[5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 2.0, 2.0]])
    data = one_hot_problem(np.zeros(1), 3).empty_data().reweighted(count, wins)
    theta = bounded_margin_mle(data, bound=1.0).require()
    assert theta[0, 0] - theta[0, 1] == pytest.approx(1.0, abs=1e-8)
    # The third action was never compared: the middle of what is possible.
    assert theta[0, 2] == pytest.approx(0.5 * (theta[0, 0] + theta[0, 1]), abs=1e-3)
    assert np.allclose(theta[1], 0.0)
    assert theta[2, 0] - theta[2, 2] == pytest.approx(1.0, abs=1e-8)


def test_large_counts_keep_the_rarely_compared_action_exact():
    # Two comparisons among a million: their likelihood must not drown in rounding.
    count = np.array([[1e6, 1.0, 2.0]])
    wins = np.array([[5.2e5, 1.0, 1.0]])
    data = one_hot_problem(np.zeros(1), 1).empty_data().reweighted(count, wins)
    plain = bradley_terry_mle(data, ridge=1e-12).value
    bounded = bounded_margin_mle(data, bound=9.0).require()
    assert np.allclose(PAIRS @ bounded[0], PAIRS @ plain[0], atol=1e-6)


def test_a_replica_alone_equals_the_same_replica_in_a_block():
    count, wins = counts(1, 5, 40)
    block = one_hot_problem(np.zeros(1), 5).empty_data().reweighted(count, wins)
    alone = one_hot_problem(np.zeros(1), 1).empty_data().reweighted(count[3:4], wins[3:4])
    full, one = bounded_margin_mle(block, bound=1.0), bounded_margin_mle(alone, bound=1.0)
    assert np.allclose(full.value[3:4], one.value, atol=1e-10)


def test_growing_lists_and_bad_bounds_are_refused():
    fresh = FreshProblem(lambda *_: (None, None), 2, 0.1, 3, np.zeros(1))
    with pytest.raises(ValueError, match="finitely many contexts"):
        bounded_margin_mle(fresh.empty_data(), bound=1.0)
    with pytest.raises(ValueError, match="bound must be positive"):
        bounded_margin_mle(one_hot_problem(np.zeros(1), 1).empty_data(), bound=0.0)


def test_one_action_has_nothing_to_estimate():
    problem = FiniteProblem(np.ones((1, 1, 1, 2)), np.zeros((1, 1, 1)), np.ones((1, 1)), 0.1, 2)
    assert np.allclose(bounded_margin_mle(problem.empty_data(), bound=1.0).require(), 0.0)
