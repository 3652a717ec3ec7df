from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlhf_theory import losses
from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.errors import ShapeError
from rlhf_theory.losses import Comparisons, Groups, soft
from rlhf_theory.losses.comparisons import FIELDS
from tests.helpers.losses import (
    GROUPS,
    PAIRS,
    comparisons,
    groups,
    random_arrays,
    random_groups,
)

ARRAYS = random_arrays(8, seed=1)


def everything(**changed):
    return Comparisons(**{**ARRAYS, **changed})


# --------------------------------------------------------------------------- all libraries


@pytest.mark.parametrize("name", PAIRS)
def test_pair_losses_agree_between_libraries(name, xp_like):
    loss = PAIRS[name]
    there = {k: as_like(v, xp_like) for k, v in ARRAYS.items()}
    p = np.linspace(0.0, 1.0, 8)
    found = soft(loss, comparisons(loss, there), as_like(p, xp_like))
    assert type(found) is type(xp_like)
    expected = soft(loss, comparisons(loss, ARRAYS), p)
    np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", GROUPS)
def test_group_losses_agree_between_libraries(name, xp_like):
    arrays = random_groups(6, 4, seed=2)
    there = {k: as_like(v, xp_like) for k, v in arrays.items()}
    found = GROUPS[name](groups(GROUPS[name], there))
    assert type(found) is type(xp_like)
    expected = GROUPS[name](groups(GROUPS[name], arrays))
    np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-12, atol=1e-14)


def test_helpers_run_on_all_libraries(xp_like):
    log_pi, log_ref = as_like([-1.0, -2.0], xp_like), as_like([-1.5, -2.5], xp_like)
    np.testing.assert_allclose(to_numpy(losses.mismatched_kl(log_pi, log_ref)), [0.5, 0.5])
    np.testing.assert_allclose(to_numpy(losses.mismatched_kl(log_ref, log_pi)), [0.0, 0.0])
    mixed = losses.mixed_reference(log_ref, log_pi, 0.25)
    np.testing.assert_allclose(to_numpy(mixed), [-1.125, -2.125])


# --------------------------------------------------------------------------- reductions


def value(loss, arrays=ARRAYS):
    return loss(comparisons(loss, arrays))


def without_margin():
    return {k: v for k, v in ARRAYS.items() if k != "margin"}


def assert_same(first, second):
    np.testing.assert_allclose(first, second, rtol=1e-12, atol=1e-14)


def test_dpo_is_the_log_sigmoid_of_the_log_ratio():
    c = everything()
    h = c.log_pi_w - c.log_pi_l - c.log_ref_w + c.log_ref_l
    assert_same(c.h, h)
    expected = [math.log1p(math.exp(-x)) for x in 0.7 * h + c.margin]
    assert_same(value(losses.DPO(0.7)), expected)


def test_the_first_loss_is_ln_2():
    arrays = random_arrays(8, at_reference=True)
    del arrays["margin"]
    for name in ("dpo", "cdpo", "robust-dpo", "chi-po"):
        assert_same(value(PAIRS[name], arrays), np.full(8, math.log(2.0)))
    for name in (n for n in PAIRS if n.startswith("f-dpo")):
        assert_same(value(PAIRS[name], arrays), np.full(8, math.log(2.0)))


@pytest.mark.parametrize(
    ("loss", "dpo_like"),
    [
        (losses.CDPO(0.7, 0.0), losses.DPO(0.7)),
        (losses.RobustDPO(0.7, 0.0), losses.DPO(0.7)),
        (losses.RDPO(0.7, 0.0), losses.DPO(0.7)),
        (losses.FDPO(0.7, "reverse-kl"), losses.DPO(0.7)),
        (losses.FDPO(0.7, "alpha", alpha=0.0), losses.FDPO(0.7, "forward-kl")),
    ],
)
def test_losses_reduce_to_each_other(loss, dpo_like):
    assert_same(value(loss), value(dpo_like))
    assert_same(value(loss, without_margin()), value(dpo_like, without_margin()))


def test_losses_without_margin_reduce_to_dpo():
    dpo = value(losses.DPO(0.7), without_margin())
    assert_same(value(losses.XPO(0.7, 0.0)), dpo)
    assert_same(value(losses.VPO(0.7, 0.0, "online")), dpo)
    assert_same(value(losses.VPO(0.7, 0.0, "offline")), dpo)
    assert_same(value(losses.DPO(0.7), {**ARRAYS, "margin": np.zeros(8)}), dpo)
    xpo = value(losses.XPO(0.7, 0.14))
    assert_same(xpo, value(losses.VPO(0.7, 0.2, "online")))
    assert_same(xpo + value(losses.VPO(0.7, 0.2, "offline")), 2.0 * dpo)


def test_alpha_near_one_is_reverse_kl():
    near = value(losses.FDPO(0.7, "alpha", alpha=1.0 - 1e-7))
    np.testing.assert_allclose(near, value(losses.DPO(0.7)), rtol=1e-5)


