import itertools

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, sigmoid, to_numpy
from rlhf_theory.errors import ShapeError
from rlhf_theory.evaluation.win_rates import (
    borda_scores,
    copeland_scores,
    win_rate,
    win_rate_per_context,
    winners,
)
from tests.helpers.games import dirichlet, skew, uniform


def probabilities(rng, *shape):
    return sigmoid(skew(rng, *shape))


def test_win_rates_are_double_sums(xp_like):
    rng = np.random.default_rng(0)
    prob = probabilities(rng, 2, 3, 4)
    one, two, w = dirichlet(rng, 2, 3, 4), dirichlet(rng, 1, 3, 4), rng.dirichlet(np.ones(3), 1)
    args = [as_like(v, xp_like) for v in (prob, one, two, w)]
    each, whole = to_numpy(win_rate_per_context(*args[:3])), to_numpy(win_rate(*args))
    for r in range(2):
        total = 0.0
        for x in range(3):
            here = sum(
                np.exp(one[r, x, a]) * np.exp(two[0, x, b]) * prob[r, x, a, b]
                for a, b in itertools.product(range(4), range(4))
            )
            np.testing.assert_allclose(each[r, x], here, rtol=1e-12)
            total += w[0, x] * here
        np.testing.assert_allclose(whole[r], total, rtol=1e-12)


def test_win_rates_of_both_sides_add_to_one(xp_like):
    rng = np.random.default_rng(1)
    prob = as_like(probabilities(rng, 2, 3, 4), xp_like)
    one, two = (as_like(dirichlet(rng, 2, 3, 4), xp_like) for _ in range(2))
    w = as_like(np.full((1, 3), 1 / 3), xp_like)
    both = to_numpy(win_rate(prob, one, two, w)) + to_numpy(win_rate(prob, two, one, w))
    np.testing.assert_allclose(both, 1.0, rtol=1e-12)
    np.testing.assert_allclose(to_numpy(win_rate(prob, one, one, w)), 0.5, rtol=1e-12)


def indices(mask):
    return [np.nonzero(row)[0].tolist() for row in to_numpy(mask)[0]]


def from_edges(*edges, n=3, p=0.9):
    """Probabilities with given winners of pairs; 1/2 elsewhere."""
    prob = np.full((n, n), 0.5)
    for a, b in edges:
        prob[a, b], prob[b, a] = p, 1 - p
    return prob


def test_winners_of_known_tournaments(xp_like):
    cycle = from_edges((0, 1), (1, 2), (2, 0))
    chain = from_edges((1, 0), (1, 2), (0, 2))
    tied = np.full((3, 3), 0.5)
    got = winners(as_like(np.stack([cycle, chain, tied])[None], xp_like))
    assert indices(got.condorcet) == [[], [1], []]
    assert indices(got.copeland) == [[0, 1, 2], [1], [0, 1, 2]]
    assert indices(got.borda) == [[0, 1, 2], [1], [0, 1, 2]]


def test_the_winners_can_all_differ(xp_like):
    # 0 beats everyone barely; 1 beats the others by far.
    prob = from_edges((1, 2), (1, 3), (2, 3), n=4, p=0.99)
    prob[0, 1:], prob[1:, 0] = 0.51, 0.49
    got = winners(as_like(prob[None, None], xp_like))
    assert indices(got.condorcet) == indices(got.copeland) == [[0]]
    assert indices(got.borda) == [[1]]


def test_winners_by_enumeration():
    rng = np.random.default_rng(2)
    prob = probabilities(rng, 50, 2, 5)
    got = winners(prob)
    for r, x in np.ndindex(50, 2):
        p = prob[r, x]
        beats = [[b for b in range(5) if b != a and p[a, b] > 0.5] for a in range(5)]
        assert np.array_equal(got.condorcet[r, x], [len(b) == 4 for b in beats])
        most = max(map(len, beats))
        assert np.array_equal(got.copeland[r, x], [len(b) == most for b in beats])
        mean = [p[a].mean() for a in range(5)]
        assert np.array_equal(got.borda[r, x], [m == max(mean) for m in mean])


def test_absent_actions_neither_win_nor_lose(xp_like):
    rng = np.random.default_rng(3)
    small = probabilities(rng, 1, 4, 3)
    large = np.zeros((1, 4, 5, 5))
    large += sigmoid(50 * skew(rng, 1, 4, 5))
    there = np.array([0, 2, 3])
    large[np.ix_([0], range(4), there, there)] = small
    mask = np.zeros((1, 4, 5))
    mask[..., there] = 1.0
    got = winners(as_like(large, xp_like), as_like(mask, xp_like) > 0)
    for part, want in zip(got, winners(small), strict=True):
        assert np.array_equal(to_numpy(part)[..., there], want)
        assert not to_numpy(part)[..., [1, 4]].any()


def test_scores():
    prob = from_edges((0, 1), (1, 2))[None, None]
    np.testing.assert_allclose(copeland_scores(prob), [[[1.5, 1.0, 0.5]]])
    np.testing.assert_allclose(
        borda_scores(prob, uniform(1, 1, 3)), [[[1.9 / 3, 1.5 / 3, 1.1 / 3]]], rtol=1e-12
    )


def test_borda_of_the_mixture_of_annotators():
    # Theory sheet 9.3: w = (.6, .4), r1 = (0, 1, 2), r2 = (0, 3, -4).
    rewards = np.array([[0.0, 1.0, 2.0], [0.0, 3.0, -4.0]])
    prob = np.tensordot([0.6, 0.4], sigmoid(rewards[:, :, None] - rewards[:, None, :]), axes=1)
    scores = borda_scores(prob[None, None], uniform(1, 1, 3))
    np.testing.assert_allclose(scores, [[[0.382, 0.627, 0.492]]], atol=6e-4)


def test_bad_input():
    with pytest.raises(ValueError, match="P\\(a, b\\) \\+ P\\(b, a\\) = 1"):
        winners(np.zeros((1, 1, 3, 3)))
    with pytest.raises(ValueError, match="finite"):
        winners(np.full((1, 1, 3, 3), np.nan))
    with pytest.raises(ShapeError):
        winners(np.full((3, 3), 0.5))
