import choix
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import PairTable
from rlhf_theory.designs import LaplacianRows, Rows
from rlhf_theory.errors import ShapeError
from rlhf_theory.estimators.mle import (
    bradley_terry_mle,
    fisher_information,
    log_likelihood_gradient,
    logistic_mle,
    neg_log_likelihood,
)
from rlhf_theory.problems import FiniteProblem
from tests.helpers import reference
from tests.helpers.assembled import compared
from tests.helpers.small import finite_problem


def instance(seed=0, replicas=3, n=12, d=3, most=8, own=False):
    """Random rows with counts, some 0, and wins; overlapping, so that the MLE exists."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(replicas if own else 1, n, d))
    count = rng.integers(0, most, size=(replicas, n)).astype(float)
    count[:, : 2 * d] = most
    u = np.broadcast_to(z, (replicas, n, d)) @ rng.normal(size=d)
    wins = rng.binomial(count.astype(int), 1 / (1 + np.exp(-u))).astype(float)
    wins[:, : 2 * d] = np.clip(wins[:, : 2 * d], 1, most - 1)
    return z, count, wins


def arrays(like, z, count, wins):
    return Rows(as_like(z, like)), as_like(count, like), as_like(wins, like)


def items(like, n_items, replicas=1):
    """One context whose actions are one-hot items: the Bradley-Terry tournament."""
    log_pi0 = np.full((1, 1, n_items), -np.log(n_items))
    return FiniteProblem(
        as_like(np.eye(n_items)[None, None], like), as_like(log_pi0, like),
        as_like([[1.0]], like), 0.1, replicas,
    )  # fmt: skip


def counted(problem, games, like):
    """Data of (winner, loser) pairs, the same in all replicas."""
    win, lose = (int_like([[g[k] for g in games]] * problem.n_replicas, like) for k in (0, 1))
    y = as_like(np.ones((problem.n_replicas, len(games))), like)
    x = Contexts.rows(problem.table, int_like(np.zeros((1, len(games))), like))
    return problem.empty_data().add(compared(x, win, lose, y))


# ------------------------------------------------------------------ loss and derivatives


@pytest.mark.parametrize(("ridge", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.3, 2.5)])
def test_the_loss_is_the_sum_over_labels(xp_like, ridge, scale):
    z, count, wins = instance()
    theta = np.random.default_rng(1).normal(size=(3, 3))
    got = neg_log_likelihood(
        as_like(theta, xp_like), *arrays(xp_like, z, count, wins), ridge, scale
    )
    want = [reference.loss(theta[r], z[0], count[r], wins[r], ridge, scale) for r in range(3)]
    np.testing.assert_allclose(to_numpy(got), want, rtol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize(("ridge", "scale"), [(0.0, 1.0), (0.3, 2.5)])
def test_derivatives_are_central_differences(xp_like, size, ridge, scale):
    z, count, wins = instance(own=True)
    theta = size * np.random.default_rng(1).normal(size=(3, 3))
    data, h = arrays(xp_like, z, count, wins), 1e-5 * max(size, 1.0)

    def loss(t):
        return to_numpy(neg_log_likelihood(as_like(t, xp_like), *data, ridge, scale))

    def gradient(t):
        return to_numpy(log_likelihood_gradient(as_like(t, xp_like), *data, ridge, scale))

    got = gradient(theta)
    fisher = to_numpy(fisher_information(as_like(theta, xp_like), *data[:2], ridge, scale))
    step = h * np.eye(3)
    slope = np.stack([(loss(theta + e) - loss(theta - e)) / (2 * h) for e in step], axis=-1)
    # Rounding of the loss over h, and the third derivative times h^2.
    np.testing.assert_allclose(got, slope, rtol=1e-6, atol=1e-4 * h / 1e-5)
    curve = np.stack([(gradient(theta + e) - gradient(theta - e)) / (2 * h) for e in step], axis=-1)
    np.testing.assert_allclose(fisher, curve, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ against other programs


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 1.0, 30.0])
def test_the_fit_agrees_with_scikit_learn(xp_like, ridge):
    # C = 1 / lambda; every label is a row of its own there.
    z, count, wins = instance()
    fit = logistic_mle(*arrays(xp_like, z, count, wins), ridge=ridge)
    assert to_numpy(fit.converged).all()
    for r in range(3):
        rows = np.concatenate([z[0], z[0]])
        y = np.repeat([1.0, 0.0], len(z[0]))
        weight = np.concatenate([wins[r], count[r] - wins[r]])
        other = LogisticRegression(
            C=1.0 / ridge, fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=200
        ).fit(rows, y, sample_weight=weight)
        np.testing.assert_allclose(to_numpy(fit.value)[r], other.coef_[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("ridge", [0.02, 2.0])
def test_the_fit_agrees_with_choix(xp_like, ridge):
    # choix penalises alpha |theta|^2, so alpha = lambda / 2.
    games = [(0, 1), (1, 2), (2, 0), (0, 2), (3, 1), (1, 3), (3, 0), (2, 3), (0, 1)]
    data = counted(items(xp_like, 4), games, xp_like)
    fit = bradley_terry_mle(data, ridge=ridge)
    other = choix.opt_pairwise(4, games, alpha=ridge / 2, tol=1e-12)
    np.testing.assert_allclose(to_numpy(fit.value)[0], other, atol=1e-6)


def test_the_unpenalised_fit_agrees_with_choix_and_sums_to_zero(xp_like):
    # The sum of one-hot items is unseen in every design: the minimum-norm fit sums to zero.
    games = [(0, 1), (1, 2), (2, 0), (0, 2), (3, 1), (1, 3), (3, 0), (2, 3), (0, 1)]
    fit = bradley_terry_mle(counted(items(xp_like, 4), games, xp_like), ridge=0.0)
    assert to_numpy(fit.converged).all()
    assert fit.message == ""
    theta = to_numpy(fit.value)[0]
    np.testing.assert_allclose(theta.sum(), 0.0, atol=1e-12)
    other = choix.ilsr_pairwise(4, games, alpha=0.0, tol=1e-13)
    np.testing.assert_allclose(theta, other, atol=1e-7)


def ball_fit(z, count, wins, bound, ridge=0.0, scale=1.0):
    """The constrained fit by SLSQP from several starts; the problem is convex."""
    best = None
    for seed in range(3):
        start = np.random.default_rng(seed).normal(size=z.shape[1]) * 0.1
        found = minimize(
            lambda t: reference.loss(t, z, count, wins, ridge, scale),
            start,
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda t: bound**2 - t @ t},
            options={"ftol": 1e-15, "maxiter": 500},
        )
        if best is None or found.fun < best.fun:
            best = found
    return best.x


@pytest.mark.parametrize(("ridge", "scale"), [(0.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("bound", [0.05, 0.7, 50.0])
def test_the_fit_in_a_ball_agrees_with_scipy(bound, ridge, scale):
    z, count, wins = instance()
    fit = logistic_mle(*arrays(np.zeros(1), z, count, wins), ridge=ridge, bound=bound, scale=scale)
    assert fit.converged.all()
    assert (np.linalg.norm(fit.value, axis=1) <= bound * (1 + 1e-7)).all()
    for r in range(3):
        want = ball_fit(z[0], count[r], wins[r], bound, ridge, scale)
        np.testing.assert_allclose(fit.value[r], want, atol=2e-5)
        ours = reference.loss(fit.value[r], z[0], count[r], wins[r], ridge, scale)
        theirs = reference.loss(want, z[0], count[r], wins[r], ridge, scale)
        assert ours <= theirs + 1e-7 * abs(theirs)


# ------------------------------------------------------------------ optimality conditions


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("size", [0.01, 1.0, 20.0])
def test_the_fit_is_stationary(xp_like, own, size):
    z, count, wins = instance(own=own)
    design = arrays(xp_like, size * z, count, wins)
    for ridge in (1e-4, 0.1, 10.0):
        fit = logistic_mle(*design, ridge=ridge, scale=1.7)
        assert to_numpy(fit.converged).all()
        gradient = to_numpy(log_likelihood_gradient(fit.value, *design, ridge, 1.7))
        fisher = to_numpy(fisher_information(fit.value, *design[:2], ridge, 1.7))
        # The Newton step that is left: the error, to first order.
        left = np.linalg.solve(fisher, gradient[..., None])[..., 0]
        assert np.abs(left).max() * max(1.0, size) < 1e-7


@pytest.mark.parametrize("bound", [0.05, 0.7])
def test_the_fit_in_a_ball_satisfies_kkt(xp_like, bound):
    # On the sphere the gradient points inward along theta; inside it vanishes.
    z, count, wins = instance(replicas=5)
    design = arrays(xp_like, z, count, wins)
    fit = logistic_mle(*design, bound=bound)
    assert to_numpy(fit.converged).all()
    theta = to_numpy(fit.value)
    gradient = to_numpy(log_likelihood_gradient(fit.value, *design))
    norm = np.linalg.norm(theta, axis=1)
    mu = -np.sum(gradient * theta, axis=1) / norm**2
    assert (mu >= -1e-6).all()
    np.testing.assert_allclose(mu * (1 - norm / bound), 0.0, atol=1e-5)
    np.testing.assert_allclose(gradient, -mu[:, None] * theta, atol=1e-5)


def test_a_ball_larger_than_the_fit_changes_nothing(xp_like):
    design = arrays(xp_like, *instance())
    free, inside = logistic_mle(*design), logistic_mle(*design, bound=100.0)
    np.testing.assert_allclose(to_numpy(inside.value), to_numpy(free.value), rtol=1e-7)


def test_the_reported_residual_bounds_the_error():
    # Against a fit to full precision; the residual claims logits, or parameters for short rows.
    z, count, wins = instance(replicas=20)
    design = arrays(np.zeros(1), z, count, wins)
    for scale in (0.1, 1.0):
        exact = logistic_mle(*design, ridge=0.1, scale=scale, tol=1e-14)
        widest = max(1.0, scale * np.linalg.norm(z, axis=-1).max())
        for tol in (1e-2, 1e-4, 1e-8):
            rough = logistic_mle(*design, ridge=0.1, scale=scale, tol=tol)
            assert rough.converged.all()
            error = widest * np.linalg.norm(rough.value - exact.value, axis=1)
            assert (error <= 10 * tol).all()


# ------------------------------------------------------------------ warm starts and replicas


def test_a_warm_start_changes_nothing_but_the_time(xp_like):
    z, count, wins = instance()
    design = arrays(xp_like, z, count, wins)
    more = (design[0], design[1] + 1.0, design[2] + 0.5)
    for options in ({"ridge": 0.3}, {"ridge": 0.0}, {"bound": 0.5}, {"bound": 50.0}):
        start = logistic_mle(*design, **options)
        warm, cold = logistic_mle(*more, start=start, **options), logistic_mle(*more, **options)
        assert to_numpy(warm.converged).all()
        np.testing.assert_allclose(to_numpy(warm.value), to_numpy(cold.value), atol=1e-7)
        again = logistic_mle(*more, start=warm, **options)
        np.testing.assert_allclose(to_numpy(again.value), to_numpy(cold.value), atol=1e-7)


def test_a_bad_warm_start_is_recovered_from():
    # A fit to separable data ran off; the next data overlap.
    z = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    design = Rows(z)
    off = logistic_mle(design, np.array([[5.0, 5.0]]), np.array([[5.0, 2.0]]))
    assert not off.converged.any()
    count, wins = np.array([[9.0, 9.0]]), np.array([[6.0, 3.0]])
    fit = logistic_mle(design, count, wins, start=off)
    assert fit.converged.all()
    np.testing.assert_allclose(fit.value, [[np.log(2.0), -np.log(2.0)]], atol=1e-8)
    far = logistic_mle(design, np.array([[1e6, 1e6]]), np.array([[1e6, 1e6]]), ridge=1e-6)
    near = logistic_mle(design, count, wins, start=far, ridge=1e-6)
    assert near.converged.all()
    np.testing.assert_allclose(near.value, fit.value, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"ridge": 0.1}, {"ridge": 0.0}, {"bound": 0.3}, {"ridge": 0.2, "bound": 0.3}]
)
def test_a_replica_alone_is_the_same_replica(xp_like, options):
    z, count, wins = instance(replicas=6, own=True)
    count[4], wins[4] = 0.0, 0.0  # one without data
    wins[5] = count[5]  # one separable
    together = logistic_mle(*arrays(xp_like, z, count, wins), **options)
    for r in range(6):
        one = slice(r, r + 1)
        alone = logistic_mle(*arrays(xp_like, z[one], count[one], wins[one]), **options)
        np.testing.assert_array_equal(to_numpy(alone.converged), to_numpy(together.converged)[one])
        if to_numpy(alone.converged).all():
            np.testing.assert_allclose(
                to_numpy(alone.value), to_numpy(together.value)[one], atol=1e-10
            )


@pytest.mark.parametrize("options", [{"ridge": 0.1}, {"bound": 3.0}])
def test_a_replica_that_has_converged_stays_put(xp_like, options):
    # With a coarse tolerance the others go on for a while, and must not take it along.
    z, count, wins = instance(replicas=6, own=True)
    z *= np.geomspace(0.3, 10.0, 6)[:, None, None]
    together = logistic_mle(*arrays(xp_like, z, count, wins), tol=0.3, **options)
    steps = []
    for r in range(6):
        one = slice(r, r + 1)
        alone = logistic_mle(*arrays(xp_like, z[one], count[one], wins[one]), tol=0.3, **options)
        steps.append(alone.n_iter)
        np.testing.assert_allclose(to_numpy(alone.value), to_numpy(together.value)[one], atol=1e-10)
    assert min(steps) < max(steps) == together.n_iter


@pytest.mark.parametrize("rows", [1, 2])
def test_both_designs_give_one_fit(xp_like, rows):
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(rows, 3, 4, 2))
    count = rng.integers(1, 5, size=(2, 18)).astype(float)
    wins = as_like(0.5 * count + 0.4 * count * np.sin(np.arange(18)), xp_like)
    z = Rows(as_like(reference.difference_rows(phi), xp_like))
    laplacian = LaplacianRows(as_like(phi, xp_like))
    for ridge in (0.1, 0.0):
        one = logistic_mle(z, as_like(count, xp_like), wins, ridge=ridge)
        two = logistic_mle(laplacian, as_like(count, xp_like), wins, ridge=ridge)
        np.testing.assert_allclose(to_numpy(one.value), to_numpy(two.value), atol=1e-8)


def test_known_scale_only_rescales_the_parameters(xp_like):
    design = arrays(xp_like, *instance())
    one, five = logistic_mle(*design), logistic_mle(*design, scale=5.0)
    np.testing.assert_allclose(5.0 * to_numpy(five.value), to_numpy(one.value), atol=1e-7)


# ------------------------------------------------------------------ edges


@pytest.mark.parametrize("options", [{"ridge": 0.1}, {"bound": 1.0}, {"ridge": 0.1, "bound": 1.0}])
def test_no_data_give_zero(xp_like, options):
    z, count, wins = instance()
    fit = logistic_mle(*arrays(xp_like, z, 0.0 * count, 0.0 * wins), **options)
    assert to_numpy(fit.converged).all()
    np.testing.assert_array_equal(to_numpy(fit.value), np.zeros((3, 3)))
    empty = logistic_mle(*arrays(xp_like, z[:, :0], count[:, :0], wins[:, :0]), **options)
    assert to_numpy(empty.converged).all()
    np.testing.assert_array_equal(to_numpy(empty.value), np.zeros((3, 3)))


def test_no_data_and_no_ridge_leave_everything_unseen(xp_like):
    z, count, wins = instance()
    fit = logistic_mle(*arrays(xp_like, z, 0.0 * count, 0.0 * wins))
    assert not to_numpy(fit.converged).any()
    assert "leave a direction unseen" in fit.message
    np.testing.assert_array_equal(to_numpy(fit.value), np.zeros((3, 3)))


def test_one_action_gives_zero(xp_like):
    problem = finite_problem(xp_like, a=1)
    for options in ({"ridge": 0.1}, {"bound": 1.0}, {}):
        fit = bradley_terry_mle(problem.empty_data(), **options)
        assert to_numpy(fit.converged).all()
        np.testing.assert_array_equal(to_numpy(fit.value), np.zeros((3, 2)))


@pytest.mark.parametrize("count", [1.0, 3.0, 1e3, 1e7])
def test_separable_data_do_not_converge_and_say_so(xp_like, count):
    # Complete, quasi-complete, and one overlapping replica that must not be blamed.
    z = np.array([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    c = np.full((3, 3), count + 1.0)
    w = np.array([c[0], [c[0, 0], c[0, 1], 0.5 * c[0, 2]], 0.5 * c[0] + [0.2, 0.0, -0.1]])
    fit = logistic_mle(*arrays(xp_like, z, c, w))
    np.testing.assert_array_equal(to_numpy(fit.converged), [False, False, True])
    assert fit.message.startswith("Replicas 0, 1 did not converge")
    assert "The data may be separable" in fit.message
    for options in ({"ridge": 1e-3}, {"bound": 2.0}):
        fit = logistic_mle(*arrays(xp_like, z, c, w), **options)
        assert to_numpy(fit.converged).all(), options


def test_a_direction_that_only_these_data_leave_unseen_is_reported(xp_like):
    # Two groups of items that never met: their offset is unknown, though other data could see it.
    problem = items(xp_like, 4)
    games = [(0, 1), (1, 0), (2, 3), (3, 2), (3, 2)]
    fit = bradley_terry_mle(counted(problem, games, xp_like), ridge=0.0)
    assert not to_numpy(fit.converged).any()
    assert "unseen" in fit.message
    # The value is still the minimum-norm one: each group sums to zero.
    theta = to_numpy(fit.value)[0]
    np.testing.assert_allclose([theta[0] + theta[1], theta[2] + theta[3]], 0.0, atol=1e-9)
    np.testing.assert_allclose(theta[3] - theta[2], np.log(2.0), atol=1e-8)
    bridge = bradley_terry_mle(counted(problem, [*games, (0, 2), (2, 0)], xp_like), ridge=0.0)
    assert to_numpy(bridge.converged).all()


def test_a_direction_that_only_absent_actions_have_costs_nothing(xp_like):
    # phi of the absent action has a third coordinate; data can never see it.
    phi = np.zeros((1, 1, 3, 3))
    phi[0, 0, :2, :2], phi[0, 0, 2, 2] = np.eye(2), 5.0
    with np.errstate(divide="ignore"):
        log_pi0 = np.log(np.array([[[0.5, 0.5, 0.0]]]))
    problem = FiniteProblem(
        as_like(phi, xp_like), as_like(log_pi0, xp_like), as_like([[1.0]], xp_like), 0.1, 1
    )
    fit = bradley_terry_mle(counted(problem, [(0, 1), (0, 1), (1, 0)], xp_like), ridge=0.0)
    assert to_numpy(fit.converged).all()
    half = 0.5 * np.log(2.0)
    np.testing.assert_allclose(to_numpy(fit.value), [[half, -half, 0.0]], atol=1e-8)


def test_duplicated_features_share_their_weight(xp_like):
    # Two equal columns: unseen in every design is only their difference.
    rng = np.random.default_rng(0)
    base = rng.normal(size=(1, 2, 3, 2))
    phi = np.concatenate([base, base[..., :1]], axis=-1)
    count = rng.integers(3, 9, size=(2, 6)).astype(float)
    wins = count / 2 + 0.3
    full = LaplacianRows(as_like(phi, xp_like))
    fit = logistic_mle(full, as_like(count, xp_like), as_like(wins, xp_like))
    assert to_numpy(fit.converged).all()
    theta = to_numpy(fit.value)
    np.testing.assert_allclose(theta[:, 0], theta[:, 2], atol=1e-9)
    alone = logistic_mle(
        LaplacianRows(as_like(base, xp_like)), as_like(count, xp_like), as_like(wins, xp_like)
    )
    np.testing.assert_allclose(theta[:, 0] + theta[:, 2], to_numpy(alone.value)[:, 0], atol=1e-7)


@pytest.mark.parametrize("count", [1e6, 1e12])
def test_huge_counts_fit_the_frequencies(xp_like, count):
    z = np.array([[[1.0, 0.0], [0.0, 2.0]]])
    c = np.full((1, 2), count)
    fit = logistic_mle(*arrays(xp_like, z, c, c * np.array([[0.9, 0.001]])))
    assert to_numpy(fit.converged).all()
    want = [[np.log(9.0), 0.5 * np.log(0.001 / 0.999)]]
    np.testing.assert_allclose(to_numpy(fit.value), want, rtol=1e-7)


@pytest.mark.parametrize("power", [2, 4, 6])
def test_ill_conditioned_features_are_fitted(xp_like, power):
    # Columns of scale 1 and 10^-power: in scaled coordinates it is the same problem.
    z, count, wins = instance()
    scales = np.array([1.0, 10.0 ** (-power / 2), 10.0**-power])
    fit = logistic_mle(*arrays(xp_like, z * scales, count, wins))
    plain = logistic_mle(*arrays(xp_like, z, count, wins))
    assert to_numpy(fit.converged).all()
    np.testing.assert_allclose(to_numpy(fit.value) * scales, to_numpy(plain.value), rtol=1e-4)


def test_wide_logits_are_fitted(xp_like):
    # 1 loss in 10^9: a logit of 20, far outside where Newton converges undamped.
    z = np.array([[[1.0], [30.0]]])
    c = np.array([[1e9, 0.0]])
    fit = logistic_mle(*arrays(xp_like, z, c, c - np.array([[1.0, 0.0]])))
    assert to_numpy(fit.converged).all()
    np.testing.assert_allclose(to_numpy(fit.value), [[np.log(1e9 - 1.0)]], rtol=1e-8)


@pytest.mark.parametrize("count", [10.0, 300.0])
def test_nearly_collinear_wins_are_fitted_far_out(xp_like, count):
    # The first two rows force theta along (-1, 1), where the third has hundreds of logits: far
    # steps are damped to a few logits each, and curvature vanishes on the way.
    z = np.array([[[1.0, 1.0], [-1.0, -0.99], [0.0, 1.0], [3.0, 0.0]]])
    c = np.full((1, 4), count)
    w = c * np.array([[1.0, 1.0, 1.0, 0.0]])
    design = arrays(xp_like, z, c, w)
    fit = logistic_mle(*design, ridge=1e-3)
    assert to_numpy(fit.converged).all()
    gradient = to_numpy(log_likelihood_gradient(fit.value, *design, 1e-3))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-9 * count)
    assert np.abs(to_numpy(design[0].margins(fit.value))).max() > 30.0


def test_steep_features_in_a_ball_raise_no_linear_algebra_error():
    # Curvature underflows on the way: a start from there once met a singular matrix.
    z = np.array([[[60.0, 40.0, 0.0], [-20.0, 90.0, 30.0]]])
    c = np.array([[2.0, 1.0], [4.0, 4.0]])
    for bound in (0.3, 5.0):
        fit = logistic_mle(*arrays(np.zeros(1), z, c, 0.0 * c), bound=bound)
        assert np.isfinite(fit.value).all()
        assert fit.converged.all() or bound == 5.0  # 400 logits: beyond doubles, and it says so


@pytest.mark.parametrize("bound", [2.0, 10.0, 20.0, 100.0])
def test_a_separable_fit_in_a_ball_is_on_the_sphere_or_not_vouched_for(xp_like, bound):
    # One row: the minimiser is bound z / |z|. Beyond 37 logits the gradient rounds to zero, and a
    # solver that stops there is not at the minimum.
    z = np.array([[[1.2, 1.6]]])
    c = np.array([[3.0]])
    fit = logistic_mle(*arrays(xp_like, z, c, c), bound=bound)
    if 2.0 * bound < 30.0:
        assert to_numpy(fit.converged).all()
        np.testing.assert_allclose(to_numpy(fit.value), bound * z[0] / 2.0, rtol=1e-7)
    else:
        assert not to_numpy(fit.converged).any()
        assert "lower `bound`" in fit.message


def test_counts_of_soft_labels_are_fitted(xp_like):
    z = np.array([[[2.0]]])
    fit = logistic_mle(*arrays(xp_like, z, np.array([[1.0]]), np.array([[0.8]])))
    np.testing.assert_allclose(to_numpy(fit.value), [[0.5 * np.log(4.0)]], atol=1e-8)


@pytest.mark.parametrize("options", [{"ridge": 0.1}, {}, {"bound": 1.0}])
@pytest.mark.parametrize("which", ["z", "count", "wins"])
def test_nan_raises(xp_like, options, which):
    z, count, wins = instance(replicas=2)
    parts = {"z": z.copy(), "count": count.copy(), "wins": wins.copy()}
    parts[which][0, 1] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        logistic_mle(*arrays(xp_like, parts["z"], parts["count"], parts["wins"]), **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ridge": -1.0}, "ridge must be finite and at least 0"),
        ({"ridge": np.nan}, "ridge must be finite"),
        ({"bound": 0.0}, "bound must be positive"),
        ({"scale": 0.0}, "scale must be positive"),
    ],
)
def test_bad_settings_raise(options, match):
    with pytest.raises(ValueError, match=match):
        logistic_mle(*arrays(np.zeros(1), *instance()), **options)


def test_wins_of_another_shape_raise():
    design, count, wins = arrays(np.zeros(1), *instance())
    with pytest.raises(ShapeError, match=r"wins must have shape \(R, n\) = \(3, 12\)"):
        logistic_mle(design, count, wins[:, 1:])


def test_single_precision_reaches_its_own_tolerance():
    z, count, wins = instance()
    like = np.zeros(1, dtype=np.float32)
    fit = logistic_mle(*arrays(like, z, count, wins), ridge=0.1)
    assert fit.converged.all()
    assert fit.value.dtype == np.float32
    exact = logistic_mle(*arrays(np.zeros(1), z, count, wins), ridge=0.1)
    np.testing.assert_allclose(fit.value, exact.value, atol=1e-4)


def test_data_of_a_table_are_fitted_like_their_rows(xp_like):
    problem = finite_problem(xp_like)
    rng = np.random.default_rng(4)
    count = rng.integers(1, 6, size=(3, 18)).astype(float)
    wins = 0.5 * count + 0.4 * count * np.sin(np.arange(18))
    data = PairTable.empty(problem.table, 3).reweighted(
        as_like(count, xp_like), as_like(wins, xp_like)
    )
    z = reference.difference_rows(to_numpy(problem.phi))
    want = logistic_mle(*arrays(xp_like, z, count, wins), ridge=0.2, scale=2.0)
    got = bradley_terry_mle(data, ridge=0.2, scale=2.0)
    np.testing.assert_allclose(to_numpy(got.value), to_numpy(want.value), atol=1e-9)
