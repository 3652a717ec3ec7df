"""DPO-type training as a planning oracle: from a reward on pools to a language model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llm_bridge.training.settings import Trains
from rlhf_theory.arrays import Array, to_numpy
from rlhf_theory.core import Policy, Problem, RewardModel, Solution, closed_form
from rlhf_theory.errors import check_choice, check_positive
from rlhf_theory.evaluation.gaps import mean_kl, over_contexts, suboptimality
from rlhf_theory.losses import GroupLoss, PairLoss, planning
from rlhf_theory.planners.gibbs import gibbs_log_probs, log_partition
from rlhf_theory.policies import expectation
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner

Loss = PairLoss | GroupLoss


def planning_loss(loss: Loss | str | None, eta: float) -> Loss:
    """Return a loss; a name stands for the one that plans at ``eta``, None for DPO."""
    return planning(loss or "dpo", eta) if loss is None or isinstance(loss, str) else loss


@dataclass(frozen=True, eq=False)
class PlanQuality:
    """How good a policy is for a reward, exactly, on the pools; arrays of shape ``(R,)``.

    Attributes
    ----------
    gap
        ``J(pi*) - J(pi) = eta E_x KL(pi || pi*)``, the planning gap, with ``pi*`` the Gibbs policy.
    kl_to_gibbs, kl_to_reference
        ``E_x KL(pi || pi*)`` and ``E_x KL(pi || pi0)``, in nats.
    reward
        ``E[r]``.
    objective, best
        ``J(pi) = E[r] - eta E_x KL(pi || pi0)`` and ``J(pi*)``.
    """

    gap: Array
    kl_to_gibbs: Array
    kl_to_reference: Array
    reward: Array
    objective: Array
    best: Array


def plan_quality(policy: Policy, model: RewardModel, problem: Problem, key: Key) -> PlanQuality:
    """Compare a policy with the exact Gibbs policy of a reward, on the problem's contexts.

    Parameters
    ----------
    policy
        Any policy.
    model
        The reward that was planned for.
    problem
        Gives contexts, their weights and ``eta``.
    key
        Address of the contexts, where they are not finite.

    Source: identities I1 and I5 of the theory sheet.
    """
    x, weights = problem.population(key.child("population"), 256)
    r, eta = model.rewards(x), problem.eta
    log_pi = policy.log_probs(x)
    to_gibbs = mean_kl(log_pi, gibbs_log_probs(r, x.log_pi0, eta), weights)
    to_reference = mean_kl(log_pi, x.log_pi0, weights)
    reward = over_contexts(expectation(log_pi, r), weights)
    best = over_contexts(log_partition(r, x.log_pi0, eta), weights)
    return PlanQuality(
        eta * to_gibbs, to_gibbs, to_reference, reward, reward - eta * to_reference, best
    )


@planner("dpo")
@dataclass(frozen=True, kw_only=True)
class DPOPlanner(Trains):
    r"""Train the problem's reference policy towards the Gibbs policy of a reward.

    Pairs of a pool get the labels :math:`\sigma(r(x,a) - r(x,b))` that the reward itself would
    give, as probabilities and so without noise; their law is :math:`\mu \times \mu` (``law``),
    where losses that pin each log-ratio also meet a response against itself. On them the minimiser
    of DPO at :math:`\beta = \eta` is :math:`\pi_0 e^{r/\eta}`, whatever the reward: what remains is
    how far training gets. (Pairs far apart, by 15 and more, are told apart only slowly.)

    The solution's residual is the planning gap :math:`\eta E_x KL(\pi \Vert \pi^*)` on the pools,
    in units of the reward; see `plan_quality` for more. A reward that is constant on every pool (no
    data yet) is answered by the reference policy itself, untrained.

    Departures from the paper: an oracle that trains is approximate, and exact only on the pools
    that it saw; its gap elsewhere is not certified.

    Attributes
    ----------
    loss
        A loss of `rlhf_theory.losses`; or a name, for the one whose minimiser is (nearest to) the
        Gibbs policy at the problem's ``eta``; None is DPO.
    pairs
        ``"all"`` pairs of every pool, or so many per prompt, drawn from the same law. Losses of
        groups take the pool as the group, each response as often as ``law`` says.
    law
        :math:`\mu`. ``"pool"``: the pool's own :math:`\pi_0`, in which what a refreshed pool has
        from the policy weighs next to nothing once that is nats away. ``"draws"``: masses lifted to
        ``1 / pool_size``, one draw (a pool does not know how often it drew a response), so that
        these are trained on too; the same where all draws are from :math:`\pi_0`. None takes
        ``"draws"`` for losses with one minimiser for all laws (DPO and its like: ``loss.law`` is
        ``"any"``), ``"pool"`` for the others, which plan for pairs from :math:`\pi_0`.
    reference
        What the loss measures from: ``"fixed"`` is pi0, the planning oracle; ``"last"`` the policy
        to start from, so that planning repeats :math:`\pi_{t+1} \propto \pi_t e^{r/\eta}`, whose
        gap the residual then is.
    start
        Whose weights training starts from: ``"reference"``, those of the policy that the loss
        measures from, or ``"last"``, the policy that the learner planned before (pi0 at first).
    tol
        Planning gap up to which the plan counts as converged.

    Source: [2305.18290]; [2312.11456], planning oracle; identities I1 and I6 of the theory sheet.
    """

    loss: Loss | str | None = None
    pairs: Literal["all"] | int = "all"
    law: Literal["pool", "draws"] | None = None
    reference: Literal["fixed", "last"] = "fixed"
    start: Literal["reference", "last"] = "reference"
    tol: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("reference", self.reference, ("fixed", "last"))
        check_choice("start", self.start, ("reference", "last"))
        check_choice("law", self.law or "pool", ("pool", "draws"))
        check_positive("tol", self.tol)
        if self.pairs != "all" and self.pairs < 1:
            message = f"pairs must be 'all' or a positive number per prompt; got {self.pairs!r}."
            raise ValueError(message)
        loss = planning_loss(self.loss, 1.0)  # an unknown name fails here, not in a round
        if loss.takes == "groups" and self.pairs != "all":
            message = f"The loss {loss.name!r} takes whole pools: leave pairs='all'."
            raise ValueError(message)

    def __call__(
        self, model: RewardModel, problem: Problem, key: Key, start: Policy | None = None
    ) -> Solution[Policy]:
        """Return the trained policy; ``start`` is the policy of the round before."""
        from llm_bridge.planning.examples.pool_examples import planning_examples
        from llm_bridge.pools.policy import reference_model, require_model
        from llm_bridge.training.train import train

        pi0 = reference_model(problem)
        last = pi0 if start is None else start
        reference: Policy = pi0 if self.reference == "fixed" else last
        begin = reference if self.start == "reference" else last
        contexts, weights = problem.population(key.child("population"), 256)
        rewards = model.rewards(contexts)
        if _is_constant(rewards, contexts.log_pi0):
            return closed_form(reference, 1, problem.empty_data().count)
        measured = require_model(reference, "The reference")
        loss = planning_loss(self.loss, problem.eta)
        examples = planning_examples(
            problem,
            contexts,
            to_numpy(rewards)[0],
            to_numpy(weights)[0],
            measured,
            loss,
            self.pairs,
            key.child("pairs"),
            lifted=loss.law == "any" if self.law is None else self.law == "draws",
            bf16=self.bf16,
        )
        trained = train(
            require_model(begin, "The start").model,
            examples,
            loss,
            self.training,
            key=key.child("training"),
            folder=self.folder,
            name="plan",
        )
        policy = replace(pi0, model=trained.model)
        target = gibbs_log_probs(rewards, measured.log_probs(contexts), problem.eta)
        gap = suboptimality(policy.log_probs(contexts), target, weights, problem.eta)
        return Solution(
            policy,
            gap,
            gap <= self.tol,
            trained.n_steps,
            "More steps, a higher learning rate or a larger model plan better; a larger `tol` "
            "asks for less.",
        )


def _is_constant(rewards: Array, log_pi0: Array) -> bool:
    """Return whether no pool has two rewards; ``ValueError`` where one is not finite."""
    r, present = to_numpy(rewards), to_numpy(log_pi0) > -math.inf
    if not np.isfinite(r[np.broadcast_to(present, r.shape)]).all():
        message = "Rewards must be finite; got NaN or infinity for some response of the pools."
        raise ValueError(message)
    high = np.where(present, r, -math.inf).max(axis=-1)
    return bool((high == np.where(present, r, math.inf).min(axis=-1)).all())
