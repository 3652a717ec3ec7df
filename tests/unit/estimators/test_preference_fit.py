"""The bilinear preference fit: recovery, invariances, nested Bradley-Terry model."""

import numpy as np
import pytest

from rlhf_theory.arrays import to_numpy
from rlhf_theory.data import Contexts
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.estimators.preference_fit import bilinear_mle
from rlhf_theory.rewards import SkewBilinear
from tests.helpers.assembled import compared
from tests.helpers.labelled import counted_data
from tests.helpers.reference import bilinear
from tests.helpers.reference import loss as slow_loss

D = 2
P = D * (D + 1) // 2


def truth(seed=3, size=0.8):
    return size * np.random.default_rng(seed).normal(size=(1, P))


def test_labels_of_the_model_are_the_logistic_of_its_payoff(xp_like):
    """The design of the fit and the payoff of the model speak of one R(x, a, b)."""
    data, problem, _ = counted_data(xp_like, d=D)
    theta = truth()
    rows = to_numpy(data.skew.z)[0]
    payoff = to_numpy(SkewBilinear(theta).payoff(counted_data(np.zeros(1), d=D)[1].table))[0]
    phi = to_numpy(problem.phi)[0]
    w = np.zeros((D + 1, D + 1))
    w[np.triu_indices(D + 1, k=1)] = theta[0]
    w -= w.T
    k = 0
    for x in range(phi.shape[0]):
        for i in range(phi.shape[1]):
            for j in range(i + 1, phi.shape[1]):
                want = bilinear(w, phi[x, i], phi[x, j])
                assert rows[k] @ theta[0] == pytest.approx(want, abs=1e-12)
                assert payoff[x, i, j] == pytest.approx(want, abs=1e-12)
                k += 1


def test_fit_is_stationary_and_libraries_agree(xp_like):
    data, _, _ = counted_data(xp_like, d=D, skew=truth(), n=300)
    fit = bilinear_mle(data, ridge=0.5)
    assert np.all(to_numpy(fit.converged))
    theta, z = to_numpy(fit.value), to_numpy(data.skew.z)[0]
    count, wins = to_numpy(data.count), to_numpy(data.wins)
    for r in range(3):
        step = 1e-5
        for h in step * np.eye(P):
            up = slow_loss(theta[r] + h, z, count[r], wins[r], 0.5)
            down = slow_loss(theta[r] - h, z, count[r], wins[r], 0.5)
            assert abs(up - down) / (2 * step) < 1e-4


def test_truth_is_recovered_at_large_n():
    """Errors of a few standard errors (1e-6 false alarm by the chi-squared bound)."""
    theta = truth()
    data, _, _ = counted_data(np.zeros(1), d=D, skew=theta, n=1_000_000, replicas=4)
    fit = bilinear_mle(data)
    assert np.all(fit.converged)
    p = 1 / (1 + np.exp(-data.skew.margins(fit.value)))
    information = data.skew.gram(data.count * p * (1 - p))
    error = fit.value - theta
    wald = np.einsum("ri,rij,rj->r", error, information, error)
    assert np.all(wald < 40.0)  # chi-squared with 3 degrees: 40 has probability 1e-8
    np.testing.assert_allclose(fit.value, np.repeat(theta, 4, axis=0), atol=0.1)


def test_swapping_the_actions_and_the_labels_changes_nothing():
    data, problem, _ = counted_data(np.zeros(1), d=D, skew=truth())
    rng = np.random.default_rng(0)
    ids, a1, a2 = (rng.integers(k, size=(3, 60)) for k in (4, 4, 4))
    y = rng.integers(2, size=(3, 60)).astype(float)
    x = Contexts.rows(problem.table, ids)
    one = bilinear_mle(data.add(compared(x, a1, a2, y)), ridge=0.3).value
    two = bilinear_mle(data.add(compared(x, a2, a1, 1.0 - y)), ridge=0.3).value
    np.testing.assert_allclose(one, two, rtol=1e-12)


def test_bradley_terry_rewards_are_nested():
    """W_0j = -theta_j, else 0: the same likelihood, so the bilinear fit is no worse."""
    data, _, _ = counted_data(np.zeros(1), d=D, n=500)
    reward, preference = bradley_terry_mle(data), bilinear_mle(data)
    z, psi = data.differences.z[0], data.skew.z[0]
    for r in range(3):
        args = (data.count[r], data.wins[r])
        embedded = np.concatenate([-reward.value[r], np.zeros(P - D)])
        bt = slow_loss(reward.value[r], z, *args)
        assert slow_loss(embedded, psi, *args) == pytest.approx(bt, rel=1e-12)
        assert slow_loss(preference.value[r], psi, *args) <= bt + 1e-9


def test_no_data_and_the_ball():
    data, _, _ = counted_data(np.zeros(1), d=D, n=0)
    np.testing.assert_allclose(bilinear_mle(data, ridge=1.0).value, 0.0, atol=1e-15)
    few, _, _ = counted_data(np.zeros(1), d=D, n=4)
    assert np.all(np.linalg.norm(bilinear_mle(few, bound=0.5).value, axis=1) <= 0.5 + 1e-8)


def test_known_scale_is_divided_out():
    data, _, _ = counted_data(np.zeros(1), d=D, skew=truth(), n=500)
    plain, scaled = bilinear_mle(data), bilinear_mle(data, scale=2.0)
    np.testing.assert_allclose(scaled.value, plain.value / 2.0, rtol=1e-6)


def test_a_warm_start_changes_nothing():
    data, _, _ = counted_data(np.zeros(1), d=D, skew=truth(), n=500)
    first = bilinear_mle(data, ridge=0.1)
    again = bilinear_mle(data, ridge=0.1, start=first)
    np.testing.assert_allclose(again.value, first.value, atol=1e-8)
