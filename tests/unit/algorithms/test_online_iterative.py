import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.oracles import feedback_from
from rlhf_theory.randomness import Key
from rlhf_theory.worlds import linear
from tests.helpers import reference


def pick(probs, u):
    """The first action whose cumulated probability exceeds u."""
    total = 0.0
    for a, p in enumerate(probs):
        total += p
        if u < total:
            return a
    return len(probs) - 1


def script(world, r, rounds, batch, lam, seed, on_policy):
    """What a paper would ship: one seed, loops over comparisons, a refit by scikit-learn.

    Meets the same uniforms as the learner; the label is 1 iff u < sigma(<theta*, z>).
    """
    phi, pi0 = world.problem.phi[0], np.exp(world.problem.log_pi0[0])
    theta_star, eta = world.theta_star[0], world.problem.eta
    n_contexts, d = phi.shape[0], phi.shape[2]
    rows, labels, theta = [], [], np.zeros(d)
    for t in range(rounds):
        key = Key(seed).child("round", t)
        u = {
            k: key.child(k).uniform_numpy(r + 1, batch)[r]
            for k in ("contexts", "a1", "a2", "labels")
        }
        for i in range(batch):
            x = min(int(u["contexts"][i] * n_contexts), n_contexts - 1)
            main = reference.gibbs(phi[x] @ theta, pi0[x], eta)
            a1 = pick(main, u["a1"][i])
            a2 = pick(main if on_policy else pi0[x], u["a2"][i])
            if a1 == a2:
                continue
            z = phi[x, a1] - phi[x, a2]
            rows.append(z)
            labels.append(u["labels"][i] < 1 / (1 + math.exp(-float(z @ theta_star))))
        if len(set(labels)) == 2:
            fit = LogisticRegression(
                C=1 / lam, fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=300
            ).fit(np.array(rows), np.array(labels))
            theta = fit.coef_[0]
        else:  # scikit-learn refuses one class: count both classes, one of them with weight 0
            both = np.concatenate([rows, rows])
            y = np.repeat([1, 0], len(rows))
            weight = np.concatenate([labels, 1 - np.array(labels, dtype=float)])
            theta = (
                LogisticRegression(
                    C=1 / lam,
                    fit_intercept=False,
                    solver="newton-cholesky",
                    tol=1e-12,
                    max_iter=300,
                )
                .fit(both, y, sample_weight=weight)
                .coef_[0]
            )
    return theta, len(rows)


@pytest.mark.parametrize("on_policy", [False, True])
def test_a_run_is_the_script_that_a_paper_would_ship(on_policy):
    world = linear(contexts=4, actions=4, dim=3, replicas=3, eta=0.3, reference="dirichlet")
    enhancer = OnPolicy() if on_policy else FromReference()
    learner = OnlineIterative(enhancer=enhancer, radius=Constant(beta=1.0, lam=0.5), batch_size=7)
    state = learner.init(world.problem, world.problem.empty_data(), Key(3).child("init"))
    for t in range(6):
        key = Key(3).child("round", t)
        state, _ = learner.step(state, world.problem, feedback_from(world.oracle), key)
    for r in range(3):
        theta, n = script(world, r, 6, 7, 0.5, 3, on_policy)
        np.testing.assert_allclose(state.fit.value[r], theta, atol=1e-6)
        assert state.data.n_labels[r] == n
        x = world.problem.table
        played = np.exp(learner.policy(state).log_probs(x)[r])
        for c in range(4):
            want = reference.gibbs(
                world.problem.phi[0, c] @ theta, np.exp(x.log_pi0[0, c]), world.problem.eta
            )
            np.testing.assert_allclose(played[c], want, atol=1e-5)


def test_the_enhancer_is_told_the_main_agent_and_the_confidence_set():
    world = linear(contexts=4, actions=3, dim=2, replicas=2)
    told = []

    class Spy:
        def __call__(self, problem, pi1, confidence, key):
            told.append((pi1, confidence))
            return pi1

    learner = OnlineIterative(enhancer=Spy(), radius=Constant(beta=0.7, lam=2.0), batch_size=4)
    state = learner.init(world.problem, world.offline_data(Key(1), 20), Key(0))
    learner.step(state, world.problem, feedback_from(world.oracle), Key(2))
    pi1, confidence = told[0]
    assert pi1 is state.plan.value
    # Sigma = lambda I + sum z z^T, unnormalised, over all data so far.
    z = reference.difference_rows(world.problem.phi)
    sigma = 2.0 * np.eye(2) + reference.gram(z, state.data.count)
    np.testing.assert_allclose(confidence.sigma, sigma, rtol=1e-10)
    np.testing.assert_allclose(confidence.beta, 0.7)
    np.testing.assert_allclose(confidence.center, state.fit.value)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_that_is_not_positive_raises(batch_size):
    with pytest.raises(ValueError, match="batch_size must be positive"):
        OnlineIterative(batch_size=batch_size)
