import itertools

import numpy as np
import pytest

from rlhf_theory import designs
from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.designs import Design, LaplacianRows, Rows, skew_rows
from tests.helpers import reference


def forms(phi, like, monkeypatch):
    """Every implementation of the design of the differences of ``phi``."""
    z = reference.difference_rows(phi)
    yield Rows(as_like(z, like)), z
    yield LaplacianRows(as_like(phi, like)), z
    # Large designs take other routes: no table of products, no incidence matrix.
    monkeypatch.setattr(designs, "_MAX_PRODUCTS", 0)
    monkeypatch.setattr(designs, "_MAX_INCIDENCE", 0)
    yield Rows(as_like(z, like)), z
    yield LaplacianRows(as_like(phi, like)), z
    monkeypatch.undo()


@pytest.mark.parametrize("shape", [(1, 4, 3, 2), (3, 4, 3, 2), (1, 1, 2, 1), (3, 2, 5, 6)])
def test_operators_are_the_loops(xp_like, shape, monkeypatch):
    rng = np.random.default_rng(0)
    phi = rng.normal(size=shape)
    theta = rng.normal(size=(3, shape[-1]))
    n = shape[1] * shape[2] * (shape[2] - 1) // 2
    w = rng.normal(size=(3, n))
    for design, z in forms(phi, xp_like, monkeypatch):
        assert isinstance(design, Design)
        assert design.n_params == shape[-1]
        margins = to_numpy(design.margins(as_like(theta, xp_like)))
        np.testing.assert_allclose(margins, reference.margins(z, theta), rtol=1e-12, atol=1e-13)
        adjoint = to_numpy(design.adjoint(as_like(w, xp_like)))
        np.testing.assert_allclose(adjoint, reference.adjoint(z, w), rtol=1e-12, atol=1e-12)
        gram = to_numpy(design.gram(as_like(w, xp_like)))
        np.testing.assert_allclose(gram, reference.gram(z, w), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(gram, np.swapaxes(gram, 1, 2))
        longest = np.broadcast_to(np.linalg.norm(z, axis=-1).max(axis=-1), (3,))
        got = np.broadcast_to(to_numpy(design.z_max), (3,))
        np.testing.assert_allclose(got, longest, rtol=1e-7)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_one_hot_items_have_the_gram_matrix_of_a_graph(xp_like, order):
    # The identity skips the products with phi; a permutation of it takes them.
    phi = np.eye(4)[order][None, None]
    w = np.random.default_rng(3).uniform(size=(3, 6))
    gram = to_numpy(LaplacianRows(as_like(phi, xp_like)).gram(as_like(w, xp_like)))
    expected = reference.gram(reference.difference_rows(phi), w)
    np.testing.assert_allclose(gram, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(gram, np.swapaxes(gram, 1, 2))


def test_one_direction_of_theta_serves_all_replicas(xp_like, monkeypatch):
    rng = np.random.default_rng(1)
    phi, theta = rng.normal(size=(3, 2, 3, 2)), rng.normal(size=(1, 2))
    for design, z in forms(phi, xp_like, monkeypatch):
        got = to_numpy(design.margins(as_like(theta, xp_like)))
        np.testing.assert_allclose(got, reference.margins(z, theta), rtol=1e-12, atol=1e-13)


def test_one_row_of_weights_serves_all_replicas(xp_like, monkeypatch):
    # As when a design is asked what it could see at all: weight 1 everywhere.
    phi = np.random.default_rng(1).normal(size=(3, 2, 4, 2))
    w = np.random.default_rng(2).normal(size=(1, 12))
    wide = np.broadcast_to(w, (3, 12))
    for design, z in forms(phi, xp_like, monkeypatch):
        gram = to_numpy(design.gram(as_like(w, xp_like)))
        np.testing.assert_allclose(gram, reference.gram(z, wide), rtol=1e-12, atol=1e-12)
        adjoint = to_numpy(design.adjoint(as_like(w, xp_like)))
        np.testing.assert_allclose(adjoint, reference.adjoint(z, wide), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (1, 2, 4, 4), (2, 1, 4, 4)])
def test_one_hot_items_are_no_special_case(xp_like, shape, monkeypatch):
    phi = np.broadcast_to(np.eye(4), shape)
    w = np.random.default_rng(3).normal(size=(2, shape[1] * 6))
    theta = np.random.default_rng(4).normal(size=(2, 4))
    for design, z in forms(phi, xp_like, monkeypatch):
        gram = to_numpy(design.gram(as_like(w, xp_like)))
        np.testing.assert_allclose(gram, reference.gram(z, w), rtol=1e-12, atol=1e-12)
        adjoint = to_numpy(design.adjoint(as_like(w, xp_like)))
        np.testing.assert_allclose(adjoint, reference.adjoint(z, w), rtol=1e-12, atol=1e-12)
        margins = to_numpy(design.margins(as_like(theta, xp_like)))
        np.testing.assert_allclose(margins, reference.margins(z, theta), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_action_makes_an_empty_design(xp_like, rows, monkeypatch):
    phi = np.ones((rows, 4, 1, 3))
    for design, _ in forms(phi, xp_like, monkeypatch):
        theta, w = as_like(np.ones((2, 3)), xp_like), as_like(np.ones((2, 0)), xp_like)
        assert tuple(design.margins(theta).shape) == (2, 0)
        np.testing.assert_array_equal(to_numpy(design.adjoint(w)), np.zeros((2, 3)))
        np.testing.assert_array_equal(to_numpy(design.gram(w)), np.zeros((2, 3, 3)))
        np.testing.assert_array_equal(to_numpy(design.z_max), np.zeros(rows))


def test_the_longest_row_keeps_nan(xp_like):
    phi = np.ones((1, 1, 2, 1))
    phi[0, 0, 0, 0] = np.nan
    assert np.isnan(to_numpy(LaplacianRows(as_like(phi, xp_like)).z_max)).all()
    assert np.isnan(to_numpy(Rows(as_like(phi[:, 0], xp_like)).z_max)).all()


def test_skew_rows_are_the_bilinear_form(xp_like):
    # f_a^T W f_b for the skew W with those entries, computed with explicit matrices.
    rng = np.random.default_rng(2)
    pair, d = rng.normal(size=(2, 6, 2, 3)), 3
    p = d * (d + 1) // 2
    theta = rng.normal(size=p)
    w = np.zeros((d + 1, d + 1))
    for k, (i, j) in enumerate(itertools.combinations(range(d + 1), 2)):
        w[i, j], w[j, i] = theta[k], -theta[k]
    psi = to_numpy(skew_rows(as_like(pair, xp_like)))
    assert psi.shape == (2, 6, p)
    for r, i in itertools.product(range(2), range(6)):
        want = reference.bilinear(w, pair[r, i, 0], pair[r, i, 1])
        np.testing.assert_allclose(psi[r, i] @ theta, want, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(psi[..., :d], pair[:, :, 1] - pair[:, :, 0], rtol=1e-13, atol=1e-15)


def test_skew_rows_change_sign_with_the_order(xp_like):
    pair = np.random.default_rng(3).normal(size=(1, 5, 2, 4))
    ab = to_numpy(skew_rows(as_like(pair, xp_like)))
    ba = to_numpy(skew_rows(as_like(pair[:, :, ::-1].copy(), xp_like)))
    np.testing.assert_array_equal(ab, -ba)
