"""The exact identities of the theory sheet, section 0.3."""

import numpy as np
import pytest
from scipy.integrate import quad

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.estimators.mle import bradley_terry_mle, neg_log_likelihood
from rlhf_theory.evaluation.gaps import jeffreys, mean_kl, objective, over_contexts, suboptimality
from rlhf_theory.planners.gibbs import gibbs_log_probs, log_partition
from rlhf_theory.policies import expectation
from tests.helpers.labelled import counted_data
from tests.helpers.small import log

ETAS = [0.03, 0.3, 3.0]


def instance(like, seed=0, absent=True, r=3, x=4, a=5):
    """Random rewards (true and fitted), reference, weights and a random policy."""
    rng = np.random.default_rng(seed)
    p0, pi = rng.dirichlet(np.ones(a), size=(1, x)), rng.dirichlet(0.5 * np.ones(a), size=(r, x))
    if absent:
        p0[:, 1, 2] = pi[:, 1, 2] = p0[:, 3, 0] = pi[:, 3, 0] = 0.0
        p0, pi = p0 / p0.sum(axis=-1, keepdims=True), pi / pi.sum(axis=-1, keepdims=True)
    values = (
        rng.normal(size=(r, x, a)), rng.normal(size=(r, x, a)), log(p0),
        rng.dirichlet(np.ones(x), size=1), log(pi),
    )  # fmt: skip
    return tuple(as_like(v, like) for v in values)


@pytest.mark.parametrize("eta", ETAS)
def test_i1_the_gap_is_a_kl(xp_like, eta):
    # J(pi*) - J(pi) = eta E KL(pi || pi*), for every pi.
    r, _, lp0, w, pi = instance(xp_like)
    star = gibbs_log_probs(r, lp0, eta)
    for other in (pi, lp0, star):
        left = objective(star, r, lp0, w, eta) - objective(other, r, lp0, w, eta)
        right = suboptimality(other, star, w, eta)
        np.testing.assert_allclose(to_numpy(right), to_numpy(left), atol=1e-10)


@pytest.mark.parametrize("eta", ETAS)
def test_i2_any_policy_against_a_plan_for_another_reward(xp_like, eta):
    # J(pi) - J(pihat) + eta KL(pi || pihat) = E_pi[r* - rhat] - E_pihat[r* - rhat].
    r, rhat, lp0, w, pi = instance(xp_like)
    hat = gibbs_log_probs(rhat, lp0, eta)
    for other in (pi, lp0, gibbs_log_probs(r, lp0, eta)):
        left = objective(other, r, lp0, w, eta) - objective(hat, r, lp0, w, eta)
        left = left + eta * mean_kl(other, hat, w)
        right = over_contexts(expectation(other, r - rhat) - expectation(hat, r - rhat), w)
        np.testing.assert_allclose(to_numpy(left), to_numpy(right), atol=1e-10)


@pytest.mark.parametrize("eta", ETAS)
def test_i2_at_the_optimum_is_the_jeffreys_divergence(xp_like, eta):
    r, rhat, lp0, w, _ = instance(xp_like)
    star, hat = gibbs_log_probs(r, lp0, eta), gibbs_log_probs(rhat, lp0, eta)
    left = to_numpy(jeffreys(hat, star, w, eta))
    both = eta * (mean_kl(hat, star, w) + mean_kl(star, hat, w))
    right = over_contexts(expectation(star, r - rhat) - expectation(hat, r - rhat), w)
    np.testing.assert_allclose(left, to_numpy(both), rtol=1e-12)
    np.testing.assert_allclose(left, to_numpy(right), atol=1e-10)


@pytest.mark.parametrize("eta", ETAS)
def test_i3_the_gap_is_an_integral_of_variances(eta):
    # J(pi*) - J(pihat) = (1/eta) E Int_0^1 s Var_{pi_s}(Delta) ds, with
    # pi_s ~ pi0 exp((r* + s Delta) / eta).
    r, rhat, lp0, w, _ = instance(np.zeros(1))
    star, hat = gibbs_log_probs(r, lp0, eta), gibbs_log_probs(rhat, lp0, eta)
    gap, delta = suboptimality(hat, star, w, eta), rhat - r

    def slope(s, k):
        p = np.exp(gibbs_log_probs(r + s * delta, lp0, eta))[k]
        d = delta[k]
        variance = (p * d**2).sum(axis=-1) - (p * d).sum(axis=-1) ** 2
        return s * float((w[0] * variance).sum()) / eta

    for k in range(3):
        total, error = quad(slope, 0.0, 1.0, args=(k,), epsabs=1e-12, epsrel=1e-12, limit=200)
        assert error < 1e-9
        np.testing.assert_allclose(gap[k], total, rtol=1e-8)
        bound = max(slope(s, k) / s for s in np.linspace(1e-6, 1.0, 400)) / 2
        assert gap[k] <= bound * (1 + 1e-3)


