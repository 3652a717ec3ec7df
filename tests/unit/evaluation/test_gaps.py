import numpy as np

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.evaluation.gaps import (
    jeffreys,
    mean_kl,
    objective,
    over_contexts,
    regret,
    suboptimality,
)
from tests.helpers import reference
from tests.helpers.small import log

ETA = 0.4


def instance(seed=0):
    rng = np.random.default_rng(seed)
    p, p0 = rng.dirichlet(np.ones(4), size=(3, 5)), rng.dirichlet(np.ones(4), size=(1, 5))
    r, w = rng.normal(size=(3, 5, 4)), rng.dirichlet(np.ones(5), size=1)
    star = np.array([[reference.gibbs(r[k, x], p0[0, x], ETA) for x in range(5)] for k in range(3)])
    return p, p0, r, w, star


def test_objective_is_the_sum_over_contexts_and_actions(xp_like):
    p, p0, r, w, _ = instance()
    got = objective(*(as_like(v, xp_like) for v in (log(p), r, log(p0), w)), ETA)
    want = [reference.value(p[k], r[k], p0[0], w[0], ETA) for k in range(3)]
    np.testing.assert_allclose(to_numpy(got), want, rtol=1e-12)


def test_suboptimality_and_jeffreys_are_differences_of_objectives(xp_like):
    p, p0, r, w, star = instance()
    lp, ls, weights = (as_like(v, xp_like) for v in (log(p), log(star), w))
    best = np.array([reference.value(star[k], r[k], p0[0], w[0], ETA) for k in range(3)])
    have = np.array([reference.value(p[k], r[k], p0[0], w[0], ETA) for k in range(3)])
    gap = to_numpy(suboptimality(lp, ls, weights, ETA))
    np.testing.assert_allclose(gap, best - have, rtol=1e-10)
    forward = [sum(w[0, x] * reference.kl(star[k, x], p[k, x]) for x in range(5)) for k in range(3)]
    left = to_numpy(jeffreys(lp, ls, weights, ETA))
    np.testing.assert_allclose(left, best - have + ETA * np.array(forward), rtol=1e-10)
    np.testing.assert_allclose(to_numpy(mean_kl(ls, lp, weights)), forward, rtol=1e-12)


def test_the_gap_of_the_optimum_is_exactly_zero(xp_like):
    _, _, _, w, star = instance()
    ls, weights = as_like(log(star), xp_like), as_like(w, xp_like)
    assert (to_numpy(suboptimality(ls, ls, weights, ETA)) == 0.0).all()
    assert (to_numpy(jeffreys(ls, ls, weights, ETA)) == 0.0).all()


def test_a_context_of_weight_zero_counts_nothing_even_if_infinite(xp_like):
    values = as_like([[np.inf, 2.0, -1.0], [np.nan, 4.0, 1.0]], xp_like)
    weights = as_like([[0.0, 0.25, 0.75]], xp_like)
    np.testing.assert_allclose(to_numpy(over_contexts(values, weights)), [-0.25, 1.75])
    shared = over_contexts(as_like([[1.0, 2.0, 3.0]], xp_like), as_like(np.eye(3), xp_like))
    np.testing.assert_array_equal(to_numpy(shared), [1.0, 2.0, 3.0])


def test_regret_is_measured_from_the_best_present_action(xp_like):
    p, p0, r, w, _ = instance()
    p0[:, :, 1] = 0.0
    p[:, :, 1] = 0.0
    best = np.delete(r, 1, axis=-1).max(axis=-1)
    expected = np.einsum("x,rx->r", w[0], best * p.sum(axis=-1) - np.sum(p * r, axis=-1))
    arrays = (as_like(v, xp_like) for v in (log(p), r, log(p0), w))
    np.testing.assert_allclose(to_numpy(regret(*arrays)), expected, rtol=1e-12, atol=1e-14)
