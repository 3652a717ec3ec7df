import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import comb, gammaln

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.errors import ShapeError
from rlhf_theory.planners.best_of_n import (
    BestOfN,
    best_of_n_log_probs,
    best_of_n_path,
    best_of_n_value,
    continuous_kl,
)
from rlhf_theory.policies import kl
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.rewards import LinearReward

# Theory sheet 6.3.
PI0 = np.asarray([0.4, 0.3, 0.2, 0.08, 0.02])
KNOWN = {2: (0.1572, 0.1931), 8: (1.1305, 1.2044), 64: (2.9352, 3.1745), 1024: (3.9120, 5.9324)}


def law(rewards, pi0, n, like=None):
    """Return probabilities of one context."""
    like = np.zeros(1) if like is None else like
    with np.errstate(divide="ignore"):
        log_pi0 = as_like(np.log(np.asarray(pi0))[None, None], like)
    r = as_like(np.asarray(rewards, dtype=float)[None, None], like)
    return np.exp(to_numpy(best_of_n_log_probs(r, log_pi0, n)))[0, 0]


def by_enumeration(rewards, pi0, n):
    """All n-tuples of draws; the first best of a tuple is played."""
    total = np.zeros(len(pi0))
    for draw in itertools.product(range(len(pi0)), repeat=n):
        best = max(draw, key=lambda a: rewards[a])
        total[best] += math.prod(pi0[a] for a in draw)
    return total


@pytest.mark.parametrize("n", KNOWN)
def test_kl_agrees_with_the_known_values(n):
    p = best_of_n_log_probs(np.arange(5.0)[None, None], np.log(PI0)[None, None], n)
    exact, formula = KNOWN[n]
    assert_allclose(kl(p, np.log(PI0))[0, 0], exact, atol=5e-5)
    assert_allclose(continuous_kl(n), formula, atol=5e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("rewards", "pi0"),
    [
        ([0.3, -1.0, 2.0, 0.1], [0.1, 0.2, 0.3, 0.4]),
        ([1.0, 1.0, 0.0, 2.0], [0.1, 0.2, 0.3, 0.4]),  # a tie
        ([1.0, 1.0, 1.0, 1.0], [0.1, 0.2, 0.3, 0.4]),  # nothing but ties
        ([5.0, 1.0, 2.0, 2.0], [0.0, 0.5, 0.2, 0.3]),  # the best is absent
        ([1.0, 1.0, 2.0, 0.0], [0.0, 0.5, 0.5, 0.0]),  # an absent action ties with a present one
    ],
)
def test_law_equals_enumeration(xp_like, rewards, pi0, n):
    assert_allclose(law(rewards, pi0, n, xp_like), by_enumeration(rewards, pi0, n), atol=1e-14)


def test_one_draw_is_the_reference_policy_and_one_action_is_played():
    assert_allclose(law([3.0, 1.0, 2.0], [0.2, 0.3, 0.5], 1), [0.2, 0.3, 0.5], rtol=1e-14)
    assert_allclose(law([3.0], [1.0], 17), [1.0])


def test_law_of_a_real_n_lies_between_its_neighbours():
    low, mid, high = (law(range(5), PI0, n)[-1] for n in (2, 2.5, 3))
    assert low < mid < high


def test_a_path_is_its_points(key):
    r, log_pi0 = key.normal_numpy(2, 3, 5), np.log(np.broadcast_to(PI0, (1, 3, 5)))
    path = best_of_n_path(r, log_pi0, [1, 2.5, 1e6])
    for law_of_n, n in zip(path, [1, 2.5, 1e6], strict=True):
        assert (law_of_n == best_of_n_log_probs(r, log_pi0, n)).all()


@pytest.mark.parametrize("n", [1e2, 1e4, 1e6])
def test_law_is_accurate_for_large_n(n):
    # Against exact rational arithmetic, over actions from likely to 1e-9.
    exact = [Fraction(1, 10**k) for k in (1, 3, 5, 7, 9)]
    exact = [1 - sum(exact), *exact]
    up = np.cumsum(np.asarray(exact, dtype=object))
    floats = np.asarray([float(p) for p in exact])
    logs = [0.0] * 6

    def power(f):
        # F^n through its exact complement.
        return math.exp(n * math.log1p(-float(1 - f)))

    for a in range(6):
        low = power(up[a - 1]) if a else 0.0
        high = power(up[a])
        logs[a] = high - low
    ours = law(range(6), floats, n)
    assert_allclose(ours[-1], -math.expm1(n * math.log1p(-1e-9)), rtol=1e-10)
    assert_allclose(ours, logs, rtol=1e-6, atol=1e-15)
    assert_allclose(ours.sum(), 1.0, rtol=1e-12)