@pytest.mark.parametrize("eta", ETAS)
def test_i5_the_value_of_the_best_policy_is_the_log_partition(xp_like, eta):
    r, _, lp0, w, _ = instance(xp_like)
    best = objective(gibbs_log_probs(r, lp0, eta), r, lp0, w, eta)
    value = over_contexts(log_partition(r, lp0, eta), w)
    np.testing.assert_allclose(to_numpy(best), to_numpy(value), atol=1e-10)


@pytest.mark.parametrize("eta", ETAS)
def test_i5_a_constant_per_context_changes_no_policy(xp_like, eta):
    r, _, lp0, w, pi = instance(xp_like)
    shift = as_like(np.array([[[5.0], [-300.0], [0.1], [1e3]]]), xp_like)
    one, two = gibbs_log_probs(r, lp0, eta), gibbs_log_probs(r + shift, lp0, eta)
    # Adding 1e3 and dividing by eta costs 1e3 / eta roundings.
    within = 1e-12 / eta
    np.testing.assert_allclose(np.exp(to_numpy(two)), np.exp(to_numpy(one)), atol=within)
    gaps = [suboptimality(pi, star, w, eta) for star in (one, two)]
    np.testing.assert_allclose(to_numpy(gaps[1]), to_numpy(gaps[0]), atol=1e-10)


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_scaling_rewards_and_eta_together_changes_no_policy(xp_like, factor):
    r, _, lp0, w, pi = instance(xp_like)
    one, two = gibbs_log_probs(r, lp0, 0.3), gibbs_log_probs(factor * r, lp0, factor * 0.3)
    np.testing.assert_allclose(np.exp(to_numpy(two)), np.exp(to_numpy(one)), rtol=1e-12)
    gaps = suboptimality(pi, one, w, 0.3), suboptimality(pi, two, w, factor * 0.3)
    np.testing.assert_allclose(to_numpy(gaps[1]), factor * to_numpy(gaps[0]), rtol=1e-12)


def test_permuting_actions_permutes_policies(xp_like):
    r, _, lp0, _, _ = instance(xp_like)
    order = np.array([3, 0, 4, 1, 2])
    there = [as_like(to_numpy(v)[..., order], xp_like) for v in (r, lp0)]
    moved = to_numpy(gibbs_log_probs(*there, 0.3))
    want = to_numpy(gibbs_log_probs(r, lp0, 0.3))[..., order]
    np.testing.assert_allclose(np.exp(moved), np.exp(want), rtol=1e-12)


def test_i6_the_direct_loss_of_a_gibbs_policy_is_the_bradley_terry_loss(xp_like):
    # -sum log sigma(eta (log pi/pi0 (winner) - log pi/pi0 (loser))) for pi = O(<theta, phi>) is the
    # likelihood of theta, so the minimiser of one is the plan for the minimiser of the other.
    data, problem, _ = counted_data(xp_like)
    eta, lp0 = problem.eta, to_numpy(problem.log_pi0)
    phi, count, wins = (to_numpy(v) for v in (problem.phi, data.count, data.wins))
    i, j = np.triu_indices(phi.shape[2], k=1)

    def direct(theta):
        rewards = as_like(np.einsum("oxad,rd->rxa", phi, theta), xp_like)
        log_pi = to_numpy(gibbs_log_probs(rewards, problem.log_pi0, eta))
        ratio = eta * (log_pi - lp0)
        u = (ratio[..., i] - ratio[..., j]).reshape(count.shape)
        return (wins * np.logaddexp(0, -u) + (count - wins) * np.logaddexp(0, u)).sum(axis=-1)

    theta = np.random.default_rng(0).normal(size=(3, 3))
    likelihood = neg_log_likelihood(
        as_like(theta, xp_like), data.differences, data.count, data.wins
    )
    np.testing.assert_allclose(direct(theta), to_numpy(likelihood), rtol=1e-11)
    best = to_numpy(bradley_terry_mle(data, ridge=0.0).value)
    for step in np.random.default_rng(1).normal(size=(5, 3, 3)):
        assert (direct(best) <= direct(best + 0.01 * step) + 1e-9).all()
