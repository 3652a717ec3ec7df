import numpy as np
import pytest

from rlhf_theory.arrays import to_numpy
from rlhf_theory.evaluation.coverage import concentrability
from rlhf_theory.planners.argmax import argmax_log_probs
from rlhf_theory.randomness import Key
from rlhf_theory.worlds.hard_instances import (
    GREEDY_FAILURE_PAIRS,
    chi_squared,
    greedy_failure,
    greedy_failure_data,
)


def test_greedy_failure_has_the_rewards_and_norms_of_the_paper():
    world = greedy_failure(replicas=2)
    rewards = world.reward.rewards(world.problem.table)
    assert np.allclose(rewards, [[[-0.9, -1.0, 0.0, 0.1]]])
    assert np.linalg.norm(world.theta_star) == pytest.approx(np.sqrt(1.0 + 0.01 + 0.81))
    # Differences are those of the three-dimensional features, projected on <1, theta> = 0.
    phi = world.problem.phi[0, 0]
    full = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=float)
    projected = full - full.mean(axis=1, keepdims=True)
    assert np.allclose(phi @ phi.T, projected @ projected.T)


def test_greedy_failure_data_compare_two_pairs():
    world = greedy_failure(replicas=500)
    data = greedy_failure_data(world, Key(3), 50)
    count, wins = to_numpy(data.count), to_numpy(data.wins)
    often, once = GREEDY_FAILURE_PAIRS
    assert np.all(count[:, often] == 49.0)
    assert np.all(count[:, once] == 1.0)
    assert count.sum() == 500 * 50
    z = to_numpy(data.pairs.phi)[0]
    phi = world.problem.phi[0, 0]
    assert np.allclose(z[often], phi[[0, 1]])
    assert np.allclose(z[once], phi[[1, 2]])
    again = greedy_failure_data(world, Key(3), 50)
    assert np.array_equal(wins, to_numpy(again.wins))
    with pytest.raises(ValueError, match="pairs must be positive"):
        greedy_failure_data(world, Key(3), 0)


@pytest.mark.statistical
def test_greedy_failure_labels_follow_the_oracle():
    """Binomial counts of 4000 replicas; false alarm below 1e-6, notices 3 % in either rate."""
    world = greedy_failure(replicas=4000)
    wins = to_numpy(greedy_failure_data(world, Key(0), 21).wins)
    often, once = GREEDY_FAILURE_PAIRS
    sigma = 1.0 / (1.0 + np.exp(-np.array([0.1, -1.0])))
    for total, trials, p in (
        (wins[:, often].sum(), 80_000, sigma[0]),
        (wins[:, once].sum(), 4000, sigma[1]),
    ):
        assert abs(total - trials * p) < 5.0 * np.sqrt(trials * p * (1 - p))


@pytest.mark.parametrize("n", [3, 100, 10**6])
def test_chi_squared_instance_is_that_of_the_theory_sheet(n):
    world = chi_squared(pairs=n, replicas=3)
    rewards = world.reward.rewards(world.problem.table)[0, 0]
    assert np.allclose(rewards, [0.5, 0.5 - 1.0 / np.log(n), 0.0])
    pi0 = np.exp(world.problem.log_pi0[0, 0])
    assert np.allclose(pi0, [0.5, 0.5 - 1.0 / n, 1.0 / n])
    best = argmax_log_probs(rewards[None, None], world.problem.log_pi0)
    # The best action has coverage 2 at every n: single-policy coverage is no excuse.
    assert concentrability(best, world.problem.log_pi0, world.problem.weights)[0] == pytest.approx(
        2.0, rel=1e-9
    )


def test_chi_squared_needs_three_pairs():
    with pytest.raises(ValueError, match="at least 3"):
        chi_squared(pairs=2)
