import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import skew_rows
from rlhf_theory.features import game_features, mean_game_features
from rlhf_theory.rewards import SkewBilinear


def instance(like, rows=2, d=3):
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(rows, 3, 4, d))
    pi1 = rng.dirichlet(np.ones(4), size=(2, 3))
    theta = rng.normal(size=(2, d * (d + 1) // 2))
    x = Contexts(as_like(phi, like), as_like(np.full((1, 3, 4), -np.log(4.0)), like))
    return x, as_like(np.log(pi1), like), pi1, as_like(theta, like)


def test_game_features_are_those_of_every_pair(xp_like):
    x, _, _, theta = instance(xp_like)
    psi = to_numpy(game_features(x))
    assert psi.shape == (2, 3, 4, 4, 6)
    phi = to_numpy(x.phi)
    for a in range(4):
        for b in range(4):
            pair = np.stack([phi[:, :, a], phi[:, :, b]], axis=2)
            np.testing.assert_array_equal(psi[:, :, a, b], skew_rows(pair))
    # Antisymmetric, and linear in the parameters of the bilinear preference.
    np.testing.assert_array_equal(psi, -np.swapaxes(psi, 2, 3))
    payoff = to_numpy(SkewBilinear(theta).payoff(x))
    want = np.einsum("rxabp,rp->rxab", psi, to_numpy(theta))
    np.testing.assert_allclose(payoff, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rows", [1, 2])
def test_mean_game_features_average_over_the_first_action(xp_like, rows):
    x, log_pi1, pi1, _ = instance(xp_like, rows=rows)
    got = to_numpy(mean_game_features(x, log_pi1))
    want = np.einsum("rxa,rxabp->rxbp", pi1, np.broadcast_to(game_features_of(x), (2, 3, 4, 4, 6)))
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
    # The mean under pi1 is 0, so the enhancer measures from the main agent.
    np.testing.assert_allclose(np.einsum("rxb,rxbp->rxp", pi1, got), 0.0, atol=1e-13)


def game_features_of(x):
    return to_numpy(game_features(x))


def test_one_action_and_one_feature(xp_like):
    x = Contexts(as_like(np.ones((1, 2, 1, 1)), xp_like), as_like(np.zeros((1, 2, 1)), xp_like))
    assert to_numpy(game_features(x)).shape == (1, 2, 1, 1, 1)
    assert np.all(to_numpy(game_features(x)) == 0.0)
    assert np.all(to_numpy(mean_game_features(x, x.log_pi0)) == 0.0)


def test_absent_actions_do_not_count_in_the_mean(xp_like):
    phi = np.random.default_rng(1).normal(size=(1, 1, 3, 2))
    phi[0, 0, 2] = 1e6
    p = np.array([[[0.25, 0.75, 0.0]]])
    with np.errstate(divide="ignore"):
        x = Contexts(as_like(phi, xp_like), as_like(np.log(p), xp_like), int_like([[0]], xp_like))
    got = to_numpy(mean_game_features(x, x.log_pi0))[0, 0]
    few = Contexts(x.phi[:, :, :2, :], x.log_pi0[:, :, :2])
    want = to_numpy(mean_game_features(few, few.log_pi0))[0, 0]
    np.testing.assert_allclose(got[:2], want, rtol=1e-12)
