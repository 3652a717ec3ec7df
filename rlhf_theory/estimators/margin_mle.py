"""Bradley-Terry maximum likelihood over rewards of bounded range, by an interior-point method."""

from __future__ import annotations

import math

from rlhf_theory.arrays import Array, eye_like, full_like, namespace, null_projector, sigmoid, solve
from rlhf_theory.core import Solution
from rlhf_theory.data import PreferenceData
from rlhf_theory.errors import check_positive
from rlhf_theory.visited_pairs import VisitedPairs

_PATIENCE = 8
_HINT = (
    "Raise `max_iter`, or lower `bound`: with a wide bound the likelihood is far from quadratic."
)


def bounded_margin_mle(
    data: PreferenceData,
    *,
    bound: float,
    scale: float = 1.0,
    tol: float = 1e-8,
    max_iter: int = 80,
) -> Solution[Array]:
    r"""Minimise the negative log-likelihood over bounded reward differences.

    .. math:: \min_\theta L(\theta) \quad \text{subject to} \quad
              |\langle z, \theta\rangle| \le b \text{ for every pair } z \text{ of the design}

    With one-hot features these are all rewards with ``max - min <= b`` in every context, the class
    of bounded rewards. The minimum exists for all data; where it is not unique (``n = 0``, an
    action that was never compared), the solver returns a point in the middle of the minimisers.

    Parameters
    ----------
    data
        Comparisons over finitely many contexts: a bound on all pairs needs the table of them.
    bound
        ``b``, positive.
    scale
        Known scale ``s`` of the labels ``sigma(s <z, theta>)``.
    tol
        Largest residual to go on for. Where rounding keeps it larger, the best iterate is returned,
        which has converged if its residual is at most ``tol`` per label.
    max_iter
        Newton iterations.

    Returns
    -------
    Solution of shape ``(R, d)``; residual is the complementarity gap, in nats of likelihood, plus
    the largest entry of the gradient of the Lagrangian.

    Raises
    ------
    ValueError
        For data that grow as a list, whose pairs are not all known.

    Source: [2407.13399], the class of bounded rewards; primal-dual steps as in Boyd and
    Vandenberghe (2004), Convex Optimization, section 11.7.
    """
    check_positive("bound", bound)
    check_positive("scale", scale)
    if isinstance(data, VisitedPairs):
        data = data.tabulated()
    design = data.differences
    possible = design.possible
    if possible is None:
        message = (
            "bounded_margin_mle needs data over finitely many contexts, as made by "
            "FiniteProblem.empty_data(); got a growing list. Use bradley_terry_mle with `bound`."
        )
        raise ValueError(message)
    count, wins = data.count, data.wins
    xp = namespace(count)
    n_replicas, p = count.shape[0], design.n_params
    target = scale * design.adjoint(wins)
    # Directions that no pair of the design sees stay at 0.
    (null, _), eye = null_projector(possible), eye_like(p, count)
    eps = float(xp.finfo(count.dtype).eps)
    theta = full_like((n_replicas, p), 0.0, count)
    u = full_like(count.shape, 0.0, count)
    up, down = xp.ones_like(u) / bound, xp.ones_like(u) / bound  # multipliers of u <= b, u >= -b
    residual = full_like((n_replicas,), math.inf, count)
    best, least = theta, residual
    since = full_like((n_replicas,), 0.0, count)  # iterations without a better one
    n_iter = 0
    for n_iter in range(1, max_iter + 1):  # noqa: B007
        above, below = _slack(bound - u, eps * bound), _slack(bound + u, eps * bound)
        prob = sigmoid(scale * u)
        slope = scale * design.adjoint(count * prob) - target
        gap = xp.sum(up * above + down * below, axis=-1)
        mu = (0.1 / max(1, 2 * u.shape[1])) * gap[:, None]
        hessian = design.gram(
            scale * scale * count * prob * (1.0 - prob) + up / above + down / below
        )
        # Against the curvature of a bound that is met, all else may vanish in rounding.
        top = xp.max(xp.abs(hessian), axis=(-2, -1), keepdims=True)
        fixed = xp.where(top > 0, top, xp.ones_like(top)) * (null + 4.0 * eps * eye)
        step = -solve(hessian + fixed, slope + design.adjoint(mu / above - mu / below))
        du = design.margins(step)
        d_up = mu / above - up + up / above * du
        d_down = mu / below - down - down / below * du
        # Stay strictly inside: 99 % of the way to the first bound that would be met.
        reach = _reach([above, below, up, down], [-du, du, d_up, d_down])
        # A replica that has converged stays put, so its value cannot depend on the others. So does
        # one that rounding keeps from it: near a bound that is met its steps only get worse.
        moves = (residual > tol) & (since < _PATIENCE)
        reach = xp.where(moves, reach, xp.zeros_like(reach))[:, None]
        theta, u = theta + reach * step, u + reach * du
        up, down = up + reach * d_up, down + reach * d_down
        gradient = scale * design.adjoint(count * sigmoid(scale * u)) - target
        gradient = gradient + design.adjoint(up - down)
        residual = xp.sum(up * (bound - u) + down * (bound + u), axis=-1)
        residual = residual + xp.max(xp.abs(gradient), axis=-1)
        better = residual < least
        best, least = xp.where(better[:, None], theta, best), xp.where(better, residual, least)
        since = xp.where(better, xp.zeros_like(since), since + 1.0)
        if bool(xp.all((residual <= tol) | (since >= _PATIENCE))):
            break
    labels = xp.sum(count, axis=-1)
    enough = tol * xp.where(labels > 1.0, labels, xp.ones_like(labels))
    return Solution(best, least, least <= enough, n_iter, _HINT)


def _slack(slack: Array, least: float) -> Array:
    """Return a distance to a bound, not rounded to 0."""
    xp = namespace(slack)
    return xp.where(slack > 0.0, slack, full_like(slack.shape, least, slack))


def _reach(values: list[Array], changes: list[Array]) -> Array:
    """Return the longest step, at most 1, that keeps all values positive, shape ``(R,)``."""
    xp = namespace(values[0])
    reach = full_like((values[0].shape[0],), 1.0, values[0])
    if values[0].shape[1] == 0:
        return reach
    for value, change in zip(values, changes, strict=True):
        falls = change < 0.0
        ratio = xp.where(falls, value, xp.ones_like(value)) / xp.where(
            falls, -change, 0.5 + 0.0 * change
        )
        reach = xp.minimum(reach, 0.99 * xp.min(ratio, axis=-1))
    return reach
