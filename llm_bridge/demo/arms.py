"""The arms of the demonstration: what is trained, and by whom it is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_bridge.embeddings.featureless import NoFeatures
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.evaluation.cards import Card
from llm_bridge.evaluation.details import Details
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.jobs.job import flat
from llm_bridge.labels.oracles import RewardModelOracle, TextReward
from llm_bridge.labels.preferences import TextPreference
from llm_bridge.language.models import LanguageModel
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.planning.direct import DirectPreference, IterativeDirect
from llm_bridge.planning.planners import DPOPlanner
from llm_bridge.planning.self_play import SelfPlay
from llm_bridge.pools.policy import LanguageModelPolicy, require_model
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.pools.world import PromptWorld
from llm_bridge.tiny.gold import gold_preference, gold_reward
from llm_bridge.tiny.parser import judge
from llm_bridge.tiny.world import TinyWorld
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.algorithms.offline_pessimistic import OfflinePessimistic
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.algorithms.rounds import compare
from rlhf_theory.core import ConfidenceSet, Policy
from rlhf_theory.data import PreferenceData
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.experiments.runner import run_online
from rlhf_theory.oracles import feedback_from
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.randomness import Key

__all__ = ["ETA", "GAME_ETA", "Arm", "Bench", "DemoSize"]


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How large the demonstration is.

    Attributes
    ----------
    steps
        Training steps of the language model.
    prompts, held_out, pool_size, held_out_pool, samples
        Prompts to learn from and to judge by, responses per prompt in the pools of both, fresh
        responses per held-out prompt.
    labels, rounds
        Labels of every arm in all; rounds of the online arms, which divide them.
    epochs, self_play_rounds
        Passes over the data in every training; rounds of self-play.
    dim
        Features of the linear reward.
    """

    steps: int = 1700
    prompts: int = 256
    held_out: int = 96
    pool_size: int = 8
    held_out_pool: int = 16
    samples: int = 4
    labels: int = 768
    rounds: int = 3
    epochs: float = 3.0
    self_play_rounds: int = 3
    dim: int = 128


ETA, GAME_ETA = 0.5, 0.1
"""Weights of the KL: in units of the gold reward, and of win probabilities."""

Arm = Callable[[], tuple[list[Details], LanguageModel | None]]


