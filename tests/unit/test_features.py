import numpy as np

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.features import (
    centred,
    feature_bound,
    mean_feature,
    mean_shift,
    reference_feature,
)


def make(like, rows=2):
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(rows, 3, 4, 2))
    log_pi0 = np.log(rng.dirichlet(np.ones(4), size=(rows, 3)))
    log_pi0[:, 1, 3] = -np.inf
    log_pi0 -= np.log(np.exp(log_pi0).sum(axis=-1, keepdims=True))
    phi[:, 1, 3] = 1e6  # an absent action: finite, and must not count
    return Contexts(as_like(phi, like), as_like(log_pi0, like)), phi, np.exp(log_pi0)


def test_mean_feature_is_the_sum(xp_like):
    x, phi, pi0 = make(xp_like)
    want = np.zeros((2, 3, 2))
    for r in range(2):
        for b in range(3):
            want[r, b] = sum(pi0[r, b, a] * phi[r, b, a] for a in range(4))
    np.testing.assert_allclose(to_numpy(reference_feature(x)), want, rtol=1e-13)
    # A policy per replica over shared contexts.
    shared = Contexts(x.phi[:1, ...], x.log_pi0[:1, ...])
    got = to_numpy(mean_feature(shared, x.log_pi0))
    assert got.shape == (2, 3, 2)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-13)


def test_centred_features_have_mean_zero_under_pi0(xp_like):
    x, phi, pi0 = make(xp_like)
    c = to_numpy(centred(x))
    np.testing.assert_allclose(np.sum(pi0[..., None] * c, axis=2), 0.0, atol=1e-13)
    diff = c[:, :, 0] - c[:, :, 1]
    np.testing.assert_allclose(diff, phi[:, :, 0] - phi[:, :, 1], rtol=1e-12)


def test_the_mean_shift_is_that_of_centred_features(xp_like):
    x, _, pi0 = make(xp_like)
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(4), size=(2, 3)) * (pi0 > 0)
    p /= p.sum(axis=-1, keepdims=True)
    weights = rng.dirichlet(np.ones(3), size=2)
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    got = to_numpy(mean_shift(x, as_like(weights, xp_like), as_like(log_p, xp_like)))
    want = np.einsum("rb,rba,rbad->rd", weights, p, to_numpy(centred(x)))
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_centred_features_of_gathered_contexts(xp_like):
    x, _, _ = make(xp_like, rows=1)
    table = Contexts(x.phi, x.log_pi0, int_like([[0, 1, 2]], xp_like), whole=True)
    ids = np.array([[2, 0], [1, 1]])
    got = to_numpy(centred(Contexts.rows(table, int_like(ids, xp_like))))
    np.testing.assert_array_equal(got, to_numpy(centred(table))[0][ids])


def test_feature_bound_is_over_present_pairs_only(xp_like):
    x, phi, pi0 = make(xp_like)
    want = [
        max(
            np.linalg.norm(phi[r, c, i] - phi[r, c, j])
            for c in range(3)
            for i in range(4)
            for j in range(4)
            if pi0[r, c, i] > 0 and pi0[r, c, j] > 0
        )
        for r in range(2)
    ]
    np.testing.assert_allclose(to_numpy(feature_bound(x)), want, rtol=1e-9)


def test_feature_bound_with_one_action_is_zero_and_nan_stays(xp_like):
    one = Contexts(as_like(np.ones((1, 2, 1, 3)), xp_like), as_like(np.zeros((1, 2, 1)), xp_like))
    assert to_numpy(feature_bound(one))[0] == 0.0
    bad = np.ones((1, 1, 2, 1))
    bad[0, 0, 0, 0] = np.nan
    half = as_like(np.full((1, 1, 2), -np.log(2.0)), xp_like)
    assert np.isnan(to_numpy(feature_bound(Contexts(as_like(bad, xp_like), half)))[0])
