"""Online learning of a general preference: the equilibrium exploits, an enhancer explores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rlhf_theory.algorithms.game_enhancers import InformationRatio
from rlhf_theory.algorithms.rounds import Rounds
from rlhf_theory.arrays import Array
from rlhf_theory.core import Enhancer, Planner, Policy, PreferenceModel, Problem, Solution
from rlhf_theory.data import PreferenceData
from rlhf_theory.designs import Design
from rlhf_theory.errors import check_choice
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


@learner(
    "nash-game",
    {"enhancer": "from-reference", "batch_size": 5},
    {"enhancer": "from-reference", "game": "probability", "batch_size": 5},
    model="game",
)
@dataclass(frozen=True, eq=False, kw_only=True)
class NashGame(Rounds):
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
    game: Literal["logit", "probability"] = "logit"
    planner: Planner[PreferenceModel] = field(default_factory=Nash)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("game", self.game, ("logit", "probability"))

    def _design(self, data: PreferenceData) -> Design:
        return data.skew

    def _plan(
        self, theta: Array, problem: Problem, key: Key, start: Policy | None
    ) -> Solution[Policy]:
        return self.planner(game_model(theta, self.game), problem, key, start)
