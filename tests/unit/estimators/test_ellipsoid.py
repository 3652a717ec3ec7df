"""Ellipsoids against their definition."""

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.core import ConfidenceSet
from rlhf_theory.errors import ShapeError
from rlhf_theory.estimators.ellipsoid import (
    Ellipsoid,
    design_matrix,
    ellipsoid,
    hessian_ellipsoid,
)
from tests.helpers.labelled import counted_data

R, D = 3, 3


def made(like, beta=0.7, **kwargs):
    data, _, theta = counted_data(like, **kwargs)
    center = as_like(np.random.default_rng(3).normal(size=(R, D)), like)
    return ellipsoid(center, data, 2.0, beta), data, theta


def test_sigma_is_the_regularised_sum_of_outer_products(xp_like):
    confidence, data, _ = made(xp_like)
    phi = to_numpy(data.pairs.phi)
    z = np.broadcast_to(phi[:, :, 0] - phi[:, :, 1], (R, *phi.shape[1::2]))
    count = to_numpy(data.count)
    for r in range(R):
        want = 2.0 * np.eye(D) + sum(
            c * np.outer(v, v) for c, v in zip(count[r], z[r], strict=True)
        )
        np.testing.assert_allclose(to_numpy(confidence.sigma)[r], want, rtol=1e-11)
    assert isinstance(confidence, ConfidenceSet)


def test_hessian_metric_is_the_hessian_of_the_loss():
    data, _, _ = counted_data(np.zeros(1))
    center = np.random.default_rng(3).normal(size=(R, D))
    confidence = hessian_ellipsoid(center, data, 0.5, 1.0, scale=1.4)
    z = data.pairs.phi[0, :, 0] - data.pairs.phi[0, :, 1]
    for r in range(R):
        p = 1 / (1 + np.exp(-1.4 * z @ center[r]))
        want = 0.5 * np.eye(D) + (z.T * (1.4**2 * data.count[r] * p * (1 - p))) @ z
        np.testing.assert_allclose(confidence.sigma[r], want, rtol=1e-11)


def test_bounds_are_attained_on_the_boundary_and_never_passed(xp_like):
    """I7: the extremes of <v, theta> over the ellipsoid, and random points of it."""
    confidence, _, _ = made(xp_like)
    rng = np.random.default_rng(0)
    v = rng.normal(size=(R, 2, 5, D))
    lower, upper = (to_numpy(f(as_like(v, xp_like))) for f in (confidence.lower, confidence.upper))
    assert lower.shape == (R, 2, 5)
    sigma, center = to_numpy(confidence.sigma), to_numpy(confidence.center)
    for r in range(R):
        inverse = np.linalg.inv(sigma[r])
        norm = np.sqrt(np.einsum("xai,ij,xaj->xa", v[r], inverse, v[r]))
        end = center[r] + 0.7 * v[r] @ inverse / norm[..., None]
        np.testing.assert_allclose(upper[r], np.sum(v[r] * end, axis=-1), rtol=1e-10)
        end = 2 * center[r] - end
        np.testing.assert_allclose(lower[r], np.sum(v[r] * end, axis=-1), rtol=1e-10)
    u = rng.normal(size=(R, D))
    root = np.linalg.inv(np.linalg.cholesky(sigma))
    u = 0.7 * u / np.linalg.norm(u, axis=1, keepdims=True)
    point = as_like(center + np.einsum("rij,ri->rj", root, u), xp_like)
    assert np.all(to_numpy(confidence.contains(point)))
    outside = as_like(center + 1.001 * np.einsum("rij,ri->rj", root, u), xp_like)
    assert not np.any(to_numpy(confidence.contains(outside)))
    inside = np.einsum("rxai,ri->rxa", v, to_numpy(point))
    assert np.all((lower <= inside + 1e-12) & (inside <= upper + 1e-12))


def test_shared_directions_equal_repeated_ones(xp_like):
    confidence, _, _ = made(xp_like)
    v = np.random.default_rng(0).normal(size=(1, 4, D))
    shared = to_numpy(confidence.lower(as_like(v, xp_like)))
    own = to_numpy(confidence.lower(as_like(np.repeat(v, R, axis=0), xp_like)))
    np.testing.assert_allclose(shared, own, rtol=1e-12)


