from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.planners.option_one import ExpectedLowerBound, OptionOne
from rlhf_theory.policies import TablePolicy, uniform_log_probs
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.randomness import Key


@dataclass
class Ellipsoid:
    center: Any
    sigma: Any
    beta: Any


class Uniform:
    def log_probs(self, contexts):
        return uniform_log_probs(contexts.log_pi0)


def instance(seed, replicas=3, contexts=2, actions=3, dim=2, eta=0.3, beta=0.4, shared=True):
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(1 if shared else replicas, contexts, actions, dim))
    log_pi0 = np.log(rng.dirichlet(np.ones(actions), size=(1, contexts)))
    weights = rng.dirichlet(np.ones(contexts), size=1)
    z = rng.normal(size=(replicas, 6, dim)) * np.linspace(0.4, 1.5, dim)
    sigma = 0.5 * np.eye(dim) + np.swapaxes(z, 1, 2) @ z
    center = rng.normal(size=(replicas, dim))
    problem = FiniteProblem(phi, log_pi0, weights, eta, replicas)
    return problem, Ellipsoid(center, sigma, np.full(replicas, beta))


def primal(pi, problem, confidence, r, nu):
    """The objective of Option I, straight from its definition."""
    phi = problem.phi[r if problem.phi.shape[0] > 1 else 0]
    pi0, w = np.exp(problem.log_pi0[0]), problem.weights[0]
    v = np.einsum("x,xa,xad->d", w, pi, phi) - nu
    norm = np.sqrt(v @ np.linalg.solve(confidence.sigma[r], v))
    ratio = np.log(np.where(pi > 0, pi, 1.0) / np.where(pi0 > 0, pi0, 1.0))
    kl = np.sum(w[:, None] * pi * ratio)
    return confidence.center[r] @ v - confidence.beta[r] * norm - problem.eta * kl


def mean_reference(problem, r, reference=None):
    phi = problem.phi[r if problem.phi.shape[0] > 1 else 0]
    pi = np.exp(problem.log_pi0[0]) if reference is None else reference
    return np.einsum("x,xa,xad->d", problem.weights[0], pi, phi)


@pytest.mark.parametrize("beta", [0.0, 0.2, 1.0, 2.5])
def test_option_one_agrees_with_slsqp_on_policies(beta):
    problem, confidence = instance(1, beta=beta)
    plan = OptionOne()(ExpectedLowerBound(confidence), problem, Key(0))
    log_pi = plan.require().log_probs(problem.table)
    x, a = problem.phi.shape[1:3]
    for r in range(3):
        nu = mean_reference(problem, r)
        value = primal(np.exp(log_pi[r]), problem, confidence, r, nu)
        best = -np.inf
        # The kink stops a plain search on policies, so several starts; none may find more.
        for seed in range(4):
            start = np.random.default_rng(seed).dirichlet(np.ones(a), size=x)
            found = minimize(
                lambda p, r=r, nu=nu: -primal(np.abs(p.reshape(x, a)), problem, confidence, r, nu),
                start.ravel(),
                method="SLSQP",
                bounds=[(1e-9, 1.0)] * (x * a),
                constraints={
                    "type": "eq",
                    "fun": lambda p: p.reshape(x, a).sum(axis=1) - 1.0,
                },
                options={"ftol": 1e-13, "maxiter": 500},
            )
            # At the kink SLSQP may give up, on some processors from every start; where it ends is a
            # policy all the same.
            policy = np.clip(found.x.reshape(x, a), 0.0, None)
            policy /= policy.sum(axis=1, keepdims=True)
            best = max(best, primal(policy, problem, confidence, r, nu))
        assert best <= value + 1e-8
        # Kinks and all: SLSQP itself stops short of the optimum there, by up to 1e-3.
        assert best >= value - (1e-5 if abs(value) > 1e-10 else 1e-3)