def test_smoothing_is_a_soft_label():
    c = comparisons(losses.DPO(0.7), ARRAYS)
    mixed = soft(losses.DPO(0.7), c, np.full(8, 0.85))
    assert_same(losses.CDPO(0.7, 0.15)(c), mixed)
    # The correction undoes the smoothing.
    assert_same(soft(losses.RobustDPO(0.7, 0.15), c, np.full(8, 0.85)), losses.DPO(0.7)(c))


def test_chi_po_is_dpo_plus_the_difference_of_ratios():
    c = comparisons(losses.ChiPO(0.7, 1e9), ARRAYS)
    ratios = np.exp(c.log_ratio_w) - np.exp(c.log_ratio_l)
    expected = np.logaddexp(0.0, -0.7 * (c.h + ratios))
    assert_same(losses.ChiPO(0.7, math.inf)(c), expected)
    assert_same(losses.ChiPO(0.7, 1e9)(c), expected)
    assert_same(losses.FDPO(0.7, "chi2-kl")(c), expected)
    clipped = np.clip(0.7 * (c.h + ratios), -0.2, 0.2)
    assert_same(losses.ChiPO(0.7, 0.1)(c), np.logaddexp(0.0, -clipped))
    assert np.any(np.abs(clipped) == 0.2)


def test_ipo_in_its_other_forms():
    ones = {**ARRAYS, "length_w": np.ones(8), "length_l": np.ones(8)}
    assert_same(value(losses.IPOPerToken(0.3), ones), value(losses.IPO(0.3)))
    assert_same(value(losses.INPO(0.3, step=1.0 / 0.3)), value(losses.IPO(0.3)))
    c = comparisons(losses.IPO(0.3), ARRAYS)
    # GPO: (rho - 1)^2 with rho = 2 tau h.
    assert_same(losses.IPO(0.3)(c), (2.0 * 0.3 * c.h - 1.0) ** 2 / 0.6**2)


def test_soft_labels_of_hard_sppo_are_its_targets():
    p = np.linspace(0.0, 1.0, 8)
    arrays = {**ARRAYS, "win_w": p, "win_l": 1.0 - p}
    target = (p - 0.5) / 0.7
    hard = soft(losses.SPPOHard(0.7), comparisons(losses.SPPOHard(0.7), arrays), p)
    constant = 2.0 * (0.25 / 0.7**2 - target**2)
    assert_same(hard - constant, value(losses.SPPO(0.7), arrays))


def test_losses_without_a_reference_are_those_with_a_uniform_one():
    zero = {**without_margin(), "log_ref_w": np.zeros(8), "log_ref_l": np.zeros(8)}
    assert_same(value(losses.CPO(0.7, lam=0.0)), value(losses.DPO(0.7), zero))
    assert_same(
        value(losses.CPO(0.7, lam=2.0)) + 2.0 * ARRAYS["log_pi_w"], value(losses.CPO(0.7, 0.0))
    )
    ones = {**zero, "length_w": np.ones(8), "length_l": np.ones(8)}
    assert_same(value(losses.SimPO(0.7), ones), value(losses.DPO(0.7), zero))
    assert_same(value(losses.ORPO(0.0)), -ARRAYS["log_pi_w"] / ARRAYS["length_w"])


def test_groups_of_two_are_comparisons():
    pair = {k: np.stack([ARRAYS[f"{k}_w"], ARRAYS[f"{k}_l"]], -1) for k in ("log_pi", "log_ref")}
    c = comparisons(losses.IPO(1.0), ARRAYS)
    reward = np.random.default_rng(0).normal(0.0, 1.0, (8, 2))
    p = 1.0 / (1.0 + np.exp((reward[:, 1] - reward[:, 0]) / 0.6))
    found = losses.InfoNCA(0.7, alpha=0.6)(Groups(pair["log_pi"], reward, pair["log_ref"]))
    assert_same(found, soft(losses.DPO(0.7), c, p))
    hard = Groups(pair["log_pi"], np.tile([1e4, 0.0], (8, 1)), pair["log_ref"])
    assert_same(losses.InfoNCA(0.7)(hard), losses.DPO(0.7)(c))
    assert_same(losses.NCA(0.7)(hard), losses.NCAPair(0.7)(c))


def test_group_losses_do_not_depend_on_the_order():
    arrays = random_groups(5, 4, seed=9)
    order = [2, 0, 3, 1]
    for loss in GROUPS.values():
        permuted = {k: v[:, order] for k, v in arrays.items()}
        assert_same(loss(groups(loss, permuted)), loss(groups(loss, arrays)))


def test_equal_best_responses_share_the_cloning():
    log_pi, ones = np.array([[-1.0, -3.0, -9.0]]), np.ones((1, 3))
    g = Groups(log_pi, np.array([[2.0, 2.0, 0.0]]), lengths=ones)
    assert_same(losses.RRHF(0.5)(g), [0.5 * 2.0])


# --------------------------------------------------------------------------- swapping


