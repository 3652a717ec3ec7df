"""Training a reward model, trunk and head, on a file of preferences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.evaluation.cards import Card
from llm_bridge.evaluation.details import frame_bytes
from llm_bridge.jobs.fit import split_comparisons, split_pairs
from llm_bridge.jobs.job import Say, flat
from llm_bridge.jobs.settings import TrunkSettings
from llm_bridge.jobs.trunk_ensembles import save_members
from llm_bridge.language.models import LanguageModel, Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.data import Comparison
from llm_bridge.rewards.calibration import Calibration, calibration_of
from llm_bridge.rewards.trained import TrainedReward
from llm_bridge.rewards.training import (
    RewardTraining,
    comparison_examples,
    train_ensemble,
    train_reward,
)
from rlhf_theory.randomness import Key
from rlhf_theory.store import write_atomic


@dataclass(frozen=True, kw_only=True)
class TrunkJob(TrunkSettings):
    """Train a reward model."""

    def study(self) -> dict[str, object]:
        """Return what the results depend on; see `Job`."""
        return {
            **self.origin("fit --trunk"),
            "encoder": self.encoder,
            "training": self.training.identity(),
            **self.fit_settings(),
        }

    def plan(self, out: Path) -> list[str]:
        """Return what would be done; see `Job`."""
        pairs, held = split_pairs(self.file, self.test_share, self.seed)
        n = len(pairs) - sum(held)
        done, members = len(list(out.glob("training/*/result.json"))), max(self.ensemble, 1)
        lines = [
            f"{self.file}: {len(pairs)} comparisons, {sum(held)} of them held out.",
            f"Trunk and linear head, from {self.source.name}: {self.training.n_steps(n)} steps"
            + (f" for each of {members} members, on bootstraps." if self.ensemble else "."),
        ]
        if done >= members:
            lines.append("The training is complete.")
        elif done:
            lines.append(f"{done} of {members} members are complete.")
        return lines

    def run(self, out: Path, say: Say) -> None:
        """Train, measure, write the reward model with its card; see `Job`."""
        reader = self.source.reader(encoder=self.encoder)
        train, held = split_comparisons(self.file, reader, self.test_share, self.seed)
        trained = self._trained(reader, train, out)
        for k, one in enumerate(trained):
            what = f"Member {k}: training" if self.ensemble else "Training"
            how = "found complete" if one.stored else f"done in {one.seconds:.0f} s"
            say(f"{what} of {len(one.history)} steps {how}.")
        mean = _Mean([one.reward for one in trained])
        reports = {"training": calibration_of(mean, train)}
        if held:
            reports["held out"] = calibration_of(mean, held)
        for name, report in reports.items():
            say(f"{name}: {report}")
            write_atomic(
                out / f"calibration-{name.replace(' ', '-')}.parquet", frame_bytes(report.table)
            )
        if self.ensemble:
            save_members(out / "reward", mean.members)
        else:
            trained[0].reward.save(out / "reward")
        card = self._card(trained, train, reports)
        write_atomic(out / "reward" / "README.md", card.text().encode())
        say(f"Reward model and card: {out / 'reward'}")

    def _trained(
        self, reader: LanguageModel | EncoderModel, train: Sequence[Comparison], out: Path
    ) -> Sequence[RewardTraining]:
        key, folder = Key(self.seed).child("fit"), out / "training"
        examples = comparison_examples(train)
        if self.ensemble:
            ensemble = train_ensemble(
                reader, examples, self.training, n_members=self.ensemble, key=key, folder=folder
            )
            return ensemble.trainings
        return [train_reward(reader, examples, self.training, key=key, folder=folder)]

    def _card(
        self,
        trained: Sequence[RewardTraining],
        train: Sequence[Comparison],
        reports: dict[str, Calibration],
    ) -> Card:
        settings = {k: v for k, v in flat(self.training.identity()).items() if v is not None}
        numbers = {
            f"{metric}, {name}": value if np.isfinite(value) else "not finite"
            for name, report in reports.items()
            for metric, value in report.summary().items()
        }
        prompts, members = {json.dumps(c.prompt.ids) for c in train}, self.ensemble > 0
        return Card(
            name=f"{Path(self.source.name).name}-reward",
            base=self.source.name,
            method="A reward model: the trunk of the base with a linear head, by Bradley-Terry."
            + (f" {self.ensemble} members, on bootstraps; calibration of their mean." * members),
            loss="-log sigma(r_w - r_l)",
            data={"comparisons": len(train), "prompts": len(prompts), **numbers},
            settings={**settings, "seed": self.seed, "steps taken": len(trained[0].history)},
            limits=("Calibrated, if at all, on labels of the same people and prompts alone.",),
            kind="text-classification",
        )


@dataclass(frozen=True)
class _Mean:
    """The mean score of some reward models."""

    members: Sequence[TrainedReward]

    def scores(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> np.ndarray:
        """Return the reward of every response, shape ``(n,)``."""
        mean: np.ndarray = np.mean([m.scores(prompts, responses) for m in self.members], axis=0)
        return mean
