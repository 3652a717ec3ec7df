"""The equilibrium of the KL-regularised preference game, to machine precision."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rlhf_theory.arrays import (
    Array,
    check_finite,
    expand_rows,
    log_softmax,
    namespace,
)
from rlhf_theory.core import Policy, PreferenceModel, Problem, Solution, closed_form
from rlhf_theory.data import Contexts
from rlhf_theory.errors import ShapeError, check_positive, check_shape
from rlhf_theory.planners.equilibrium import solve_skew_games
from rlhf_theory.planners.skew_games import SkewGames
from rlhf_theory.policies import SolvedPolicy, check_log_probs
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner

T = TypeVar("T")

_HINT = (
    "Raise `max_iter`, or inspect the payoff: max |payoff| / eta may be beyond double precision."
)
# Probabilities of a starting point below e^-700 are taken as this: the logarithm must be finite.
_LEAST_START = -700.0


def best_reply(payoff: Array, log_pi: Array, log_pi0: Array, eta: float) -> Array:
    r"""Return the best reply to a policy, :math:`\pi_0 \exp(R \pi / \eta) / Z`.

    Parameters
    ----------
    payoff
        Payoffs to the first action, shape ``(R, B, A, A)``.
    log_pi, log_pi0
        Log-probabilities of the opponent and of the reference policy, shape ``(R, B, A)``.
    eta
        Weight of the KL, positive.

    Returns
    -------
    Log-probabilities, shape ``(R, B, A)``; ``-inf`` where ``log_pi0`` is.
    """
    xp = namespace(payoff, log_pi)
    value = xp.matmul(payoff, xp.exp(log_pi)[..., None])[..., 0]
    return log_softmax(log_pi0 + value / eta)


def nash_policy(
    payoff: Array,
    log_pi0: Array,
    eta: float,
    *,
    tol: float = 1e-12,
    max_iter: int = 500,
    start: Array | None = None,
) -> Solution[Array]:
    r"""Return the symmetric equilibrium of the KL-regularised preference game.

    .. math::

        J(\pi, \pi') = \pi^\top R \pi' - \eta\,\mathrm{KL}(\pi \Vert \pi_0)
                       + \eta\,\mathrm{KL}(\pi' \Vert \pi_0), \qquad R = -R^\top

    whose equilibrium is the fixed point :math:`\pi \propto \pi_0 \exp(R \pi / \eta)`, unique. The
    residual is the exploitability :math:`-\min_{\pi'} J(\pi, \pi') = \eta\,\mathrm{KL}(\pi \Vert
    \mathrm{BR}(\pi))`, the largest of all contexts; the solver goes on to where log-probabilities
    are exact to rounding, those of actions without mass included.

    Parameters
    ----------
    payoff
        Antisymmetric payoffs, shape ``(R, B, A, A)``. For win probabilities pass ``P - 1/2``.
    log_pi0
        Reference policy, shape ``(R, B, A)`` or ``(1, B, A)``; ``-inf`` marks an absent action,
        whose payoffs are ignored (but must be finite).
    eta
        Weight of the KL, positive. Papers that write the game with ``1/eta`` or ``tau``: see the
        notation map, theory sheet 0.2.
    tol
        Exploitability at which a game counts as solved.
    max_iter
        Newton steps per game; hard games take fewer than 100.
    start
        Log-policy to start from, shape ``(R, B, A)``, such as the equilibrium of a similar game;
        None: the reference policy. A bad start costs a few steps.

    Returns
    -------
    Solution with the log-policy, shape ``(R, B, A)``.

    Source: theory sheet 2.1 and 8; [2402.07314], equilibrium of the regularised game.
    """
    n_replicas = check_game(payoff, log_pi0, eta, start)
    xp = namespace(payoff, log_pi0)
    transposed = xp.matrix_transpose(payoff)
    rounding = 1e4 * float(xp.finfo(payoff.dtype).eps) * (1.0 + float(xp.max(xp.abs(payoff))))
    if not float(xp.max(xp.abs(payoff + transposed))) <= rounding:
        message = (
            "payoff must be antisymmetric, R(a, b) = -R(b, a): for win probabilities pass P - 1/2, "
            "for pessimistic payoffs use two_player_saddle."
        )
        raise ValueError(message)
    found = equilibria(
        expand_rows(0.5 * (payoff - transposed), n_replicas),
        expand_rows(log_pi0, n_replicas)[:, :, None, :],
        eta,
        tol=tol,
        max_iter=max_iter,
        start=None if start is None else expand_rows(start, n_replicas)[:, :, None, :],
    )
    return replace(found, value=found.value[:, :, 0, :])


def check_game(payoff: Array, log_pi0: Array, eta: float, *starts: Array | None) -> int:
    """Raise ``ValueError`` unless the arguments make a game; return the number of replicas.

    ``log_pi0`` is the reference policy of both players, ``starts`` are policies of either.
    """
    check_positive("eta", eta)
    check_shape("payoff", payoff, (None, None, None, None), "(R, B, A, A)")
    r, b, a, _ = payoff.shape
    check_shape("payoff", payoff, (r, b, a, a), "(R, B, A, A)")
    check_finite("payoff", payoff)
    check_shape("log_pi0", log_pi0, (None, b, a), "(R, B, A)")
    check_log_probs("log_pi0", log_pi0)
    rows = {r, log_pi0.shape[0]}
    for start in starts:
        if start is not None:
            check_shape("start", start, (None, b, a), "(R, B, A)")
            rows.add(start.shape[0])
            if bool(namespace(start).any(namespace(start).isnan(start))):
                message = "start must be log-probabilities; it has NaN entries."
                raise ValueError(message)
    if len(rows - {1}) > 1:
        message = f"payoff, log_pi0 and start must have 1 or R rows; got {sorted(rows)}."
        raise ShapeError(message)
    return int(max(rows))


def equilibria(
    skew: Array, log_pi0: Array, eta: float, *, tol: float, max_iter: int, start: Array | None
) -> Solution[Array]:
    """Return the equilibria of the games of all contexts, shape ``(R, B, k, A)``.

    Parameters
    ----------
    skew
        Skew matrices over the actions of all ``k`` players, shape ``(R, B, k A, k A)``.
    log_pi0
        Reference policies of the players, shape ``(R, B, k, A)``; ``-inf``: absent action.
    eta, tol, max_iter
        As in `solve_skew_games`; the residual is the largest gap of a replica's contexts.
    start
        Log-policies to start from, shape ``(R, B, k, A)``.
    """
    xp = namespace(skew, log_pi0)
    r, b, k, a = log_pi0.shape
    if start is not None:
        start = xp.where(start > _LEAST_START, start, xp.zeros_like(start) + _LEAST_START)
        start = xp.reshape(start, (r * b, k, a))
    games = SkewGames.of(
        xp.reshape(skew, (r * b, k * a, k * a)), xp.reshape(log_pi0, (r * b, k, a)), eta
    )
    found = solve_skew_games(games, eta, tol=tol, max_iter=max_iter, start=start)
    log_pi = xp.reshape(found.log_p, (r, b, k, a))
    return Solution(
        xp.where(log_pi0 > -math.inf, log_pi, log_pi0),
        xp.max(xp.reshape(found.gap, (r, b)), axis=-1),
        xp.all(xp.reshape(found.solved, (r, b)), axis=-1),
        found.n_iter,
        _HINT,
    )


@dataclass(frozen=True, eq=False)
class NashPolicy:
    """The equilibrium policy of a preference model, solved on the contexts that it is given.

    Attributes
    ----------
    model
        The preference, antisymmetric.
    eta
        Weight of the KL, positive.
    tol
        Exploitability at which a game counts as solved.
    """

    model: PreferenceModel
    eta: float
    tol: float = 1e-12

    def __post_init__(self) -> None:
        check_positive("eta", self.eta)
        check_positive("tol", self.tol)

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``; ``ConvergenceError`` if not solved."""

        def solve(c: Contexts) -> Array:
            return nash_policy(self.model.payoff(c), c.log_pi0, self.eta, tol=self.tol).require()

        return contexts.lookup(solve)


@planner("nash")
@dataclass(frozen=True)
class Nash:
    """Plan exactly: the equilibrium of the problem's ``eta`` for an antisymmetric payoff.

    Where contexts are finite all games are solved at once, and the residual is the largest
    exploitability of a context; elsewhere the policy solves the games of the contexts that it
    meets, and raises where it cannot.

    Attributes
    ----------
    tol
        Exploitability at which a game counts as solved.
    max_iter
        Newton steps per game.

    Source: [2402.07314], planning oracle; theory sheet 2.3 and 8.
    """

    tol: float = 1e-12
    max_iter: int = 500

    def __post_init__(self) -> None:
        check_positive("tol", self.tol)

    def __call__(
        self, model: PreferenceModel, problem: Problem, key: Key, start: Policy | None = None
    ) -> Solution[Policy]:
        """Return the equilibrium policy; ``start`` saves steps if it solves a similar game."""
        contexts, _ = problem.population(key.child("population"), 1)
        anywhere = NashPolicy(model, problem.eta, self.tol)
        if contexts.ids is None:
            return closed_form(anywhere, problem.n_replicas, contexts.like)
        found = nash_policy(
            model.payoff(contexts),
            contexts.log_pi0,
            problem.eta,
            tol=self.tol,
            max_iter=self.max_iter,
            start=None if start is None else start.log_probs(contexts),
        )
        solved = problem.tabulate(SolvedPolicy(contexts, found.value, anywhere))
        return spread(found, solved, problem.n_replicas)


def spread(found: Solution[Any], value: T, n_replicas: int) -> Solution[T]:
    """Return the solution with another value, one residual for each of ``n_replicas``.

    What all replicas share was solved once.
    """
    residual, converged = (expand_rows(x, n_replicas) for x in (found.residual, found.converged))
    return replace(found, value=value, residual=residual, converged=converged)
