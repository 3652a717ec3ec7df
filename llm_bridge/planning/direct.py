"""Learners that train a language model on the labels themselves, with no estimate of a reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from llm_bridge.planning.pair_rules import PairRule, pair_rule
from llm_bridge.planning.planners import Loss, planning_loss
from llm_bridge.training.settings import TrainingSettings, Trains
from rlhf_theory.arrays import Array
from rlhf_theory.core import PairFeedback, Policy, Problem, Solution, closed_form
from rlhf_theory.data import PreferenceData
from rlhf_theory.errors import check_choice, check_positive
from rlhf_theory.estimators.confidence import ConfidenceRule, label_scale
from rlhf_theory.randomness import Key
from rlhf_theory.roles import learner

if TYPE_CHECKING:
    from llm_bridge.pools.data import PromptData


@learner("direct-preference")
@dataclass(frozen=True, kw_only=True)
class DirectPreference(Trains):
    r"""Train on the labels themselves: direct preference optimisation, an offline learner.

    With a confidence set the loss gets the margin :math:`\Gamma(x, a_w) - \Gamma(x, a_l)`: the
    direct version of pessimism, whose minimiser is fitted to :math:`r - \Gamma`.

    Labels have the logit :math:`s (r(x, a_w) - r(x, a_l))`. With ``beta`` :math:`= s\eta` and the
    margin :math:`s\Gamma` the policy is :math:`\pi_0 e^{(r - \Gamma)/\eta}`, that of the problem.

    The law of the pairs is that of the data. A response against itself needs no label; losses that
    pin each log-ratio, and those with a calibration sample, are trained on it all the same.

    The residual is how much the mean loss fell from the last but one to the last fifth of the
    steps; the number of steps is part of the method, since labels that can be separated have no
    minimiser, and ``converged`` says that all were taken. Training starts from the problem's
    reference policy pi0, which the loss measures from; without comparisons the result is pi0.

    Attributes
    ----------
    loss
        A loss of pairs; or a name, for the one that plans at the problem's ``eta``; None is DPO.
        An object is taken as it is: its ``beta`` is in units of the labels' logit.
    radius
        Rule for the confidence set over the problem's features that the margin comes from; None
        for no margin.
    scale
        Known scale ``s`` of the labels; None takes that of ``radius``, 1 without one. Another one
        than ``radius`` has is refused, and for a loss that is an object it must be said where there
        is a margin to scale, and cannot be where there is none.
    sample
        For XPO and VPO, which response of each comparison, 0 or 1, came from the calibration
        policy; for SLiC-HF which one is to be imitated; None otherwise.

    Source: [2305.18290]; margins [2312.11456], Algorithm 1, direct version.
    """

    loss: Loss | str | None = None
    radius: ConfidenceRule | None = None
    scale: float | None = None
    sample: Literal[0, 1] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_pairs(planning_loss(self.loss, 1.0))
        known = None if self.radius is None else label_scale(self.radius)
        _check_scale(self.loss, self.scale, known)

    def __call__(self, problem: Problem, data: PreferenceData, key: Key) -> Solution[Policy]:
        """Return the trained policy; without data it is pi0."""
        from llm_bridge.planning.examples.label_training import (
            fit_labels,
            penalties,
            require_texts,
            trained_on,
        )
        from llm_bridge.pools.policy import reference_model

        pi0, known = reference_model(problem), require_texts(data)
        s, gamma = self.scale or 1.0, None
        if self.radius is not None:
            s = label_scale(self.radius)
        loss = planning_loss(self.loss, s * problem.eta)
        if not trained_on(known, loss):
            return closed_form(pi0, 1, known.count)
        if self.radius is not None:
            fit = self.radius.fit(data)
            gamma = s * penalties(self.radius.confidence_set(fit, data, problem), problem, known)
        return fit_labels(
            known,
            loss,
            self.training,
            pi0=pi0,
            reference=pi0,
            start=pi0,
            gamma=gamma,
            sample=self.sample,
            key=key,
            folder=self.folder,
            name="direct",
        )


def _require_pairs(loss: Loss) -> None:
    if loss.takes != "pairs":
        message = f"Labels of pairs need a loss of pairs; {loss.name!r} takes {loss.takes}."
        raise ValueError(message)


def _check_scale(loss: Loss | str | None, scale: float | None, radius: float | None) -> None:
    """Refuse a scale that something else contradicts, or that nothing would use.

    ``radius`` is the scale that the rule of the margin has, None without one.
    """
    if scale is not None:
        check_positive("scale", scale)
    if None not in (scale, radius) and scale != radius:
        message = f"scale={scale} contradicts the radius, whose labels have scale {radius}."
        raise ValueError(message)
    if loss is None or isinstance(loss, str):
        return
    if scale not in (None, 1.0) and radius is None:
        message = (
            f"scale={scale} would change nothing: the loss {loss.name!r} is an object with its own "
            "settings. Make it by planning(name, scale * eta) without scale; or give its name."
        )
        raise ValueError(message)
    if scale is None and radius not in (None, 1.0):
        message = (
            f"The radius is for labels of scale {radius}, and the loss {loss.name!r} is an object "
            f"with its own settings: make it by planning(name, {radius} * eta) and say "
            f"scale={radius}; or give its name."
        )
        raise ValueError(message)


@dataclass(frozen=True, eq=False)
class DirectState:
    """What the next round needs.

    Attributes
    ----------
    data
        All comparisons so far.
    plan
        The trained policy ``pi_t``, the one to deploy.
    """

    data: PromptData
    plan: Solution[Policy]


@learner("iterative-direct")
@dataclass(frozen=True, kw_only=True)
class IterativeDirect(Trains):
    r"""Online direct preference optimisation: ask about the current policy, train, repeat.

    Every round draws ``batch_size`` comparisons by the rule ``pairs``, asks for their labels and
    trains on ``data``. Offline comparisons, if there are any, are trained on before the first
    round. Residual and ``converged`` are those of `DirectPreference`, and so is the place of a
    response against itself: a round of nothing else trains XPO and VPO by its samples.

    What is planned, with ``r_t`` the reward that the labels of a training say (which need not be
    the truth where they are few) and exact training:

    * ``reference="fixed"``: :math:`\pi_{t+1} = \pi_0 e^{r_t/\eta}`, the optimum of the problem's
      objective :math:`E[r_t] - \eta\,\mathrm{KL}(\pi \Vert \pi_0)`. No other setting has it.
    * ``reference="last"``, for ``data="latest"`` alone: :math:`\pi_{t+1} = \pi_t e^{r_t/\eta}`, so
      :math:`\pi_T = \pi_0 e^{(r_0 + \dots + r_{T-1})/\eta}`, near :math:`\pi_0 e^{T r/\eta}` once
      labels tell the reward: mirror descent on the reward without a KL. ``T`` rounds plan for
      ``eta / T``; the policy sharpens without end, and the objective falls from the second round
      on. With ``data="all"`` old labels would be added again in every round, and the policy would
      sharpen even if no label came: refused.

    Attributes
    ----------
    loss
        As in `DirectPreference`. XPO and VPO need ``pairs="from-reference"``, whose second response
        is their calibration sample (in offline comparisons too).
    batch_size
        Labels per round.
    minibatch
        Examples per forward pass of a training: its ``batch_size``.
    pairs
        ``"on-policy"`` (both responses from :math:`\pi_t`), ``"reference"`` (the second from pi0),
        ``"best-worst"`` (extremes of 4 draws by the policy's own reward), ``"optimistic"`` (the
        second from an enhancer over the pool); or a `PairRule` with other settings.
    data
        Train on ``"all"`` comparisons so far or on those of the ``"latest"`` round.
    reference
        What the loss measures from: ``"fixed"`` is pi0, the problem's own, ``"last"`` is
        :math:`\pi_t`.
    start
        Whose weights training starts from: ``"reference"``, those of the policy that the loss
        measures from, or ``"last"``, those of :math:`\pi_t`.
    scale
        Known scale ``s`` of the labels, as in `DirectPreference`; the confidence set of a pair rule
        has its own.

    Source: [2405.07863] (all data, from pi0, best against worst); [2405.21046] (XPO: all data,
    against pi0); [2405.19320] (VPO).
    """

    loss: Loss | str | None = None
    batch_size: int = 256
    minibatch: int = 16
    pairs: str | PairRule = "on-policy"
    data: Literal["all", "latest"] = "all"
    reference: Literal["fixed", "last"] = "fixed"
    start: Literal["reference", "last"] = "reference"
    scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("batch_size", self.batch_size)
        check_choice("data", self.data, ("all", "latest"))
        check_choice("reference", self.reference, ("fixed", "last"))
        check_choice("start", self.start, ("reference", "last"))
        if self.reference == "last" and self.data == "all":
            message = (
                "reference='last' with data='all' would add the same labels to the policy again in "
                "every round: use data='latest', or reference='fixed'."
            )
            raise ValueError(message)
        loss = planning_loss(self.loss, 1.0)
        _require_pairs(loss)
        _check_scale(self.loss, self.scale, None)
        rule = pair_rule(self.pairs)
        if "sample" in loss.needs and rule.sample is None:
            message = (
                f"The loss {loss.name!r} needs a response from pi0 in every pair: use "
                f"pairs='from-reference'; got {self.pairs!r}."
            )
            raise ValueError(message)

    @property
    def training(self) -> TrainingSettings:
        """How to train, without the rest."""
        return replace(super().training, batch_size=self.minibatch)

    @classmethod
    def of(cls, training: TrainingSettings, /, **own: Any) -> Self:
        """Return one that trains by settings at hand; ``own`` are further arguments."""
        how = vars(training) | {"minibatch": training.batch_size, "batch_size": cls.batch_size}
        return cls(**(how | own))

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> DirectState:
        """Train on the comparisons at hand; without any the policy is pi0."""
        from llm_bridge.planning.examples.label_training import require_texts
        from llm_bridge.pools.policy import reference_model

        known = require_texts(data)
        state = DirectState(known, closed_form(reference_model(problem), 1, known.count))
        return self._trained(state, known, problem, key, "init")

    def step(
        self, state: DirectState, problem: Problem, feedback: PairFeedback, key: Key
    ) -> tuple[DirectState, Mapping[str, Array]]:
        """Play one round; reports ``residual`` and ``converged``."""
        # Ask about the current policy, append to D; train.
        draw = pair_rule(self.pairs)
        data = draw(problem, state.data, state.plan.value, feedback, self.batch_size, key)
        new = DirectState(data, state.plan)
        chosen = data if self.data == "all" else data.latest
        new = self._trained(new, chosen, problem, key, "round")
        return new, {"residual": new.plan.residual, "converged": new.plan.converged}

    def policy(self, state: DirectState) -> Policy:
        """Return the trained policy; computes nothing."""
        return state.plan.value

    def _trained(
        self, state: DirectState, chosen: PromptData, problem: Problem, key: Key, name: str
    ) -> DirectState:
        from llm_bridge.planning.examples.label_training import fit_labels, trained_on
        from llm_bridge.pools.policy import reference_model, require_model

        loss = planning_loss(self.loss, (self.scale or 1.0) * problem.eta)
        if not trained_on(chosen, loss):
            return state  # nothing was asked, or only what the loss learns nothing from
        pi0, last = reference_model(problem), require_model(state.plan.value, "The last policy")
        reference = pi0 if self.reference == "fixed" else last
        plan = fit_labels(
            chosen,
            loss,
            self.training,
            pi0=pi0,
            reference=reference,
            start=reference if self.start == "reference" else last,
            sample=pair_rule(self.pairs).sample if "sample" in loss.needs else None,
            key=key,
            folder=self.folder,
            name=name,
        )
        return replace(state, plan=plan)
