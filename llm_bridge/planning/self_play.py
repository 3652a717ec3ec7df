"""Self-play training as a planning oracle: from a preference on pools to a language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llm_bridge.training.settings import Trains
from rlhf_theory.arrays import log_softmax, to_numpy
from rlhf_theory.core import Policy, PreferenceModel, Problem, Solution
from rlhf_theory.errors import check_choice, check_positive
from rlhf_theory.evaluation.exploitability import exploitability
from rlhf_theory.losses import INPO, SPPO, PairLoss, mixed_reference
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner

Update = Literal["inpo", "sppo", "nash-md"]

_HINT = (
    "More rounds, more steps a round or a larger model come nearer to the equilibrium; a larger "
    "`tol` asks for less."
)


def decreasing_step(tau: float, played: int) -> float:
    r"""Return the step :math:`a_t = 2 / (\tau (t + 2))` of mirror descent after ``t`` rounds.

    With it :math:`\mathrm{KL}(\pi^* \Vert \pi_T) \le 2 / (\tau^2 (T + 1))` after ``T`` exact steps
    of INPO's map, and four times that for Nash-MD's, for payoffs in an interval of length 1.

    The first step has :math:`a\tau = 1` and forgets the policy that it starts from, but for its
    weights and, with INPO, as the opponent; with Nash-MD pi0 is the opponent too.

    Source: theory sheet 8; [2407.00617] and [2312.00886] for theirs.
    """
    return 2.0 / (tau * (played + 2))


@planner("self-play")
@dataclass(frozen=True, kw_only=True)
class SelfPlay(Trains):
    r"""Train towards the equilibrium of a preference game, by rounds of self-play.

    With ``P pi`` the probability of beating ``pi``, round ``t`` trains the policy to

    * ``"inpo"``: :math:`\log\pi_{t+1} = (1 - a\tau)\log\pi_t + a\tau\log\pi_0 + a P\pi_t + c`,
      whose last iterate goes to the equilibrium of the regularised game;
    * ``"nash-md"``: the same map, but the opponent is the geometric mixture
      :math:`m = \pi_t^{1 - a\tau}\pi_0^{a\tau}`: :math:`\log\pi_{t+1} = \log m + a P m + c`;
    * ``"sppo"``: :math:`\log\pi_{t+1} = \log\pi_t + a (P\pi_t - 1/2)`, which forgets
      :math:`\pi_0`: for the game without a KL, and only its average iterate has a rate.

    Each step is a regression on all pairs of a pool, drawn from the opponent's law over the pool,
    with the model's win probabilities as labels; its minimiser is the map above (INPO's and SPPO's
    own losses, Nash-MD by INPO's loss with the mixture as opponent).

    The residual is the exploitability on the pools, in units of the payoff.

    Departures from the papers: win probabilities come from a preference model over pools, not from
    sampled judgements; opponents are seen on the pools; Nash-MD is a regression instead of a policy
    gradient.

    Attributes
    ----------
    update
        The map.
    rounds
        Training rounds ``T``.
    step
        ``a``, with ``a tau <= 1`` for ``"inpo"`` and ``"nash-md"``; None takes `decreasing_step`
        for these, and is refused for ``"sppo"``, which has no ``tau``.
    start
        ``"reference"`` begins the rounds at pi0, the problem's own, ``"last"`` at the policy
        planned before.
    tol
        Exploitability up to which the plan counts as converged.

    Source: [2407.00617] (INPO), [2405.00675] (SPPO), [2312.00886] (Nash-MD); theory sheet 8.
    """

    update: Update = "inpo"
    rounds: int = 3
    step: float | None = None
    start: Literal["reference", "last"] = "reference"
    tol: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("update", self.update, ("inpo", "sppo", "nash-md"))
        check_choice("start", self.start, ("reference", "last"))
        for name in ("rounds", "tol"):
            check_positive(name, getattr(self, name))
        if self.step is not None:
            check_positive("step", self.step)
        elif self.update == "sppo":
            message = "update='sppo' needs a step: its map has no weight of the KL to choose one."
            raise ValueError(message)

    def __call__(
        self, model: PreferenceModel, problem: Problem, key: Key, start: Policy | None = None
    ) -> Solution[Policy]:
        """Return the last policy; ``start`` is the policy of the round before.

        ``ValueError`` for a payoff that is no probability minus 1/2: such a game needs
        ``game="probability"``.
        """
        from llm_bridge.planning.examples.game_examples import game_examples
        from llm_bridge.pools.candidates import Pools
        from llm_bridge.pools.policy import reference_model, require_model
        from llm_bridge.training.train import train

        pi0 = reference_model(problem)
        contexts, weights = problem.population(key.child("population"), 256)
        pools = contexts.source
        if not isinstance(pools, Pools):
            message = "Self-play is trained on the pools of a PromptProblem; got no pools."
            raise ValueError(message)
        payoff = model.payoff(contexts)
        win = _win_probabilities(to_numpy(payoff)[0])
        begin = pi0 if self.start == "reference" or start is None else start
        pi = require_model(begin, "The start")
        bf16 = self.bf16
        log_pi0 = pi0.pool_scores(pools, bf16=True) if bf16 else pools.log_pi0
        like, d0, n_steps = contexts.log_pi0, to_numpy(weights)[0], 0
        if np.ptp(win) == 0.0:  # nothing learnt yet: every policy is an equilibrium of the payoff
            pi = pi0
        else:
            for t in range(self.rounds):
                log_q = to_numpy(pi.log_probs(contexts))[0]
                log_pi = pi.pool_scores(pools, bf16=bf16)
                loss, log_ref, log_mu = self._step(
                    problem.eta, t, pools.log_mass, log_pi0, log_pi, log_q
                )
                trained = train(
                    pi.model,
                    game_examples(pools, loss, log_ref, np.exp(log_mu), win, d0),
                    loss,
                    self.training,
                    key=key.child("training", t),
                    folder=self.folder,
                    name=self.update,
                )
                n_steps += trained.n_steps
                pi = replace(pi0, model=trained.model)
        log_pi_pool = pi.log_probs(contexts)
        gap = exploitability(payoff, log_pi_pool, like, weights, problem.eta)
        return Solution(pi, gap, gap <= self.tol, n_steps, _HINT)

    def _step(
        self,
        tau: float,
        played: int,
        log_mass: np.ndarray,
        log_pi0: np.ndarray,
        log_pi: np.ndarray,
        log_q: np.ndarray,
    ) -> tuple[PairLoss, np.ndarray, np.ndarray]:
        """Return the loss of a round, its reference ``(N, K)`` and the opponent ``(N, K)``."""
        a = decreasing_step(tau, played) if self.step is None else self.step
        if self.update == "sppo":
            return SPPO(beta=1.0 / a), log_pi, log_q
        loss = INPO(tau=tau, step=a)
        share = min(a * tau, 1.0)
        if self.update == "inpo":
            return loss, loss.reference(log_pi0, log_pi), log_q
        # log_q and log_mass are -inf where a pool is short, and so is their mixture.
        with np.errstate(invalid="ignore"):
            mixed = mixed_reference(log_mass, log_q, share)
        mixed = np.where(log_mass > -np.inf, mixed, -np.inf)
        log_mu: np.ndarray = to_numpy(log_softmax(mixed))
        return loss, loss.reference(log_pi0, log_pi), log_mu


def _win_probabilities(payoff: np.ndarray) -> np.ndarray:
    """Return ``P = payoff + 1/2``; ``ValueError`` unless they are probabilities."""
    if not (np.abs(payoff) <= 0.5 + 1e-9).all():
        message = (
            "Self-play trains on win probabilities: the payoff must be P - 1/2, within "
            f"[-1/2, 1/2]; got up to {np.abs(payoff).max():.2f}. Use game='probability'."
        )
        raise ValueError(message)
    return np.clip(payoff + 0.5, 0.0, 1.0)
