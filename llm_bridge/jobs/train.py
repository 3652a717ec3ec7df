"""Training on preferences or labelled responses: any loss, all weights or adapters, resumable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from llm_bridge.evaluation.cards import Card, write_card
from llm_bridge.jobs.job import Say, flat
from llm_bridge.jobs.settings import TrainSettings
from llm_bridge.jobs.sources import split_held_out
from llm_bridge.jobs.train_data import TrainingData, n_prompts, training_data
from llm_bridge.language.models import LanguageModel
from llm_bridge.training.train import NLL, Trained, train
from llm_bridge.training.units import TrainingLoss
from rlhf_theory.commands.tables import aligned
from rlhf_theory.errors import check_choice
from rlhf_theory.evaluation.statistics import mean_interval
from rlhf_theory.losses import make
from rlhf_theory.randomness import Key
from rlhf_theory.store import write_json

_GIBBS = ("dpo", "cdpo", "robust-dpo")
"""Losses whose minimiser is the Gibbs policy at eta = beta."""


@dataclass(frozen=True, kw_only=True)
class TrainJob(TrainSettings):
    """Train a model on comparisons, or (KTO) on single responses with labels."""

    def __post_init__(self) -> None:
        if self.sample is not None:
            check_choice("sample", self.sample, ("chosen", "rejected", "second"))
        loss = self._loss()
        if loss.takes == "groups":
            message = (
                f"The loss {self.loss!r} takes groups of responses with rewards; a file of "
                "preferences has none. Take a loss of pairs, such as dpo."
            )
            raise ValueError(message)
        if ("sample" in loss.needs) != (self.sample is not None):
            verb = "needs" if self.sample is None else "takes no"
            message = f"The loss {self.loss!r} {verb} --sample chosen|rejected|second."
            raise ValueError(message)

    def _loss(self) -> TrainingLoss:
        if self.loss == "sft":
            return NLL(**self.loss_settings)
        return make(self.loss, **self.loss_settings)

    def study(self) -> dict[str, object]:
        """Return what the results depend on; see `Job`."""
        return {
            **self.origin("train"),
            "loss": repr(self._loss()),
            "training": self.training.identity(),
            **self.named("sample", "test_share", "seed"),
        }

    def _data(self) -> tuple[TrainingData, list[bool]]:
        data = training_data(self.file, self._loss(), self.sample)
        return data, split_held_out(data.prompts, self.test_share, self.seed)

    def plan(self, out: Path) -> list[str]:
        """Return what would be done; see `Job`."""
        data, held = self._data()
        n_test = sum(held)
        n = len(held) - n_test
        lines = [
            f"{self.file}: {len(held)} {data.unit} of {n_prompts(data)} prompts; "
            f"{n} to train on, {n_test} held out.",
            *data.remarks(),
            f"{data.loss!r} on {self.source.name}: {self.training.n_steps(n)} steps of "
            f"{self.training.batch_size * self.training.gradient_accumulation} {data.unit}, "
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
        """Train, measure on held-out rows, write model and card; see `Job`."""
        data, held = self._data()
        for line in data.remarks():
            say(line)
        base = self.source.language_model()
        parts: dict[str, list[object]] = {"train": [], "held out": []}
        for row, test in zip(data.scored(base, self.batch_size), held, strict=True):
            parts["held out" if test else "train"].append(row)
        if not parts["train"]:
            message = f"Nothing is left to train on: all prompts are held out. {self.test_share=}"
            raise ValueError(message)
        say(f"{len(parts['train'])} {data.unit} to train on, {len(parts['held out'])} held out.")
        trained = train(
            base,
            data.examples(
                parts["train"], base, batch_size=self.batch_size, bf16=self.training.bf16
            ),
            data.loss,
            self.training,
            key=Key(self.seed).child("train"),
            folder=out / "training",
            name=self.loss,
        )
        how = "found complete" if trained.stored else f"done in {trained.seconds:.0f} s"
        if trained.resumed_at:
            how += f", from the checkpoint at step {trained.resumed_at}"
        say(f"Training of {trained.n_steps} steps {how}.")
        metrics = self._metrics(trained.model, data, parts)
        self._write(out, base, trained, data, parts, metrics)
        rows = [[m, f"{v:.4f}", f"{lo:.4f} to {hi:.4f}"] for m, v, lo, hi in metrics.to_numpy()]
        say(aligned([["metric", "mean", "95 % interval"], *rows]))
        say(f"Model and card: {out / 'model'}")

    def _metrics(
        self, model: LanguageModel, data: TrainingData, parts: Mapping[str, Sequence[object]]
    ) -> pd.DataFrame:
        """Return what the data say about a model, with intervals over their rows."""
        found = [
            (f"{metric}, {name}", mean_interval(values))
            for name, rows in parts.items()
            for metric, values in data.metrics(model, rows, self.batch_size)
        ]
        return pd.DataFrame(
            [(name, i.value, i.lower, i.upper) for name, i in found],
            columns=["metric", "mean", "lower", "upper"],
        )

    def _write(
        self,
        out: Path,
        base: LanguageModel,
        trained: Trained[LanguageModel],
        data: TrainingData,
        parts: Mapping[str, Sequence[object]],
        metrics: pd.DataFrame,
    ) -> None:
        trained.model.save(out / "model")
        loss = data.loss
        settings = {k: v for k, v in flat(self.training.identity()).items() if v is not None}
        card = Card(
            name=f"{Path(self.source.name).name}-{self.loss}",
            base=self.source.name,
            method=f"Trained by {self.loss} on {data.unit}; the reference is the base.",
            eta=getattr(loss, "beta", None) if self.loss in _GIBBS else None,
            loss=repr(loss),
            data={
                "file": self.file.name,
                f"{data.unit} trained on": len(parts["train"]),
                f"{data.unit} held out": len(parts["held out"]),
            },
            settings={**settings, "seed": self.seed, "steps taken": trained.n_steps},
            metrics=metrics,
            metrics_note=f"Intervals: 95 % bootstrap over {data.unit}, one training.",
            parent=base.fingerprint,
        )
        write_card(out / "model", card)
        losses = [float(v) for v in trained.history]
        rows = json.loads(metrics.to_json(orient="records", double_precision=15))
        write_json(out / "metrics.json", {"metrics": rows, "losses": losses})