@pytest.mark.parametrize("eta", [3.0, 0.1, 0.01])
@pytest.mark.parametrize("beta", [0.05, 0.7, 3.0])
def test_primal_equals_dual(eta, beta):
    problem, confidence = instance(2, replicas=16, contexts=5, actions=4, dim=3, eta=eta, beta=beta)
    plan = OptionOne()(ExpectedLowerBound(confidence), problem, Key(0))
    log_pi, theta = plan.require().log_probs(problem.table), plan.warm
    pi0, w = np.exp(problem.log_pi0[0]), problem.weights[0]
    for r in range(16):
        nu = mean_reference(problem, r)
        tilt = problem.phi[0] @ theta[r] / eta
        top = tilt.max(axis=1)
        log_z = np.log(np.sum(pi0 * np.exp(tilt - top[:, None]), axis=1)) + top
        dual = eta * np.sum(w * log_z) - theta[r] @ nu
        value = primal(np.exp(log_pi[r]), problem, confidence, r, nu)
        # Weak duality holds for every feasible theta, so this certifies both.
        gap = theta[r] - confidence.center[r]
        assert gap @ confidence.sigma[r] @ gap <= confidence.beta[r] ** 2 * (1 + 1e-12)
        assert dual - value == pytest.approx(0.0, abs=2e-10)


def test_runs_alike_on_every_array_library(xp_like):
    problem, confidence = instance(3, replicas=2)
    expected = OptionOne()(ExpectedLowerBound(confidence), problem, Key(0))
    moved = FiniteProblem(
        *(as_like(v, xp_like) for v in (problem.phi, problem.log_pi0, problem.weights)),
        problem.eta,
        2,
    )
    set_ = Ellipsoid(
        *(as_like(v, xp_like) for v in (confidence.center, confidence.sigma, confidence.beta))
    )
    plan = OptionOne()(ExpectedLowerBound(set_), moved, Key(0))
    assert np.allclose(
        to_numpy(plan.value.log_probs(moved.table)),
        expected.value.log_probs(problem.table),
        atol=1e-9,
    )


def test_radius_zero_is_the_gibbs_policy_of_the_centre():
    problem, confidence = instance(4, beta=0.0)
    plan = OptionOne()(ExpectedLowerBound(confidence), problem, Key(0))
    rewards = np.einsum("xad,rd->rxa", problem.phi[0], confidence.center)
    gibbs = gibbs_log_probs(rewards, problem.log_pi0, problem.eta)
    assert np.allclose(plan.value.log_probs(problem.table), gibbs, atol=1e-12)
    assert np.all(to_numpy(plan.residual) == 0.0)


def test_centre_within_the_radius_gives_the_reference_policy():
    problem, confidence = instance(5, replicas=8)
    norm = np.sqrt(
        np.einsum("ri,rij,rj->r", confidence.center, confidence.sigma, confidence.center)
    )
    inside = Ellipsoid(confidence.center, confidence.sigma, norm * 1.0001)
    plan = OptionOne()(ExpectedLowerBound(inside), problem, Key(0))
    pi0 = np.broadcast_to(problem.log_pi0, (8, 2, 3))
    assert np.allclose(plan.require().log_probs(problem.table), pi0, atol=1e-11)
    outside = Ellipsoid(confidence.center, confidence.sigma, norm * 0.9)
    plan = OptionOne()(ExpectedLowerBound(outside), problem, Key(0))
    assert np.all(np.abs(plan.require().log_probs(problem.table) - pi0).max(axis=(1, 2)) > 1e-3)


def test_another_reference_moves_the_kink():
    problem, confidence = instance(6, replicas=4, beta=50.0)
    model = ExpectedLowerBound(confidence, Uniform())
    plan = OptionOne()(model, problem, Key(0))
    pi = np.exp(plan.require().log_probs(problem.table))
    uniform = np.full((2, 3), 1.0 / 3.0)
    phi, w = problem.phi[0], problem.weights[0]
    # So large a radius forces the mean feature onto nu, at the least KL from pi0.
    for r in range(4):
        v = np.einsum("x,xa,xad->d", w, pi[r] - uniform, phi)
        assert np.allclose(v, 0.0, atol=1e-10)
        nu = mean_reference(problem, r, uniform)
        assert primal(pi[r], problem, confidence, r, nu) >= primal(
            uniform, problem, confidence, r, nu
        )


