"""The saddle point of KL-regularised games between two players: pessimistic payoffs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf_theory.arrays import Array, expand_rows, namespace
from rlhf_theory.core import Policy, PreferenceModel, Problem, Solution, closed_form
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_positive
from rlhf_theory.planners.nash import best_reply, check_game, equilibria, spread
from rlhf_theory.policies import FunctionPolicy, SolvedPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner


def two_player_saddle(
    payoff: Array,
    log_pi0: Array,
    eta: float,
    *,
    tol: float = 1e-12,
    max_iter: int = 500,
    start: tuple[Array, Array] | None = None,
) -> Solution[tuple[Array, Array]]:
    r"""Return the saddle point of a KL-regularised game whose payoff need not be antisymmetric.

    .. math::

        \max_{\pi_1} \min_{\pi_2}\; \pi_1^\top M \pi_2 - \eta\,\mathrm{KL}(\pi_1 \Vert \pi_0)
                                   + \eta\,\mathrm{KL}(\pi_2 \Vert \pi_0)

    Unique: :math:`\pi_1 \propto \pi_0 \exp(M \pi_2 / \eta)`, :math:`\pi_2 \propto \pi_0
    \exp(-M^\top \pi_1 / \eta)`. The residual is the duality gap :math:`\max_{\pi_1'} J(\pi_1',
    \pi_2) - \min_{\pi_2'} J(\pi_1, \pi_2') = \eta\,\mathrm{KL}(\pi_1 \Vert \mathrm{BR}(\pi_2)) +
    \eta\,\mathrm{KL}(\pi_2 \Vert \mathrm{BR}(\pi_1))`, the largest of all contexts. For an
    antisymmetric payoff both players are the symmetric equilibrium, and the gap is twice the
    exploitability.

    Parameters
    ----------
    payoff
        Payoffs to the first player, shape ``(R, B, A, A)``.
    log_pi0
        Reference policy of both, shape ``(R, B, A)`` or ``(1, B, A)``; ``-inf``: absent action.
    eta
        Weight of both KL, positive.
    tol
        Duality gap at which a game counts as solved.
    max_iter
        Newton steps per game.
    start
        Log-policies of both players to start from, shape ``(R, B, A)`` each.

    Returns
    -------
    Solution with the log-policies of the max player and of the min player, ``(R, B, A)`` each.

    Source: theory sheet 2.2, Pitfall.
    """
    n_replicas = check_game(payoff, log_pi0, eta, *(start or ()))
    xp = namespace(payoff, log_pi0)
    # A constant changes no policy; without it the payoffs are as small as they can be.
    middle = 0.5 * (
        xp.max(payoff, axis=(-2, -1), keepdims=True) + xp.min(payoff, axis=(-2, -1), keepdims=True)
    )
    m = expand_rows(payoff - middle, n_replicas)
    zero = xp.zeros_like(m)
    skew = xp.concat(
        [
            xp.concat([zero, m], axis=-1),
            xp.concat([-xp.matrix_transpose(m), zero], axis=-1),
        ],
        axis=-2,
    )
    both = xp.stack([expand_rows(log_pi0, n_replicas)] * 2, axis=2)
    first = None if start is None else xp.stack([expand_rows(s, n_replicas) for s in start], axis=2)
    found = equilibria(skew, both, eta, tol=tol, max_iter=max_iter, start=first)
    log_pi = found.value
    return replace(found, value=(log_pi[:, :, 0, :], log_pi[:, :, 1, :]))


@planner("pessimistic-nash")
@dataclass(frozen=True)
class PessimisticNash:
    """Plan against the worst: the max player of a pessimistic payoff ``R - b``.

    Such a payoff is not antisymmetric, and its saddle point has two policies. The planner returns
    the max player; ``warm`` holds the min player, which the bound of the offline theorem needs.

    Attributes
    ----------
    tol
        Duality gap at which a game counts as solved.
    max_iter
        Newton steps per game.

    Source: [2402.07314], Algorithm for the offline setting; theory sheet 2.2.
    """

    tol: float = 1e-12
    max_iter: int = 500

    def __post_init__(self) -> None:
        check_positive("tol", self.tol)

    def __call__(
        self, model: PreferenceModel, problem: Problem, key: Key, start: Policy | None = None
    ) -> Solution[Policy]:
        """Return the max player; ``warm`` is the min player."""
        both = self.players(model, problem, key, start)
        best, worst = both.value
        return Solution(best, both.residual, both.converged, both.n_iter, both.hint, warm=worst)

    def players(
        self, model: PreferenceModel, problem: Problem, key: Key, start: Policy | None = None
    ) -> Solution[tuple[Policy, Policy]]:
        """Return the max player and the min player; ``start`` is a max player of a similar game."""
        contexts, _ = problem.population(key.child("population"), 1)
        lazy = self._lazy(model, problem.eta, 0), self._lazy(model, problem.eta, 1)
        if contexts.ids is None:
            return closed_form(lazy, problem.n_replicas, contexts.like)
        payoff = model.payoff(contexts)
        first = None if start is None else start.log_probs(contexts)
        found = self._solve(payoff, contexts.log_pi0, problem.eta, first)
        best, worst = (
            problem.tabulate(SolvedPolicy(contexts, value, player))
            for value, player in zip(found.value, lazy, strict=True)
        )
        return spread(found, (best, worst), problem.n_replicas)

    def _lazy(self, model: PreferenceModel, eta: float, player: int) -> Policy:
        """Return a policy that solves the games of the contexts it meets."""

        def log_probs(c: Contexts) -> Array:
            return self._solve(model.payoff(c), c.log_pi0, eta, None).require()[player]

        return FunctionPolicy(log_probs)

    def _solve(
        self, payoff: Array, log_pi0: Array, eta: float, first: Array | None
    ) -> Solution[tuple[Array, Array]]:
        xp = namespace(payoff)
        start = None
        if first is not None:
            reply = best_reply(-xp.matrix_transpose(payoff), first, log_pi0, eta)
            start = (first, reply)
        return two_player_saddle(
            payoff, log_pi0, eta, tol=self.tol, max_iter=self.max_iter, start=start
        )
