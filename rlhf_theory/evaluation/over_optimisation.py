"""Over-optimisation curves: gold reward against the distance from pi0; on the host.

A curve is a path of policies from weak to strong optimisation of a proxy. Functions take curves row
by row, ``(k, T)``, so that they can be statistics of a bootstrap.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from rlhf_theory.errors import ShapeError, check_choice

Law = Literal["best-of-n", "rl"]


def drop_from_peak(gold: np.ndarray) -> np.ndarray:
    """Return what the end of a path has lost from its peak, shape ``(k,)``, at least 0.

    Parameters
    ----------
    gold
        Gold reward along the path, shape ``(k, T)``; the last point is the most optimised.
    """
    return np.asarray(gold.max(axis=-1) - gold[..., -1])


def peak_distance(kl: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return ``sqrt(KL)`` where gold reward is largest, shape ``(k,)``; curves ``(k, T)``.

    The vertex of the parabola through the largest point and its two neighbours; the point itself at
    an end of the path.
    """
    d = np.sqrt(np.maximum(kl, 0.0))
    top = np.argmax(gold, axis=-1)
    last = gold.shape[-1] - 1
    at = [np.clip(top + shift, 0, last)[..., None] for shift in (-1, 0, 1)]
    (x0, x1, x2), (y0, y1, y2) = (
        [np.take_along_axis(v, k, axis=-1)[..., 0] for k in at] for v in (d, gold)
    )
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    slope = left - right
    inside = (top > 0) & (top < last) & (slope > 0)
    move = 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / np.where(inside, slope, 1.0)
    return np.where(inside, x1 - move, x1)


def _basis(distance: np.ndarray, law: Law) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of alpha and of -beta."""
    check_choice("law", law, ("best-of-n", "rl"))
    if law == "best-of-n":
        return distance, distance * distance
    # d log d tends to 0 with d.
    safe = np.where(distance > 0, distance, 1.0)
    return distance, distance * np.log(safe)


def over_optimisation_law(
    distance: np.ndarray, alpha: np.ndarray, beta: np.ndarray, law: Law
) -> np.ndarray:
    r"""Return the gold reward over that of the reference policy at ``d = sqrt(KL)``.

    .. math:: R(d) = d (\alpha - \beta d) \text{ for best-of-n}, \qquad
              R(d) = d (\alpha - \beta \log d) \text{ for RL}

    Source: [2210.10760], section 3.
    """
    first, second = _basis(np.asarray(distance, dtype=float), law)
    return np.asarray(alpha * first - beta * second)


def over_optimisation_fit(kl: np.ndarray, gold: np.ndarray, law: Law) -> np.ndarray:
    """Fit `over_optimisation_law` by least squares.

    Parameters
    ----------
    kl
        KL from the reference policy along the path, shape ``(k, T)``, at least two of them
        different from 0 and from each other.
    gold
        Gold reward over that of the reference policy, shape ``(k, T)``.
    law
        ``"best-of-n"`` or ``"rl"`` (here: the Gibbs path).

    Returns
    -------
    Array of shape ``(k, 2)``: alpha and beta.
    """
    if kl.shape != gold.shape or kl.ndim != 2:
        message = f"kl and gold must have one shape (k, T); got {kl.shape} and {gold.shape}."
        raise ShapeError(message)
    first, second = _basis(np.sqrt(np.maximum(kl, 0.0)), law)
    columns = np.stack([first, -second], axis=-1)
    normal = np.swapaxes(columns, -1, -2) @ columns
    return np.asarray(np.linalg.solve(normal, (np.swapaxes(columns, -1, -2) @ gold[..., None])))[
        ..., 0
    ]