def test_a_replica_alone_equals_the_same_replica_in_a_block():
    problem, confidence = instance(7, replicas=6, contexts=4, actions=5, dim=3, beta=0.9)
    block = OptionOne()(ExpectedLowerBound(confidence), problem, Key(0))
    alone = Ellipsoid(confidence.center[2:3], confidence.sigma[2:3], confidence.beta[2:3])
    one = OptionOne()(ExpectedLowerBound(alone), problem.block(2, 3), Key(0))
    assert np.allclose(one.warm, block.warm[2:3], atol=1e-10)


def test_rewards_that_no_parameter_moves_cost_no_radius():
    # A constant feature and a repeated one: the policy is that of the reduced problem.
    problem, confidence = instance(8, replicas=3, contexts=3, actions=4, dim=2, beta=0.5)
    wide = np.concatenate([problem.phi, np.ones((1, 3, 4, 1))], axis=-1)
    sigma = np.zeros((3, 3, 3))
    sigma[:, :2, :2], sigma[:, 2, 2] = confidence.sigma, 0.5
    center = np.concatenate([confidence.center, np.full((3, 1), 7.0)], axis=-1)
    more = FiniteProblem(wide, problem.log_pi0, problem.weights, problem.eta, 3)
    small = OptionOne()(ExpectedLowerBound(confidence), problem, Key(0))
    large = OptionOne()(ExpectedLowerBound(Ellipsoid(center, sigma, confidence.beta)), more, Key(0))
    assert np.allclose(
        small.require().log_probs(problem.table),
        large.require().log_probs(more.table),
        atol=1e-9,
    )


def test_one_action_and_absent_actions():
    problem, confidence = instance(9, actions=1)
    plan = OptionOne()(ExpectedLowerBound(confidence), problem, Key(0))
    assert np.allclose(plan.require().log_probs(problem.table), 0.0)
    problem, confidence = instance(9, actions=3)
    log_pi0 = np.log(
        np.array([[[0.5, 0.5, 0.0], [0.2, 0.0, 0.8]]]) + 0.0,
        where=[[[True, True, False], [True, False, True]]],
        out=np.full((1, 2, 3), -np.inf),
    )
    holes = FiniteProblem(problem.phi, log_pi0, problem.weights, 0.3, 3)
    log_pi = (
        OptionOne()(ExpectedLowerBound(confidence), holes, Key(0)).require().log_probs(holes.table)
    )
    assert np.all(np.isneginf(log_pi[:, 0, 2]))
    assert np.all(np.isneginf(log_pi[:, 1, 1]))
    assert np.allclose(np.exp(log_pi).sum(axis=-1), 1.0)


def test_fresh_contexts_use_a_sample_of_the_population():
    table = instance(10, replicas=2, contexts=1, actions=3, dim=2)[0].phi

    def draw(key, rows, n):
        u = key.uniform_numpy(rows, n)
        return table * (1.0 + u[..., None, None]), np.zeros((rows, n, 3))

    problem = FreshProblem(draw, 2, 0.3, 2, np.zeros(1))
    confidence = Ellipsoid(np.ones((2, 2)), np.broadcast_to(np.eye(2), (2, 2, 2)), np.full(2, 0.3))
    plan = OptionOne(n_contexts=64)(ExpectedLowerBound(confidence), problem, Key(0))
    x = problem.sample_contexts(Key(1), 5)
    assert np.allclose(np.exp(plan.require().log_probs(x)).sum(axis=-1), 1.0)


def test_few_iterations_are_reported_as_not_converged():
    problem, confidence = instance(11, contexts=6, actions=6, dim=4, eta=0.001, beta=0.5)
    plan = OptionOne(max_iter=1)(ExpectedLowerBound(confidence), problem, Key(0))
    assert "max_iter" in plan.message
    with pytest.raises(ValueError, match="tol"):
        OptionOne(tol=0.0)


def test_a_table_policy_comes_out_for_finite_contexts():
    problem, confidence = instance(12)
    plan = OptionOne()(ExpectedLowerBound(confidence), problem, Key(0))
    assert isinstance(plan.value, TablePolicy)
