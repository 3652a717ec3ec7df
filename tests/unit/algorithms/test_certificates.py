"""The observable bounds: valid on the event, false for other enhancers, and the t0 rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlhf_theory.algorithms.certificates import best_round, online_bound
from rlhf_theory.algorithms.enhancers import enhance
from rlhf_theory.arrays import as_like, log_softmax, to_numpy
from rlhf_theory.estimators.ellipsoid import Ellipsoid
from rlhf_theory.evaluation.gaps import jeffreys, suboptimality
from rlhf_theory.planners.gibbs import GibbsPolicy, gibbs_log_probs
from rlhf_theory.policies import TablePolicy
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward

KEY = Key(seed=6)
FORMS = ("constrained", "penalised", "pointwise")


def worst_case(seed: int, r: int, d: int = 2) -> tuple[Any, ...]:
    """Problems, main agents and ellipsoids, with truths on the boundary in many directions."""
    rng = np.random.default_rng(seed)
    x, a, eta = 4, 4, 0.3
    phi = rng.normal(size=(r, x, a, d))
    problem = FiniteProblem(
        phi, log_softmax(rng.normal(size=(r, x, a))), np.full((1, x), 1 / x), eta, r
    )
    theta_hat = rng.normal(size=(r, d))
    root = rng.normal(size=(r, d, d))
    sigma = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(d)
    beta = rng.uniform(0.1, 1.0, size=r)
    pi1 = problem.tabulate(GibbsPolicy(LinearReward(theta_hat), eta))
    confidence = Ellipsoid(theta_hat, beta, lambda: sigma)
    # |L^T e|... theta = theta_hat + beta L^-T e with |e| = 1 lies on the boundary.
    e = rng.normal(size=(400, r, d))
    e /= np.linalg.norm(e, axis=-1, keepdims=True)
    lower = np.linalg.cholesky(sigma)
    theta = theta_hat + beta[:, None] * np.linalg.solve(lower.swapaxes(1, 2), e[..., None])[..., 0]
    return problem, pi1, confidence, theta


def gaps(problem: FiniteProblem, pi1: TablePolicy, theta: np.ndarray) -> tuple[np.ndarray, ...]:
    """The largest gap and left side with the KL over the given truths, shape (R,)."""
    x, weights = problem.population(KEY, 0)
    log_pi = pi1.log_probs(x)
    found = []
    for truth in theta:
        best = gibbs_log_probs(np.einsum("rd,rbad->rba", truth, x.phi), x.log_pi0, problem.eta)
        found.append(
            (
                suboptimality(log_pi, best, weights, problem.eta),
                jeffreys(log_pi, best, weights, problem.eta),
            )
        )
    worst = np.max(np.array(found), axis=0)
    return worst[0], worst[1]


def test_bounds_hold_for_every_truth_in_the_ellipsoid() -> None:
    problem, pi1, confidence, theta = worst_case(1, 40)
    bound = {f: online_bound(problem, pi1, confidence, KEY, form=f, n_random=12) for f in FORMS}
    gap, left = gaps(problem, pi1, theta)
    assert all(b.converged.all() for b in bound.values())
    assert (left <= bound["constrained"].value * (1 + 1e-9)).all()
    assert (gap <= bound["penalised"].value * (1 + 1e-9)).all()
    assert (bound["constrained"].value <= bound["pointwise"].value * (1 + 1e-9)).all()
    # (b) is attained: the worst gap over the ellipsoid is its value. 400 directions come near.
    np.testing.assert_allclose(gap, bound["penalised"].value, rtol=5e-3)


def test_the_bonus_of_the_penalised_enhancer_bounds_nothing() -> None:
    # Theory sheet 1.3: the left side with the KL exceeds Gamma of the penalised policy.
    problem, pi1, confidence, theta = worst_case(2, 40)
    gamma = enhance(problem, pi1, confidence, KEY, form="penalised", n_random=12).value.gamma
    _, left = gaps(problem, pi1, theta)
    assert (left > gamma * (1 + 1e-3)).sum() >= 5


def test_the_bound_of_the_truth_itself_is_zero(xp_like: Any) -> None:
    problem, pi1, confidence, _ = worst_case(3, 3)
    like = xp_like
    moved = FiniteProblem(
        as_like(problem.phi, like),
        as_like(problem.log_pi0, like),
        as_like(problem.weights, like),
        problem.eta,
        3,
    )
    x, _ = problem.population(KEY, 0)
    policy = TablePolicy(as_like(pi1.log_probs(x), like))
    sigma = as_like(confidence.sigma, like)
    ball = Ellipsoid(
        as_like(confidence.center, like), as_like(confidence.beta, like), lambda: sigma
    )
    for form in FORMS:
        none = online_bound(moved, policy, ball.rescaled(0.0), KEY, form=form)
        np.testing.assert_array_equal(to_numpy(none.value), 0.0)
        some = online_bound(moved, policy, ball, KEY, form=form)
        want = online_bound(problem, pi1, confidence, KEY, form=form)
        np.testing.assert_allclose(to_numpy(some.value), want.value, rtol=1e-7)


def test_a_warm_start_reaches_the_same_bound() -> None:
    problem, pi1, confidence, _ = worst_case(4, 20, d=4)
    cold = online_bound(problem, pi1, confidence, KEY)
    warm = online_bound(problem, pi1, confidence, KEY, n_random=0, axes=False, start=cold.warm)
    np.testing.assert_allclose(warm.value, cold.value, rtol=1e-6)


def test_best_round_is_the_running_argmin(xp_like: Any) -> None:
    bounds = np.array([[3.0, 2.0, 2.0, 1.0, 5.0], [1.0, 4.0, 0.5, 0.5, 0.4]])
    found = to_numpy(best_round(as_like(bounds, xp_like)))
    np.testing.assert_array_equal(found, [[0, 1, 1, 3, 3], [0, 0, 2, 2, 4]])


def test_bad_input_is_refused() -> None:
    problem, pi1, confidence, _ = worst_case(5, 2)
    with pytest.raises(ValueError, match="form must be one of"):
        online_bound(problem, pi1, confidence, KEY, form="closed")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        best_round(np.array([[1.0, np.nan]]))