def test_sigma_is_computed_at_most_once_and_only_on_demand():
    calls = []

    def sigma():
        calls.append(1)
        return np.eye(2)[None]

    confidence = Ellipsoid(np.zeros((1, 2)), np.ones(1), sigma)
    assert calls == []
    confidence.lower(np.ones((1, 3, 2)))
    confidence.width(np.ones((1, 3, 2)))
    assert calls == [1]


def test_scaling_rule_of_the_sheet():
    """0.4: beta |v| is invariant under (Sigma / m, lambda / m, beta / sqrt m)."""
    data, _, _ = counted_data(np.zeros(1))
    center, v, m = np.zeros((R, D)), np.random.default_rng(0).normal(size=(1, 4, D)), 32.0
    whole = ellipsoid(center, data, 1.0, 0.9)
    sigma = design_matrix(data.differences, data.count / m, 1.0 / m)
    part = Ellipsoid(center, np.full(R, 0.9 / np.sqrt(m)), lambda: sigma)
    np.testing.assert_allclose(whole.lower(v), part.lower(v), rtol=1e-12)


def test_known_scale_multiplies_the_rows():
    data, _, _ = counted_data(np.zeros(1))
    scaled = ellipsoid(np.zeros((R, D)), data, 1.0, 1.0, scale=3.0)
    want = np.eye(D) + 9.0 * data.differences.gram(data.count)
    np.testing.assert_allclose(scaled.sigma, want, rtol=1e-12)


def test_radius_zero_is_the_estimate_and_an_infinite_one_keeps_what_is_known():
    confidence, _, _ = made(np.zeros(1), beta=0.0)
    v = np.random.default_rng(0).normal(size=(1, 4, D))
    np.testing.assert_allclose(confidence.lower(v), confidence.upper(v), rtol=1e-12)
    assert np.all(confidence.contains(confidence.center))
    wide = ellipsoid(confidence.center, made(np.zeros(1))[1], 1.0, np.inf)
    assert np.all(np.isneginf(wide.lower(v)))
    np.testing.assert_array_equal(wide.lower(0 * v), 0.0)


def test_rescaling_multiplies_the_radius(xp_like):
    confidence, _, _ = made(xp_like)
    np.testing.assert_allclose(to_numpy(confidence.rescaled(0.5).beta), 0.35, rtol=1e-14)
    np.testing.assert_allclose(
        to_numpy(confidence.rescaled(0.5).sigma), to_numpy(confidence.sigma), rtol=1e-14
    )


def test_without_data_the_set_is_a_ball(xp_like):
    data, _, _ = counted_data(xp_like, n=0)
    confidence = ellipsoid(as_like(np.zeros((R, D)), xp_like), data, 4.0, 1.0)
    v = np.random.default_rng(0).normal(size=(1, 4, D))
    np.testing.assert_allclose(
        to_numpy(confidence.upper(as_like(v, xp_like))),
        np.broadcast_to(np.linalg.norm(v, axis=-1) / 2.0, (R, 4)),
        rtol=1e-12,
    )


def test_bad_arguments_are_refused():
    data, _, _ = counted_data(np.zeros(1))
    center = np.zeros((R, D))
    with pytest.raises(ValueError, match="lam must be positive"):
        ellipsoid(center, data, 0.0, 1.0)
    with pytest.raises(ValueError, match="lam must be positive"):
        hessian_ellipsoid(center, data, -1.0, 1.0)
    with pytest.raises(ValueError, match="beta must be at least 0"):
        ellipsoid(center, data, 1.0, np.array([1.0, -1.0, 0.0]))
    with pytest.raises(ValueError, match="beta must be at least 0"):
        ellipsoid(center, data, 1.0, np.nan)
    with pytest.raises(ShapeError, match="beta must have shape"):
        ellipsoid(center, data, 1.0, np.ones(2))
