import numpy as np
import pytest

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.planners.skew_games import SkewGames, moved, newton_step, point
from tests.helpers import reference
from tests.helpers.games import dirichlet, skew


def games(rng, n, players, actions, eta, like=None):
    like = np.zeros(1) if like is None else like
    s = skew(rng, n, players * actions)
    log_pi0 = dirichlet(rng, n, players, actions)
    return SkewGames.of(as_like(s, like), as_like(log_pi0, like), eta)


@pytest.mark.parametrize("players", [1, 2])
def test_the_newton_step_solves_the_linearised_equation(players):
    # d/dt of log BR(pi_t) along log pi + t step, by central differences: at first order
    # log pi + step and log BR(pi) + its change must agree up to one constant per player.
    rng = np.random.default_rng(0)
    eta = 0.3
    g = games(rng, 5, players, 4, eta)
    log_p = dirichlet(rng, 5, players, 4)
    weight = np.full(5, eta)
    at = point(g, log_p, weight)
    step = newton_step(g, at, weight)
    np.testing.assert_allclose((np.exp(log_p) * step).sum(axis=-1), 0.0, atol=1e-12)
    for h, close in ((1e-3, 1e-2), (1e-4, 1e-4), (1e-5, 1e-6)):  # of order h^2
        ahead, behind = (point(g, log_p + t * step, weight).reply for t in (h, -h))
        change = (ahead - behind) / (2 * h)
        gap = log_p + step - (at.reply + change)
        np.testing.assert_allclose(gap - gap[..., :1], 0.0, atol=close)


def test_the_newton_step_is_right_where_mass_underflows():
    rng = np.random.default_rng(1)
    g = games(rng, 3, 1, 5, 0.1)
    log_p = dirichlet(rng, 3, 1, 5)
    log_p[:, :, 0] = -2000.0  # exp gives 0
    weight = np.full(3, 0.1)
    at = point(g, log_p, weight)
    new = log_p + newton_step(g, at, weight)
    assert np.isfinite(new).all()
    # An action without mass gets its (linearised) best reply at once.
    assert (new[..., 0] > -100).all()


def test_distances_are_those_between_policy_and_reply(xp_like):
    rng = np.random.default_rng(2)
    g = games(rng, 4, 2, 3, 0.2, xp_like)
    at = point(g, as_like(dirichlet(rng, 4, 2, 3), xp_like), as_like(np.full(4, 0.2), xp_like))
    p, q = np.exp(to_numpy(at.log_p)), np.exp(to_numpy(at.reply))
    for i in range(4):
        kl = sum(reference.kl(p[i, k], q[i, k]) for k in range(2))
        back = sum(reference.kl(q[i, k], p[i, k]) for k in range(2))
        np.testing.assert_allclose(to_numpy(at.kl)[i], kl, rtol=1e-10)
        np.testing.assert_allclose(to_numpy(at.jeffreys)[i], kl + back, rtol=1e-10)


def test_a_mixture_towards_the_best_reply_descends():
    # The safeguard's promise (theory sheet 8): slope -eta Jeffreys at the start.
    rng = np.random.default_rng(3)
    for players in (1, 2):
        g = games(rng, 50, players, 6, 0.05)
        weight = np.full(50, 0.05)
        at = point(g, dirichlet(rng, 50, players, 6), weight)
        t = 1e-7
        mixed = np.log((1 - t) * np.exp(at.log_p) + t * np.exp(at.reply))
        slope = (point(g, mixed, weight).kl - at.kl) / t
        np.testing.assert_allclose(slope, -at.jeffreys, rtol=1e-3)


def test_a_move_is_a_distribution_whatever_the_step():
    rng = np.random.default_rng(4)
    g = games(rng, 3, 1, 5, 0.1)
    log_p = dirichlet(rng, 3, 1, 5, concentration=0.01)
    for size in (1e-9, 1.0, 1e3, 1e20):
        new = moved(g, log_p, size * rng.normal(size=(3, 1, 5)), np.full(3, 0.1), 1.0)
        assert np.isfinite(new).all()
        np.testing.assert_allclose(np.exp(new).sum(axis=-1), 1.0, rtol=1e-12)


def test_a_small_move_changes_mass_linearly():
    rng = np.random.default_rng(5)
    g = games(rng, 3, 1, 5, 1e-3)
    log_p = np.full((3, 1, 5), -np.log(5.0))
    step = rng.uniform(-0.5, 0.5, size=(3, 1, 5))
    step -= step.mean(axis=-1, keepdims=True)
    new = np.exp(moved(g, log_p, step, np.full(3, 1e-3), 1.0))
    np.testing.assert_allclose(new, np.exp(log_p) * (1.0 + step), rtol=1e-12)
