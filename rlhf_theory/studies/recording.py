"""Which rounds of an online run are kept."""

from __future__ import annotations

import numpy as np

from rlhf_theory.errors import check_choice, check_nonnegative, check_positive

GRIDS = ("log", "linear", "all")

_ALL_UP_TO = 10
"""The logarithmic grid keeps every round up to here: its points would fall between rounds."""


def recorded_rounds(rounds: int, grid: str = "log", points: int | None = None) -> np.ndarray:
    """Return the rounds that are kept of ``0 .. rounds``, increasing.

    Grids are nested: what a longer run keeps of the first ``rounds`` does not depend on its length.
    Only the last round, which is always kept, may not belong to the grid of a longer run.

    Parameters
    ----------
    rounds
        Rounds ``T``; 0 keeps round 0, the policy before any round.
    grid
        ``"log"``: rounds 0 to 10, then ``10^(k / points)``, rounded; ``"linear"``: every
        ``points``-th; ``"all"``.
    points
        Points per decade of the logarithmic grid (None is 20), or the step of the linear one
        (None is 1). Not for ``"all"``.

    Examples
    --------
    >>> recorded_rounds(40, "log", 4)
    array([ 0,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 18, 32, 40])
    >>> recorded_rounds(25, "linear", 10)
    array([ 0, 10, 20, 25])
    """
    check_choice("grid", grid, GRIDS)
    check_nonnegative("rounds", rounds)
    if points is not None:
        check_positive("points", points)
    every = np.arange(rounds + 1)
    if grid == "all":
        if points is not None:
            message = f"The grid 'all' keeps every round and takes no points; got {points}."
            raise ValueError(message)
        return every
    if grid == "linear":
        kept = every[:: points or 1]
    else:
        per_decade = points or 20
        decades = np.log10(max(rounds, 1))
        k = np.arange(int(np.ceil(decades * per_decade)) + 1)
        spaced = np.rint(10.0 ** (k / per_decade)).astype(np.int64)
        kept = np.concatenate([every[: _ALL_UP_TO + 1], spaced[spaced <= rounds]])
    return np.unique(np.append(kept, rounds))
