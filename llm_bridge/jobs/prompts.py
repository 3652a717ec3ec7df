"""Prompts, a language model and whoever labels, as a world of a study file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_bridge.jobs.feature_options import FeatureOptions
from llm_bridge.jobs.loading_options import LoadingOptions
from rlhf_theory.core import World
from rlhf_theory.errors import check_positive
from rlhf_theory.register import register
from rlhf_theory.worlds.recipe import WorldRecipe

if TYPE_CHECKING:
    from llm_bridge.evaluation.held_out import HeldOut
    from llm_bridge.jobs.sources import ModelSource
    from llm_bridge.language.models import Text
    from llm_bridge.pools.policy import LanguageModelPolicy
    from llm_bridge.pools.problem import PromptProblem
    from llm_bridge.pools.world import PromptWorld

PEOPLE = "people"


def check_labels(labels: str | None, preference: str | None, label_scale: float) -> None:
    """Raise ``ValueError`` unless one of the two says who labels, and a scale is of a reward's."""
    if (labels is None) == (preference is None):
        message = (
            "Say who labels: labels by people or by a reward, or a preference; got "
            f"labels={labels!r}, preference={preference!r}."
        )
        raise ValueError(message)
    check_positive("label_scale", label_scale)
    if label_scale != 1.0 and labels in (None, PEOPLE):
        message = "label_scale is of labels by a reward: people and preferences would ignore it."
        raise ValueError(message)


