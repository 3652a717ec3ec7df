"""What a Bradley-Terry learner tends to where no reward explains the preferences."""

from __future__ import annotations

from rlhf_theory.arrays import Array, expand_rows, full_like, inner, namespace
from rlhf_theory.core import Policy, Solution
from rlhf_theory.data import PairTable, pair_slots
from rlhf_theory.errors import check_positive
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.problems import FiniteProblem

_HINT = "The iteration may cycle, as the preferences do: lower `damping`."


def expected_comparisons(
    problem: FiniteProblem, preferences: Array, log_pi1: Array, log_pi2: Array
) -> PairTable:
    """Return the expected data of one comparison, ``x ~ d0, a1 ~ pi1, a2 ~ pi2``.

    Parameters
    ----------
    problem
        A problem with finitely many contexts.
    preferences
        Win probabilities of all pairs, shape ``(R, X, A, A)`` or ``(1, X, A, A)``.
    log_pi1, log_pi2
        Policies of both actions, shape ``(R, X, A)`` or ``(1, X, A)``.

    Returns
    -------
    Data whose counts are probabilities; they sum to ``P(a1 != a2)``.
    """
    xp = namespace(preferences, log_pi1)
    first, second, _ = pair_slots(log_pi1.shape[-1], preferences)
    p1, p2 = xp.exp(log_pi1), xp.exp(log_pi2)

    def of(p: Array, slot: Array) -> Array:
        return xp.take(p, slot, axis=-1)

    joint = of(p1, first) * of(p2, second) + of(p1, second) * of(p2, first)
    count = problem.weights[..., None] * joint
    columns = xp.reshape(preferences, (*preferences.shape[:2], -1))
    wins = count * of(columns, first * log_pi1.shape[-1] + second)
    r = problem.n_replicas
    rows = [expand_rows(xp.reshape(v, (v.shape[0], -1)), r) for v in (count, wins)]
    return problem.empty_data().tabulated().reweighted(rows[0], rows[1])


def self_consistent_fit(
    problem: FiniteProblem,
    preferences: Array,
    second: Policy | None = None,
    *,
    tol: float = 1e-9,
    max_iter: int = 500,
    damping: float = 0.5,
) -> Solution[Array]:
    r"""Return the Bradley-Terry fit of infinitely many labels that the fit itself asks for.

    The fixed point of :math:`\theta \mapsto` the maximum-likelihood reward of comparisons
    :math:`a_1 \sim \pi_\theta = O(\langle\theta, \varphi\rangle, \eta, \pi_0)`, :math:`a_2 \sim
    \pi_2`: where an online learner of rewards settles, whatever the true preference.

    Parameters
    ----------
    problem, preferences
        As in `expected_comparisons`.
    second
        The policy of the second action; None for :math:`\pi_\theta` itself.
    tol
        Largest change of ``theta`` in one iteration.
    max_iter
        Iterations.
    damping
        Part of the way that is gone to the new fit, in (0, 1]: whole steps may cycle where the
        preference does.

    Returns
    -------
    Solution with ``theta``, shape ``(R, d)``; the residual is the last change.
    """
    check_positive("damping", damping)
    x = problem.table
    log_pi2 = None if second is None else second.log_probs(x)

    def asked_for(theta: Array, start: Solution[Array] | None) -> Solution[Array]:
        log_pi1 = gibbs_log_probs(inner(x.phi, theta), x.log_pi0, problem.eta)
        data = expected_comparisons(
            problem, preferences, log_pi1, log_pi1 if log_pi2 is None else log_pi2
        )
        return bradley_terry_mle(data, start=start)

    theta = full_like((problem.n_replicas, problem.dim), 0.0, problem.phi)
    xp = namespace(theta)
    fit, n_iter = asked_for(theta, None), 0
    while True:
        change = fit.value - theta
        residual = xp.max(xp.abs(change), axis=-1)
        done = residual <= tol
        n_iter += 1
        if n_iter >= max_iter or bool(xp.all(done)):
            return Solution(theta, residual, done & fit.converged, n_iter, _HINT)
        # A replica that has converged stays put, so its value cannot depend on the others.
        theta = xp.where(done[:, None], theta, theta + damping * change)
        fit = asked_for(theta, fit)
