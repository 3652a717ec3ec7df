"""Training a reward model, trunk and head, on a file of preferences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_bridge.evaluation.cards import Card
from llm_bridge.evaluation.details import frame_bytes
from llm_bridge.jobs.fit import split_comparisons
from llm_bridge.jobs.job import Say, flat
from llm_bridge.jobs.sources import ModelSource, content_hash, split_held_out
from llm_bridge.labels.preference_files import read_preferences
from llm_bridge.pools.data import Comparison
from llm_bridge.rewards.calibration import Calibration, calibration_of
from llm_bridge.rewards.training import RewardTraining, comparison_examples, train_reward
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.experiments.store import write_atomic
from rlhf_theory.randomness import Key

__all__ = ["TrunkJob"]


@dataclass(frozen=True, kw_only=True)
class TrunkJob:
    """Train a reward model.

    Attributes
    ----------
    file
        Preferences, JSONL or Parquet.
    source, encoder
        The model whose trunk is trained; whether it is an encoder.
    training
        How to train.
    test_share, seed, batch_size
        Share of the prompts held out; seed of split and training; texts per forward pass.
    """

    file: Path
    source: ModelSource
    encoder: bool = False
    training: TrainingSettings = field(default_factory=TrainingSettings)
    test_share: float = 0.2
    seed: int = 0
    batch_size: int = 32

    def study(self) -> dict[str, Any]:
        """Return what the results depend on; see `Job`."""
        return {
            "command": "fit --trunk",
            "file": content_hash(self.file),
            **self.source.identity(),
            "encoder": self.encoder,
            "training": self.training.identity(),
            "test_share": self.test_share,
            "seed": self.seed,
        }

    def plan(self, out: Path) -> list[str]:
        """Return what would be done; see `Job`."""
        pairs = read_preferences(self.file).pairs
        held = split_held_out([p.prompt for p in pairs], self.test_share, self.seed)
        n = len(pairs) - sum(held)
        done = bool(list(out.glob("training/*/result.json")))
        return [
            f"{self.file}: {len(pairs)} comparisons, {sum(held)} of them held out.",
            f"Trunk and linear head, from {self.source.name}: {self.training.n_steps(n)} steps.",
            *(["The training is complete."] if done else []),
        ]

    def run(self, out: Path, say: Say) -> None:
        """Train, measure, write the reward model with its card; see `Job`."""
        reader = self.source.encoder() if self.encoder else self.source.language_model()
        train, held = split_comparisons(self.file, reader, self.test_share, self.seed)
        trained = train_reward(
            reader,
            comparison_examples(train),
            self.training,
            key=Key(self.seed).child("fit"),
            folder=out / "training",
        )
        how = "found complete" if trained.stored else f"done in {trained.seconds:.0f} s"
        say(f"Training of {len(trained.history)} steps {how}.")
        reports = {"training": calibration_of(trained.reward, train)}
        if held:
            reports["held out"] = calibration_of(trained.reward, held)
        for name, report in reports.items():
            say(f"{name}: {report}")
            write_atomic(
                out / f"calibration-{name.replace(' ', '-')}.parquet", frame_bytes(report.table)
            )
        trained.reward.save(out / "reward")
        card = self._card(trained, train, reports)
        write_atomic(out / "reward" / "README.md", card.text().encode())
        say(f"Reward model and card: {out / 'reward'}")

    def _card(
        self,
        trained: RewardTraining,
        train: Sequence[Comparison],
        reports: dict[str, Calibration],
    ) -> Card:
        settings = {k: v for k, v in flat(self.training.identity()).items() if v is not None}
        numbers = {
            f"{metric}, {name}": value if np.isfinite(value) else "not finite"
            for name, report in reports.items()
            for metric, value in report.summary().items()
        }
        prompts = {json.dumps(c.prompt.ids) for c in train}
        return Card(
            name=f"{Path(self.source.name).name}-reward",
            base=self.source.name,
            method="A reward model: the trunk of the base with a linear head, by Bradley-Terry.",
            loss="-log sigma(r_w - r_l)",
            data={"comparisons": len(train), "prompts": len(prompts), **numbers},
            settings={**settings, "seed": self.seed, "steps taken": len(trained.history)},
            limits=("Calibrated, if at all, on labels of the same people and prompts alone.",),
            kind="text-classification",
        )
