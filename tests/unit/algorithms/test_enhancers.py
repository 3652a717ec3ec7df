"""Which policy explores: each enhancer by its definition, on finite and on fresh contexts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlhf_theory.algorithms.enhancers import (
    FromReference,
    OnPolicy,
    Optimistic,
    Uniform,
    enhance,
    require_ellipsoid,
)
from rlhf_theory.arrays import as_like, log_softmax, to_numpy
from rlhf_theory.estimators.ellipsoid import Ellipsoid
from rlhf_theory.planners.enhancer import constrained_enhancer, penalised_enhancer
from rlhf_theory.planners.gibbs import GibbsPolicy
from rlhf_theory.policies import FunctionPolicy
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward

KEY = Key(seed=5)
R, X, A, D, ETA = 4, 5, 4, 3, 0.2


def arrays() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(R, D, D))
    return (
        rng.normal(size=(1, X, A, D)),
        log_softmax(rng.normal(size=(1, X, A))),
        rng.dirichlet(np.ones(X), size=1),
        0.5 * rng.normal(size=(R, D)),
        root @ root.transpose(0, 2, 1) + 0.3 * np.eye(D),
        np.full(R, 0.2),
    )


def finite(like: Any) -> tuple[FiniteProblem, FunctionPolicy, Ellipsoid]:
    phi, log_pi0, weights, theta, sigma, beta = (as_like(x, like) for x in arrays())
    problem = FiniteProblem(phi, log_pi0, weights, ETA, R)
    pi1 = problem.tabulate(GibbsPolicy(LinearReward(theta), ETA))
    return problem, pi1, Ellipsoid(theta, beta, lambda: sigma)


def test_optimistic_is_the_constrained_maximum(xp_like: Any) -> None:
    problem, pi1, confidence = finite(xp_like)
    pi2 = Optimistic()(problem, pi1, confidence, KEY)
    x, weights = problem.population(KEY, 0)
    want = constrained_enhancer(
        x.phi, pi1.log_probs(x), weights, confidence.sigma, confidence.beta, ETA, key=KEY
    )
    # Other random starts, so the same optimum to the tolerance of the search.
    np.testing.assert_allclose(
        to_numpy(pi2.log_probs(x)), to_numpy(want.value.log_probs), atol=1e-3
    )
    total = np.exp(to_numpy(pi2.log_probs(x))).sum(axis=-1)
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)


def test_forms_are_those_of_the_planner() -> None:
    problem, pi1, confidence = finite(np.zeros(1))
    found = {
        form: enhance(problem, pi1, confidence, KEY, form=form).value.gamma
        for form in ("penalised", "constrained", "free")
    }
    assert (found["penalised"] <= found["constrained"] + 1e-12).all()
    assert (found["constrained"] <= found["free"] + 1e-12).all()
    x, weights = problem.population(KEY, 0)
    want = penalised_enhancer(
        x.phi, pi1.log_probs(x), weights, confidence.sigma, confidence.beta, ETA, key=KEY
    )
    np.testing.assert_allclose(found["penalised"], want.value.gamma, rtol=1e-6)


def test_optimistic_serves_contexts_that_never_repeat() -> None:
    _, _, _, theta, sigma, beta = arrays()

    def draw(key: Key, rows: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        return key.normal_numpy(rows, n, A, D), np.zeros((rows, n, A))

    problem = FreshProblem(draw, D, ETA, R, np.zeros(1))
    pi1 = GibbsPolicy(LinearReward(theta), ETA)
    confidence = Ellipsoid(theta, beta, lambda: sigma)
    pi2 = Optimistic(contexts=64)(problem, pi1, confidence, KEY)
    x = problem.sample_contexts(KEY.child("new"), 500)
    log_pi2 = pi2.log_probs(x)
    np.testing.assert_allclose(np.exp(log_pi2).sum(axis=-1), 1.0, rtol=1e-12)
    # A tilt of the main agent along one direction: log pi2 - log pi1 is linear in the features.
    change = log_pi2 - pi1.log_probs(x)
    change = change - change[..., :1]
    z = x.phi - x.phi[:, :, :1, :]
    for r in range(R):
        rows = z[r].reshape(-1, D)
        _, rest, *_ = np.linalg.lstsq(rows, change[r].ravel(), rcond=None)
        assert (change[r] ** 2).sum() > 1.0
        assert rest[0] < 1e-12 * (change[r] ** 2).sum()


def test_baselines_are_what_they_say() -> None:
    problem, pi1, confidence = finite(np.zeros(1))
    x, _ = problem.population(KEY, 0)
    assert OnPolicy()(problem, pi1, confidence, KEY) is pi1
    np.testing.assert_array_equal(
        FromReference()(problem, pi1, confidence, KEY).log_probs(x), x.log_pi0
    )
    np.testing.assert_allclose(
        Uniform()(problem, pi1, confidence, KEY).log_probs(x), -np.log(A), rtol=1e-12
    )


def test_radius_zero_explores_on_policy() -> None:
    problem, pi1, confidence = finite(np.zeros(1))
    x, _ = problem.population(KEY, 0)
    for form in ("constrained", "penalised"):
        pi2 = Optimistic(form=form)(problem, pi1, confidence.rescaled(0.0), KEY)
        np.testing.assert_allclose(pi2.log_probs(x), pi1.log_probs(x), atol=1e-12)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="form must be one of"):
        Optimistic(form="constraint")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="contexts must be positive"):
        Optimistic(contexts=0)
    with pytest.raises(ValueError, match="needs a confidence ellipsoid"):
        require_ellipsoid(object())  # type: ignore[arg-type]
