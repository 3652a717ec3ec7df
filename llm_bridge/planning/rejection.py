"""Planning by drawing, choosing and imitating: rejection sampling in stages, expert iteration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llm_bridge.planning.planners import plan_quality
from llm_bridge.training.settings import Trains
from rlhf_theory.core import Policy, Problem, RewardModel, Solution
from rlhf_theory.errors import check_choice, check_positive
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner


def chosen_draws(
    rewards: np.ndarray, rule: Literal["rejection", "best"], eta: float, u: np.ndarray
) -> np.ndarray:
    r"""Return which draws of each prompt are kept, shape ``(N, n)``.

    Parameters
    ----------
    rewards
        Rewards of ``n`` draws to each prompt, shape ``(N, n)``.
    rule
        ``"rejection"`` keeps a draw with probability :math:`\exp((r - r_{\max}) / \eta)`, with the
        largest reward among the prompt's draws as :math:`r_{\max}`; ``"best"`` keeps the best one,
        the first of equals.
    eta
        Weight of the KL in the acceptance.
    u
        Uniform numbers, shape ``(N, n)``.
    """
    best = rewards.max(axis=1, keepdims=True)
    if rule == "best":
        kept: np.ndarray = np.arange(rewards.shape[1]) == rewards.argmax(axis=1)[:, None]
    else:
        kept = u < np.exp((rewards - best) / eta)
    return kept


@planner("imitation")
@dataclass(frozen=True, kw_only=True)
class Imitation(Trains):
    r"""Draw responses, keep the good ones, imitate them; once or in stages.

    With ``rule="rejection"`` stage ``i`` of ``N`` draws from the policy of stage ``i - 1``, the
    first one from the problem's pi0, and accepts with probability
    :math:`\exp((r - r_{\max}) / (N\eta))`, so that what it imitates follows
    :math:`\pi_0 e^{i r / (N \eta)}`: after ``N`` stages the Gibbs policy. More stages need fewer
    draws (`rlhf_theory.planners.rejection.acceptance_rates`), and one more fine-tuning each. With
    ``rule="best"`` each stage imitates the best of ``draws`` (expert iteration), which knows no
    ``eta``.

    The solution's residual is the planning gap :math:`\eta E_x KL(\pi \Vert \pi^*)` on the pools.

    Departures from the papers: :math:`r_{\max}` is the largest reward among the draws of a prompt,
    so that few draws accept too much; imitation is maximum likelihood by a few steps of training.

    Attributes
    ----------
    rule
        ``"rejection"`` or ``"best"``.
    stages
        Number of stages ``N``.
    draws
        Draws per prompt in each stage, at least 2.
    tol
        Planning gap up to which the plan counts as converged.

    Source: [2309.06657] (rejection sampling), [2312.11456] (in stages), [2304.06767] (imitating the
    best); theory sheet 1.5.
    """

    rule: Literal["rejection", "best"] = "rejection"
    stages: int = 1
    draws: int = 16
    tol: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("rule", self.rule, ("rejection", "best"))
        check_positive("stages", self.stages)
        check_positive("tol", self.tol)
        if self.draws < 2:
            message = f"draws must be at least 2, or there is no choice; got {self.draws}."
            raise ValueError(message)

    def __call__(
        self,
        model: RewardModel,
        problem: Problem,
        key: Key,
        start: Policy | None = None,  # noqa: ARG002
    ) -> Solution[Policy]:
        """Return the policy of the last stage; every plan begins at pi0."""
        from llm_bridge.pools.beside import drawn_rewards
        from llm_bridge.pools.candidates import draw_responses
        from llm_bridge.pools.policy import reference_model
        from llm_bridge.pools.problem import PromptProblem
        from llm_bridge.training.train import sft

        pi0 = reference_model(problem)
        if not isinstance(problem, PromptProblem):
            message = "Responses are drawn for the prompts of a PromptProblem; got another problem."
            raise ValueError(message)
        pi, n_steps = pi0, 0
        for stage in range(self.stages):
            here = key.child("stage", stage)
            drawn = draw_responses(pi, problem.prompts, self.draws, here.child("draws"))
            rewards = drawn_rewards(model, problem, drawn)
            u = here.child("accept").uniform_numpy(*rewards.shape)
            kept = chosen_draws(rewards, self.rule, self.stages * problem.eta, u)
            rows = [(int(i), int(j)) for i, j in zip(*kept.nonzero(), strict=True)]
            # Every prompt counts by d0, however many of its draws were kept.
            share = problem.weights * len(problem.prompts) / kept.sum(axis=1)
            trained = sft(
                pi.model,
                [problem.prompts[i].ids for i, _ in rows],
                [drawn[i][j].ids for i, j in rows],
                self.training,
                key=here.child("training"),
                weights=[float(share[i]) for i, _ in rows],
                folder=self.folder,
                name=self.rule,
            )
            n_steps += trained.n_steps
            pi = replace(pi0, model=trained.model)
        gap = plan_quality(pi, model, problem, key).gap
        return Solution(
            pi,
            gap,
            gap <= self.tol,
            n_steps,
            "More draws, more stages or more steps of training plan better; a larger `tol` asks "
            "for less.",
        )
