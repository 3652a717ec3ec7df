"""Model cards: what a trained model is, next to its weights; written locally, never pushed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from llm_bridge.evaluation.details import Details
from rlhf_theory.report.words import pretty
from rlhf_theory.store import write_atomic

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

LIMITS = (
    "Rewards are those of the labelers or of the reward model named above, not of people at large.",
    "Numbers hold for prompts of the same kind as the held-out ones; nothing is claimed elsewhere.",
    "A policy trained to please a proxy may exploit its errors: see gold against proxy reward.",
)
"""What holds for every model that is trained here."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What there is to say about a trained model.

    Attributes
    ----------
    name
        What the model is called.
    base
        The model that training started from: a hub id, or what it is called here.
    method
        How it was trained, in one sentence.
    eta
        Weight of the KL in the objective; None where there is none.
    loss
        The loss with its settings, such as ``"DPO(beta=0.1)"``; empty where none is minimised.
    data
        What it was trained on: name to number or text.
    settings
        Named settings: training, reference, pairs, pools.
    metrics
        Columns ``metric, mean, lower, upper`` of `Details.summary`; may be empty.
    metrics_note
        What the metrics were measured on, and what the intervals are.
    parent
        Fingerprint of the weights that training started from.
    limits
        Further limits, beside those of every model that is trained here.
    kind
        ``"text-generation"`` or ``"text-classification"`` (a reward model).
    """

    name: str
    base: str
    method: str
    eta: float | None = None
    loss: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics_note: str = ""
    parent: str = ""
    limits: Sequence[str] = ()
    kind: str = "text-generation"

    def text(self) -> str:
        """Return the card: front matter that the hub reads, then Markdown."""
        blocks = [self._front_matter(), f"# {self.name}", self.method]
        facts: dict[str, object] = {
            "Base": self.base,
            "Weights of the base": self.parent,
            "Loss": self.loss,
        }
        if self.eta is not None:
            facts["η, weight of KL(π‖π0)"] = self.eta
        blocks.append(_list(facts))
        for title, values in (("Data", self.data), ("Settings", self.settings)):
            if values:
                blocks += [f"## {title}", _list(values)]
        if len(self.metrics):
            blocks += ["## Results", _metrics(self.metrics)]
            blocks += [self.metrics_note] if self.metrics_note else []
        blocks += ["## Limits", "\n".join(f"* {line}" for line in (*LIMITS, *self.limits))]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def _front_matter(self) -> str:
        # Every value is JSON, which YAML contains: no quoting rule to get wrong.
        entries: dict[str, object] = {
            "library_name": "transformers",
            "pipeline_tag": self.kind,
            "tags": ["rlhf", "preference-learning", "rlhf-theory"],
        }
        if _HUB_ID.fullmatch(self.base) and not Path(self.base).exists():
            entries["base_model"] = self.base
        lines = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in entries.items()]
        return "\n".join(["---", *lines, "---"])


def _list(facts: Mapping[str, object]) -> str:
    return "\n".join(f"* {name}: {pretty(value)}" for name, value in facts.items() if value != "")


def _metrics(frame: pd.DataFrame) -> str:
    lines = ["| metric | mean | 95 % interval |", "|---|---|---|"]
    columns = (frame[name].tolist() for name in ("metric", "mean", "lower", "upper"))
    for name, mean, lower, upper in zip(*columns, strict=True):
        lines.append(f"| {name} | {pretty(mean)} | {pretty(lower)} to {pretty(upper)} |")
    return "\n".join(lines)


_MINIMISED = ("loss", "update", "rule")
"""Settings that say what a training minimises, of planners and of learners."""


def run_card(settings: Mapping[str, object], eta: float, found: Details, parent: str) -> Card:
    """Return the card of the policy that a run has ended with.

    Parameters
    ----------
    settings
        What was run, as one flat table: ``world.model``, ``learner.kind``, ``rounds`` ...
    eta
        Weight of the KL.
    found
        What the policy was found to be worth.
    parent
        Fingerprint of pi0.
    """
    given = {name: value for name, value in settings.items() if value not in (None, [], "")}
    learner, planner = given.get("learner.kind"), given.get("learner.planner.kind")
    places = ("learner.planner", "learner") if planner else ("learner",)
    names = [f"{place}.{name}" for place in places for name in _MINIMISED]
    losses = (given.get(name, given.get(f"{name}.kind")) for name in names)
    base = str(given.get("world.model", "pi0"))
    how = f"{learner}, planner {planner}" if planner else f"{learner}, on labels"
    length = f", {given['rounds']} rounds" if "rounds" in given else ""
    return Card(
        name=f"{Path(base).name}-{learner}",
        base=base,
        method=f"Trained by a run: {how}{length}.",
        eta=eta,
        loss=str(next(filter(None, losses), "dpo")),
        data={
            "prompts": given.get("world.prompts", ""),
            "labels by": given.get("world.labels", given.get("world.preference", "")),
        },
        settings=given,
        metrics=found.summary(),
        metrics_note="On held-out prompts; intervals: 95 % bootstrap over prompts, one run.",
        parent=parent,
    )


def write_card(folder: Path, card: Card) -> Path:
    """Write ``README.md`` into the folder of a model; return its path.

    ``ValueError`` if the folder is missing: a card without a model says nothing.
    """
    if not folder.is_dir():
        message = f"A model card belongs into the folder of its model; {folder} is no folder."
        raise ValueError(message)
    path = folder / "README.md"
    write_atomic(path, card.text().encode())
    return path
