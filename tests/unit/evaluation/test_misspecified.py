import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_theory import worlds
from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.evaluation.misspecified import expected_comparisons, self_consistent_fit
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.problems import FiniteProblem


def world(cycle=0.5, replicas=2, **changes):
    settings = {"contexts": 3, "actions": 4, "dim": 2, "eta": 0.3, "reference": "dirichlet"}
    return worlds.intransitive(cycle=cycle, **{**settings, **changes}, replicas=replicas)


def test_expected_comparisons_are_the_law_of_one_label(xp_like):
    w = world().to(xp_like)
    rng = np.random.default_rng(0)
    p1, p2 = rng.dirichlet(np.ones(4), size=(2, 2, 3))
    data = expected_comparisons(
        w.problem, w.preferences, *(as_like(np.log(p), xp_like) for p in (p1, p2))
    )
    count, wins = to_numpy(data.count), to_numpy(data.wins)
    prob = to_numpy(w.preferences)[0]
    row = 0
    for x in range(3):
        for i in range(4):
            for j in range(i + 1, 4):
                chance = (p1[:, x, i] * p2[:, x, j] + p1[:, x, j] * p2[:, x, i]) / 3.0
                np.testing.assert_allclose(count[:, row], chance, rtol=1e-12)
                np.testing.assert_allclose(wins[:, row], chance * prob[x, i, j], rtol=1e-12)
                row += 1
    same = np.sum(p1 * p2, axis=-1).mean(axis=-1)
    np.testing.assert_allclose(count.sum(axis=-1), 1.0 - same, rtol=1e-12)


@pytest.mark.parametrize("second", [None, ReferencePolicy()])
def test_the_fit_is_the_best_for_the_comparisons_that_it_asks_for(second):
    w = world()
    found = self_consistent_fit(w.problem, w.preferences, second)
    theta = found.require()[0]
    phi, prob = w.problem.phi[0], w.preferences[0]
    rewards = phi @ theta
    p1 = np.exp(gibbs_log_probs(rewards[None], w.problem.log_pi0, w.problem.eta))[0]
    p2 = p1 if second is None else np.exp(w.problem.log_pi0)[0]

    # The expected log-loss of comparisons from the law of the fit, over all ordered pairs.
    def loss(t):
        r = phi @ t
        u = r[:, :, None] - r[:, None, :]
        nll = prob * np.logaddexp(0.0, -u) + (1.0 - prob) * np.logaddexp(0.0, u)
        return np.sum(p1[:, :, None] * p2[:, None, :] * nll) / 3.0

    best = minimize(loss, np.zeros(2), options={"gtol": 1e-10})
    np.testing.assert_allclose(theta, best.x, atol=1e-5)


def test_the_truth_is_found_where_a_reward_explains_the_preference(xp_like):
    w = world(cycle=0.0, dim=3).to(xp_like)
    found = self_consistent_fit(w.problem, w.preferences, ReferencePolicy())
    want = to_numpy(w.theta_star)[:, :3]
    np.testing.assert_allclose(-to_numpy(found.require()), np.repeat(want, 2, axis=0), atol=1e-8)


def test_a_fit_that_is_not_there_yet_says_so():
    w = world()
    found = self_consistent_fit(w.problem, w.preferences, max_iter=1)
    assert not found.converged.any()
    assert "may cycle" in found.message


def test_replicas_do_not_depend_on_their_company():
    w = world(cycle=1.0, instances="own", replicas=3)
    together = self_consistent_fit(w.problem, w.preferences, ReferencePolicy()).require()
    for r in range(3):
        alone = w.block(r, r + 1)
        fit = self_consistent_fit(alone.problem, alone.preferences, ReferencePolicy())
        np.testing.assert_allclose(fit.require()[0], together[r], atol=1e-9)


def test_a_problem_of_many_pairs_has_expected_comparisons_too():
    phi = np.zeros((1, 2, 100, 1))
    log_pi0 = np.full((1, 2, 100), -np.log(100.0))
    problem = FiniteProblem(phi, log_pi0, np.full((1, 2), 0.5), 1.0, 1)
    data = expected_comparisons(problem, np.full((1, 2, 100, 100), 0.5), log_pi0, log_pi0)
    np.testing.assert_allclose(data.count, np.full((1, 9900), 0.99 / 9900), rtol=1e-12)
    np.testing.assert_allclose(data.wins, 0.5 * data.count, rtol=1e-12)
