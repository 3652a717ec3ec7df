"""A scaled design is the design of scaled rows."""

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.data import Design, Rows
from rlhf_theory.estimators.scaling import ScaledRows, scaled


def test_scaled_design_equals_scaled_rows(xp_like):
    rng = np.random.default_rng(0)
    z, theta, w = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 3)), rng.uniform(size=(2, 7))
    ours = scaled(Rows(as_like(z, xp_like)), 2.5)
    plain = Rows(as_like(2.5 * z, xp_like))
    t, weights = as_like(theta, xp_like), as_like(w, xp_like)
    for f in (
        lambda d: d.margins(t),
        lambda d: d.adjoint(weights),
        lambda d: d.gram(weights),
        lambda d: d.z_max,
    ):
        np.testing.assert_allclose(to_numpy(f(ours)), to_numpy(f(plain)), rtol=1e-12)
    assert (ours.n_params, ours.possible) == (3, None)
    assert ours.like is ours.design.like
    assert isinstance(ours, Design)


def test_scale_one_is_the_design_itself():
    rows = Rows(np.ones((1, 2, 3)))
    assert scaled(rows, 1.0) is rows


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match="scale must be positive"):
        ScaledRows(Rows(np.ones((1, 2, 3))), -1.0)