def test_swapping_twice_changes_nothing():
    c = everything()
    back = c.swapped().swapped()
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(back, name), getattr(c, name))
    other = c.swapped()
    for name in ("log_pi", "log_ref", "length", "win"):
        np.testing.assert_array_equal(getattr(other, f"{name}_w"), getattr(c, f"{name}_l"))
    np.testing.assert_array_equal(other.margin, -c.margin)
    np.testing.assert_array_equal(other.z0, c.z0)
    assert Comparisons(c.log_pi_w, c.log_pi_l).swapped().log_ref_w is None


@pytest.mark.parametrize("name", PAIRS)
def test_soft_labels_are_linear_and_symmetric(name):
    loss = PAIRS[name]
    c = comparisons(loss, ARRAYS)
    np.testing.assert_array_equal(soft(loss, c, np.ones(8)), loss(c))
    np.testing.assert_array_equal(soft(loss, c, np.zeros(8)), loss(c.swapped()))
    p = np.linspace(0.1, 0.8, 8)
    assert_same(soft(loss, c, p), soft(loss, c.swapped(), 1.0 - p))


def test_any_shape_will_do():
    table = {k: v.reshape(2, 4) for k, v in ARRAYS.items()}
    for loss in PAIRS.values():
        assert_same(value(loss, table).reshape(-1), value(loss))
    none = {k: v[:0] for k, v in ARRAYS.items()}
    for loss in PAIRS.values():
        assert value(loss, none).shape == (0,)


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", PAIRS)
def test_what_a_loss_needs_is_demanded_and_what_it_cannot_use_refused(name):
    loss = PAIRS[name]
    full = comparisons(loss, ARRAYS)
    for what, names in FIELDS["pairs"].items():
        given = {k: v for k, v in vars(full).items() if v is not None}
        if what in loss.needs:
            for n in names:
                del given[n]
            with pytest.raises(ValueError, match=rf"'{loss.name}' needs .*{names[0]}"):
                loss(Comparisons(**given))
        elif what in loss.accepts:
            for n in names:
                del given[n]
            assert loss(Comparisons(**given)).shape == (8,)
        elif what in ("reference", "lengths"):
            more = {**given, **{n: ARRAYS[n] for n in names}}
            np.testing.assert_array_equal(loss(Comparisons(**more)), loss(full))
        else:
            more = {**given, **{n: ARRAYS[n] for n in names}}
            with pytest.raises(ValueError, match=rf"'{loss.name}' does not take"):
                loss(Comparisons(**more))


def test_messages_of_refusals():
    c = Comparisons(ARRAYS["log_pi_w"], ARRAYS["log_pi_l"])
    with pytest.raises(ValueError, match=r"^The loss 'dpo' needs log-probabilities under the ref"):
        losses.DPO(0.1)(c)
    with pytest.raises(ValueError, match="numbers of tokens: give length_w and length_l"):
        losses.SimPO(2.0)(c)
    with_margin = comparisons(losses.DPO(0.1), ARRAYS)
    with pytest.raises(ValueError, match=r"does not take a margin\. A margin needs a loss whose"):
        losses.Hinge(0.1)(with_margin)


@pytest.mark.parametrize("name", GROUPS)
def test_groups_without_what_a_loss_needs_are_refused(name):
    arrays = random_groups(3, 4)
    with pytest.raises(ValueError, match=f"'{name}' needs"):
        GROUPS[name](Groups(arrays["log_pi"], arrays["rewards"]))


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match=r"one shape, \(8,\); log_pi_l has \(7,\)"):
        everything(log_pi_l=np.zeros(7))
    with pytest.raises(ShapeError, match="margin"):
        everything(margin=np.zeros((8, 1)))
    with pytest.raises(ShapeError, match="p has"):
        soft(losses.DPO(1.0), comparisons(losses.DPO(1.0), ARRAYS), np.ones(3))
    with pytest.raises(ShapeError, match=r"\(n, K\) with K of 2 or more; got \(3,\)"):
        Groups(np.zeros(3), np.zeros(3))
    with pytest.raises(ShapeError, match=r"got \(3, 1\)"):
        Groups(np.zeros((3, 1)), np.zeros((3, 1)))
    with pytest.raises(ShapeError, match="rewards"):
        Groups(np.zeros((3, 2)), np.zeros((3, 3)))


def test_one_half_of_a_pair_is_refused():
    for half in ("log_ref_l", "length_w", "win_l"):
        with pytest.raises(ValueError, match="or neither"):
            everything(**{half: None})


def test_constants_must_not_carry_a_gradient():
    tensors = {k: torch.as_tensor(v) for k, v in ARRAYS.items()}
    live = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    Comparisons(**{**tensors, "log_pi_w": live, "log_pi_sample": live})
    for name in ("log_ref_w", "z0", "margin"):
        with pytest.raises(ValueError, match=f"^{name} must be a constant.*detach"):
            Comparisons(**{**tensors, name: live})
    flat = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"^log_ref must be a constant"):
        Groups(flat, flat, log_ref=flat.clone().requires_grad_(True))


def test_libraries_are_not_mixed():
    with pytest.raises(TypeError, match="one array library"):
        everything(margin=torch.zeros(8))
