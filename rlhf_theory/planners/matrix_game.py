"""Games without regularisation, by linear programming on the host."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog

from rlhf_theory.arrays import Array, as_like, check_finite, to_numpy
from rlhf_theory.core import Policy, PreferenceModel, Problem, Solution
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_shape
from rlhf_theory.planners.nash import spread
from rlhf_theory.policies import FunctionPolicy, SolvedPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner

_HINT = "The linear program failed: look for payoffs of very different size."


class MatrixEquilibrium(NamedTuple):
    """Equilibrium of matrix games.

    Attributes
    ----------
    row, column
        Probabilities of the maximising and of the minimising player, shape ``(R, B, A)``.
    value
        Value of the game, shape ``(R, B)``.
    """

    row: Array
    column: Array
    value: Array


def matrix_game(
    payoff: Array, *, present: Array | None = None, tol: float = 1e-9
) -> Solution[MatrixEquilibrium]:
    """Return an equilibrium of ``max_x min_y x^T M y``, one linear program per game.

    Where there are several, a vertex of the set of equilibria: which one may change with the order
    of the actions. The residual is the duality gap ``max (M y) - min (M^T x)``, the largest of all
    contexts, measured in units of the game's largest payoff where that exceeds 1.

    Parameters
    ----------
    payoff
        Payoffs to the row player, shape ``(R, B, A, A')``; need not be antisymmetric.
    present
        Which actions there are, shape ``(R, B, A)`` or ``(1, B, A)``, for both players; None: all.
    tol
        Duality gap at which a game counts as solved.

    Source: theory sheet 8; von Neumann's linear program.
    """
    check_shape("payoff", payoff, (None, None, None, None), "(R, B, A, A')")
    check_finite("payoff", payoff)
    host = to_numpy(payoff)
    r, b, a1, a2 = host.shape
    rows, columns = np.ones((r, b, a1), dtype=bool), np.ones((r, b, a2), dtype=bool)
    if present is not None:
        check_shape("present", present, (None, b, a1), "(R, B, A)")
        r = max(r, present.shape[0])
        host = np.broadcast_to(host, (r, b, a1, a2))
        rows = columns = np.broadcast_to(to_numpy(present), (r, b, a1))
    x, y = np.zeros((r, b, a1)), np.zeros((r, b, a2))
    value, gap = np.full((r, b), math.nan), np.full((r, b), math.inf)
    steps = 0
    for i in np.ndindex(r, b):
        here, there = np.nonzero(rows[i])[0], np.nonzero(columns[i])[0]
        game = _solve(host[i][np.ix_(here, there)])
        x[i][here], y[i][there] = game.row, game.column
        value[i], gap[i] = game.value, game.gap
        steps = max(steps, game.steps)
    equilibrium = MatrixEquilibrium(as_like(x, payoff), as_like(y, payoff), as_like(value, payoff))
    residual = as_like(gap.max(axis=-1), payoff)
    return Solution(equilibrium, residual, residual <= tol, steps, _HINT)


class _Game(NamedTuple):
    row: np.ndarray
    column: np.ndarray
    value: float
    gap: float
    steps: int


def _solve(m: np.ndarray) -> _Game:
    """Return the equilibrium of one game: ``max v`` with ``M^T x >= v``; duals are the column."""
    n, k = m.shape
    scale = max(1.0, float(np.abs(m).max()))
    game = linprog(
        np.append(np.zeros(n), -1.0),
        A_ub=np.hstack([-m.T / scale, np.ones((k, 1))]),
        b_ub=np.zeros(k),
        A_eq=np.append(np.ones(n), 0.0)[None, :],
        b_eq=[1.0],
        bounds=[(0.0, None)] * n + [(None, None)],
        method="highs-ds",
    )
    if not game.success or game.x is None:
        return _Game(np.full(n, 1.0 / n), np.full(k, 1.0 / k), math.nan, math.inf, int(game.nit))
    x = np.maximum(game.x[:n], 0.0)
    y = np.maximum(-game.ineqlin.marginals, 0.0)
    x, y = x / x.sum(), y / y.sum()
    best, worst = float((m @ y).max()), float((m.T @ x).min())
    return _Game(x, y, 0.5 * (best + worst), (best - worst) / scale, int(game.nit))


@planner("unregularised-nash")
@dataclass(frozen=True)
class UnregularisedNash:
    """Plan without regularisation: an equilibrium of the game at ``eta = 0``, where finite.

    A vertex of the set of equilibria, so it may play some actions never (``-inf``). Only actions
    that pi0 can play take part.

    Source: theory sheet 8.
    """

    def __call__(
        self,
        model: PreferenceModel,
        problem: Problem,
        key: Key,
        start: Policy | None = None,  # noqa: ARG002
    ) -> Solution[Policy]:
        """Return the policy of the row player; ``ValueError`` where contexts are not finite."""
        contexts, _ = problem.population(key.child("population"), 1)
        if contexts.ids is None:
            message = "UnregularisedNash needs finitely many contexts, with ids; use Nash here."
            raise ValueError(message)

        def solve(c: Contexts) -> tuple[Solution[Any], Array]:
            found = matrix_game(model.payoff(c), present=c.log_pi0 > -math.inf)
            row = to_numpy(found.value.row)
            logs = np.log(np.where(row > 0, row, 1.0))
            return found, as_like(np.where(row > 0, logs, -math.inf), c.like)

        found, table = solve(contexts)
        solved = SolvedPolicy(contexts, table, FunctionPolicy(lambda c: solve(c)[1]))
        return spread(found, problem.tabulate(solved), problem.n_replicas)
