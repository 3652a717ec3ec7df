"""Bounds on its own gap that an online learner can compute, and the round that they choose."""

from __future__ import annotations

from typing import Literal

from rlhf_theory.algorithms.enhancers import enhance, objective_of, require_ellipsoid
from rlhf_theory.arrays import Array, namespace
from rlhf_theory.core import ConfidenceSet, Policy, Problem, Solution, closed_form
from rlhf_theory.errors import check_choice, check_shape
from rlhf_theory.planners.enhancer import pointwise_bound
from rlhf_theory.randomness import Key


def online_bound(
    problem: Problem,
    pi1: Policy,
    confidence: ConfidenceSet,
    key: Key,
    *,
    form: Literal["constrained", "penalised", "pointwise"] = "constrained",
    contexts: int = 256,
    n_random: int = 4,
    axes: bool = True,
    start: Array | None = None,
    tol: float = 1e-8,
) -> Solution[Array]:
    r"""Bound the gap of the main agent, from what the learner knows.

    On the event that ``theta*`` lies in the confidence ellipsoid, for ``pi1 = O(r_hat, eta, pi0)``
    with ``r_hat`` its center,

    * (a) ``"constrained"``: the maximum of the bonus ``Gamma`` over the policies with
      ``eta KL(pi' || pi1) <= Gamma`` bounds ``J(pi*) - J(pi1) + eta KL(pi* || pi1)``;
    * (b) ``"penalised"``: the maximum of ``Gamma - eta KL`` bounds ``J(pi*) - J(pi1)`` alone;
    * (c) ``"pointwise"``: ``beta E_x max_a |phi(x,a) - phi(x,pi1)|_{Sigma^-1}`` bounds what (a)
      does. It needs no search.

    They hold for the main agent whatever policy explores, and at all rounds at once if the radius
    does. (a) and (b) are certified as far as the maximum is global.

    Parameters
    ----------
    problem, pi1, confidence, key, contexts, n_random, axes, start, tol
        As in `enhance`; with drawn contexts the bound is about those.
    form
        Which bound.

    Returns
    -------
    Solution of shape ``(R,)``; ``warm`` holds the direction ``(R, d)``, a ``start`` for the next
    round.

    Source: theory sheet 1.3, from [2405.07863], Theorem 1.
    """
    check_choice("form", form, ("constrained", "penalised", "pointwise"))
    if form == "pointwise":
        ball = require_ellipsoid(confidence)
        x, weights = problem.population(key.child("contexts"), contexts)
        value = pointwise_bound(x.phi, pi1.log_probs(x), weights, ball.sigma, ball.beta)
        return closed_form(value, value.shape[0], value)
    found = enhance(
        problem,
        pi1,
        confidence,
        key,
        form=form,
        contexts=contexts,
        n_random=n_random,
        axes=axes,
        start=start,
        tol=tol,
    )
    return objective_of(found)


def best_round(bounds: Array) -> Array:
    """Return the round ``t0`` with the smallest bound so far, at every round.

    Parameters
    ----------
    bounds
        Bounds of rounds ``0 .. T``, shape ``(R, T + 1)``.

    Returns
    -------
    Integers of shape ``(R, T + 1)``: entry ``t`` is the best among rounds ``0 .. t``, the earliest
    where several are.

    Source: theory sheet 1.3, a computable ``t0`` where [2312.11456] asserts that one exists.
    """
    check_shape("bounds", bounds, (None, None), "(R, T + 1)")
    xp = namespace(bounds)
    if bool(xp.any(xp.isnan(bounds))):
        message = "bounds must be numbers; they have NaN."
        raise ValueError(message)
    columns = [xp.argmin(bounds[:, : t + 1], axis=-1) for t in range(bounds.shape[1])]
    return xp.stack(columns, axis=1)
