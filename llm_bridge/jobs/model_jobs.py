"""What jobs with a model share: their settings, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_bridge.jobs.sources import ModelSource
from llm_bridge.storage.content import content_hash

if TYPE_CHECKING:
    from llm_bridge.language.models import Text
    from llm_bridge.pools.policy import LanguageModelPolicy
    from llm_bridge.pools.problem import PromptProblem


@dataclass(frozen=True, kw_only=True)
class ModelJob:
    """A job that reads a file with a model.

    Attributes
    ----------
    file
        What is read.
    source
        The model.
    seed
        Seed of all draws.
    batch_size
        Texts per forward pass; smaller needs less memory.
    """

    file: Path
    source: ModelSource
    seed: int = 0
    batch_size: int = 32

    def origin(self, command: str) -> dict[str, object]:
        """Return command, file and model, with which studies begin; see `Job.study`."""
        file = content_hash(self.file)
        return {"command": command, "file": file, **self.source.identity()}

    def named(self, *names: str) -> dict[str, object]:
        """Return settings by name."""
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class PoolJob(ModelJob):
    """A job on pools: responses of a reference to every prompt of a file.

    Attributes
    ----------
    source
        The reference model pi0.
    pool_size
        Responses of the reference model per prompt.
    eta
        Weight of KL(pi || pi0) in the objective.
    max_new_tokens
        Longest response in tokens.
    """

    pool_size: int = 8
    eta: float = 0.1
    max_new_tokens: int = 64

    def policy_of(self, source: ModelSource) -> LanguageModelPolicy:
        """Load a model as a policy that samples and scores as the job says."""
        return source.policy(max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)

    def problem(
        self, prompts: Sequence[Text], policy: LanguageModelPolicy, features: Any
    ) -> PromptProblem:
        """Return the problem of these prompts; draws its pools."""
        from llm_bridge.pools.problem import PromptProblem

        return PromptProblem(
            prompts,
            policy,
            features=features,
            pool_size=self.pool_size,
            eta=self.eta,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class RewardJob(ModelJob):
    """A job that fits a reward to preferences.

    Attributes
    ----------
    file
        Preferences, JSONL or Parquet.
    ensemble
        Members to fit to bootstraps, for ``DIR#min`` and the like: beside the linear estimate, or
        in the place of the one trunk; 0 for none.
    test_share
        Share of the prompts that is held out, with all their rows.
    """

    ensemble: int = 0
    test_share: float = 0.2

    def __post_init__(self) -> None:
        if self.ensemble != 0 and self.ensemble < 2:
            message = f"--ensemble must be 0 for none, or at least 2 members; got {self.ensemble}."
            raise ValueError(message)

    def fit_settings(self) -> dict[str, object]:
        """Return the settings of every fit, as `Job.study` has them."""
        return self.named(*(["ensemble"] if self.ensemble else []), "test_share", "seed")