def test_law_agrees_with_simulation(key):
    # 40 000 simulated choices; each frequency within 5.5 standard errors: false alarm below 1e-6.
    generator = key.generator(0)
    rewards, n, size = np.asarray([0.0, 2.0, 1.0, 2.0, -1.0]), 4, 40_000
    draws = generator.choice(5, p=PI0, size=(size, n))
    best = draws[np.arange(size), np.argmax(rewards[draws], axis=1)]
    count = Counter(best.tolist())
    p = law(rewards, PI0, n)
    for a in range(5):
        assert abs(count[a] / size - p[a]) < 5.5 * math.sqrt(p[a] * (1 - p[a]) / size) + 1e-12


def test_batches_are_independent(key):
    r = key.child("r").normal_numpy(3, 4, 6)
    log_pi0 = np.log(key.child("p").uniform_numpy(1, 4, 6) + 0.1)
    log_pi0 -= np.log(np.exp(log_pi0).sum(-1, keepdims=True))
    whole = best_of_n_log_probs(r, log_pi0, 7)
    for i, b in itertools.product(range(3), range(4)):
        assert_allclose(np.exp(whole[i, b]), law(r[i, b], np.exp(log_pi0[0, b]), 7), rtol=1e-12)


@pytest.mark.parametrize("n", [0, 0.5, math.nan, math.inf])
def test_n_below_one_is_refused(n):
    with pytest.raises(ValueError, match="n must be finite and at least 1"):
        law([0.0, 1.0], [0.5, 0.5], n)
    with pytest.raises(ValueError, match="n must be finite"):
        BestOfN(n)


def test_planner_returns_the_law_and_rises_in_reward(key, xp_like):
    phi = as_like(key.child("phi").normal_numpy(1, 3, 5, 2), xp_like)
    log_pi0 = as_like(np.log(np.broadcast_to(PI0, (1, 3, 5))), xp_like)
    problem = FiniteProblem(phi, log_pi0, as_like(np.full((1, 3), 1 / 3), xp_like), 0.1, 2)
    model = LinearReward(as_like([[1.0, 0.5], [-2.0, 0.1]], xp_like))
    values = []
    for n in (1, 3, 50):
        plan = BestOfN(n)(model, problem, key, None)
        assert to_numpy(plan.converged).all()
        log_p = to_numpy(plan.value.log_probs(problem.table))
        expected = best_of_n_log_probs(to_numpy(model.rewards(problem.table)), to_numpy(log_pi0), n)
        assert_allclose(log_p, expected, atol=1e-12)
        values.append((np.exp(log_p) * to_numpy(model.rewards(problem.table))).sum(-1))
    assert (np.diff(values, axis=0) > 0).all()


@pytest.mark.parametrize("ties", [False, True])
def test_value_estimate_is_the_mean_over_subsets(key, xp_like, ties):
    proxy = key.child("proxy").normal_numpy(2, 7)
    proxy = np.round(proxy) if ties else proxy
    gold = key.child("gold").normal_numpy(2, 7)
    ours = to_numpy(best_of_n_value(as_like(proxy, xp_like), as_like(gold, xp_like), [1, 3, 7]))
    for r, (k, n) in itertools.product(range(2), enumerate([1, 3, 7])):
        values = []
        for subset in itertools.combinations(range(7), n):
            top = proxy[r, list(subset)].max()
            values.append(np.mean([gold[r, i] for i in subset if proxy[r, i] == top]))
        assert_allclose(ours[r, k], np.mean(values), rtol=1e-12)


def test_value_estimate_follows_the_formula_for_many_scores(key):
    gold = key.normal_numpy(1, 12_600)
    proxy = np.arange(12_600.0)[None]
    ours = best_of_n_value(proxy, gold, [4096])
    i = np.arange(4096, 12_601)

    # C(i - 1, n - 1) / C(N, n) in logarithms.
    def log_comb(a, b):
        return gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1)

    weights = np.exp(log_comb(i - 1, 4095) - log_comb(12_600, 4096))
    assert_allclose(ours[0, 0], weights @ gold[0, 4095:], rtol=1e-7)
    assert_allclose(comb(6, 2) / comb(7, 3), 15 / 35)


def test_value_estimate_refuses_impossible_requests():
    scores = np.zeros((1, 4))
    for n in (0, 5, 1.5):
        with pytest.raises(ValueError, match=r"lie in 1 \.\. 4"):
            best_of_n_value(scores, scores, [n])
    with pytest.raises(ShapeError, match="one shape"):
        best_of_n_value(scores, np.zeros((2, 4)), [1])
