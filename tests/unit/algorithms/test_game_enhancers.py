from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_theory.algorithms.game_enhancers import InformationRatio, exploitability_bound
from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.estimators.confidence import Ellipsoid, MarginalLikelihood
from rlhf_theory.evaluation.exploitability import exploitability
from rlhf_theory.features import game_features
from rlhf_theory.planners.nash import Nash
from rlhf_theory.policies import FunctionPolicy
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import SkewBilinear


def instance(seed, like=None, replicas=6, x=2, a=3, d=2, eta=0.3):
    """A problem, an ellipsoid over preferences, and the equilibrium of its center."""
    like = np.zeros(1) if like is None else like
    rng = np.random.default_rng(seed)
    p = d * (d + 1) // 2
    phi = rng.normal(size=(1, x, a, d))
    log_pi0 = np.log(rng.dirichlet(np.ones(a), size=(1, x)))
    weights = rng.dirichlet(np.ones(x), size=1)
    center = as_like(0.5 * rng.normal(size=(replicas, p)), like)
    rows = rng.normal(size=(replicas, p + 2, p))
    sigma = as_like(np.swapaxes(rows, 1, 2) @ rows + 0.3 * np.eye(p), like)
    beta = as_like(10.0 ** rng.uniform(-1.5, 0.7, size=replicas), like)
    arrays = (as_like(v, like) for v in (phi, log_pi0, weights))
    problem = FiniteProblem(*arrays, eta, replicas)
    plan = Nash()(SkewBilinear(center), problem, Key(0))
    return problem, Ellipsoid(center, beta, lambda: sigma), plan.require()


def gap(problem, pi1, theta):
    """The exploitability of ``pi1`` where ``theta`` is the truth, with the KL to pi1 not added."""
    payoff = SkewBilinear(theta).payoff(problem.table)
    log_pi = pi1.log_probs(problem.table)
    return to_numpy(exploitability(payoff, log_pi, problem.log_pi0, problem.weights, problem.eta))


