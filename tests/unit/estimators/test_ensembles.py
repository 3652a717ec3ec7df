"""Bootstrap ensembles: weights, spread, centring, and how pessimistic five members are."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kstest, norm

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.core import RewardModel
from rlhf_theory.data import Contexts
from rlhf_theory.errors import ShapeError
from rlhf_theory.estimators.ensembles import RewardEnsemble, bootstrap_ensemble, bootstrap_weights
from rlhf_theory.estimators.mle import bradley_terry_mle, fisher_information
from rlhf_theory.randomness import Key
from tests.helpers.labelled import counted_data

D = 3


def members(like, replicas=3, size=5, seed=0):
    return as_like(np.random.default_rng(seed).normal(size=(replicas, size, D)), like)


def test_combinations_match_numpy(xp_like):
    _, problem, _ = counted_data(xp_like)
    ensemble = RewardEnsemble(members(xp_like))
    x = problem.table
    phi, pi0 = to_numpy(x.phi), np.exp(to_numpy(x.log_pi0))
    centred = phi - np.einsum("rba,rbad->rbd", pi0, phi)[:, :, None]
    r = np.einsum("xbad,rkd->rbak", centred, to_numpy(ensemble.thetas))
    cases = (
        (ensemble.mean(), r.mean(-1)),
        (ensemble.min_reward(), r.min(-1)),
        (ensemble.uncertainty_weighted(0.5), r.mean(-1) - 0.5 * r.var(-1)),
        (ensemble.uncertainty_weighted(0.1, ddof=1), r.mean(-1) - 0.1 * r.var(-1, ddof=1)),
    )
    for model, want in cases:
        np.testing.assert_allclose(to_numpy(model.rewards(x)), want, rtol=1e-10, atol=1e-12)
        assert isinstance(model, RewardModel)
    rows = Contexts.rows(x, x.ids[:, :2])
    np.testing.assert_allclose(
        to_numpy(ensemble.mean().rewards(rows)), r.mean(-1)[:, :2], atol=1e-12
    )


def test_constants_per_context_and_member_change_nothing():
    """Trap (i) of sheet 6.2: b_k(x) is not identified, so no combination may see it."""
    _, problem, _ = counted_data(np.zeros(1), x=4)
    x = problem.table
    # Four more features that tell the context, with arbitrary coefficients per member.
    indicator = np.zeros((1, 4, x.phi.shape[2], 4))
    for c in range(4):
        indicator[0, c, :, c] = 1.0
    wide = Contexts(np.concatenate([x.phi, indicator], axis=-1), x.log_pi0)
    thetas = members(np.zeros(1))
    noise = 5.0 * np.random.default_rng(9).normal(size=(3, 5, 4))
    plain = RewardEnsemble(thetas)
    shifted = RewardEnsemble(np.concatenate([thetas, noise], axis=-1))
    for f in (
        lambda e: e.min_reward(),
        lambda e: e.uncertainty_weighted(0.5),
        lambda e: e.mean(),
    ):
        np.testing.assert_allclose(f(shifted).rewards(wide), f(plain).rewards(x), atol=1e-12)


def test_min_of_five_normals_is_1_163_standard_deviations_below_the_mean():
    """Sheet 6.2, by quadrature; and what an ensemble of normal members does."""
    k = 5
    expected, _ = quad(lambda u: u * k * norm.pdf(u) * norm.sf(u) ** (k - 1), -12, 12)
    assert expected == pytest.approx(-1.163, abs=5e-4)
    _, problem, _ = counted_data(np.zeros(1), replicas=4000)
    x = problem.table
    one = Contexts(x.phi[:, :1], x.log_pi0[:, :1])
    ensemble = RewardEnsemble(members(np.zeros(1), replicas=4000))
    gap = ensemble.min_reward().rewards(one) - 0.0
    centred = x.phi[0, 0] - np.exp(x.log_pi0[0, 0]) @ x.phi[0, 0]
    scale = np.linalg.norm(centred, axis=1)
    # Standard deviation of the minimum is .669, so the mean of 4000 has error .0106: 5 of them.
    np.testing.assert_allclose(gap.mean(axis=0)[0] / scale, expected, atol=0.053)


@pytest.mark.statistical
def test_bootstrap_weights_are_gamma_in_the_counts():
    """Kolmogorov-Smirnov on 2000 replicas; false alarm 1e-6 in each of two tests.

    Would notice a shape parameter off by a tenth.
    """
    data, _, _ = counted_data(np.zeros(1), replicas=2000, n=300)
    wins = np.zeros_like(data.wins) + np.array([7.0] + [0.0] * (data.wins.shape[1] - 1))
    count = np.zeros_like(wins) + np.array([10.0] + [0.0] * (wins.shape[1] - 1))
    weighted = bootstrap_weights(data.reweighted(count, wins), Key(0).child("weights"))
    assert kstest(weighted.wins[:, 0], "gamma", args=(7.0,)).pvalue > 1e-6
    assert kstest(weighted.count[:, 0], "gamma", args=(10.0,)).pvalue > 1e-6
    assert np.all(weighted.count[:, 1:] == 0)


def test_weights_belong_to_the_replica():
    data, _, _ = counted_data(np.zeros(1), replicas=5)
    key = Key(3).child("w")
    whole = bootstrap_weights(data, key)
    part = bootstrap_weights(data.reweighted(data.count[2:4], data.wins[2:4]), key.block(2))
    np.testing.assert_array_equal(part.wins, whole.wins[2:4])


@pytest.mark.statistical
def test_spread_of_the_members_is_the_inverse_fisher_information():
    """400 members of one fit against H^-1: each variance within 5 standard errors (35 %).

    The bootstrap variance has relative error sqrt(2 / 400) = .07; false alarm below 1e-6. At
    n = 4000 the first-order law is off by less than 5 %. Would notice a factor of two.
    """
    data, _, _ = counted_data(np.zeros(1), n=4000, replicas=1)
    fit = bradley_terry_mle(data)
    ensemble = bootstrap_ensemble(data, Key(1).child("ensemble"), n_members=400).require()
    spread = np.cov(ensemble.thetas[0].T)
    inverse = np.linalg.inv(fisher_information(fit.value, data.differences, data.count))[0]
    root = np.linalg.inv(np.linalg.cholesky(inverse))
    eigenvalues = np.linalg.eigvalsh(root @ spread @ root.T)
    assert np.all(np.abs(eigenvalues - 1.0) < 0.4)
    bias = ensemble.thetas[0].mean(axis=0) - fit.value[0]
    assert np.sqrt(bias @ np.linalg.solve(inverse, bias)) < 0.4


def test_libraries_agree(xp_like):
    here = bootstrap_ensemble(counted_data(np.zeros(1))[0], Key(0), ridge=0.1).require()
    there = bootstrap_ensemble(counted_data(xp_like)[0], Key(0), ridge=0.1).require()
    np.testing.assert_allclose(to_numpy(there.thetas), here.thetas, atol=1e-8)


def test_no_data_give_members_at_zero():
    data, problem, _ = counted_data(np.zeros(1), n=0)
    solution = bootstrap_ensemble(data, Key(0), n_members=3, ridge=1.0)
    assert np.all(solution.converged)
    np.testing.assert_array_equal(solution.value.thetas, 0.0)
    np.testing.assert_array_equal(solution.value.min_reward().rewards(problem.table), 0.0)


def test_separable_data_are_reported():
    data, _, _ = counted_data(np.zeros(1), n=2)
    assert not np.all(bootstrap_ensemble(data, Key(0), n_members=2).converged)
    assert np.all(bootstrap_ensemble(data, Key(0), n_members=2, bound=1.0).converged)


def test_bad_arguments_are_refused():
    data, _, _ = counted_data(np.zeros(1))
    with pytest.raises(ValueError, match="n_members must be at least 1"):
        bootstrap_ensemble(data, Key(0), n_members=0)
    ensemble = RewardEnsemble(np.zeros((2, 1, 3)))
    with pytest.raises(ValueError, match="ddof must be 0 or 1 and below"):
        ensemble.uncertainty_weighted(0.5, ddof=1)
    with pytest.raises(ValueError, match="weight must be finite"):
        ensemble.uncertainty_weighted(-1.0)
    with pytest.raises(ShapeError, match="thetas must have shape"):
        RewardEnsemble(np.zeros((2, 3)))