@dataclass(frozen=True, eq=False)
class Bench:
    """What all arms share: problem, labels, judges; made when it is first needed."""

    world: TinyWorld
    size: DemoSize
    seed: int
    training: Path

    @cached_property
    def pi0(self) -> LanguageModelPolicy:
        """The language model as reference policy."""
        sampler = BatchedSampler(max_new_tokens=64, batch_size=256)
        return LanguageModelPolicy(self.world.model(), sampler, 64)

    @property
    def _held_out(self) -> Sequence[str]:
        return self.world.held_out[: self.size.held_out]

    @cached_property
    def problem(self) -> PromptProblem:
        """The problem of the arms with a reward."""
        return self._problem(TransformerFeatures(self.pi0, dim=self.size.dim), ETA)

    @cached_property
    def game(self) -> PromptProblem:
        """The problem of the preference game: other units, so another weight of the KL."""
        return self._problem(NoFeatures(), GAME_ETA)

    def _problem(self, features: Any, eta: float) -> PromptProblem:
        return PromptProblem(
            self.world.prompts[: self.size.prompts],
            self.pi0,
            features=features,
            pool_size=self.size.pool_size,
            eta=eta,
            seed=self.seed,
        )

    @cached_property
    def oracle(self) -> RewardModelOracle:
        """Bradley-Terry labels of the gold reward."""
        return RewardModelOracle(TextReward(gold_reward))

    @cached_property
    def preference(self) -> TextPreference:
        """The general preference of the readers."""
        return TextPreference(gold_preference)

    @cached_property
    def judge(self) -> HeldOut:
        """Who judges the arms with a reward."""
        return HeldOut(
            self.problem.held_out(self._held_out, pool_size=self.size.held_out_pool),
            self.oracle.reward,
            n_samples=self.size.samples,
            text_metrics={"grammatical": _grammatical},
            seed=self.seed,
        )

    @cached_property
    def game_judge(self) -> HeldOut:
        """Who judges self-play."""
        return HeldOut(
            self.game.held_out(self._held_out, pool_size=self.size.held_out_pool),
            preference=self.preference,
            game="probability",
            n_samples=self.size.samples,
            text_metrics={
                "grammatical": _grammatical,
                **{tone: _Tone(tone) for tone in ("polite", "plain", "rude")},
            },
            seed=self.seed,
        )

    @cached_property
    def offline_data(self) -> PreferenceData:
        """Comparisons of two draws of the reference policy each."""
        empty, pi0 = self.problem.empty_data(), ReferencePolicy()
        labels, key = feedback_from(self.oracle), Key(self.seed).child("demo", "offline")
        return compare(self.problem, empty, pi0, pi0, labels, self.size.labels, key)

    @cached_property
    def offline_fit(self) -> ConfidenceSet:
        """The linear reward of the offline labels, as estimate and confidence set."""
        rule = Constant(beta=4.0)
        return rule.confidence_set(rule.fit(self.offline_data), self.offline_data)

    @property
    def settings(self) -> TrainingSettings:
        """How every arm trains."""
        return TrainingSettings(
            epochs=self.size.epochs, batch_size=16, learning_rate=1e-3, progress=False
        )

    @property
    def arms(self) -> dict[str, Arm]:
        """The arms by name, in the order of the report."""
        return {
            "reference": lambda: ([self.judge.details(self.pi0)], None),
            "offline DPO": self._offline_direct,
            "offline pessimistic": self._offline_pessimistic,
            "online DPO": self._online_direct,
            "online optimistic": self._online_optimistic,
            "self-play": self._self_play,
        }

    def card(self, name: str) -> Card:
        """Return the card of an arm's model."""
        methods = {
            "reference": "Imitation of the grammar's answers.",
            "offline DPO": "DPO on comparisons of the reference policy's responses.",
            "offline pessimistic": "A linear reward's lower bound, planned by DPO-type training.",
            "online DPO": "DPO on all comparisons so far, pairs of the current policy, in rounds.",
            "online optimistic": "A linear reward, planned by DPO-type training; the second "
            "response of every pair is an optimistic enhancer's. In rounds.",
            "self-play": "Self-play (INPO) against a general preference.",
        }
        game = name == "self-play"
        labels = "win probabilities of a known preference" if game else self.size.labels
        return Card(
            name=f"tiny-{name.lower().replace(' ', '-')}",
            base="tiny world, Llama of 89 thousand weights",
            method=methods[name],
            eta=GAME_ETA if game else ETA,
            loss="inpo" if game else "dpo",
            data={"prompts": self.size.prompts, "labels": labels},
            settings={**flat(self.settings.identity()), "seed": self.seed},
            limits=("It speaks about 24 topics in 100 words, and knows nothing else.",),
        )

    # ------------------------------------------------------------------ arms

    def _offline_direct(self) -> tuple[list[Details], LanguageModel]:
        learner = DirectPreference.of(self.settings, folder=self.training)
        plan = learner(self.problem, self.offline_data, Key(self.seed).child("demo", "direct"))
        return self._judged(plan.value)

    def _offline_pessimistic(self) -> tuple[list[Details], LanguageModel]:
        learner = OfflinePessimistic(radius=Constant(beta=4.0), planner=self._planner)
        plan = learner(self.problem, self.offline_data, Key(self.seed).child("demo", "lower"))
        return self._judged(plan.value)

    def _online_direct(self) -> tuple[list[Details], LanguageModel]:
        return self._online(
            IterativeDirect.of(
                self.settings, batch_size=self.size.labels // self.size.rounds, folder=self.training
            )
        )

    def _online_optimistic(self) -> tuple[list[Details], LanguageModel]:
        return self._online(
            OnlineIterative(batch_size=self.size.labels // self.size.rounds, planner=self._planner)
        )

    def _self_play(self) -> tuple[list[Details], LanguageModel]:
        planner = SelfPlay.of(
            self.settings, rounds=self.size.self_play_rounds, folder=self.training
        )
        key = Key(self.seed).child("demo", "self-play")
        plan = planner(self.preference, self.game, key)
        policy = require_model(plan.value, "What was trained")
        return [self.game_judge.details(self.pi0), self.game_judge.details(policy)], policy.model

    @property
    def _planner(self) -> DPOPlanner:
        return DPOPlanner.of(self.settings, folder=self.training)

    def _judged(self, policy: Policy) -> tuple[list[Details], LanguageModel]:
        return [self.judge.details(policy)], require_model(policy, "What was trained").model

    def _online(self, learner: Any) -> tuple[list[Details], LanguageModel]:
        judge = _Kept(self.judge)
        world = PromptWorld(
            problem=self.problem, feedback=feedback_from(self.oracle), judge=judge, refresh=True
        )
        run_online(learner, world, self.size.rounds, seed=self.seed)
        return judge.found, require_model(judge.played[-1], "The last policy").model


@dataclass(frozen=True, eq=False)
class _Kept:
    """A judge that keeps all policies, and the details of what it found."""

    held_out: HeldOut
    played: list[Policy] = field(default_factory=list)
    found: list[Details] = field(default_factory=list)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("fresh_objective",)

    def __call__(self, policy: Policy) -> dict[str, np.ndarray]:
        self.played.append(policy)
        self.found.append(self.held_out.details(policy))
        return {"fresh_objective": self.found[-1].mean("fresh_objective")}


def _grammatical(prompt: str, response: str) -> float:
    return float(judge(prompt, response).grammatical)


@dataclass(frozen=True)
class _Tone:
    """How often answers have a tone."""

    tone: str

    def __call__(self, prompt: str, response: str) -> float:
        answer = judge(prompt, response).answer
        return float(answer is not None and answer.tone == self.tone)
