import numpy as np
import pytest
from scipy.optimize import linprog

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.estimators.ellipsoid import Ellipsoid
from rlhf_theory.evaluation.gaps import mean_kl, objective
from rlhf_theory.evaluation.pessimism import (
    bonus_constant,
    comparator_excess,
    comparator_loss,
    expected_bound,
    log_ratio_reward,
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
    # Of any policy: nothing is known of how it was planned.
    truth, eta = RNG.normal(size=(1, 3, 4)), 0.3
    log_pi, log_hat = np.log(PI), np.log(RNG.dirichlet(np.ones(4), size=(5, 3)))
    expected = (
        objective(log_pi, truth, LOG_PI0, WEIGHTS, eta)
        - objective(log_hat, truth, LOG_PI0, WEIGHTS, eta)
        + eta * mean_kl(log_pi, log_hat, WEIGHTS)
    )
    # A constant per context does not matter.
    shifted = truth + RNG.normal(size=(5, 3, 1))
    log_pi, log_hat, shifted, log_pi0, weights = (
        as_like(v, xp_like) for v in (log_pi, log_hat, shifted, LOG_PI0, WEIGHTS)
    )
    g = log_ratio_reward(shifted, log_hat, log_pi0, eta)
    assert np.allclose(to_numpy(comparator_loss(log_pi, log_hat, g, weights)), expected)


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


@pytest.mark.parametrize("planned", [True, False])
def test_worst_comparator_is_that_of_a_linear_program(planned):
    x, set_, eta = contexts(np.zeros(1)), ellipsoid(np.zeros(1)), 0.3
    lower, upper = reward_interval(set_, x)
    truth = (PSI @ RNG.normal(size=2))[None]
    hat = gibbs(lower) if planned else np.log(RNG.dirichlet(np.ones(4), size=(5, 3)))
    g = log_ratio_reward(truth, hat, LOG_PI0, eta)
    excess = comparator_excess(upper - lower, g, WEIGHTS, hat)
    own = objective(hat, truth, LOG_PI0, WEIGHTS, eta)
    for r in range(5):
        # Left side minus right side, as a linear function of the comparator.
        gain = truth[0] + eta * (LOG_PI0[0] - hat[r]) - (upper - lower)[r]
        gain = (WEIGHTS[0][:, None] * gain).ravel()
        rows = np.kron(np.eye(3), np.ones(4))
        best = linprog(-gain, A_eq=rows, b_eq=np.ones(3), bounds=(0, 1))
        assert np.isclose(excess[r], -best.fun - own[r], atol=1e-9)
        if planned:  # with the Gibbs policy of the lower bound it is the distance of two rewards
            w = WEIGHTS[0]
            known = w @ np.max(truth[0] - upper[r], axis=-1)
            known -= np.einsum("x,xa,xa->", w, np.exp(hat[r]), truth[0] - lower[r])
            assert np.isclose(excess[r], known, atol=1e-9)


def test_absent_actions_are_no_comparators_and_avoided_ones_are():
    truth, none = np.array([[[0.0, 5.0]]]), np.zeros((1, 1, 2))
    one, both = np.array([[[0.0, -np.inf]]]), np.log(np.array([[[0.5, 0.5]]]))
    weights = np.ones((1, 1))
    absent = log_ratio_reward(truth, one, one, 0.3)
    assert comparator_excess(none, absent, weights, one)[0] == 0.0
    # A policy that never plays what pi0 plays is infinitely far from a comparator that does.
    avoided = log_ratio_reward(truth, one, both, 0.3)
    assert comparator_excess(none, avoided, weights, one)[0] == np.inf


def test_a_small_error_of_the_reward_costs_half_its_variance_over_eta():
    truth, error, eta = RNG.normal(size=(1, 3, 4)), RNG.normal(size=(5, 3, 4)), 0.3
    star, small = gibbs(truth), 1e-4
    best = objective(star, truth, LOG_PI0, WEIGHTS, eta)
    gap = best - objective(gibbs(truth + small * error), truth, LOG_PI0, WEIGHTS, eta)
    expected = bonus_constant(error, star, WEIGHTS, eta)
    assert np.allclose(gap / small**2, expected, rtol=2e-3)
