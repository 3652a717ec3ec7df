"""The equilibrium of the KL-regularised preference game, to machine precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from rlhf_theory.arrays import (
    Array,
    check_finite,
    expand_rows,
    log_softmax,
    logsumexp,
    namespace,
)
from rlhf_theory.core import Policy, PreferenceModel, Problem, Solution, closed_form
from rlhf_theory.data import Contexts
from rlhf_theory.errors import ShapeError, check_positive, check_shape
from rlhf_theory.planners.equilibrium import solve_skew_games
from rlhf_theory.planners.skew_games import SkewGames
from rlhf_theory.policies import SolvedPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner

T = TypeVar("T")

HINT = "Raise `max_iter`, or inspect the payoff: max |payoff| / eta may be beyond double precision."
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
    n_replicas = check_game(payoff, log_pi0, log_pi0, eta, start)
    xp = namespace(payoff, log_pi0)
    transposed = xp.matrix_transpose(payoff)
    rounding = 1e4 * float(xp.finfo(payoff.dtype).eps) * (1.0 + float(xp.max(xp.abs(payoff))))
    if not float(xp.max(xp.abs(payoff + transposed))) <= rounding:
        message = (
            "payoff must be antisymmetric, R(a, b) = -R(b, a): for win probabilities pass P - 1/2, "
            "for pessimistic payoffs use two_player_saddle."
        )
        raise ValueError(message)
    _, b, a, _ = payoff.shape
    games = n_replicas * b
    skew = expand_rows(0.5 * (payoff - transposed), n_replicas)
    log_pi0 = expand_rows(log_pi0, n_replicas)
    found = solve_skew_games(
        SkewGames.of(xp.reshape(skew, (games, a, a)), xp.reshape(log_pi0, (games, 1, a)), eta),
        eta,
        tol=tol,
        max_iter=max_iter,
        start=None if start is None else starting_point(start, n_replicas, (games, 1, a)),
    )
    log_pi = xp.reshape(found.log_p, (n_replicas, b, a))
    log_pi = xp.where(log_pi0 > -math.inf, log_pi, log_pi0)
    residual, converged = per_replica(found.gap, found.solved, (n_replicas, b))
    return Solution(log_pi, residual, converged, found.n_iter, HINT)


def check_game(
    payoff: Array, log_pi1: Array, log_pi2: Array, eta: float, *starts: Array | None
) -> int:
    """Raise ``ValueError`` unless the arguments make a game; return the number of replicas.

    ``log_pi1`` and ``log_pi2`` are the reference policies of the two players, ``starts`` policies
    of the first.
    """
    check_positive("eta", eta)
    check_shape("payoff", payoff, (None, None, None, None), "(R, B, A, A)")
    r, b, a1, a2 = payoff.shape
    check_finite("payoff", payoff)
    rows = {r}
    for log_pi0, n_actions in ((log_pi1, a1), (log_pi2, a2)):
        check_shape("log_pi0", log_pi0, (None, b, n_actions), "(R, B, A)")
        rows.add(log_pi0.shape[0])
        xp = namespace(payoff, log_pi0)
        # Also false for NaN and for an empty set of actions.
        slack = max(1e-6, 100.0 * float(xp.finfo(log_pi0.dtype).eps))
        if not bool(xp.all(xp.abs(logsumexp(log_pi0)) <= slack)):
            message = (
                "log_pi0 must be log-probabilities that sum to one in every context. "
                "Normalise with arrays.log_softmax."
            )
            raise ValueError(message)
    for start in starts:
        if start is not None:
            check_shape("start", start, (None, b, a1), "(R, B, A)")
            rows.add(start.shape[0])
            if bool(namespace(start).any(namespace(start).isnan(start))):
                message = "start must be log-probabilities; it has NaN entries."
                raise ValueError(message)
    if len(rows - {1}) > 1:
        message = f"payoff, log_pi0 and start must have 1 or R rows; got {sorted(rows)}."
        raise ShapeError(message)
    return int(max(rows))


def starting_point(start: Array, n_replicas: int, shape: tuple[int, int, int]) -> Array:
    """Return finite log-probabilities in the shape of the games."""
    xp = namespace(start)
    finite = xp.where(start > _LEAST_START, start, xp.zeros_like(start) + _LEAST_START)
    return xp.reshape(expand_rows(finite, n_replicas), shape)


def per_replica(gap: Array, solved: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return the largest gap of a replica's contexts, and whether all are solved, ``(R,)``."""
    xp = namespace(gap)
    return xp.max(xp.reshape(gap, shape), axis=-1), xp.all(xp.reshape(solved, shape), axis=-1)


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
    return Solution(
        value,
        expand_rows(found.residual, n_replicas),
        expand_rows(found.converged, n_replicas),
        found.n_iter,
        found.hint,
    )