@register("world", "prompts")
@dataclass(frozen=True, kw_only=True)
class Prompts(LoadingOptions, WorldRecipe):
    """Prompts of a file, answered by a language model, with labels by a reward or by people.

    Each replica is a run of its own: pools, held-out pools and trainings are drawn anew with the
    seed ``seed + replica``; which prompts are held out is the same for all.

    Attributes
    ----------
    prompts
        File of prompts: ``.txt``, one per line; ``.jsonl`` or ``.parquet`` with a column
        ``prompt``.
    model
        Folder or id of the model pi0.
    labels
        Who labels: ``"people"``, or a reward whose Bradley-Terry labels are drawn:
        ``module:function``, a fitted reward, or a classifier.
    preference
        Instead of a reward a general preference, ``module:function``.
    label_scale
        What the reward is multiplied by in its labels. Policies are planned for, and judged by, the
        reward itself: give the learner's rule the same ``scale``.
    features
        Features of the responses.
    cache
        Folder of a feature cache to share, such as ``cache`` in the folder of ``lm embed``; None
        for none. What it holds is not read again.
    eta
        Weight of the KL.
    pool_size
        Responses per prompt.
    refresh
        Whether half of each pool is drawn from the policy that is about to be played. For learners
        whose planner trains the model.
    game
        Whether it is for learners of a game, on features projected for it.
    held_out
        Share of the prompts that policies are evaluated on; where it is 0, on the others, in other
        pools.
    samples
        Fresh responses per held-out prompt: 0, or at least 2. Policies that only re-rank pools
        have NaN there.
    max_new_tokens, batch_size
        Of sampling and scoring.
    threads
        Threads of the processor of a block. Numbers depend on it, so that it is part of them.
    seed
        Of the held-out share, of pools and of fresh responses.
    replicas
        Runs with seeds of their own.
    at_once
        Blocks that may run at the same time; each holds a model.
    folder
        Where trainings, labels and features are kept; None for a folder within the results.
    """

    prompts: str
    model: str
    labels: str | None = None
    preference: str | None = None
    label_scale: float = 1.0
    features: FeatureOptions = field(default_factory=FeatureOptions)
    cache: str | None = None
    eta: float = 0.1
    pool_size: int = 8
    refresh: bool = False
    game: bool = False
    held_out: float = 0.2
    samples: int = 4
    max_new_tokens: int = 64
    batch_size: int = 32
    threads: int = 1
    seed: int = 0
    replicas: int = 1
    at_once: int = 1
    folder: str | Path | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("eta", "pool_size", "threads", "replicas", "at_once"):
            check_positive(name, getattr(self, name))
        check_labels(self.labels, self.preference, self.label_scale)
        if self.preference is not None and not self.game:
            message = "A preference is for learners of a game: set game = true."
            raise ValueError(message)
        if self.samples == 1 or self.samples < 0:
            message = f"samples must be 0 or at least 2; got {self.samples}."
            raise ValueError(message)
        if not 0.0 <= self.held_out < 1.0:
            message = f"held_out must lie in [0, 1); got {self.held_out}."
            raise ValueError(message)

    @property
    def n_replicas(self) -> int:
        """Number of replicas ``R``."""
        return self.replicas

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what `HeldOut` measures here."""
        from llm_bridge.evaluation.metrics import measured

        return measured(
            gold=self.labels not in (None, PEOPLE),
            preference=self.game and self.labels != PEOPLE,
            game=self.game and self.labels != PEOPLE,
            fresh=self.samples > 0,
        )

    def content(self) -> Mapping[str, object]:
        """Return hashes of the prompts, of the files of the model, and of who labels."""
        from llm_bridge.jobs.variants import reward_content
        from llm_bridge.storage.content import content_hash, model_content
        from rlhf_theory.studies.entries import function
        from rlhf_theory.studies.registry import head_of

        found: dict[str, object] = {
            "prompts": content_hash(Path(self.prompts)),
            "model": model_content(self.model, self.revision),
            # Wherever it is, it gives the same features, in single precision.
            **({} if self.cache is None else {"cache": "rows"}),
        }
        if self.preference is not None:
            found["preference"] = head_of(function(self.preference))
        elif self.labels != PEOPLE:
            found["labels"] = reward_content(str(self.labels), self.revision)
        return found

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Set the threads that a block needs, and give back what was set before."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def block(self, first: int, stop: int) -> World:
        """Load the model, draw the pools of one replica; ``ValueError`` for several."""
        if stop - first != 1:
            message = f"Replicas of prompts are blocks of their own; got {first} .. {stop - 1}."
            raise ValueError(message)
        return self.made(self.seed + first)

    def made(self, seed: int) -> PromptWorld:
        """Load the model, draw pools and held-out pools of a seed."""
        from llm_bridge.jobs.sources import ModelSource
        from llm_bridge.pools.problem import PromptProblem
        from llm_bridge.pools.world import PromptWorld
        from llm_bridge.storage.kept import Kept

        train, test = self.split()
        source = ModelSource(name=self.model, **self.loading())
        policy = source.policy(max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
        folder = self._kept("answers")
        kept = None if folder is None else Kept(folder)
        policy = replace(policy, kept=kept)
        cache = None if self.cache is None else Path(self.cache)
        features = self.features.make(policy.model, cache=cache, batch_size=self.batch_size)
        problem = PromptProblem(
            train,
            policy,
            features=replace(features, kept=kept),
            pool_size=self.pool_size,
            eta=self.eta,
            seed=seed,
        )
        problem = problem.for_preferences() if self.game else problem
        feedback, gold, preference = self._feedback(policy, source)
        return PromptWorld(
            problem=problem,
            feedback=feedback,
            # Where nothing is held out, on the prompts that were trained on, in other pools.
            judge=self._judge(problem.held_out(test or train), gold, preference, seed),
            refresh=self.refresh,
            settings={"prompts": self.prompts, "model": self.model, "seed": seed},
        )

    def split(self) -> tuple[list[Text], list[Text]]:
        """Return the prompts to learn from and those held out; ``ValueError`` for none of these."""
        from llm_bridge.jobs.sources import read_prompts, split_held_out

        prompts = read_prompts(Path(self.prompts))
        held = split_held_out(prompts, self.held_out, self.seed)
        train = [p for p, test in zip(prompts, held, strict=True) if not test]
        if not train:
            message = f"All {len(prompts)} prompts are held out. Hold out a smaller share."
            raise ValueError(message)
        return train, [p for p, test in zip(prompts, held, strict=True) if test]

    def _kept(self, name: str) -> Path | None:
        return None if self.folder is None else Path(self.folder) / name

    def _feedback(self, policy: LanguageModelPolicy, source: ModelSource) -> tuple[Any, Any, Any]:
        """Return who labels, and the reward or preference that policies are judged by."""
        from llm_bridge.jobs.rewards import preference_of, reward_of
        from llm_bridge.labels.oracles import RewardModelOracle
        from llm_bridge.labels.people import LabelFile
        from rlhf_theory.oracles import feedback_from

        if self.labels == PEOPLE:
            folder = self._kept("labels")
            if folder is None:
                message = 'labels = "people" needs a folder for questions and answers.'
                raise ValueError(message)
            return LabelFile(folder), None, None
        if self.preference is not None:
            preference = preference_of(self.preference, policy.kept)
            return feedback_from(preference), None, preference
        reward = reward_of(str(self.labels), source, writer=policy.model, kept=policy.kept)
        oracle = RewardModelOracle(reward, self.label_scale)
        return feedback_from(oracle), reward, oracle if self.game else None

    def _judge(self, problem: PromptProblem, gold: Any, preference: Any, seed: int) -> HeldOut:
        from llm_bridge.evaluation.held_out import HeldOut

        return HeldOut(
            problem,
            gold,
            preference=preference,
            game="probability" if preference is not None else None,
            n_samples=self.samples,
            seed=seed,
        )
