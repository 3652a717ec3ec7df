"""Reductions that link two learners, and invariances of whole runs."""

import dataclasses

import numpy as np
import pytest

from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy
from rlhf_theory.algorithms.nash_game import NashGame
from rlhf_theory.algorithms.offline_nash import OfflinePessimisticNash
from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy, OfflinePessimistic
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.experiments import run
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.planners.nash import nash_policy
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds import Bandit, linear

SMALL = {"contexts": 4, "actions": 3, "dim": 2, "eta": 0.3, "replicas": 4}


def world(**more):
    return linear(**{**SMALL, "reference": "dirichlet", **more})


def test_pessimistic_nash_with_radius_zero_is_the_equilibrium_of_the_estimate():
    w, rule = world(), Constant(beta=0.0)
    data = w.offline_data(Key(1), 40)
    pessimist = OfflinePessimisticNash(radius=rule)(w.problem, data, Key(0))
    learner = NashGame(radius=rule)
    plain = learner.policy(learner.init(w.problem, data, Key(0)))
    x = w.problem.table
    got, want = np.exp(pessimist.value.log_probs(x)), np.exp(plain.log_probs(x))
    np.testing.assert_allclose(got, want, atol=1e-7)


def test_a_hybrid_without_offline_data_is_the_online_learner():
    learner = OnlineIterative(enhancer=FromReference(), batch_size=6)
    covering = dataclasses.replace(world(), behaviour=0.5)
    hybrid = run(learner, covering, rounds=3, seed=1, offline_pairs=0)
    online = run(learner, world(), rounds=3, seed=1)
    for name, value in online.arrays.items():
        np.testing.assert_array_equal(hybrid[name], value)


def test_before_any_round_an_online_learner_is_the_greedy_offline_one():
    # Same data: the offline pairs of an online run are those of `World.offline_data`.
    w, rule = world(), Constant(beta=1.0, lam=1.0)
    online = run(OnlineIterative(radius=rule), w, rounds=0, seed=1, offline_pairs=50)
    data = w.offline_data(Key(1).child("offline"), 50)
    plan = OfflineGreedy(lam=1.0)(w.problem, data, Key(0))
    np.testing.assert_allclose(online["gap"][:, 0], w.evaluate(plan.value)["gap"], atol=1e-10)


def test_an_enhancer_that_is_the_reference_is_on_policy_while_nothing_is_known():
    # The first batch: pi1 = pi0, so the two enhancers draw the same pairs.
    one, two = (
        run(OnlineIterative(enhancer=e, batch_size=6), world(), rounds=1, seed=1)
        for e in (FromReference(), OnPolicy())
    )
    np.testing.assert_allclose(one["gap"], two["gap"], atol=1e-12)


def test_under_bradley_terry_truth_the_equilibrium_is_the_gibbs_policy(xp_like):
    rng = np.random.default_rng(0)
    r = as_like(rng.normal(size=(3, 4, 5)), xp_like)
    lp0 = as_like(np.log(rng.dirichlet(np.ones(5), size=(1, 4))), xp_like)
    payoff = r[..., :, None] - r[..., None, :]
    for eta in (0.05, 0.5):
        nash = nash_policy(payoff, lp0, eta).require()
        gibbs = gibbs_log_probs(r, lp0, eta)
        np.testing.assert_allclose(np.exp(to_numpy(nash)), np.exp(to_numpy(gibbs)), atol=1e-8)


def shifted(w, phi=None, eta=None, scale=1.0, theta=None):
    """The same world with other features or units."""
    theta = w.theta_star if theta is None else theta
    problem = FiniteProblem(
        w.problem.phi if phi is None else phi, w.problem.log_pi0, w.problem.weights,
        w.problem.eta if eta is None else eta, w.n_replicas,
    )  # fmt: skip
    reward = LinearReward(theta)
    return Bandit(
        name=w.name, problem=problem, oracle=BradleyTerry(reward, scale), reward=reward,
        theta_star=theta, settings={},
    )  # fmt: skip


LEARNERS = {
    "online": (OnlineIterative(enhancer=FromReference(), batch_size=6), {"rounds": 3}),
    "greedy": (OfflineGreedy(), {"pairs": [5, 60]}),
    "pessimistic-II": (OfflinePessimistic(radius=Constant(beta=0.5)), {"pairs": [5, 60]}),
    "pessimistic-I": (
        OfflinePessimistic(radius=Constant(beta=0.5), option="I"),
        {"pairs": [5, 60]},
    ),
}


@pytest.fixture(params=LEARNERS)
def case(request):
    return LEARNERS[request.param]


def test_a_constant_feature_vector_per_context_changes_no_run(case):
    # phi + b(x) shifts rewards by a constant per context, which comparisons cannot see.
    learner, options = case
    w = world()
    shift = np.random.default_rng(0).normal(size=(1, 4, 1, 2))
    one = run(learner, shifted(w), seed=1, **options)
    two = run(learner, shifted(w, phi=w.problem.phi + 3.0 * shift), seed=1, **options)
    for name in ("gap", "kl", "jeffreys"):
        np.testing.assert_allclose(two[name], one[name], atol=1e-7)


def test_rotated_features_change_no_run(case):
    learner, options = case
    w = world()
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(2, 2)))
    one = run(learner, shifted(w), seed=1, **options)
    turned = shifted(w, phi=w.problem.phi @ turn, theta=w.theta_star @ turn)
    two = run(learner, turned, seed=1, **options)
    for name in ("gap", "kl", "jeffreys"):
        np.testing.assert_allclose(two[name], one[name], atol=1e-7)


def test_rewards_in_other_units_scale_the_gap():
    # theta* -> theta*/k with label scale k: the same labels; eta/k: the same optimum; gaps / k.
    # The learner is told the scale and keeps its prior on s theta: lambda k^2.
    w, k = world(), 4.0
    one = run(OfflineGreedy(lam=0.5), shifted(w), pairs=[20, 60], seed=1)
    small = shifted(w, theta=w.theta_star / k, eta=w.problem.eta / k, scale=k)
    two = run(OfflineGreedy(lam=0.5 * k**2, scale=k), small, pairs=[20, 60], seed=1)
    np.testing.assert_allclose(k * two["gap"], one["gap"], rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(two["kl"], one["kl"], atol=1e-7)
