"""Exploration in preference games: the information ratio, and a bound on exploitability."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_theory.algorithms.enhancers import enhance, objective_of, require_ellipsoid
from rlhf_theory.arrays import Array, full_like
from rlhf_theory.core import ConfidenceSet, Policy, Problem, Solution
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_positive
from rlhf_theory.features import mean_game_features
from rlhf_theory.planners.enhancer import Enhancement, most_uncertain
from rlhf_theory.policies import FunctionPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.roles import enhancer


@enhancer("information-ratio", {"n_random": 1, "contexts": 16}, model="game")
@dataclass(frozen=True, kw_only=True)
class InformationRatio:
    r"""For games: the policy whose comparison with the main agent is most uncertain.

    .. math::

        \pi_2 = \arg\max_{\pi} \frac{\sup_R |E R(\pi_1, \pi) - E \hat R(\pi_1, \pi)|}
        {\sqrt{\lambda + \sum (R - \hat R)^2}} = \arg\max_\pi
        \lVert E \psi(x, \pi_1, \pi) \rVert_{\Sigma^{-1}}

    over all policies, for the linear class; the radius of the confidence set does not matter. The
    talk prints arg min; that is the main agent itself (ratio 0), see `OnPolicy`. The maximum is
    global only as far as the starts of the power iteration reach.

    Departure from the paper: its ``lambda`` and its bound ``rho`` on the class enter ``Sigma`` as
    ``lambda / rho^2``; here the ``lambda`` of the confidence set stands for that.

    Attributes
    ----------
    n_random
        Random starts of the power iteration, besides the principal axes.
    contexts
        Contexts drawn for the expectation where they are infinite.

    Source: [2402.07314], enhancer of the online algorithm (v3); theory sheet 2.3.
    """

    n_random: int = 4
    contexts: int = 256

    def __post_init__(self) -> None:
        check_positive("contexts", self.contexts)

    def __call__(
        self, problem: Problem, pi1: Policy, confidence: ConfidenceSet, key: Key
    ) -> Policy:
        """Return the policy of the second action."""
        ellipsoid = require_ellipsoid(confidence)
        x, weights = problem.population(key.child("contexts"), self.contexts)
        log_pi1 = pi1.log_probs(x)
        found: Enhancement = most_uncertain(
            mean_game_features(x, log_pi1),
            log_pi1,
            weights,
            ellipsoid.sigma,
            # Radius 1: the ratio has none, and with radius 0 nothing would be uncertain.
            full_like((1,), 1.0, ellipsoid.beta),
            key=key.child("starts"),
            n_random=self.n_random,
        ).value

        def explore(c: Contexts) -> Array:
            base = pi1.log_probs(c)
            return found.on(mean_game_features(c, base), base)

        return problem.tabulate(FunctionPolicy(explore))


def exploitability_bound(
    problem: Problem,
    pi1: Policy,
    confidence: ConfidenceSet,
    key: Key,
    *,
    contexts: int = 256,
    n_random: int = 4,
    axes: bool = True,
    start: Array | None = None,
    tol: float = 1e-8,
) -> Solution[Array]:
    r"""Bound the exploitability of the equilibrium of an estimate, from what the learner knows.

    .. math::

        \mathrm{gap}(\pi_1) \le \max_{\pi_2} \bigl\{ \beta \lVert E \psi(x, \pi_1, \pi_2)
        \rVert_{\Sigma^{-1}} - \eta\, E_x KL(\pi_2 \Vert \pi_1) \bigr\}

    whenever the true preference lies in the confidence set, in the game with logit payoff; some
    preference on the boundary of the set attains it. It holds whatever policy explores, and at all
    rounds at once if the radius does. Certified as far as the maximum is global.

    Parameters
    ----------
    problem, key, contexts, n_random, axes, start, tol
        As in `enhance`; with drawn contexts the bound is about those.
    pi1
        The equilibrium of the estimate at the center of ``confidence``.
    confidence
        An ellipsoid over bilinear parameters.

    Returns
    -------
    Solution of shape ``(R,)``; ``warm`` holds the direction ``(R, p)``, a ``start`` for the next
    round. The true preference ``center - warm`` attains the bound.

    Source: theory sheet 2.3, derived there.
    """
    found = enhance(
        problem,
        pi1,
        confidence,
        key,
        form="penalised",
        features=mean_game_features,
        contexts=contexts,
        n_random=n_random,
        axes=axes,
        start=start,
        tol=tol,
    )
    return objective_of(found)
