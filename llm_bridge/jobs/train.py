"""Training on a file of preferences: any loss, all weights or adapters, resumable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from llm_bridge.evaluation.cards import Card, write_card
from llm_bridge.jobs.job import Say, flat, table
from llm_bridge.jobs.sources import ModelSource, content_hash, split_held_out
from llm_bridge.labels.preference_files import Preferences, read_preferences
from llm_bridge.language.loading import quiet
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import LanguageModel
from llm_bridge.planning.label_training import labelled_examples
from llm_bridge.pools.data import Comparison
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.training.examples import Example
from llm_bridge.training.settings import TrainingSettings
from llm_bridge.training.train import NLL, Trained, train
from rlhf_theory.evaluation.statistics import mean_interval
from rlhf_theory.experiments.store import write_json
from rlhf_theory.losses import make
from rlhf_theory.randomness import Key

__all__ = ["TrainJob"]


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Train a model on comparisons.

    Attributes
    ----------
    file
        Preferences, JSONL or Parquet.
    source
        The model that training starts from, which is also the reference.
    loss
        A loss of `rlhf_theory.losses.CATALOGUE`, or ``"sft"`` to imitate what was chosen.
    loss_settings
        Its settings.
    training
        How to train.
    sample
        For losses with a further response: ``"chosen"`` or ``"rejected"``; None otherwise.
    test_share
        Share of the prompts held out.
    seed
        Of the split and of the order of the examples.
    batch_size
        Rows per forward pass when responses are scored.
    """

    file: Path
    source: ModelSource
    loss: str = "dpo"
    loss_settings: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    sample: Literal["chosen", "rejected"] | None = None
    test_share: float = 0.1
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        loss = self._loss()
        if loss.takes == "groups":
            message = (
                f"The loss {self.loss!r} takes groups of responses with rewards; a file of "
                "preferences has none. Take a loss of pairs, such as dpo."
            )
            raise ValueError(message)
        if ("sample" in loss.needs) != (self.sample is not None):
            verb = "needs" if self.sample is None else "takes no"
            message = f"The loss {self.loss!r} {verb} --sample chosen|rejected."
            raise ValueError(message)

    def _loss(self) -> Any:
        if self.loss == "sft":
            return NLL(**self.loss_settings)
        return make(self.loss, **self.loss_settings)

    def study(self) -> dict[str, Any]:
        """Return what the results depend on; see `Job`."""
        return {
            "command": "train",
            "file": content_hash(self.file),
            **self.source.identity(),
            "loss": repr(self._loss()),
            "training": self.training.identity(),
            "sample": self.sample,
            "test_share": self.test_share,
            "seed": self.seed,
        }

    def _split(self) -> tuple[Preferences, list[bool]]:
        preferences = read_preferences(self.file)
        pairs = preferences.pairs
        return preferences, split_held_out([p.prompt for p in pairs], self.test_share, self.seed)

    def plan(self, out: Path) -> list[str]:
        """Return what would be done; see `Job`."""
        preferences, held = self._split()
        n_test = sum(held)
        n = len(held) - n_test
        lines = [
            f"{self.file}: {len(held)} comparisons of {_n_prompts(preferences)} prompts; "
            f"{n} to train on, {n_test} held out.",
            *_dropped(preferences),
            f"{self._loss()!r} on {self.source.name}: {self.training.n_steps(n)} steps of "
            f"{self.training.batch_size * self.training.gradient_accumulation} comparisons, "
            + ("all weights." if self.training.lora is None else f"{self.training.lora!r}."),
        ]
        done = [p.parent.name for p in out.glob("training/*/result.json")]
        part = [p.parent.name for p in out.glob("training/*/checkpoint-*")]
        if done:
            lines.append(f"The training is complete: {', '.join(done)}.")
        elif part:
            lines.append(f"It would go on from the newest checkpoint of {', '.join(set(part))}.")
        return lines

    def run(self, out: Path, say: Say) -> None:
        """Train, measure on held-out comparisons, write model and card; see `Job`."""
        preferences, held = self._split()
        for line in _dropped(preferences):
            say(line)
        base = self.source.language_model()
        comparisons = preferences.comparisons(base, batch_size=self.batch_size)
        parts: dict[str, list[Comparison]] = {"train": [], "held out": []}
        for comparison, test in zip(comparisons, held, strict=True):
            parts["held out" if test else "train"].append(comparison)
        if not parts["train"]:
            message = f"Nothing is left to train on: all prompts are held out. {self.test_share=}"
            raise ValueError(message)
        say(f"{len(parts['train'])} comparisons to train on, {len(parts['held out'])} held out.")
        trained = train(
            base,
            self._examples(parts["train"], base),
            self._loss(),
            self.training,
            key=Key(self.seed).child("train"),
            folder=out / "training",
            name=self.loss,
        )
        how = "found complete" if trained.stored else f"done in {trained.seconds:.0f} s"
        if trained.resumed_at:
            how += f", from the checkpoint at step {trained.resumed_at}"
        say(f"Training of {trained.n_steps} steps {how}.")
        metrics = self._metrics(trained.model, parts)
        self._write(out, base, trained, parts, metrics)
        rows = [[m, f"{v:.4f}", f"{lo:.4f} to {hi:.4f}"] for m, v, lo, hi in metrics.to_numpy()]
        say(table([["metric", "mean", "95 % interval"], *rows]))
        say(f"Model and card: {out / 'model'}")

    def _examples(self, comparisons: Sequence[Comparison], base: LanguageModel) -> list[Example]:
        loss = self._loss()
        if loss.takes == "responses":
            return [
                Example(
                    prompt=c.prompt.ids,
                    responses=((c.first if c.label >= 0.5 else c.second).ids,),
                    weight=c.weight,
                )
                for c in comparisons
            ]
        sample = None if self.sample is None else int(self.sample == "rejected")
        pi0 = LanguageModelPolicy(base, batch_size=self.batch_size)
        return labelled_examples(
            comparisons, pi0, pi0, gamma=None, sample=sample, mismatched="z0" in loss.needs
        )

    def _metrics(
        self, model: LanguageModel, parts: Mapping[str, Sequence[Comparison]]
    ) -> pd.DataFrame:
        """Return accuracy and margin of the policy's own reward, with intervals over comparisons.

        Both are of ``h = log pi / pi0`` of the better response minus the same of the worse one.
        """
        rows = []
        for name, comparisons in parts.items():
            if not comparisons:
                continue
            prompts = [c.prompt.ids for c in comparisons for _ in range(2)]
            responses = [r.ids for c in comparisons for r in (c.first, c.second)]
            log_pi = sequence_log_probs(model, prompts, responses, batch_size=self.batch_size)
            first, second = log_pi.reshape(-1, 2).T
            before = np.array([c.log_pi0_first - c.log_pi0_second for c in comparisons])
            label = np.array([c.label for c in comparisons])
            h = (first - second - before) * np.where(label >= 0.5, 1.0, -1.0)
            kept = label != 0.5
            if kept.any():
                right = 0.5 + 0.5 * np.sign(h[kept])
                rows += [(f"accuracy, {name}", right), (f"mean margin h, {name}", h[kept])]
            first_won = first - second - before
            nll = np.logaddexp(0.0, -first_won) * label + np.logaddexp(0.0, first_won) * (1 - label)
            rows.append((f"log loss at beta = 1, {name}", nll))
        found = [(name, mean_interval(values)) for name, values in rows]
        return pd.DataFrame(
            [(name, i.value, i.lower, i.upper) for name, i in found],
            columns=["metric", "mean", "lower", "upper"],
        )

    def _write(
        self,
        out: Path,
        base: LanguageModel,
        trained: Trained,
        parts: Mapping[str, Sequence[Comparison]],
        metrics: pd.DataFrame,
    ) -> None:
        with quiet():
            trained.model.save(out / "model")
        loss = self._loss()
        settings = {k: v for k, v in flat(self.training.identity()).items() if v is not None}
        card = Card(
            name=f"{Path(self.source.name).name}-{self.loss}",
            base=self.source.name,
            method=f"Trained by {self.loss} on comparisons; the reference is the base.",
            # Of these the minimiser is the Gibbs policy at eta = beta.
            eta=loss.beta if self.loss in ("dpo", "cdpo", "robust-dpo") else None,
            loss=repr(loss),
            data={
                "file": self.file.name,
                "comparisons trained on": len(parts["train"]),
                "comparisons held out": len(parts["held out"]),
            },
            settings={**settings, "seed": self.seed, "steps taken": trained.n_steps},
            metrics=metrics,
            metrics_note="Intervals: 95 % bootstrap over comparisons, one training.",
            parent=base.fingerprint,
        )
        write_card(out / "model", card)
        losses = [float(v) for v in trained.history]
        rows = json.loads(metrics.to_json(orient="records", double_precision=15))
        write_json(out / "metrics.json", {"metrics": rows, "losses": losses})


def _n_prompts(preferences: Preferences) -> int:
    return len({json.dumps(p.prompt) for p in preferences.pairs})


def _dropped(preferences: Preferences) -> list[str]:
    n = preferences.n_identical
    return [f"{n} rows are left out: their responses are the same."] if n else []
