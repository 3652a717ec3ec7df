"""Online learning of a general preference: the equilibrium exploits, an enhancer explores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rlhf_theory.algorithms.game_enhancers import InformationRatio
from rlhf_theory.algorithms.rounds import compare, report
from rlhf_theory.arrays import Array
from rlhf_theory.core import (
    ConfidenceSet,
    Enhancer,
    PairFeedback,
    Planner,
    Policy,
    PreferenceModel,
    Problem,
    Solution,
)
from rlhf_theory.data import PreferenceData
from rlhf_theory.errors import check_choice, check_positive
from rlhf_theory.estimators.confidence import ConfidenceRule, Constant
from rlhf_theory.planners.nash import Nash
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import ProbabilityPreference, SkewBilinear
from rlhf_theory.roles import learner


def game_model(theta: Array, game: Literal["logit", "probability"]) -> PreferenceModel:
    """Return the payoff of the bilinear preference ``theta`` ``(R, p)`` in a game.

    ``"logit"``: ``R``; ``"probability"``: ``sigma(R) - 1/2``.
    """
    logit = SkewBilinear(theta)
    return logit if game == "logit" else ProbabilityPreference(logit)


@dataclass(frozen=True, eq=False)
class NashState:
    """What the next round needs.

    Attributes
    ----------
    data
        All comparisons so far.
    fit
        The estimate of the bilinear preference, shape ``(R, d (d + 1) / 2)``.
    confidence
        The confidence set around it.
    plan
        The main agent: the equilibrium of the estimated game.
    """

    data: PreferenceData
    fit: Solution[Array]
    confidence: ConfidenceSet
    plan: Solution[Policy]


@learner(
    "nash-game",
    {"enhancer": "from-reference", "batch_size": 5},
    {"enhancer": "from-reference", "game": "probability", "batch_size": 5},
    model="game",
)
@dataclass(frozen=True, eq=False, kw_only=True)
class NashGame:
    r"""Online iterative RLHF with general preference: equilibrium of what is learnt, enhancer.

    Every round draws ``m`` contexts, ``a1`` from the main agent :math:`\pi_1`, the equilibrium of
    the game with the fitted preference :math:`\hat R`, and ``a2`` from the enhancer, asks for a
    label each, appends them to all data and fits again.

    Departures from the paper: the preference is bilinear in ``(1, phi)`` on the logit scale and
    fitted by maximum likelihood; the KL weight is ``eta``, where the paper writes ``1 / eta``; with
    ``game="logit"`` the payoff is ``log(P / (1 - P))`` (the talk, and version 1) and with
    ``"probability"`` it is ``P - 1/2`` (version 3); the talk's arg min over enhancers is read as
    arg max; every main agent is deployed.

    Attributes
    ----------
    enhancer
        The policy of the second action: `InformationRatio` (the paper's) or a baseline
        (`FromReference`, `OnPolicy` for self-play, `Uniform`).
    radius
        Rule for the confidence set over the bilinear parameters; it also says how to fit. As in
        `OnlineIterative`; the information ratio does not depend on the radius.
    batch_size
        Labels ``m`` per round.
    game
        Payoff, ``"logit"`` or ``"probability"``.
    planner
        Planning oracle of the main agent.

    Source: [2402.07314], online algorithm (v3, read in a summary); the talk, Theorem 3.
    """

    enhancer: Enhancer = field(default_factory=InformationRatio)
    radius: ConfidenceRule = field(default_factory=lambda: Constant(beta=1.0))
    batch_size: int = 32
    game: Literal["logit", "probability"] = "logit"
    planner: Planner[PreferenceModel] = field(default_factory=Nash)

    def __post_init__(self) -> None:
        check_positive("batch_size", self.batch_size)
        check_choice("game", self.game, ("logit", "probability"))

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> NashState:
        """Fit and plan from the data at hand, possibly none."""
        return self._refit(problem, data, None, key)

    def step(
        self, state: NashState, problem: Problem, feedback: PairFeedback, key: Key
    ) -> tuple[NashState, Mapping[str, Array]]:
        """Play one round; reports ``residual`` and ``converged``."""
        # The main agent is the equilibrium of R_hat, the enhancer explores around it.
        pi1 = state.plan.value
        pi2 = self.enhancer(problem, pi1, state.confidence, key.child("enhancer"))

        # Draw a batch, compare, append (x, a1, a2, y) to D; fit and plan again.
        data = compare(problem, state.data, pi1, pi2, feedback, self.batch_size, key)
        new = self._refit(problem, data, state, key)
        return new, report(new.fit, new.plan)

    def policy(self, state: NashState) -> Policy:
        """Return the main agent; computes nothing."""
        return state.plan.value

    def _refit(
        self, problem: Problem, data: PreferenceData, last: NashState | None, key: Key
    ) -> NashState:
        fit_before, start = (None, None) if last is None else (last.fit, last.plan.value)
        fit = self.radius.fit(data, data.skew, fit_before)
        confidence = self.radius.confidence_set(fit, data, problem, data.skew)
        model = game_model(fit.value, self.game)
        plan = self.planner(model, problem, key.child("plan"), start)
        return NashState(data, fit, confidence, plan)
