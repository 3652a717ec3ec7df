"""The enhancer against brute force, its certificates, and its behaviour at the edges."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, log_softmax, to_numpy
from rlhf_theory.errors import ShapeError
from rlhf_theory.planners.enhancer import (
    constrained_enhancer,
    most_uncertain,
    penalised_enhancer,
    pointwise_bound,
)
from rlhf_theory.planners.enhancer_search import Enhancement
from rlhf_theory.randomness import Key

KEY = Key(seed=3).child("starts")
FORMS = {
    "constrained": constrained_enhancer,
    "penalised": penalised_enhancer,
    "free": lambda *args, **more: most_uncertain(*args[:5], **more),
}


def instance(
    seed: int, r: int, b: int, a: int, d: int, scale: float, peak: float = 1.0
) -> tuple[np.ndarray, ...]:
    """Features, main agent, weights, sigma and beta of random instances."""
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(r, b, a, d))
    log_pi1 = log_softmax(peak * rng.normal(size=(r, b, a)))
    weights = rng.dirichlet(np.ones(b), size=r)
    root = rng.normal(size=(r, d, d))
    sigma = root @ root.transpose(0, 2, 1) + 0.2 * np.eye(d)
    return phi, log_pi1, weights, sigma, scale * np.exp(0.5 * rng.normal(size=r))


def mean_gap(args: tuple[np.ndarray, ...], log_pi: np.ndarray) -> np.ndarray:
    phi, log_pi1, weights, _, _ = args
    return np.einsum("rb,rba,rbad->rd", weights, np.exp(log_pi) - np.exp(log_pi1), phi)


def bonus(args: tuple[np.ndarray, ...], log_pi: np.ndarray) -> np.ndarray:
    """``beta |E phi(pi) - E phi(pi1)|_{Sigma^-1}`` by its definition."""
    v = mean_gap(args, log_pi)
    square = np.einsum("rd,rd->r", v, np.linalg.solve(args[3], v[..., None])[..., 0])
    return args[4] * np.sqrt(square)


def divergence(args: tuple[np.ndarray, ...], log_pi: np.ndarray) -> np.ndarray:
    p = np.exp(log_pi)
    ratio = np.where(p > 0, np.where(p > 0, log_pi, 0.0) - args[1], 0.0)
    return np.einsum("rb,rba->r", args[2], p * ratio)


# --------------------------------------------------------------------------- brute force, d = 2


def brute_force(args: tuple[np.ndarray, ...], eta: float, form: str) -> float:
    """Maximise over tilts ``pi1 exp(tau <u, phi>)`` on a grid of directions, then refined.

    Uses nothing of the planner: the constraint is checked for the norm itself, and the largest
    feasible tilt of each direction is found by bisection from a coarse grid of tilts.
    """
    phi, log_pi1, weights, sigma, beta = (x[0] for x in args)
    inverse = np.linalg.inv(sigma)
    taus = np.concatenate([np.geomspace(1e-3, 1e5, 65) / eta, [np.inf]])

    def reached(angle: np.ndarray, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bonus and eta KL for angles (n,) and tilts (n,)."""
        u = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        s = np.einsum("nd,bad->nba", u, phi)
        s = s - s.max(axis=-1, keepdims=True)
        hard = np.isinf(tau)[:, None, None]
        with np.errstate(invalid="ignore"):
            logits = np.where(
                hard, np.where(s == 0.0, log_pi1, -np.inf), log_pi1 + tau[:, None, None] * s
            )
        logits = logits - logits.max(axis=-1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        v = np.einsum("b,nba,bad->nd", weights, p - np.exp(log_pi1), phi)
        gamma = beta * np.sqrt(np.einsum("nd,de,ne->n", v, inverse, v))
        log_p = np.log(np.where(p > 0, p, 1.0))
        kl = np.einsum("b,nba->n", weights, p * (log_p - log_pi1))
        return gamma, eta * kl

    def best_of(angles: np.ndarray) -> np.ndarray:
        """The best objective of each direction."""
        grid = np.repeat(angles, taus.size), np.tile(taus, angles.size)
        gamma, cost = (x.reshape(angles.size, taus.size) for x in reached(*grid))
        if form == "free":
            return gamma.max(axis=1)
        if form == "penalised":
            k = np.clip((gamma - cost).argmax(axis=1), 1, taus.size - 2)
            low, high = np.log(taus[k - 1]), np.log(np.minimum(taus[k + 1], 1e6 / eta))
            for _ in range(50):  # ternary search
                m1, m2 = low + (high - low) / 3, high - (high - low) / 3
                f1, f2 = (np.subtract(*reached(angles, np.exp(m))) for m in (m1, m2))
                low, high = np.where(f1 < f2, m1, low), np.where(f1 < f2, high, m2)
            return np.maximum(np.subtract(*reached(angles, np.exp(low))), 0.0)
        feasible = cost <= gamma
        last = taus.size - 1 - feasible[:, ::-1].argmax(axis=1)
        low = np.log(np.where(np.isinf(taus[last]), 1.0, taus[last]))
        high = np.log(np.minimum(taus[np.minimum(last + 1, taus.size - 1)], 1e6 / eta))
        for _ in range(45):
            middle = 0.5 * (low + high)
            g, c = reached(angles, np.exp(middle))
            low, high = np.where(c <= g, middle, low), np.where(c <= g, high, middle)
        g, _ = reached(angles, np.exp(low))
        return np.where(np.isinf(taus[last]), gamma[:, -1], g)

    step = 2 * np.pi / 240
    angles = np.arange(240) * step
    values = best_of(angles)
    top = angles[np.argsort(values)[-6:]]
    for _ in range(3):
        step /= 10.0
        finer = (top[:, None] + step * np.arange(-11, 12)[None, :]).ravel()
        values = best_of(finer)
        top = finer[np.argsort(values)[-6:]]
    return float(values.max())


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize(("eta", "scale"), [(0.1, 0.05), (0.3, 0.5), (0.03, 0.03)])
def test_the_search_finds_the_global_maximum_in_the_plane(
    form: str, eta: float, scale: float
) -> None:
    args = instance(11, 5, 3, 4, 2, scale, peak=1.5)
    found = FORMS[form](*args, eta, key=KEY, n_random=12)
    assert found.converged.all()
    best = [brute_force(tuple(x[r : r + 1] for x in args), eta, form) for r in range(5)]
    # The grid may miss the top by 1e-9; the search must not miss it by more than 1e-6.
    np.testing.assert_allclose(found.value.objective, best, rtol=1e-6)


# --------------------------------------------------------------------------- certificates


@pytest.mark.parametrize("scale", [0.01, 0.1, 2.0])
def test_the_constrained_policy_lies_in_the_set(scale: float) -> None:
    eta = 0.2
    args = instance(5, 30, 6, 5, 3, scale)
    found = constrained_enhancer(*args, eta, key=KEY)
    assert found.converged.all()
    value = found.value
    np.testing.assert_allclose(value.gamma, bonus(args, value.log_probs), rtol=1e-10)
    np.testing.assert_allclose(value.kl, divergence(args, value.log_probs), rtol=1e-8)
    assert (eta * value.kl <= value.gamma + 1e-10).all()
    binding = np.isfinite(value.tau)
    # Where the constraint binds, it is used up.
    np.testing.assert_allclose(eta * value.kl[binding], value.gamma[binding], rtol=1e-8)
    assert binding.any() == (scale < 1.0)


@pytest.mark.parametrize("scale", [0.01, 0.1, 2.0])
def test_the_three_maxima_and_the_closed_form_are_ordered(scale: float) -> None:
    eta = 0.2
    args = instance(6, 30, 6, 5, 3, scale)
    penalised = penalised_enhancer(*args, eta, key=KEY).value
    constrained = constrained_enhancer(*args, eta, key=KEY).value
    free = most_uncertain(*args, key=KEY).value
    # The penalised policy lies in the set of the constrained one.
    assert (eta * penalised.kl <= penalised.gamma).all()
    assert (constrained.gamma >= penalised.gamma - 1e-12).all()
    assert (free.gamma >= constrained.gamma * (1 - 1e-9)).all()
    assert (pointwise_bound(*args) >= free.gamma - 1e-12).all()
    np.testing.assert_allclose(
        penalised.objective, penalised.gamma - eta * penalised.kl, rtol=1e-12
    )


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_objective_never_decreases(form: str) -> None:
    args = instance(7, 20, 5, 6, 4, 0.05)
    start = np.random.default_rng(0).normal(size=(20, 4))
    last = np.full(20, -np.inf)
    for n in range(1, 12):
        found = FORMS[form](*args, 0.1, key=KEY, axes=False, n_random=0, start=start, max_iter=n)
        # The tilt is found to 1e-13 of the constraint.
        assert (found.value.objective >= last - 1e-11).all()
        last = found.value.objective


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_fixed_point_is_a_fixed_point(form: str) -> None:
    args = instance(8, 20, 5, 6, 4, 0.05)
    found = FORMS[form](*args, 0.1, key=KEY)
    again = FORMS[form](*args, 0.1, key=KEY, axes=False, n_random=0, start=found.value.direction)
    np.testing.assert_allclose(again.value.objective, found.value.objective, rtol=1e-8)
    assert again.n_iter <= 3
    # |u|_Sigma = beta, and the policy is the tilt of the main agent along u.
    u = found.value.direction
    np.testing.assert_allclose(np.einsum("rd,rde,re->r", u, args[3], u), args[4] ** 2, rtol=1e-10)


def test_the_penalised_value_equals_its_dual() -> None:
    eta = 0.1
    args = instance(9, 20, 5, 6, 4, 0.3)
    found = penalised_enhancer(*args, eta, key=KEY)
    phi, log_pi1, weights, _, _ = args
    centred = phi - np.einsum("rba,rbad->rbd", np.exp(log_pi1), phi)[:, :, None, :]
    s = np.einsum("rd,rbad->rba", found.value.direction, centred)
    log_z = np.log(np.exp(log_pi1 + s / eta).sum(axis=-1))
    dual = eta * np.einsum("rb,rb->r", weights, log_z)
    np.testing.assert_allclose(found.value.objective, dual, rtol=1e-8)


def test_the_closed_form_is_the_free_maximum_of_one_context() -> None:
    # With one context the most uncertain policy is the action furthest from the main agent.
    args = instance(10, 20, 1, 5, 3, 1.0)
    free = most_uncertain(*args, key=KEY, n_random=20)
    np.testing.assert_allclose(free.value.gamma, pointwise_bound(*args), rtol=1e-10)


# --------------------------------------------------------------------------- edges


@pytest.mark.parametrize("form", sorted(FORMS))
def test_radius_zero_leaves_the_main_agent(form: str) -> None:
    phi, log_pi1, weights, sigma, beta = instance(12, 4, 3, 5, 2, 1.0)
    beta[1:] = 0.0
    found = FORMS[form](phi, log_pi1, weights, sigma, beta, 0.1, key=KEY)
    np.testing.assert_allclose(found.value.log_probs[1:], log_pi1[1:], atol=1e-12)
    np.testing.assert_array_equal(found.value.gamma[1:], 0.0)
    np.testing.assert_array_equal(found.value.direction[1:], 0.0)
    assert found.value.gamma[0] > 0
    assert found.converged.all()


@pytest.mark.parametrize("form", sorted(FORMS))
def test_one_action_and_equal_features_leave_the_main_agent(form: str) -> None:
    for a in (1, 3):
        args = list(instance(13, 4, 3, a, 2, 1.0))
        args[0] = np.broadcast_to(args[0][:, :, :1, :], args[0].shape)
        found = FORMS[form](*args, 0.1, key=KEY)
        np.testing.assert_allclose(found.value.log_probs, args[1], atol=1e-12)
        assert np.isfinite(found.value.objective).all()
        assert found.converged.all()


@pytest.mark.parametrize("form", sorted(FORMS))
def test_absent_actions_stay_absent(form: str) -> None:
    phi, log_pi1, weights, sigma, beta = instance(14, 6, 4, 5, 2, 0.3)
    log_pi1[..., 2] = -np.inf
    log_pi1 = log_softmax(log_pi1)
    phi[..., 2, :] = 100.0  # finite, and of no consequence
    found = FORMS[form](phi, log_pi1, weights, sigma, beta, 0.1, key=KEY)
    keep = [0, 1, 3, 4]
    less = FORMS[form](phi[:, :, keep], log_pi1[:, :, keep], weights, sigma, beta, 0.1, key=KEY)
    assert (found.value.log_probs[..., 2] == -np.inf).all()
    np.testing.assert_allclose(found.value.objective, less.value.objective, rtol=1e-10)
    np.testing.assert_allclose(
        pointwise_bound(phi, log_pi1, weights, sigma, beta),
        pointwise_bound(phi[:, :, keep], log_pi1[:, :, keep], weights, sigma, beta),
    )


@pytest.mark.parametrize(("eta", "scale"), [(1e-4, 1.0), (1e4, 1.0), (0.1, 1e-9), (0.1, 1e6)])
def test_extreme_settings_stay_feasible(eta: float, scale: float) -> None:
    # A main agent so sharp that probabilities underflow.
    args = instance(15, 8, 4, 5, 2, scale, peak=900.0 if eta < 1 else 1.0)
    found = constrained_enhancer(*args, eta, key=KEY)
    value = found.value
    assert np.isfinite(value.gamma).all()
    # A divergence is known to 1e-15, which eta multiplies.
    assert (eta * value.kl <= value.gamma * (1 + 1e-9) + 1e-13 + 1e-15 * eta).all()
    assert (value.gamma >= 0).all()
    # Below that, even the square of a tilt is lost to rounding.
    assert (value.gamma > 0).all() or scale < 1e-8


def test_the_policy_on_other_contexts_is_the_same_function() -> None:
    args = instance(16, 5, 4, 3, 2, 0.2)
    for form in FORMS.values():
        value: Enhancement = form(*args, 0.1, key=KEY).value
        np.testing.assert_allclose(value.on(args[0], args[1]), value.log_probs, atol=1e-8)
        part = value.on(args[0][:, 1:3], args[1][:, 1:3])
        np.testing.assert_allclose(part, value.log_probs[:, 1:3], atol=1e-8)


def test_features_may_be_shifted_per_context() -> None:
    args = instance(17, 5, 4, 3, 2, 0.2)
    shifted = args[0] + np.random.default_rng(1).normal(size=(5, 4, 1, 2))
    a = constrained_enhancer(*args, 0.1, key=KEY).value
    b = constrained_enhancer(shifted, *args[1:], 0.1, key=KEY).value
    np.testing.assert_allclose(a.gamma, b.gamma, rtol=1e-9)


def test_scaling_features_and_radius_against_each_other_changes_nothing() -> None:
    phi, log_pi1, weights, sigma, beta = instance(18, 5, 4, 3, 2, 0.2)
    a = constrained_enhancer(phi, log_pi1, weights, sigma, beta, 0.1, key=KEY).value
    b = constrained_enhancer(phi, log_pi1, weights, sigma / 7, beta / 7**0.5, 0.1, key=KEY).value
    np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-7)
    np.testing.assert_allclose(a.gamma, b.gamma, rtol=1e-9)


