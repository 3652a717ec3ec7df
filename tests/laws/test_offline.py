"""Identities that link offline learners, planners and bounds."""

from dataclasses import replace

import numpy as np
import pytest

from rlhf_theory.algorithms.offline_ensemble import EnsembleMinimum, UncertaintyWeighted
from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy, OfflinePessimistic
from rlhf_theory.arrays import to_numpy
from rlhf_theory.estimators.confidence import Constant, FixedDesign, Scaled
from rlhf_theory.evaluation.gaps import jeffreys
from rlhf_theory.evaluation.pessimism import expected_bound, pointwise_bound, reward_interval
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds import Bandit, linear
from tests.helpers.assembled import compared

LEARNERS = {
    "greedy": lambda bound: OfflineGreedy(theta_bound=bound),
    "I": lambda bound: OfflinePessimistic(
        radius=Scaled(FixedDesign(theta_bound=bound), 0.1), option="I"
    ),
    "II": lambda bound: OfflinePessimistic(radius=Scaled(FixedDesign(theta_bound=bound), 0.1)),
    "minimum": lambda bound: EnsembleMinimum(theta_bound=bound),
    "UWO": lambda bound: UncertaintyWeighted(theta_bound=bound),
}


def small(**settings):
    chosen = {"contexts": 3, "actions": 4, "dim": 3, "eta": 0.2, "replicas": 6, "seed": 5}
    return linear(**{**chosen, "reference": "dirichlet", **settings})


def log_probs(learner, world, data):
    plan = learner(world.problem, data, Key(1))
    return to_numpy(plan.require().log_probs(world.problem.table))


@pytest.mark.parametrize("option", ["I", "II"])
def test_pessimism_with_radius_zero_is_greed(option):
    world = small()
    data = world.offline_data(Key(0), 80)
    pessimist = OfflinePessimistic(radius=Constant(beta=0.0, lam=0.7), option=option)
    greedy = OfflineGreedy(lam=0.7)
    assert np.allclose(log_probs(pessimist, world, data), log_probs(greedy, world, data), atol=1e-9)
    none = Scaled(FixedDesign(theta_bound=0.8), 0.0)
    pessimist = OfflinePessimistic(radius=none, option=option)
    greedy = OfflineGreedy(theta_bound=0.8)
    assert np.allclose(log_probs(pessimist, world, data), log_probs(greedy, world, data), atol=1e-9)


def test_an_ensemble_of_one_without_noise_is_greed_in_the_limit():
    world = small()
    data = world.offline_data(Key(0), 10**7)
    # The bootstrap moves a member by O(n^-1/2).
    one = log_probs(EnsembleMinimum(n_members=1), world, data)
    assert np.allclose(one, log_probs(OfflineGreedy(), world, data), atol=0.05)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_constant_added_to_the_features_of_a_context_changes_nothing(name):
    world = small()
    rng = np.random.default_rng(0)
    p = world.problem
    shifted = replace(p, phi=p.phi + rng.normal(size=(1, 3, 1, 3)))
    moved = Bandit(
        name="shifted",
        problem=FiniteProblem(shifted.phi, p.log_pi0, p.weights, p.eta, p.n_replicas),
        oracle=BradleyTerry(LinearReward(world.theta_star)),
        reward=LinearReward(world.theta_star),
        theta_star=world.theta_star,
    )
    learner = LEARNERS[name](1.0)
    first = log_probs(learner, world, world.offline_data(Key(0), 60))
    second = log_probs(learner, moved, moved.offline_data(Key(0), 60))
    assert np.allclose(first, second, atol=1e-7)


@pytest.mark.parametrize("name", ["greedy", "I", "II", "minimum"])
def test_scaling_rewards_and_eta_together_changes_no_policy(name):
    # Rewards and eta halved, and a label scale of 2 that is known: the same labels.
    world = small()
    half = linear(
        contexts=3, actions=4, dim=3, eta=0.1, replicas=6, seed=5, reference="dirichlet",
        theta_norm=0.5, scale=2.0,
    )  # fmt: skip
    data, other = world.offline_data(Key(0), 60), half.offline_data(Key(0), 60)
    assert np.array_equal(to_numpy(data.wins), to_numpy(other.wins))
    scaled = {
        "greedy": OfflineGreedy(theta_bound=0.5, scale=2.0),
        # Rows count as s z: lambda is in units of their squares, beta in none.
        "I": OfflinePessimistic(radius=Constant(beta=0.5, lam=4.0, scale=2.0), option="I"),
        "II": OfflinePessimistic(radius=Constant(beta=0.5, lam=4.0, scale=2.0)),
        "minimum": EnsembleMinimum(theta_bound=0.5, scale=2.0),
    }
    plain = {
        "greedy": OfflineGreedy(theta_bound=1.0),
        "I": OfflinePessimistic(radius=Constant(beta=0.5), option="I"),
        "II": OfflinePessimistic(radius=Constant(beta=0.5)),
        "minimum": EnsembleMinimum(theta_bound=1.0),
    }
    assert np.allclose(
        log_probs(plain[name], world, data), log_probs(scaled[name], half, other), atol=1e-6
    )


