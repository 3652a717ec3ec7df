import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.planners.rejection import (
    acceptance_rates,
    expected_draws,
    rejection_sample,
    stage_log_probs,
)
from rlhf_theory.randomness import Key


def instance(like=None, absent=True):
    like = np.zeros(1) if like is None else like
    key = Key(3)
    rewards = key.child("r").normal_numpy(2, 3, 5)
    log_pi0 = np.log(key.child("p").uniform_numpy(2, 3, 5) + 0.1)
    if absent:
        log_pi0[0, 1, 2] = -np.inf
        rewards[0, 1, 2] = 50.0  # must not count as the best
    log_pi0 -= np.log(np.exp(log_pi0).sum(-1, keepdims=True))
    return as_like(rewards, like), as_like(log_pi0, like)


def test_the_last_stage_is_the_gibbs_policy(xp_like):
    rewards, log_pi0 = instance(xp_like)
    for steps in (1, 3):
        stages = stage_log_probs(rewards, log_pi0, 0.4, steps)
        assert_allclose(to_numpy(stages[0]), to_numpy(log_pi0), atol=1e-12)
        want = to_numpy(gibbs_log_probs(rewards, log_pi0, 0.4))
        assert_allclose(to_numpy(stages[-1]), want, atol=1e-12)


def test_rates_by_enumeration():
    rewards, log_pi0 = instance()
    rates = acceptance_rates(rewards, log_pi0, 0.4, 2)
    pi0 = np.exp(log_pi0[1, 0])
    r = rewards[1, 0] - rewards[1, 0].max()
    first = (pi0 * np.exp(r / 0.8)).sum()
    middle = pi0 * np.exp(r / 0.8) / first
    second = (middle * np.exp(r / 0.8)).sum()
    assert_allclose(rates[1, 0], [first, second], rtol=1e-12)
    assert_allclose(expected_draws(rewards, log_pi0, 0.4, 2)[1, 0], 1 / first + 1 / second)


def test_the_product_of_the_stages_is_the_rate_of_one(xp_like):
    rewards, log_pi0 = instance(xp_like)
    one = to_numpy(acceptance_rates(rewards, log_pi0, 0.1))[..., 0]
    for steps in (2, 5):
        rates = to_numpy(acceptance_rates(rewards, log_pi0, 0.1, steps))
        assert_allclose(rates.prod(axis=-1), one, rtol=1e-10)
        assert ((rates > 0) & (rates <= 1)).all()


def test_stages_save_draws_where_one_is_expensive():
    rewards, log_pi0 = instance(absent=False)
    one = expected_draws(rewards, log_pi0, 0.05)
    four = expected_draws(rewards, log_pi0, 0.05, 4)
    # By the inequality of the means, N p^(-1/N) is the least that N stages can need.
    least = 4 * one ** (1 / 4)
    assert (four >= least * (1 - 1e-12)).all()
    assert four.max() < one.max()


def test_a_tiny_eta_overflows_nowhere():
    rewards, log_pi0 = instance()
    rates = acceptance_rates(rewards, log_pi0, 1e-6)
    present = np.where(np.isfinite(log_pi0), rewards, -np.inf)
    best = np.take_along_axis(np.exp(log_pi0), present.argmax(-1)[..., None], -1)
    assert_allclose(rates, best, rtol=1e-10)


@pytest.mark.statistical
@pytest.mark.parametrize("steps", [1, 3])
def test_accepted_proposals_follow_the_gibbs_policy(steps):
    # False-alarm rate 1e-6 per setting: chi-squared of the counts, and the acceptance rate.
    rewards, log_pi0 = instance()
    rewards, log_pi0 = rewards[1:, :1], log_pi0[1:, :1]
    n = 20_000
    actions, accepted = rejection_sample(rewards, log_pi0, 0.5, Key(11), n, steps)
    kept = actions[0, accepted[0, :, 0], 0]
    law = np.exp(gibbs_log_probs(rewards, log_pi0, 0.5))[0, 0]
    counts = np.bincount(kept, minlength=5)
    statistic = ((counts - kept.size * law) ** 2 / (kept.size * law)).sum()
    assert statistic < chi2.isf(5e-7, df=4)
    rate = acceptance_rates(rewards, log_pi0, 0.5, steps)[0, 0, -1]
    assert abs(kept.size / n - rate) < 5.1 * math.sqrt(rate * (1 - rate) / n)


@pytest.mark.parametrize(("eta", "steps"), [(0.0, 1), (-1.0, 1), (0.1, 0), (0.1, 1.5)])
def test_refuses_what_cannot_work(eta, steps):
    rewards, log_pi0 = instance()
    with pytest.raises(ValueError, match=r"eta|steps"):
        acceptance_rates(rewards, log_pi0, eta, steps)
