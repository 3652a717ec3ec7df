import numpy as np
import pytest

from rlhf_theory.algorithms.offline_pessimistic import (
    Labelled,
    LowerBound,
    OfflineGreedy,
    OfflinePessimistic,
)
from rlhf_theory.arrays import to_numpy
from rlhf_theory.estimators.confidence import Constant, FixedDesign, MarginalLikelihood, Scaled
from rlhf_theory.estimators.ellipsoid import ellipsoid
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.planners.argmax import Argmax
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.policies import TablePolicy, uniform_log_probs
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import TableReward
from rlhf_theory.worlds import linear


def small(**settings):
    chosen = {"contexts": 3, "actions": 4, "dim": 3, "eta": 0.2, "replicas": 4, "seed": 5}
    return linear(**{**chosen, "reference": "dirichlet", **settings})


def mean_pi0(world):
    phi, pi0 = world.problem.phi[0], np.exp(world.problem.log_pi0[0])
    return phi - np.einsum("xa,xad->xd", pi0, phi)[:, None]


def test_option_two_is_the_gibbs_policy_of_the_written_formula():
    world = small()
    data = world.offline_data(Key(0), 40)
    rule = Constant(beta=0.7, lam=1.0)
    policy = OfflinePessimistic(radius=rule)(world.problem, data, Key(1)).require()
    theta = bradley_terry_mle(data, ridge=1.0).require()
    z, psi = to_numpy(data.pairs.phi)[0], mean_pi0(world)
    z = z[:, 0] - z[:, 1]
    for r in range(4):
        sigma = np.eye(3) + np.einsum("n,ni,nj->ij", to_numpy(data.count)[r], z, z)
        width = np.sqrt(np.einsum("xai,ij,xaj->xa", psi, np.linalg.inv(sigma), psi))
        reward = psi @ theta[r] - 0.7 * width
        logits = world.problem.log_pi0[0] + reward / 0.2
        expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        assert np.allclose(policy.log_probs(world.problem.table)[r], expected, atol=1e-8)


def test_the_lower_bound_of_the_reference_is_below_its_reward_only_by_the_spread():
    world = small()
    data = world.offline_data(Key(0), 40)
    theta = bradley_terry_mle(data, ridge=1.0).require()
    # Measured from an action that is played for certain, that action has no bonus at all.
    certain = np.where(np.arange(4) == 2, 0.0, -np.inf)[None, None] + np.zeros((1, 3, 1))
    model = LowerBound(ellipsoid(theta, data, 1.0, 5.0), TablePolicy(certain))
    rewards = model.rewards(world.problem.table)
    assert np.allclose(rewards[:, :, 2], 0.0, atol=1e-12)


def test_another_reference_changes_the_policy():
    world = small()
    data = world.offline_data(Key(0), 40)

    class Uniform:
        def log_probs(self, contexts):
            return uniform_log_probs(contexts.log_pi0)

    rule = Constant(beta=1.0)
    for option in ("I", "II"):
        default = OfflinePessimistic(radius=rule, option=option)
        other = OfflinePessimistic(radius=rule, option=option, reference=Uniform())
        a, b = (
            learner(world.problem, data, Key(1)).require().log_probs(world.problem.table)
            for learner in (default, other)
        )
        assert np.abs(a - b).max() > 1e-3


def test_likelihood_sets_work_for_option_two_only():
    world = small(replicas=2)
    data = world.offline_data(Key(0), 30)
    rule = Scaled(MarginalLikelihood(form="likelihood"), 0.5)
    plan = OfflinePessimistic(radius=rule)(world.problem, data, Key(1))
    fit = rule.fit(data)
    lower = rule.confidence_set(fit, data).lower(mean_pi0(world)[None])
    expected = gibbs_log_probs(lower, world.problem.log_pi0, 0.2)
    assert np.allclose(plan.require().log_probs(world.problem.table), expected, atol=1e-10)
    with pytest.raises(ValueError, match="Option I needs a confidence ellipsoid"):
        OfflinePessimistic(radius=rule, option="I")(world.problem, data, Key(1))


def test_replicas_without_labels_play_pi0_and_others_do_not():
    world = small(replicas=2)
    data = world.offline_data(Key(0), 30)
    empty_first = data.reweighted(
        data.count * np.array([[0.0], [1.0]]), data.wins * np.array([[0.0], [1.0]])
    )
    for option in ("I", "II"):
        learner = OfflinePessimistic(radius=Constant(beta=0.1), option=option)
        log_pi = learner(world.problem, empty_first, Key(1)).require()
        gap = log_pi.log_probs(world.problem.table) - world.problem.log_pi0
        assert np.abs(gap[0]).max() < 1e-12
        assert np.abs(gap[1]).max() > 1e-3


def test_labelled_rewards_are_zero_without_labels():
    world = small(replicas=2)
    model = Labelled(TableReward(np.ones((2, 3, 4))), np.array([0.0, 3.0]))
    rewards = model.rewards(world.problem.table)
    assert np.all(rewards[0] == 0.0)
    assert np.all(rewards[1] == 1.0)


def test_the_greedy_policy_takes_any_planner_and_estimate():
    world = small()
    data = world.offline_data(Key(0), 50)
    plan = OfflineGreedy(lam=0.5, planner=Argmax())(world.problem, data, Key(1))
    theta = bradley_terry_mle(data, ridge=0.5).require()
    best = np.argmax(np.einsum("xad,rd->rxa", world.problem.phi[0], theta), axis=-1)
    assert np.array_equal(np.argmax(plan.require().log_probs(world.problem.table), axis=-1), best)
    inside = OfflineGreedy(theta_bound=0.3)(world.problem, data, Key(1))
    assert inside.converged.all()


def test_a_fit_that_does_not_exist_is_reported():
    world = small(replicas=1)
    data = world.offline_data(Key(0), 1)
    assert not OfflineGreedy(lam=0.0)(world.problem, data, Key(1)).converged.any()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="option must be one of I, II"):
        OfflinePessimistic(radius=FixedDesign(), option="III")
    with pytest.raises(ValueError, match="lam must be finite and at least 0"):
        OfflineGreedy(lam=-1.0)
