"""The learners of the online loop, made from named settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llm_bridge.planning.direct import IterativeDirect
from llm_bridge.planning.pair_rules import AgainstEnhancer
from llm_bridge.planning.planners import DPOPlanner
from llm_bridge.planning.self_play import SelfPlay
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy, Optimistic, Uniform
from rlhf_theory.algorithms.game_enhancers import InformationRatio
from rlhf_theory.algorithms.nash_game import NashGame
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.core import Enhancer
from rlhf_theory.errors import check_choice
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.losses import make
from rlhf_theory.planners.gibbs import Gibbs
from rlhf_theory.planners.nash import Nash

__all__ = ["ENHANCERS", "LEARNERS", "LearnerOptions"]

LEARNERS = ("online", "direct", "nash")

ENHANCERS: dict[str, Enhancer] = {
    "optimistic": Optimistic(),
    "reference": FromReference(),
    "on-policy": OnPolicy(),
    "uniform": Uniform(),
    "information-ratio": InformationRatio(),
}

_DIRECT = ("pairs", "data", "reference", "start")
_OWNERS = {
    "planner": "of 'online' and 'nash'",
    "enhancer": "of 'online' and 'nash'; 'direct' has pairs",
    **dict.fromkeys(_DIRECT, "of 'direct'"),
    **dict.fromkeys(("loss", "loss_settings"), "of 'online' and 'direct' where they train"),
    **dict.fromkeys(("update", "self_play_rounds"), "of 'nash' where it trains"),
    "beta": "of the enhancer, or the pairs, 'optimistic'",
    "lam": "of learners with an estimate, and of the pairs 'optimistic'",
}


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """Named settings of a learner; those that it would ignore are refused.

    Attributes
    ----------
    learner
        ``"online"``: `OnlineIterative`, an estimate on frozen features and its confidence set;
        ``"direct"``: `IterativeDirect`, the loss on the labels themselves; ``"nash"``: `NashGame`
        for general preferences.
    planner
        ``"train"`` trains the model (DPO-type, or self-play); ``"pools"`` re-ranks pools exactly.
    enhancer
        Second player of ``online`` and ``nash``, one of `ENHANCERS`; None takes the paper's.
    pairs, data, reference, start
        Settings of ``direct``; see `IterativeDirect`.
    loss, loss_settings
        Loss that is trained on; without settings the one that plans at the problem's ``eta``. With
        settings it is taken as it is, and for ``direct`` in units of the labels: there ``beta`` is
        the scale of the labels times ``eta``.
    update, self_play_rounds
        Map and rounds of the self-play of ``nash``; see `SelfPlay`.
    batch_size
        Labels per round.
    beta, lam
        Radius and ridge of the confidence set that the estimate, the enhancer ``optimistic`` or
        the pairs ``optimistic`` need.
    """

    learner: str = "online"
    planner: str = "train"
    enhancer: str | None = None
    pairs: str = "on-policy"
    data: str = "all"
    reference: str = "fixed"
    start: str = "reference"
    loss: str = "dpo"
    loss_settings: Mapping[str, Any] = field(default_factory=dict)
    update: str = "inpo"
    self_play_rounds: int = 3
    batch_size: int = 256
    beta: float = 1.0
    lam: float = 1.0

    def __post_init__(self) -> None:
        check_choice("learner", self.learner, LEARNERS)
        check_choice("planner", self.planner, ("train", "pools"))
        if self.enhancer is not None:
            check_choice("enhancer", self.enhancer, ENHANCERS)
        ignored = self._ignored()
        if ignored:
            names = ", ".join(f"{name} (a setting {_OWNERS[name]})" for name in ignored)
            message = (
                f"The learner {self.learner!r} with the planner {self.planner!r} would ignore "
                f"{names}. Leave out what it ignores."
            )
            raise ValueError(message)
        if self.enhancer == "information-ratio" and self.learner != "nash":
            message = "The enhancer 'information-ratio' is for games: use the learner 'nash'."
            raise ValueError(message)
        if self.enhancer == "optimistic" and self.learner == "nash":
            message = "The enhancer 'optimistic' is for rewards: use the learner 'online'."
            raise ValueError(message)

    def _ignored(self) -> list[str]:
        """Return the settings that differ from their defaults and would change nothing."""
        direct, nash = self.learner == "direct", self.learner == "nash"
        used = {"learner", "batch_size", *(_DIRECT if direct else ("planner", "enhancer", "lam"))}
        if self.trains:
            used |= {"update", "self_play_rounds"} if nash else {"loss", "loss_settings"}
        if (self.pairs if direct else self._enhancer) == "optimistic":
            used |= {"beta", "lam"}
        return [
            f.name
            for f in fields(self)
            if f.name not in used
            and getattr(self, f.name) != ({} if f.default is MISSING else f.default)
        ]

    @property
    def _enhancer(self) -> str:
        """The name of the enhancer, the paper's unless another is given."""
        return self.enhancer or ("information-ratio" if self.learner == "nash" else "optimistic")

    def check_training(self, training: TrainingSettings, others: Sequence[str] = ()) -> None:
        """Raise ``ValueError`` for settings of a training where none takes place.

        Parameters
        ----------
        training
            How to train.
        others
            Names of further settings that were given and matter after trainings only.
        """
        given, plain = training.identity(), TrainingSettings().identity()
        ignored = [name for name in given | plain if given.get(name) != plain.get(name)]
        ignored += others
        if ignored and not self.trains:
            message = (
                "The planner 'pools' re-ranks pools and trains nothing, so that it would ignore "
                f"{', '.join(ignored)}. Leave these out, or use the planner 'train'."
            )
            raise ValueError(message)

    def identity(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {**asdict(self), "loss_settings": dict(self.loss_settings)}

    @property
    def trains(self) -> bool:
        """Whether the model is trained; otherwise its pools are re-ranked."""
        return self.planner == "train"

    @property
    def method(self) -> str:
        """How the model is trained, in a few words."""
        if self.learner == "nash":
            return f"self-play ({self.update})" if self.trains else "Nash on pools"
        how = f"{self.loss} training" if self.trains else "Gibbs on pools"
        return f"{self.learner} learner, {how}"

    def make(
        self,
        policy: LanguageModelPolicy,
        training: TrainingSettings,
        folder: Path,
        *,
        label_scale: float = 1.0,
    ) -> Any:
        """Return the learner.

        Parameters
        ----------
        policy
            The reference policy pi0.
        training
            How to train.
        folder
            Where trainings are kept.
        label_scale
            What the reward is multiplied by in the labels. It is known to the learner, which plans
            for the reward itself; a game is about the labels' own probabilities.
        """
        if self.learner == "direct":
            return self._direct(policy, training, folder, label_scale)
        enhancer = ENHANCERS[self._enhancer]
        if self.learner == "nash":
            update: Any = self.update
            play = SelfPlay(
                policy,
                update=update,
                rounds=self.self_play_rounds,
                settings=training,
                folder=folder,
            )
            return NashGame(
                enhancer=enhancer,
                radius=Constant(beta=self.beta, lam=self.lam),
                batch_size=self.batch_size,
                game="probability",
                planner=play if self.trains else Nash(),
            )
        loss: Any = make(self.loss, **self.loss_settings) if self.loss_settings else self.loss
        plan = DPOPlanner(policy, loss=loss, settings=training, folder=folder)
        return OnlineIterative(
            enhancer=enhancer,
            radius=Constant(beta=self.beta, lam=self.lam, scale=label_scale),
            batch_size=self.batch_size,
            planner=plan if self.trains else Gibbs(),
        )

    def _direct(
        self,
        policy: LanguageModelPolicy,
        training: TrainingSettings,
        folder: Path,
        label_scale: float,
    ) -> IterativeDirect:
        named: dict[str, Any] = {name: getattr(self, name) for name in _DIRECT}
        if self.pairs == "optimistic":
            radius = Constant(beta=self.beta, lam=self.lam, scale=label_scale)
            named["pairs"] = AgainstEnhancer(enhancer=ENHANCERS["optimistic"], radius=radius)
        if self.loss_settings:
            named["loss"] = make(self.loss, **self.loss_settings)
        else:
            named |= {"loss": self.loss, "scale": label_scale}
        return IterativeDirect(
            policy, settings=training, batch_size=self.batch_size, folder=folder, **named
        )
