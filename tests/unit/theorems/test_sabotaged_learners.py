from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rlhf_theory.algorithms.offline_pessimistic import LowerBound, OfflineGreedy, OfflinePessimistic
from rlhf_theory.arrays import inner, to_numpy
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.features import centred
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.sabotaged_learners import (
    UpperBound,
    bonus_flipped,
    misread,
    plans_chi_squared,
    plans_with,
    plays_the_worst,
)
from rlhf_theory.worlds import linear


def test_labels_that_are_misread():
    world = linear(replicas=3, seed=1)
    data = world.offline_data(Key(2), 400)
    assert misread(data, 0.0) is data

    def theta(share):
        return to_numpy(bradley_terry_mle(misread(data, share), ridge=0.1).require())

    # Winners for losers: the opposite reward; a half: none at all.
    assert_allclose(theta(1.0), -theta(0.0), atol=1e-8)
    assert_allclose(theta(0.5), 0.0, atol=1e-12)
    # A share s of labels turns a frequency p of wins into p + s (1 - 2p).
    share, count, wins = 0.05, to_numpy(data.count), to_numpy(data.wins)
    p = np.divide(wins, count, out=np.zeros_like(wins), where=count > 0)
    expected = count * (p + share * (1.0 - 2.0 * p))
    assert_allclose(to_numpy(misread(data, share).wins), expected, atol=1e-12)


def test_a_flipped_bonus_is_that_of_an_optimist():
    world = linear(replicas=3, seed=1)
    data, (x, _) = world.offline_data(Key(2), 400), world.population
    pessimist = OfflinePessimistic(radius=Constant(beta=0.7), option="II")
    policy = bonus_flipped(pessimist)(world.problem, data, Key(0)).value
    radius = pessimist.radius
    optimistic = radius.confidence_set(radius.fit(data), data, world.problem).upper(centred(x))
    expected = gibbs_log_probs(optimistic, x.log_pi0, world.problem.eta)
    assert_allclose(policy.log_probs(x), expected, atol=1e-8)


def test_a_learner_plans_with_another_penalty():
    world = linear(replicas=3, seed=1)
    data, (x, _) = world.offline_data(Key(2), 400), world.population
    learner = OfflineGreedy(theta_bound=1.0)
    assert plans_with(learner, 1.0) is learner
    theta = bradley_terry_mle(data, ridge=0.0, bound=1.0).require()
    expected = gibbs_log_probs(inner(x.phi, theta), x.log_pi0, 1.2 * world.problem.eta)
    found = plans_with(learner, 1.2)(world.problem, data, Key(0)).value.log_probs(x)
    assert_allclose(found, expected, atol=1e-8)


def test_the_policy_of_the_least():
    world = linear(replicas=2, seed=1)
    x, _ = world.population
    values = to_numpy(inner(centred(x), world.theta_star))
    assert (to_numpy(plays_the_worst(x, values)).argmax(-1) == values.argmin(-1)).all()


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("eta", [0.01, 1.0])
def test_chi_squared_of_any_weight_solves_its_equation(weight, eta):
    """``weight w + log w - r / eta`` is one number over the actions of a context."""
    law = np.random.Generator(np.random.Philox(3))
    rewards = law.uniform(-1.0, 1.0, size=(4, 3, 5))
    log_pi0 = np.log(law.dirichlet(np.ones(5), size=(4, 3)))
    log_pi = plans_chi_squared(rewards, log_pi0, eta, weight)
    assert_allclose(np.exp(log_pi).sum(axis=-1), 1.0, atol=1e-12)
    log_w = log_pi - log_pi0
    found = weight * np.exp(log_w) + log_w - rewards / eta
    assert_allclose(found - found[..., :1], 0.0, atol=1e-9 / eta)


def test_an_upper_bound_is_the_lower_one_mirrored_at_the_estimate():
    world = linear(replicas=3, seed=1)
    data, (x, _) = world.offline_data(Key(2), 400), world.population
    radius = Constant(beta=0.7)
    fit = radius.fit(data)
    region = radius.confidence_set(fit, data, world.problem)
    lower, upper = (kind(region, ReferencePolicy()).rewards(x) for kind in (LowerBound, UpperBound))
    assert_allclose((lower + upper) / 2.0, inner(centred(x), fit.value), atol=1e-10)
    assert (upper > lower).all()
