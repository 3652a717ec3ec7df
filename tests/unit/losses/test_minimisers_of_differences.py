"""Losses of the difference of log-ratios against the minimisers of the theory sheet, section 7."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, special

from rlhf_theory import losses
from tests.helpers.losses import (
    BETA,
    GENERAL,
    MU,
    REF,
    R,
    Table,
    assert_close,
    bradley_terry,
    gibbs,
    margins,
    normalised,
    root,
    tensor,
    two_actions,
)


@pytest.fixture
def bt():
    return Table(MU, bradley_terry(R), REF)


@pytest.fixture
def general():
    return Table(MU, GENERAL, REF)


# --------------------------------------------------------------------------- the logistic family


@pytest.mark.parametrize("p", [bradley_terry(R), GENERAL])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_and_cdpo_project_on_bradley_terry(p, smoothing):
    # The projection of p' = (1-e) p + e (1-p), weighted by the pairs: for every action
    # sum_b mu_b (sigma(s_a - s_b) - p'_ab) = 0, a strictly convex problem, so one solution.
    table = Table(MU, p, REF)
    log_pi = table.minimise(losses.CDPO(BETA, smoothing))
    fitted = special.expit(BETA * margins(log_pi, REF))
    shrunk = (1.0 - smoothing) * p + smoothing * (1.0 - p)
    assert_close((fitted - shrunk) @ MU, 0.0)
    if smoothing == 0.0:
        assert_close(table.minimise(losses.DPO(BETA)), log_pi)


def test_dpo_finds_the_gibbs_policy(bt):
    assert_close(bt.minimise(losses.DPO(BETA)), gibbs(R, BETA))


@pytest.mark.parametrize("p", [0.5, 0.7, 0.999, 1.0])
def test_cdpo_is_the_logit_of_the_smoothed_preference(p):
    table = two_actions(p)
    h = margins(table.minimise(losses.CDPO(BETA, 0.1)), table.log_ref)[0, 1]
    assert_close(BETA * h, special.logit(0.9 * p + 0.1 * (1.0 - p)))


def test_robust_dpo_sees_through_flipped_labels():
    clean = bradley_terry(R)
    flipped = Table(MU, 0.8 * clean + 0.2 * (1.0 - clean), REF)
    assert_close(flipped.minimise(losses.RobustDPO(BETA, 0.2)), gibbs(R, BETA))
    # The plain loss does not.
    assert np.abs(flipped.minimise(losses.DPO(BETA)) - gibbs(R, BETA)).max() > 0.1


def test_rdpo_charges_for_length():
    lengths = np.array([3.0, 1.0, 7.0, 4.0])
    table = Table(MU, bradley_terry(R), REF, lengths=lengths)
    assert_close(table.minimise(losses.RDPO(BETA, 0.1)), gibbs(R - 0.1 * lengths, BETA))


@pytest.mark.parametrize(
    "loss",
    [
        losses.DPO(BETA),
        losses.Savage(BETA),
        losses.RobustDPO(BETA, 0.0),
        losses.CDPO(BETA, 0.0),
        losses.FDPO(BETA, "reverse-kl"),
    ],
)
def test_a_margin_is_taken_off_the_reward(loss):
    gamma = np.array([0.5, 0.1, 0.8, 0.2])
    table = Table(MU, bradley_terry(R), REF, gamma=gamma)
    assert_close(table.minimise(loss), gibbs(R - gamma, BETA))


def optimistic_reward(table, beta, weight):
    """Minimise the BT loss of a reward minus ``weight`` times its best value J*, calibrated."""
    sample, ref = table.sample.numpy(), np.exp(table.log_ref)

    def objective(r):
        r = r - sample @ r
        z = r[:, None] - r[None, :]
        # Twice, because a pair is drawn in both orders.
        fit = 2.0 * np.sum(np.outer(table.mu, table.mu) * table.p * np.logaddexp(0.0, -z))
        # Calibrated under the sampling law, so J* = beta log E_ref e^{r / beta}.
        return fit - weight * beta * np.log(ref @ np.exp(r / beta))

    best = optimize.minimize(objective, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
    return best.x


@pytest.mark.parametrize("weight", [-0.3, 0.0, 0.15])
def test_xpo_and_vpo_are_the_fit_minus_the_value(weight):
    table = Table(MU, bradley_terry(R), REF, sample=[0.4, 0.1, 0.3, 0.2])
    expected = gibbs(optimistic_reward(table, BETA, weight), BETA)
    direction = "online" if weight >= 0.0 else "offline"
    found = table.minimise(losses.VPO(BETA, abs(weight), direction))
    assert_close(found, expected, atol=1e-5)
    if weight >= 0.0:
        assert_close(table.minimise(losses.XPO(BETA, weight * BETA)), found)


@pytest.mark.parametrize("alpha", [0.0, 0.02, 0.1])
def test_xpo_moves_mass_off_the_samples(alpha):
    p, nu = 0.7, 0.8
    table = two_actions(p, sample=[nu, 1.0 - nu])
    log_pi = table.minimise(losses.XPO(BETA, alpha))
    t0 = table.log_ref[0] - table.log_ref[1]
    pairs = 2.0 * 0.3 * 0.7

    def slope(t):
        return pairs * BETA * (special.expit(BETA * (t - t0)) - p) + alpha * (nu - special.expit(t))

    assert_close(log_pi[0] - log_pi[1], root(slope))
    if alpha > 0.0:
        assert log_pi[0] < table.minimise(losses.DPO(BETA))[0]


# --------------------------------------------------------------------------- other margins


@pytest.mark.parametrize("p", [bradley_terry(R), GENERAL, (GENERAL > 0.5) + 0.5 * np.eye(4)])
def test_ipo_is_the_gibbs_policy_of_the_borda_score(p):
    table = Table(MU, p, REF)
    assert_close(table.minimise(losses.IPO(0.4)), gibbs(table.borda, 0.4))


@pytest.mark.parametrize("lengths", [[5.0] * 4, [3.0, 1.0, 7.0, 4.0]])
def test_ipo_per_token_multiplies_the_borda_score_by_the_length(lengths):
    n = np.array(lengths)
    table = Table(MU, GENERAL, REF, lengths=n)
    found = table.minimise(losses.IPOPerToken(0.8))
    shift = root(lambda c: np.log(np.sum(np.exp(REF + n * (table.borda + c) / 0.8))))
    assert_close(found, REF + n * (table.borda + shift) / 0.8)
    if np.ptp(n) == 0.0:
        assert_close(found, Table(MU, GENERAL, REF).minimise(losses.IPO(0.8 / 5.0)))


@pytest.mark.parametrize("tau", [0.2, 0.9])
def test_inpo_takes_a_step_of_mirror_descent(tau):
    a, last = 0.7, np.array([0.3, 0.1, 0.4, 0.2])
    loss = losses.INPO(tau, step=a)
    mixed = loss.reference(REF, np.log(last))
    found = Table(last, GENERAL, mixed).minimise(loss)
    step = (1.0 - a * tau) * np.log(last) + a * tau * REF + a * GENERAL @ last
    assert_close(found, normalised(step))


def test_inpo_with_the_longest_step_is_ipo(general):
    loss = losses.INPO(0.4, step=1.0 / 0.4)
    np.testing.assert_array_equal(loss.reference(REF, np.log(MU)), REF)
    assert_close(general.minimise(loss), general.minimise(losses.IPO(0.4)))


def test_exponential_has_half_of_eta(bt):
    assert_close(bt.minimise(losses.Exponential(BETA)), gibbs(R, 2.0 * BETA))


def test_savage_finds_the_gibbs_policy(bt):
    assert_close(bt.minimise(losses.Savage(BETA)), gibbs(R, BETA))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.7, 0.99])
def test_two_actions_have_closed_forms(p):
    table = two_actions(p)

    def h(loss):
        return margins(table.minimise(loss), table.log_ref)[0, 1]

    assert_close(BETA * h(losses.SquaredHinge(BETA)), 2.0 * p - 1.0)
    assert_close(h(losses.IPO(BETA / 2.0)), h(losses.SquaredHinge(BETA)))
    assert_close(BETA * h(losses.EXO(BETA, 0.05)), (2.0 * p - 1.0) * math.log(0.95 / 0.05))


def hinge_population(p, weight, u, beta):
    return np.sum(weight * p * np.maximum(0.0, 1.0 - beta * (u[:, None] - u[None, :])))


def test_hinge_solves_a_linear_programme(general):
    # Variables: log-ratios u (4, the first 0) and one slack per ordered pair.
    weight = 2.0 * np.outer(MU, MU)
    pairs = list(itertools.permutations(range(4), 2))
    cost = np.r_[np.zeros(4), [weight[a, b] * GENERAL[a, b] for a, b in pairs]]
    rows = np.zeros((len(pairs), 4 + len(pairs)))
    for k, (a, b) in enumerate(pairs):  # slack >= 1 - beta (u_a - u_b)
        rows[k, a], rows[k, b], rows[k, 4 + k] = -BETA, BETA, -1.0
    bounds = [(0.0, 0.0)] + [(None, None)] * 3 + [(0.0, None)] * len(pairs)
    best = optimize.linprog(cost, rows, -np.ones(len(pairs)), bounds=bounds)
    u = best.x[:4]
    same = np.sum(np.diag(weight) * 0.5)  # an action against itself: loss 1
    loss = losses.Hinge(BETA)
    at_best = general.loss(loss, tensor(REF + u)).item()
    assert_close(at_best, best.fun + same, atol=1e-9)
    # No policy around does better, and the value is that of the definition.
    draw = np.random.default_rng(1)
    for other in u + draw.normal(0.0, 1.0, (50, 4)):
        value = general.loss(loss, tensor(REF + other)).item()
        assert_close(value, hinge_population(GENERAL, weight, other, BETA))
        assert value >= at_best - 1e-9


@pytest.mark.parametrize("p", [0.2, 0.55, 0.9])
def test_hinge_keeps_only_the_sign_with_two_actions(p):
    table = two_actions(p)
    loss = losses.Hinge(BETA)
    best = np.sign(p - 0.5) / BETA

    def value(h):
        return table.loss(loss, tensor(table.log_ref + np.array([h, 0.0]))).item()

    slopes = [value(best + d) - value(best) for d in (-3.0, -0.1, 0.1, 3.0)]
    assert min(slopes) > 0.0
