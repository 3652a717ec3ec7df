"""Derivatives at the reference, where training starts, elsewhere, and far out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from rlhf_theory.losses import scalars
from rlhf_theory.losses.comparisons import soft
from tests.helpers.losses import (
    EXAMPLES,
    GROUPS,
    PAIRS,
    comparisons,
    groups,
    random_arrays,
    random_groups,
    tensor,
)

POLICY = ("log_pi_w", "log_pi_l", "log_pi_sample")


def central_differences(f, x):
    """Return df_i / dx_i of a function that works element by element."""
    step = 1e-5 * np.maximum(1.0, np.abs(x))
    return (f(x + step) - f(x - step)) / (2.0 * step)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("at_reference", [True, False])
def test_gradients_of_pair_losses_are_right(name, at_reference):
    # At h = 0 itself: functions with a branch there have had the derivative 0.
    loss, arrays = PAIRS[name], random_arrays(7, at_reference=at_reference, seed=3)
    p = np.linspace(0.0, 1.0, 7)
    leaves = {
        k: tensor(v).requires_grad_(True) if k in POLICY else tensor(v) for k, v in arrays.items()
    }
    soft(loss, comparisons(loss, leaves), tensor(p)).sum().backward()
    for field in POLICY:
        if leaves[field].grad is None:
            assert field == "log_pi_sample"
            assert "sample" not in loss.needs
            continue

        def f(x, field=field):
            return soft(loss, comparisons(loss, {**arrays, field: x}), p)

        expected = central_differences(f, arrays[field])
        np.testing.assert_allclose(leaves[field].grad.numpy(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("at_reference", [True, False])
def test_gradients_of_group_losses_are_right(name, at_reference):
    loss, arrays = GROUPS[name], random_groups(5, 4, at_reference=at_reference, seed=4)
    leaves = {k: tensor(v) for k, v in arrays.items()}
    leaves["log_pi"].requires_grad_(True)
    loss(groups(loss, leaves)).sum().backward()
    for k in range(4):

        def f(x, k=k):
            log_pi = arrays["log_pi"].copy()
            log_pi[:, k] = x
            return loss(groups(loss, {**arrays, "log_pi": log_pi}))

        expected = central_differences(f, arrays["log_pi"][:, k])
        found = leaves["log_pi"].grad[:, k].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pair_losses_stay_finite_far_from_the_reference(name, dtype):
    # log-ratios of both signs and sizes up to 1e4, either response at probability one.
    far = [0.0, -1e-3, -1.0, -100.0, -1e4]
    grid = torch.tensor(list(itertools.product(far, repeat=4)))
    columns = dict(zip(("log_pi_w", "log_pi_l", "log_ref_w", "log_ref_l"), grid.T, strict=True))
    arrays = {k: v.to(dtype).clone() for k, v in columns.items()}
    like = arrays["log_pi_w"]
    arrays |= {"length_w": 1.0 + 0.0 * like, "length_l": 2.0 + 0.0 * like, "z0": 0.5 + 0.0 * like}
    arrays |= {"margin": 1.0 + 0.0 * like, "win_w": 0.9 + 0.0 * like, "win_l": 0.1 + 0.0 * like}
    arrays["log_pi_sample"] = arrays["log_pi_w"].clone()
    for field in POLICY:
        arrays[field].requires_grad_(True)
    value = PAIRS[name](comparisons(PAIRS[name], arrays))
    assert value.dtype == dtype
    assert bool(torch.isfinite(value).all())
    value.sum().backward()
    for field in ("log_pi_w", "log_pi_l"):
        assert bool(torch.isfinite(arrays[field].grad).all())


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_group_losses_stay_finite_far_from_the_reference(name, dtype):
    far = [0.0, -1.0, -1e4]
    grid = torch.tensor([[a, b, c] for a in far for b in far for c in far], dtype=dtype)
    arrays = {"log_pi": grid.clone().requires_grad_(True), "log_ref": grid.flip(1)}
    arrays |= {"lengths": torch.ones_like(grid), "rewards": 1e3 * grid.roll(1, 1)}
    value = GROUPS[name](groups(GROUPS[name], arrays))
    assert value.dtype == dtype
    assert bool(torch.isfinite(value).all())
    value.sum().backward()
    assert bool(torch.isfinite(arrays["log_pi"].grad).all())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_precision_of_the_result_is_that_of_the_input(name):
    # float32 in, float32 out, and close to the float64 value.
    loss = EXAMPLES[name]
    if loss.takes == "pairs":
        made = random_arrays(6, seed=5)
        pair = [
            loss(comparisons(loss, {k: v.astype(t) for k, v in made.items()}))
            for t in (np.float32, np.float64)
        ]
    else:
        made = random_groups(6, 3, seed=5)
        pair = [
            loss(groups(loss, {k: v.astype(t) for k, v in made.items()}))
            for t in (np.float32, np.float64)
        ]
    assert pair[0].dtype == np.float32
    np.testing.assert_allclose(pair[0], pair[1], rtol=1e-4, atol=1e-5)


def test_softplus_has_slope_one_half_at_zero():
    u = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(scalars.softplus(u).sum(), u, create_graph=True)
    np.testing.assert_array_equal(slope.detach().numpy(), 0.5)
    (bend,) = torch.autograd.grad(slope.sum(), u)
    np.testing.assert_allclose(bend.numpy(), 0.25, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tame_exp_continues_by_its_tangent(dtype):
    top = 0.8 * math.log(np.finfo(dtype).max)
    u = np.array([-1e4, -1.0, 0.0, 0.999 * top], dtype=dtype)
    np.testing.assert_array_equal(scalars.tame_exp(u), np.exp(u))
    u = np.array([top + 0.5, top + 1.5, 1e4], dtype=dtype)
    far = scalars.tame_exp(u)
    assert far.dtype == dtype
    expected = math.exp(top) * (1.0 + u.astype(float) - top)
    np.testing.assert_allclose(far, expected, rtol=1e-5)
    assert np.all(np.isfinite(far))


def test_log_one_minus_exp_does_not_cancel():
    u = np.array([-1e-12, -1e-3, -0.5, -0.7, -3.0, -800.0])
    expected = [math.log(1e-12), *np.log(-np.expm1(u[1:4])), math.log1p(-math.exp(-3.0)), 0.0]
    np.testing.assert_allclose(scalars.log_one_minus_exp(u), expected, rtol=1e-12, atol=0.0)
    # A probability of one counts as one minus the spacing of the numbers.
    at_one = scalars.log_one_minus_exp(np.array([0.0]))
    np.testing.assert_allclose(at_one, math.log(np.finfo(float).eps), rtol=1e-12)