# --------------------------------------------------------------------------- replicas and libraries


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_replica_alone_equals_the_same_in_a_block(form: str) -> None:
    args = instance(19, 6, 4, 3, 2, 0.1)
    together = FORMS[form](*args, 0.1, key=KEY).value
    for r in (0, 4):
        alone = FORMS[form](*(x[r : r + 1] for x in args), 0.1, key=KEY.block(r)).value
        np.testing.assert_allclose(alone.log_probs[0], together.log_probs[r], atol=1e-9)
        np.testing.assert_allclose(alone.gamma[0], together.gamma[r], rtol=1e-10)


def test_shared_features_equal_repeated_ones() -> None:
    phi, log_pi1, weights, sigma, beta = instance(20, 6, 4, 3, 2, 0.1)
    shared = constrained_enhancer(phi[:1], log_pi1, weights[:1], sigma, beta, 0.1, key=KEY).value
    phi, weights = (np.repeat(x[:1], 6, axis=0) for x in (phi, weights))
    full = constrained_enhancer(phi, log_pi1, weights, sigma, beta, 0.1, key=KEY).value
    np.testing.assert_allclose(shared.gamma, full.gamma, rtol=1e-12)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_all_array_libraries_agree(form: str, xp_like: Any) -> None:
    args = instance(21, 3, 4, 3, 2, 0.1)
    start = np.ones((3, 2))
    want = FORMS[form](*args, 0.1, key=KEY, start=start).value
    put = partial(as_like, like=xp_like)
    found = FORMS[form](*(put(x) for x in args), 0.1, key=KEY, start=put(start))
    np.testing.assert_allclose(to_numpy(found.value.gamma), want.gamma, rtol=1e-9)
    np.testing.assert_allclose(to_numpy(found.value.log_probs), want.log_probs, atol=1e-7)
    other = found.value.on(put(args[0]), put(args[1]))
    np.testing.assert_allclose(to_numpy(other), want.log_probs, atol=1e-7)
    bound = pointwise_bound(*(put(x) for x in args))
    np.testing.assert_allclose(to_numpy(bound), pointwise_bound(*args), rtol=1e-12)


