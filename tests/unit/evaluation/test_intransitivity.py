import numpy as np

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.evaluation.intransitivity import cyclic_part, intransitivity_index


def skew(rng, *shape, a=5):
    m = rng.normal(size=(*shape, a, a))
    return m - np.swapaxes(m, -1, -2)


def test_the_potential_is_the_least_squares_fit(xp_like):
    # min_s sum_{a < b} (L_ab - s_a + s_b)^2, solved as a regression.
    logit = skew(np.random.default_rng(0), 2, 3)
    got = to_numpy(cyclic_part(as_like(logit, xp_like)))
    i, j = np.triu_indices(5, k=1)
    rows = np.eye(5)[i] - np.eye(5)[j]
    for r in range(2):
        for x in range(3):
            fit = np.linalg.lstsq(rows, logit[r, x, i, j])[0]
            want = logit[r, x] - (fit[:, None] - fit[None, :])
            np.testing.assert_allclose(got[r, x], want, atol=1e-10)


def test_a_reward_has_no_cyclic_part(xp_like):
    r = np.random.default_rng(1).normal(size=(2, 3, 5))
    logit = as_like(r[..., :, None] - r[..., None, :], xp_like)
    assert np.abs(to_numpy(cyclic_part(logit))).max() < 1e-14
    assert to_numpy(intransitivity_index(logit)).max() < 1e-14


def test_the_norm_of_the_cyclic_part_is_proportional_to_the_dial_and_free_of_the_reward(xp_like):
    rng = np.random.default_rng(2)
    w, r = skew(rng, 1, 3), rng.normal(size=(1, 3, 5))
    difference = r[..., :, None] - r[..., None, :]

    def norm(logit):
        cyc = to_numpy(cyclic_part(as_like(logit, xp_like)))
        return np.sqrt((cyc**2).sum(axis=(-2, -1)))

    one = norm(w)
    for c in (1e-3, 0.5, 7.0, 1e3):
        for scale in (0.0, 1.0, 10.0):
            np.testing.assert_allclose(norm(scale * difference + c * w), c * one, rtol=1e-10)


def test_the_index_lies_between_zero_and_one(xp_like):
    rng = np.random.default_rng(3)
    values = to_numpy(intransitivity_index(as_like(skew(rng, 4, 50, a=3), xp_like)))
    assert values.shape == (4, 50)
    assert values.min() >= 0.0
    assert values.max() <= 1.0
    cycle = np.array([[[[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]]]])
    np.testing.assert_allclose(to_numpy(intransitivity_index(as_like(cycle, xp_like))), 1.0)
    assert to_numpy(intransitivity_index(as_like(0.0 * cycle, xp_like)))[0, 0] == 0.0
    one = as_like(np.zeros((1, 1, 1, 1)), xp_like)
    assert to_numpy(intransitivity_index(one))[0, 0] == 0.0
