import numpy as np
from scipy.optimize import linprog

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.estimators.ellipsoid import Ellipsoid
from rlhf_theory.evaluation.gaps import mean_kl, objective
from rlhf_theory.evaluation.pessimism import (
    comparator_excess,
    comparator_loss,
    expected_bound,
    pointwise_bound,
    reward_interval,
)

RNG = np.random.default_rng(0)
PHI = RNG.normal(size=(1, 3, 4, 2))
LOG_PI0 = np.log(RNG.dirichlet(np.ones(4), size=(1, 3)))
WEIGHTS = RNG.dirichlet(np.ones(3), size=1)
PI = RNG.dirichlet(np.ones(4), size=(5, 3))
ROOT = RNG.normal(size=(5, 2, 2))
SIGMA = np.eye(2) + ROOT @ np.swapaxes(ROOT, 1, 2)
CENTER, BETA = RNG.normal(size=(5, 2)), RNG.uniform(0.1, 1.0, size=5)
PSI = PHI[0] - np.einsum("xa,xad->xd", np.exp(LOG_PI0[0]), PHI[0])[:, None]


def ellipsoid(like):
    sigma = as_like(SIGMA, like)
    return Ellipsoid(as_like(CENTER, like), as_like(BETA, like), lambda: sigma)


def contexts(like):
    return Contexts(as_like(PHI, like), as_like(LOG_PI0, like))


def gibbs(reward, eta=0.3):
    logits = LOG_PI0 + reward / eta
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_comparator_loss_is_the_difference_of_objectives_plus_kl(xp_like):
    truth, estimate = RNG.normal(size=(1, 3, 4)), RNG.normal(size=(5, 3, 4))
    log_pi, log_hat, eta = np.log(PI), gibbs(estimate), 0.3
    expected = (
        objective(log_pi, truth, LOG_PI0, WEIGHTS, eta)
        - objective(log_hat, truth, LOG_PI0, WEIGHTS, eta)
        + eta * mean_kl(log_pi, log_hat, WEIGHTS)
    )
    # A constant per context does not matter.
    error = truth - estimate + RNG.normal(size=(5, 3, 1))
    arrays = (as_like(v, xp_like) for v in (log_pi, log_hat, error, WEIGHTS))
    assert np.allclose(to_numpy(comparator_loss(*arrays)), expected, atol=1e-12)


def test_bounds_are_twice_beta_times_the_norms(xp_like):
    inverse = np.linalg.inv(SIGMA)
    mean = np.einsum("x,rxa,xad->rd", WEIGHTS[0], PI, PSI)
    expected = 2 * BETA * np.sqrt(np.einsum("rd,rde,re->r", mean, inverse, mean))
    weights, log_pi = as_like(WEIGHTS, xp_like), as_like(np.log(PI), xp_like)
    x, set_ = contexts(xp_like), ellipsoid(xp_like)
    assert np.allclose(to_numpy(expected_bound(set_, x, weights, log_pi)), expected)
    norms = np.sqrt(np.einsum("xad,rde,xae->rxa", PSI, inverse, PSI))
    expected = 2 * BETA * np.einsum("x,rxa,rxa->r", WEIGHTS[0], PI, norms)
    lower, upper = reward_interval(set_, x)
    assert np.allclose(to_numpy(pointwise_bound(lower, upper, weights, log_pi)), expected)


def test_worst_comparator_is_that_of_a_linear_program():
    x, set_ = contexts(np.zeros(1)), ellipsoid(np.zeros(1))
    lower, upper = reward_interval(set_, x)
    theta = RNG.normal(size=2)
    truth = (PSI @ theta)[None]
    hat = gibbs(lower)
    excess = comparator_excess(lower, upper, truth, WEIGHTS, hat, LOG_PI0)
    for r in range(5):
        # Left side minus right side, as a linear function of the comparator.
        gain = (WEIGHTS[0][:, None] * (truth[0] - upper[r])).ravel()
        rows = np.kron(np.eye(3), np.ones(4))
        best = linprog(-gain, A_eq=rows, b_eq=np.ones(3), bounds=(0, 1))
        kept = np.einsum("x,xa,xa->", WEIGHTS[0], np.exp(hat[r]), truth[0] - lower[r])
        assert np.isclose(excess[r], -best.fun - kept, atol=1e-9)


def test_absent_actions_are_no_comparators():
    lower, upper = np.zeros((1, 1, 2)), np.zeros((1, 1, 2))
    truth = np.array([[[0.0, 5.0]]])
    one = np.array([[[0.0, -np.inf]]])
    assert comparator_excess(lower, upper, truth, np.ones((1, 1)), one, one)[0] == 0.0