def on_the_boundary(confidence, rng):
    """A random point of the boundary of every ellipsoid."""
    center, beta, sigma = (
        to_numpy(v) for v in (confidence.center, confidence.beta, confidence.sigma)
    )
    u = rng.normal(size=center.shape)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    root = np.swapaxes(np.linalg.inv(np.linalg.cholesky(sigma)), 1, 2)
    return center + beta[:, None] * (root @ u[..., None])[..., 0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_bound_holds_for_every_truth_in_the_ellipsoid(seed, d):
    eta = (0.2, 0.6, 2.0)[seed % 3]
    problem, confidence, pi1 = instance(10 * seed + d, x=1 + seed % 3, a=2 + seed % 4, d=d, eta=eta)
    bound = exploitability_bound(problem, pi1, confidence, Key(1)).require()
    rng = np.random.default_rng(seed)
    largest = np.zeros(bound.shape)
    for _ in range(100):
        truth = on_the_boundary(confidence, rng)
        assert np.all(confidence.distance(truth) <= confidence.beta * (1 + 1e-12))
        largest = np.maximum(largest, gap(problem, pi1, truth))
    assert np.all(largest <= bound * (1 + 1e-9))
    # Inside the ellipsoid there is less to lose than on its boundary.
    inside = confidence.center + 0.5 * (truth - confidence.center)
    assert np.all(gap(problem, pi1, inside) <= bound)


@pytest.mark.parametrize("seed", range(4))
def test_a_truth_on_the_boundary_attains_the_bound(xp_like, seed):
    problem, confidence, pi1 = instance(100 + seed, xp_like, d=1 + seed % 3)
    found = exploitability_bound(problem, pi1, confidence, Key(1), tol=1e-10)
    truth = confidence.center - found.warm
    beta = to_numpy(confidence.beta)
    np.testing.assert_allclose(to_numpy(confidence.distance(truth)), beta, rtol=1e-10)
    np.testing.assert_allclose(gap(problem, pi1, truth), to_numpy(found.require()), rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_no_search_over_truths_finds_more_than_the_bound(seed):
    # A second method: ascent on the gap over the ellipsoid, from many starts.
    problem, confidence, pi1 = instance(200 + seed, replicas=2, d=2 + seed % 2)
    bound = exploitability_bound(problem, pi1, confidence, Key(1), tol=1e-10).require()
    root = np.swapaxes(np.linalg.inv(np.linalg.cholesky(confidence.sigma)), 1, 2)
    for r in range(2):
        best = 0.0
        for start in np.random.default_rng(r).normal(size=(10, root.shape[1])):

            def lost(u, r=r):
                step = confidence.beta[r] * root[r] @ (u / np.linalg.norm(u))
                theta = np.array(confidence.center)
                theta[r] -= step
                return -gap(problem, pi1, theta)[r]

            best = max(best, -minimize(lost, start, options={"gtol": 1e-9}).fun)
        np.testing.assert_allclose(best, bound[r], rtol=1e-6)


def test_the_bound_grows_with_the_radius_and_vanishes_with_it():
    problem, confidence, pi1 = instance(7)
    bounds = [
        exploitability_bound(problem, pi1, confidence.rescaled(c), Key(1)).require()
        for c in (0.0, 0.1, 1.0)
    ]
    np.testing.assert_array_equal(bounds[0], 0.0)
    assert np.all(bounds[0] < bounds[1])
    assert np.all(bounds[1] < bounds[2])


def test_a_warm_start_saves_the_other_starts():
    problem, confidence, pi1 = instance(9)
    cold = exploitability_bound(problem, pi1, confidence, Key(1), tol=1e-10)
    warm = exploitability_bound(
        problem, pi1, confidence, Key(2), start=cold.warm, axes=False, n_random=0
    )
    np.testing.assert_allclose(warm.require(), cold.require(), rtol=1e-8)
    assert warm.n_iter <= cold.n_iter


def test_the_bound_of_contexts_that_are_drawn_is_that_of_the_draws():
    problem, confidence, pi1 = instance(8, x=1)

    def draw(key, rows, n):
        phi = np.broadcast_to(problem.phi, (rows, n, *problem.phi.shape[2:]))
        return phi, np.broadcast_to(problem.log_pi0, (rows, n, problem.log_pi0.shape[2]))

    fresh = FreshProblem(draw, problem.dim, problem.eta, problem.n_replicas, problem.phi)
    table = pi1.log_probs(problem.table)
    policy = FunctionPolicy(lambda c: np.broadcast_to(table, (6, *c.shape[1:3])))
    got = exploitability_bound(fresh, policy, confidence, Key(1), contexts=5).require()
    want = exploitability_bound(problem, pi1, confidence, Key(1)).require()
    np.testing.assert_allclose(got, want, rtol=1e-8)


# --------------------------------------------------------------------------- information ratio


def ratio(problem, confidence, pi1, pi2):
    """|E psi(x, pi1, pi2)|_{Sigma^-1} per replica, straight from its definition."""
    psi = to_numpy(game_features(problem.table))[0]
    p1, w = np.exp(to_numpy(pi1.log_probs(problem.table))), to_numpy(problem.weights)[0]
    v = np.einsum("x,rxa,rxb,xabp->rp", w, p1, pi2, psi)
    solved = np.linalg.solve(to_numpy(confidence.sigma), v[..., None])[..., 0]
    return np.sqrt(np.sum(v * solved, axis=-1))


@pytest.mark.parametrize("seed", range(5))
def test_the_information_ratio_is_largest_of_all_deterministic_policies(xp_like, seed):
    # The norm is convex in pi2, so its maximum is at a deterministic policy.
    problem, confidence, pi1 = instance(20 + seed, xp_like, x=3, a=3)
    found = InformationRatio()(problem, pi1, confidence, Key(2))
    pi2 = np.exp(to_numpy(found.log_probs(problem.table)))
    np.testing.assert_allclose(np.max(pi2, axis=-1), 1.0, rtol=1e-10)
    best = np.zeros(problem.n_replicas)
    for actions in product(range(3), repeat=3):
        policy = np.broadcast_to(np.eye(3)[list(actions)], pi2.shape)
        best = np.maximum(best, ratio(problem, confidence, pi1, policy))
    np.testing.assert_allclose(ratio(problem, confidence, pi1, pi2), best, rtol=1e-10)


def test_the_information_ratio_does_not_depend_on_the_radius():
    problem, confidence, pi1 = instance(30)
    one, other, none = (
        InformationRatio()(problem, pi1, confidence.rescaled(c), Key(2)).log_probs(problem.table)
        for c in (1.0, 0.1, 0.0)
    )
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, none)


def test_the_argmin_of_the_ratio_is_the_main_agent_itself():
    # What the talk prints: E psi(x, pi1, pi1) = 0, so arg min is self-play.
    problem, confidence, pi1 = instance(31)
    own = np.exp(pi1.log_probs(problem.table))
    np.testing.assert_allclose(ratio(problem, confidence, pi1, own), 0.0, atol=1e-14)


def test_one_action_leaves_nothing_to_explore():
    problem, confidence, pi1 = instance(32, a=1)
    found = InformationRatio()(problem, pi1, confidence, Key(2))
    np.testing.assert_array_equal(found.log_probs(problem.table), 0.0)
    bound = exploitability_bound(problem, pi1, confidence, Key(1)).require()
    np.testing.assert_array_equal(bound, 0.0)


def test_a_set_that_is_no_ellipsoid_is_refused():
    problem, _, pi1 = instance(33)
    rule = MarginalLikelihood(form="likelihood")
    data = problem.empty_data()
    confidence = rule.confidence_set(rule.fit(data, data.skew), data, problem, data.skew)
    with pytest.raises(ValueError, match="needs a confidence ellipsoid"):
        InformationRatio()(problem, pi1, confidence, Key(2))
    with pytest.raises(ValueError, match="got LikelihoodSet"):
        exploitability_bound(problem, pi1, confidence, Key(2))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="contexts must be positive"):
        InformationRatio(contexts=0)
