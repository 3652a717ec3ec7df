"""The online loop on a language model: ask for labels, fit, train, evaluate, again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np

from llm_bridge.evaluation.cards import Card, write_card
from llm_bridge.evaluation.details import Details, frame_bytes
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.evaluation.report import (
    card_section,
    figure_sheets,
    pool_section,
    results_section,
    write_run_page,
)
from llm_bridge.jobs.evaluate import draw_results
from llm_bridge.jobs.feature_options import FeatureOptions
from llm_bridge.jobs.job import Say, flat
from llm_bridge.jobs.learners import LearnerOptions
from llm_bridge.jobs.model_jobs import PoolJob
from llm_bridge.jobs.prompts import Prompts, check_labels
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.core import Policy
from rlhf_theory.errors import check_positive
from rlhf_theory.experiments.runner import run_online
from rlhf_theory.experiments.trace import Trace
from rlhf_theory.report.sections import Section
from rlhf_theory.store import write_atomic


@dataclass(frozen=True, kw_only=True)
class IterateJob(PoolJob):
    """Train online.

    Attributes
    ----------
    file
        Prompts; a share of them is held out and evaluated on after every round.
    labels
        ``"people"``, whose questions and answers are in ``OUT/labels``; or a reward whose
        Bradley-Terry labels are drawn, see `llm_bridge.jobs.rewards.reward_of`.
    preference
        Instead of a reward: a general preference ``module:function``, for a learner of a game.
    label_scale
        What the reward is multiplied by in these labels. The learner knows it; policies are
        planned for, and judged by, the reward itself.
    learner
        The learner and its named settings.
    rounds
        Rounds of labels.
    refresh
        Whether pools follow the policy, half from pi0 and half from the policy of the last round.
    features
        Features of the model; games are learnt on a projection of them.
    training
        How to train, in every round.
    test_share, samples
        Share of the prompts held out; fresh responses per held-out prompt, none where pools are
        only re-ranked.
    """

    labels: str | None = None
    preference: str | None = None
    label_scale: float = 1.0
    learner: LearnerOptions = field(default_factory=LearnerOptions)
    rounds: int = 3
    refresh: bool = True
    features: FeatureOptions = field(default_factory=FeatureOptions)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    test_share: float = 0.2
    samples: int = 4

    def __post_init__(self) -> None:
        check_positive("rounds", self.rounds)
        check_labels(self.labels, self.preference, self.label_scale)
        if self.preference is not None and not self.learner.of_game:
            message = (
                "A general preference needs a learner of a game, such as 'nash-game': "
                f"{self.learner.learner!r} looks for a reward."
            )
            raise ValueError(message)
        drawn = [] if self.samples in (0, IterateJob.samples) else ["samples"]
        self.learner.check_training(self.training, drawn)

    def study(self) -> dict[str, object]:
        """Return what the results depend on; see `Job`."""
        return {
            **self.origin("iterate"),
            **self.features.identity(),
            **self.learner.identity(),
            **self.named("labels", "preference", "label_scale", "rounds"),
            **self.named("eta", "pool_size", "refresh"),
            **self.named("test_share", "samples", "max_new_tokens", "seed"),
            "training": self.training.identity(),
        }

    def _recipe(self, out: Path) -> Prompts:
        trains, loading = self.learner.trains, self.source.loading()
        return Prompts(
            prompts=str(self.file),
            model=self.source.name,
            labels=self.labels,
            preference=self.preference,
            label_scale=self.label_scale,
            features=self.features,
            eta=self.eta,
            pool_size=self.pool_size,
            refresh=self.refresh and trains,
            game=self.learner.of_game,
            held_out=self.test_share,
            samples=self.samples if trains else 0,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            seed=self.seed,
            folder=out,
            **loading,
        )

    def plan(self, out: Path) -> list[str]:
        """Return what would be done; see `Job`."""
        train, test = self._recipe(out).split()
        n = self.learner.batch_size
        by = self.labels or self.preference
        done = len(list(out.glob("training/*/result.json")))
        steps = self.training.n_steps(n if self.learner.from_labels else len(train))
        return [
            f"{self.file}: {len(train)} prompts to learn from, {len(test)} held out.",
            f"{self.learner.method}: {self.rounds} rounds of {n} labels by {by}, "
            f"{n * self.rounds} in all"
            + (f"; the first training has {steps} steps." if self.learner.trains else "."),
            f"{done} trainings are complete in {out}.",
        ]

    def run(self, out: Path, say: Say) -> None:
        """Play the rounds, evaluate, write model, card, trace and page; see `Job`."""
        world = self._recipe(out).made(self.seed)
        say(f"Pools: {world.problem.report()}")
        judge = _Spoken(cast("HeldOut", world.judge), say)
        learner = self.learner.make(self.training, out / "training", label_scale=self.label_scale)
        trace = run_online(learner, replace(world, judge=judge), self.rounds, seed=self.seed)
        self._write(out, say, trace, judge.held_out, world.problem, judge.judged[-1])

    def _write(
        self,
        out: Path,
        say: Say,
        trace: Trace,
        held_out: HeldOut,
        problem: PromptProblem,
        last: Policy,
    ) -> None:
        write_atomic(out / "trace.parquet", frame_bytes(trace.to_pandas()))
        results = {f"round {t}": found for t, found in enumerate(held_out.records)}
        folder = out / "rounds"
        folder.mkdir(exist_ok=True)
        for t, found in enumerate(held_out.records):
            found.save(folder, f"{t:03d}")
        final = list(results.values())[-1]
        cards = [self._card(problem, final)] if isinstance(last, LanguageModelPolicy) else []
        if isinstance(last, LanguageModelPolicy):
            last.model.save(out / "model")
            write_card(out / "model", cards[0])
        drawings = draw_results(
            {"reference": results["round 0"], "last round": final},
            held_out,
            paths={self.learner.learner: list(results.values())},
        )
        sections = [
            results_section(results, figures=figure_sheets(drawings, out / "figures")),
            pool_section({"training": problem.report(), "held out": held_out.problem.report()}),
            Section(name="settings", title="Settings", facts=self._settings()),
            *([card_section(cards)] if cards else []),
        ]
        page = write_run_page(
            out / "report.html",
            f"Online training: {self.learner.method}",
            sections,
            facts={"Model": Path(self.source.name).name, "Seed": self.seed},
            command="rlhf-theory lm iterate",
        )
        say(f"Report: {page}")

    def _settings(self) -> dict[str, object]:
        return {k: v for k, v in flat(self.study()).items() if v not in (None, [])}

    def _card(self, problem: PromptProblem, final: Details) -> Card:
        return Card(
            name=f"{Path(self.source.name).name}-{self.learner.learner}",
            base=self.source.name,
            method=f"Trained online: {self.learner.method}, {self.rounds} rounds.",
            eta=self.eta,
            loss=self.learner.trained_by,
            data={
                "prompts": len(problem.prompts),
                "labels": self.rounds * self.learner.batch_size,
                "labels by": self.labels or self.preference,
            },
            settings=self._settings(),
            metrics=final.summary(),
            metrics_note="On held-out prompts; intervals: 95 % bootstrap over prompts, one run.",
            parent=problem.policy.model.fingerprint,
        )


@dataclass(frozen=True, eq=False)
class _Spoken:
    """A judge that says the main numbers of every policy, and keeps the last one."""

    held_out: HeldOut
    say: Say
    judged: list[Policy] = field(default_factory=list)

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.held_out.metrics

    def __call__(self, policy: Policy) -> dict[str, np.ndarray]:
        self.judged[:] = [policy]
        found = self.held_out(policy)
        self.say(f"Round {len(self.held_out.records) - 1}: {_headline(found)}")
        return found


_HEADLINE = {
    "gold reward": ("fresh_gold", "pool_gold"),
    "KL": ("fresh_kl_k1", "pool_kl"),
    "J": ("fresh_objective", "pool_objective"),
    "win rate": ("fresh_win_rate", "pool_win_rate"),
    "exploitability": ("pool_exploitability",),
}


def _headline(found: Mapping[str, np.ndarray]) -> str:
    """Return the main numbers of a policy in one line."""
    parts = []
    for word, names in _HEADLINE.items():
        values = [float(found[n][0]) for n in names if n in found and np.isfinite(found[n][0])]
        parts += [f"{word} {values[0]:.3g}"] if values else []
    return ", ".join(parts)
