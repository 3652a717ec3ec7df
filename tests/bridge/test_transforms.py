"""Frozen transforms against plain NumPy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_bridge.embeddings.transforms import FrozenTransform, TransformSettings
from rlhf_theory.errors import ShapeError
from rlhf_theory.randomness import Key


def sample(n: int, d: int, *, rank: int | None = None, seed: int = 0) -> torch.Tensor:
    """Rows with a mean and with columns of very different scales."""
    key = Key(seed)
    factors = key.child("factors").normal_numpy(n, d if rank is None else rank)
    mix = key.child("mix").normal_numpy(factors.shape[1], d)
    scales = np.exp(1.5 * key.child("scales").normal_numpy(1, d))
    return torch.from_numpy((factors @ mix + 3.0) * scales)


def fit(rows: torch.Tensor, weights: torch.Tensor | None = None, **settings) -> FrozenTransform:
    return FrozenTransform.fit(rows, TransformSettings(**settings), weights)


def test_defaults_centre_and_standardise() -> None:
    rows = sample(40, 5)
    phi = fit(rows)(rows).numpy()
    want = (rows - rows.mean(0)) / rows.std(0, correction=0)
    np.testing.assert_allclose(phi, want, rtol=1e-10, atol=1e-12)


def test_nothing_asked_for_is_the_identity() -> None:
    rows = sample(10, 4)
    transform = fit(rows, centre=False, standardise=False)
    torch.testing.assert_close(transform(rows), rows, rtol=0, atol=0)
    assert (transform.dim, transform.kept, transform.bound) == (4, 1.0, math.inf)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize(("n", "d"), [(60, 7), (6, 20)])
def test_whitening_makes_the_covariance_the_identity(n: int, d: int, standardise: bool) -> None:
    rows = sample(n, d)
    transform = fit(rows, whiten=True, standardise=standardise, dim=None if standardise else 4)
    phi = transform(rows).numpy()
    assert transform.dim == (min(n - 1, d) if standardise else 4)
    np.testing.assert_allclose(phi.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(phi.T @ phi / n, np.eye(transform.dim), atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(50, 9), (8, 30)])
def test_projection_keeps_the_directions_of_largest_variance(n: int, d: int) -> None:
    rows = sample(n, d)
    transform = fit(rows, dim=3, standardise=False)
    centred = (rows - rows.mean(0)).numpy()
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    got = transform(rows).numpy()
    want = centred @ vt[:3].T
    np.testing.assert_allclose(np.abs(got), np.abs(want), rtol=1e-8, atol=1e-8 * s[0])
    assert transform.kept == pytest.approx((s[:3] ** 2).sum() / (s**2).sum(), rel=1e-10)
    # An orthonormal basis, in the sign that its largest entry decides.
    matrix = transform.matrix.numpy()
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-10)
    assert (matrix[np.abs(matrix).argmax(axis=0), range(3)] > 0).all()


def test_standardised_projection_ignores_the_units_of_columns() -> None:
    rows = sample(30, 6)
    units = torch.tensor([1e3, 1e-3, 1.0, 50.0, 1e-2, 7.0])
    want = fit(rows, dim=2)(rows)
    torch.testing.assert_close(fit(rows * units, dim=2)(rows * units), want, rtol=1e-8, atol=1e-8)


def test_weights_count_like_repetitions() -> None:
    rows = sample(12, 5)
    count = torch.tensor([1, 3, 2, 1, 1, 4, 1, 1, 2, 1, 1, 1])
    settings = {"dim": 3, "whiten": True}
    got = fit(rows, count.double() * 0.7, **settings)
    want = fit(torch.repeat_interleave(rows, count, dim=0), **settings)
    torch.testing.assert_close(got(rows), want(rows), rtol=1e-8, atol=1e-8)
    assert got.radius == pytest.approx(want.radius)


def test_columns_that_do_not_vary_are_silent() -> None:
    rows = sample(20, 4)
    rows[:, 2] = 7.1
    transform = fit(rows, whiten=True)
    assert transform.dim == 3
    other = rows.clone()
    other[:, 2] = 900.0
    torch.testing.assert_close(transform(other), transform(rows), rtol=0, atol=0)


def test_directions_within_rounding_are_left_out() -> None:
    rows = sample(200, 6, rank=3).float()
    assert fit(rows, whiten=True).dim == 3


def test_ball_keeps_the_geometry_inside_and_the_bound_outside() -> None:
    rows = sample(25, 4)
    plain, ball = fit(rows), fit(rows, scale="ball")
    torch.testing.assert_close(ball(rows), plain(rows) / plain.radius)
    assert float(ball(rows).norm(dim=1).max()) == pytest.approx(1.0)
    far = rows * 100
    torch.testing.assert_close(ball(far).norm(dim=1), torch.ones(25, dtype=torch.float64))
    torch.testing.assert_close(ball(far), plain(far) / plain(far).norm(dim=1, keepdim=True))


def test_unit_rows_have_norm_one_and_zero_stays_zero() -> None:
    rows = sample(25, 4)
    unit = fit(rows, scale="unit")
    torch.testing.assert_close(unit(rows).norm(dim=1), torch.ones(25, dtype=torch.float64))
    still = fit(rows, scale="unit", centre=False, standardise=False)
    assert not still(torch.zeros(1, 4)).any()


def test_single_precision_is_transformed_in_double() -> None:
    rows = sample(25, 4)
    transform = fit(rows, dim=2)
    phi = transform(rows.float())
    assert phi.dtype == torch.float64
    torch.testing.assert_close(phi, transform(rows.float().double()), rtol=0, atol=0)


def test_saved_transform_is_the_same(tmp_path: Path) -> None:
    rows = sample(25, 4)
    for settings in ({"dim": 2, "whiten": True, "scale": "ball"}, {"centre": False}):
        transform, file = fit(rows, **settings), tmp_path / f"{len(settings)}.safetensors"
        transform.save(file, {"model": "x", "layers": [1, 2]})
        loaded, about = FrozenTransform.load(file)
        assert about == {"model": "x", "layers": [1, 2]}
        assert (loaded.radius, loaded.kept, loaded.scale) == (
            transform.radius,
            transform.kept,
            transform.scale,
        )
        torch.testing.assert_close(loaded(rows), transform(rows), rtol=0, atol=0)


def test_content_is_the_same_every_time() -> None:
    # safetensors writes several entries of metadata in an order that differs from call to call.
    rows = sample(25, 4)
    contents = {
        fit(rows, dim=2, scale="ball").content(about)
        for about in [{"b": 1, "a": [2]}, {"a": [2], "b": 1}] * 20
    }
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "bal"}, "Did you mean 'ball'"),
        ({"dim": 0}, "dim must be at least 1, or None; got 0"),
        ({"whiten": True, "centre": False}, "whiten needs centre"),
    ],
)
def test_refuses_settings_that_cannot_work(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformSettings(**settings)


def test_refuses_samples_that_say_too_little() -> None:
    rows = sample(4, 6)
    with pytest.raises(ValueError, match="at least two texts; got 1"):
        fit(rows[:1])
    with pytest.raises(ValueError, match=r"at most 3, the number of .* the 4 texts .*; got 5"):
        fit(rows, dim=5)
    with pytest.raises(ValueError, match="at most 0"):
        fit(rows[:1].repeat(3, 1), whiten=True)
    with pytest.raises(ValueError, match="must vary to be scaled to a ball"):
        fit(rows[:1].repeat(3, 1), scale="ball")
    with pytest.raises(ValueError, match="must be finite"):
        fit(torch.full((3, 2), math.nan))


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.0] * 4, [1.0, 1.0, 1.0, -1.0], [math.nan] * 4])
def test_refuses_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be 4 numbers"):
        fit(sample(4, 2), torch.tensor(weights))


def test_refuses_rows_of_another_width() -> None:
    with pytest.raises(ShapeError, match=r"rows must have shape \(n, 4\); got \(2, 3\)"):
        fit(sample(9, 4))(torch.zeros(2, 3))