# --------------------------------------------------------------------------- bad input


def test_bad_input_is_refused() -> None:
    phi, log_pi1, weights, sigma, beta = instance(22, 3, 4, 3, 2, 0.1)
    with pytest.raises(ValueError, match="eta must be positive"):
        constrained_enhancer(phi, log_pi1, weights, sigma, beta, 0.0, key=KEY)
    with pytest.raises(ValueError, match="beta must be finite"):
        constrained_enhancer(phi, log_pi1, weights, sigma, -beta, 0.1, key=KEY)
    with pytest.raises(ValueError, match="NaN"):
        constrained_enhancer(phi * np.nan, log_pi1, weights, sigma, beta, 0.1, key=KEY)
    with pytest.raises(ValueError, match="NaN"):
        constrained_enhancer(phi, log_pi1 * np.nan, weights, sigma, beta, 0.1, key=KEY)
    with pytest.raises(ShapeError, match="sigma must have shape"):
        constrained_enhancer(phi, log_pi1, weights, sigma[0], beta, 0.1, key=KEY)
    with pytest.raises(ShapeError, match="R or 1 rows"):
        constrained_enhancer(phi, log_pi1[:2], weights, sigma, beta, 0.1, key=KEY)
    with pytest.raises(ValueError, match="needs a start"):
        penalised_enhancer(phi, log_pi1, weights, sigma, beta, 0.1, key=KEY, n_random=0, axes=False)
