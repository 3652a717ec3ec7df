import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import wrightomega

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.planners.argmax import argmax_log_probs
from rlhf_theory.planners.chi_squared import ChiSquared, chi_squared_log_probs, log_omega
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward, TableReward


def test_log_omega_agrees_with_scipy(xp_like):
    y = np.concatenate([np.linspace(-30.0, 700.0, 4001), np.logspace(-300, 300, 101)])
    expected = np.log(wrightomega(y))
    assert np.allclose(to_numpy(log_omega(as_like(y, xp_like))), expected, rtol=1e-14, atol=1e-14)


def test_log_omega_survives_underflow():
    y = np.array([-1e300, -5000.0, -np.inf])
    assert np.array_equal(log_omega(y), y)


def objective(pi, pi0, r, eta):
    ratio = pi / pi0
    return pi @ r - eta * (0.5 * pi0 @ (ratio - 1.0) ** 2 + pi @ np.log(ratio))


@pytest.mark.parametrize("eta", [2.0, 0.3, 0.05])
def test_policy_maximises_the_regularised_reward(eta):
    rng = np.random.default_rng(0)
    r, pi0 = rng.normal(size=4), rng.dirichlet(np.ones(4))
    log_pi, off = chi_squared_log_probs(r[None, None], np.log(pi0)[None, None], eta)
    pi = np.exp(log_pi[0, 0])
    assert off.max() < 1e-14
    best = minimize(
        lambda p: -objective(p, pi0, r, eta),
        pi0,
        method="SLSQP",
        bounds=[(1e-12, 1.0)] * 4,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1.0},
        options={"ftol": 1e-14, "maxiter": 400},
    )
    value = objective(pi, pi0, r, eta)
    assert value >= -best.fun - 1e-12
    assert value == pytest.approx(-best.fun, abs=1e-6)


def test_first_order_condition_holds_for_tiny_and_huge_eta(xp_like):
    rng = np.random.default_rng(1)
    r = rng.normal(size=(3, 4, 6))
    log_pi0 = np.log(rng.dirichlet(np.ones(6), size=(1, 4)))
    for eta in (1e-3, 0.1, 10.0, 1e4):
        log_pi, off = chi_squared_log_probs(as_like(r, xp_like), as_like(log_pi0, xp_like), eta)
        log_w = to_numpy(log_pi) - log_pi0
        c = r - eta * (np.exp(log_w) + log_w)  # equal over the actions of a context
        assert np.ptp(c, axis=-1).max() < 1e-10 * max(1.0, eta)
        assert to_numpy(off).max() < 1e-12


def test_limits_are_pi0_and_the_best_action():
    r = np.array([[[0.3, 0.1, 0.0]]])
    log_pi0 = np.log(np.array([[[0.2, 0.5, 0.3]]]))
    assert np.allclose(chi_squared_log_probs(r, log_pi0, 1e9)[0], log_pi0, atol=1e-8)
    best = np.exp(chi_squared_log_probs(r, log_pi0, 1e-4)[0])
    assert np.allclose(best, [[[1.0, 0.0, 0.0]]], atol=1e-12)


def test_rare_actions_get_less_mass_than_under_kl():
    # An action that pi0 hardly plays and the reward overrates.
    r = np.array([[[0.0, 1.0]]])
    log_pi0 = np.log(np.array([[[1.0 - 1e-6, 1e-6]]]))
    chi = np.exp(chi_squared_log_probs(r, log_pi0, 0.05)[0])[0, 0, 1]
    kl = np.exp(gibbs_log_probs(r, log_pi0, 0.05))[0, 0, 1]
    assert kl > 0.99
    assert chi < 1e-6 * (1.0 / 0.05 + 2.0)


def test_absent_actions_stay_absent():
    r, lp = np.zeros((1, 1, 3)), np.array([[[np.log(0.5), np.log(0.5), -np.inf]]])
    log_pi, off = chi_squared_log_probs(r, lp, 0.1)
    assert np.allclose(np.exp(log_pi), [[[0.5, 0.5, 0.0]]])
    assert off.max() < 1e-14
    assert np.allclose(np.exp(argmax_log_probs(np.array([[[0.0, 1.0, 9.0]]]), lp)), [[[0, 1, 0]]])


def test_planner_on_finite_and_fresh_contexts():
    rng = np.random.default_rng(2)
    phi, lp = rng.normal(size=(1, 3, 4, 2)), np.full((1, 3, 4), -np.log(4.0))
    problem = FiniteProblem(phi, lp, np.full((1, 3), 1 / 3), 0.2, 5)
    plan = ChiSquared()(LinearReward(rng.normal(size=(5, 2))), problem, Key(0))
    assert plan.require().log_probs(problem.table).shape == (5, 3, 4)
    fresh = FreshProblem(
        lambda key, rows, n: (key.normal_numpy(rows, n, 4, 2), np.zeros((rows, n, 4))),
        2,
        0.2,
        5,
        np.zeros(1),
    )
    plan = ChiSquared()(LinearReward(np.ones((1, 2))), fresh, Key(0))
    x = fresh.sample_contexts(Key(1), 6)
    assert np.allclose(np.exp(plan.require().log_probs(x)).sum(axis=-1), 1.0)
    with pytest.raises(ValueError, match="eta"):
        chi_squared_log_probs(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)), 0.0)
    with pytest.raises(ValueError, match="tol"):
        ChiSquared(tol=-1.0)


def test_one_action_is_pi0():
    problem = FiniteProblem(np.ones((1, 1, 1, 1)), np.zeros((1, 1, 1)), np.ones((1, 1)), 0.2, 2)
    plan = ChiSquared()(TableReward(np.full((1, 1, 1), 3.0)), problem, Key(0))
    assert np.allclose(plan.require().log_probs(problem.table), 0.0)