def test_permuting_actions_permutes_policies():
    world = small()
    order = np.array([2, 0, 3, 1])
    p = world.problem
    problem = FiniteProblem(p.phi[:, :, order], p.log_pi0[:, :, order], p.weights, p.eta, 6)
    rng = np.random.default_rng(1)
    ids, a1, a2 = rng.integers(3, size=(6, 50)), *rng.integers(4, size=(2, 6, 50))
    y = rng.integers(2, size=(6, 50)).astype(float)
    rank = np.argsort(order)
    for learner in (LEARNERS["I"](1.0), LEARNERS["II"](1.0), LEARNERS["greedy"](1.0)):
        logs = []
        for where, first, second in ((p, a1, a2), (problem, rank[a1], rank[a2])):
            x = type(where.table).rows(where.table, ids)
            data = where.empty_data().add(compared(x, first, second, y))
            plan = learner(where, data, Key(1)).require()
            logs.append(to_numpy(plan.log_probs(where.table)))
        assert np.allclose(logs[0][:, :, order], logs[1], atol=1e-7)


def test_option_one_promises_no_more_than_option_two():
    """Jensen: the norm of a mean is at most the mean norm, for any comparator."""
    world = small()
    data = world.offline_data(Key(0), 50)
    rule = FixedDesign()
    confidence = rule.confidence_set(rule.fit(data), data)
    x, weights = world.population
    lower, upper = reward_interval(confidence, x)
    for log_pi in (world.log_pi_star, x.log_pi0):
        first = expected_bound(confidence, x, weights, log_pi)
        assert np.all(first <= pointwise_bound(lower, upper, weights, log_pi) + 1e-12)


@pytest.mark.parametrize("option", ["I", "II"])
def test_the_bound_holds_for_the_worst_truth_in_the_set(option):
    """theta* on the boundary of the ellipsoid: the theorem has no slack to hide a factor in."""
    world = small(replicas=40)
    data = world.offline_data(Key(2), 60)
    rule = Constant(beta=0.6)
    fit = rule.fit(data)
    confidence = rule.confidence_set(fit, data)
    x, weights = world.population
    plan = OfflinePessimistic(radius=rule, option=option)(world.problem, data, Key(1)).require()
    log_pi = plan.log_probs(x)
    directions = np.random.default_rng(0).normal(size=(40, 3))
    root = np.linalg.cholesky(to_numpy(confidence.sigma))
    step = np.linalg.solve(np.swapaxes(root, 1, 2), directions[..., None])[..., 0]
    step *= 0.6 / np.linalg.norm(directions, axis=-1, keepdims=True)
    for truth in (fit.value + step, fit.value - step):
        assert confidence.contains(truth).all()
        logits = x.log_pi0 + np.einsum("xad,rd->rxa", world.problem.phi[0], truth) / 0.2
        star = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        left = jeffreys(log_pi, star, weights, 0.2)
        if option == "I":
            right = expected_bound(confidence, x, weights, star)
        else:
            right = pointwise_bound(*reward_interval(confidence, x), weights, star)
        assert np.all(left <= right + 1e-9)
        assert left.max() > 0.0


def test_plans_and_fits_of_a_replica_do_not_depend_on_its_company():
    world = small()
    data = world.offline_data(Key(0), 60)
    for name in ("greedy", "I", "II"):
        learner = LEARNERS[name](1.0)
        whole = log_probs(learner, world, data)
        part = world.block(2, 3)
        alone = part.problem.empty_data().reweighted(data.count[2:3], data.wins[2:3])
        assert np.allclose(whole[2:3], log_probs(learner, part, alone), atol=1e-10)
