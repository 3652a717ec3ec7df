"""Evaluation of models on prompts: table, files per prompt and answer, figures, one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm_bridge.embeddings.featureless import NoFeatures
from llm_bridge.evaluation.details import ENDS, Details, frame_bytes
from llm_bridge.evaluation.figures import (
    Drawing,
    frontier,
    frontier_points,
    over_optimisation,
    win_rates,
)
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.evaluation.paths import gibbs_path, temperatures
from llm_bridge.evaluation.report import (
    figure_sheets,
    pool_section,
    results_section,
    write_run_page,
)
from llm_bridge.jobs.job import Say
from llm_bridge.jobs.rewards import preference_of, reward_of
from llm_bridge.jobs.settings import EvaluateSettings
from llm_bridge.jobs.sources import read_prompts
from llm_bridge.language.models import Text
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.storage.content import content_hash
from llm_bridge.storage.records import found_whole, write_record
from rlhf_theory.commands.tables import aligned
from rlhf_theory.core import RewardModel
from rlhf_theory.report.words import pretty
from rlhf_theory.store import write_atomic
from rlhf_theory.studies.entries import function


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(EvaluateSettings):
    """Evaluate policies against a reference."""

    def study(self) -> dict[str, object]:
        """Return what the results depend on, except for the models; see `Job`."""
        return {
            "command": "evaluate",
            "file": content_hash(self.file),
            "reference": self.source.identity(),
            **self.named("gold", "proxy", "preference", "game"),
            "metrics": list(self.metrics),
            **self.named("eta", "pool_size", "samples", "limit", "max_new_tokens", "seed"),
        }

    def _prompts(self) -> list[Text]:
        return read_prompts(self.file)[: self.limit]

    def plan(self, out: Path) -> list[str]:
        """Return what would be done; see `Job`."""
        n = len(self._prompts())
        names = ["reference", *named_models(self.models)]
        done = [name for name in names if (out / "policies" / f"{name}.json").is_file()]
        return [
            f"{self.file}: {n} prompts; pools of {self.pool_size}, and {self.samples} fresh "
            f"responses of each of {len(names)} models: {', '.join(names)}.",
            f"Evaluated already, if the weights are the same: {', '.join(done) or 'none'}.",
        ]

    def run(self, out: Path, say: Say) -> None:
        """Evaluate every model, write tables, figures and the page; see `Job`."""
        models = named_models(self.models)
        reference = self.policy_of(self.source)
        features = NoFeatures(self.source.device)
        problem = self.problem(self._prompts(), reference, features)
        held_out = self._held_out(problem, reference)
        results: dict[str, Details] = {}
        for name, path in {"reference": None, **models}.items():
            policy = reference
            if path is not None:
                policy = self.policy_of(replace(self.source, name=path, revision=None))
            results[name], stored = self._details(out / "policies", name, policy, held_out)
            say(f"{name}: {'found complete' if stored else 'evaluated'}.")
        summary = summary_table(results)
        write_atomic(out / "results.parquet", frame_bytes(summary))
        drawings = draw_results(results, held_out)
        sections = [
            results_section(
                results,
                figures=figure_sheets(drawings, out / "figures"),
                remarks=["Intervals are over prompts; they do not cover other training seeds."],
            ),
            pool_section({"held-out prompts": problem.report()}),
        ]
        facts: dict[str, object] = {
            "Prompts": len(problem.prompts),
            "η": self.eta,
            "Seed": self.seed,
        }
        facts |= {"Reference": Path(self.source.name).name, "Device": self.source.device}
        page = write_run_page(
            out / "report.html",
            "Language models on held-out prompts",
            sections,
            facts=facts,
            command="rlhf-theory lm evaluate",
        )
        say(shown(summary))
        say(f"Report: {page}")

    def _held_out(self, problem: PromptProblem, reference: LanguageModelPolicy) -> HeldOut:
        def reward(spec: str | None) -> Any:
            return None if spec is None else reward_of(spec, self.source, writer=reference.model)

        return HeldOut(
            problem,
            reward(self.gold),
            proxy=reward(self.proxy),
            preference=None if self.preference is None else preference_of(self.preference),
            game=self.game,
            n_samples=self.samples,
            text_metrics={
                name: function(spec).target
                for name, _, spec in (m.partition("=") for m in self.metrics)
            },
            seed=self.seed,
        )

    def _details(
        self, folder: Path, name: str, policy: LanguageModelPolicy, held_out: HeldOut
    ) -> tuple[Details, bool]:
        """Return the results of a policy, and whether they were there for these weights."""
        folder.mkdir(exist_ok=True)
        marker = folder / f"{name}.json"
        fingerprint = policy.model.fingerprint
        there = found_whole(marker, *(folder / f"{name}{end}" for end in ENDS))
        if there is not None and there["fingerprint"] == fingerprint:
            return Details.load(folder, name), True
        marker.unlink(missing_ok=True)
        found = held_out.details(policy)
        write_record(marker, {"fingerprint": fingerprint}, found.save(folder, name))
        return found, False


def named_models(models: Sequence[str]) -> dict[str, str]:
    """Return paths by name; ``PATH`` is named by its folder.

    ``ValueError`` for a name that is used twice, or cannot be a file's.
    """
    found: dict[str, str] = {}
    for text in models:
        name, sign, path = text.partition("=")
        if not sign:
            folder = Path(text)
            name, path = (folder.parent.name if folder.name == "model" else folder.name), text
        if not name or name in (".", "..") or "/" in name:
            message = f"Models are given as PATH or NAME=PATH; got {text!r}."
            raise ValueError(message)
        if name in found or name == "reference":
            message = f"Two models are called {name!r}: give them names, NAME=PATH."
            raise ValueError(message)
        found[name] = path
    return found


def summary_table(results: Mapping[str, Details]) -> pd.DataFrame:
    """Return ``policy, metric, mean, lower, upper`` of all policies."""
    return pd.concat(
        [found.summary().assign(policy=name) for name, found in results.items()], ignore_index=True
    )[["policy", "metric", "mean", "lower", "upper"]]


def shown(summary: pd.DataFrame) -> str:
    """Return the means of a summary as text, one row per metric."""
    wide = summary.pivot_table(index="metric", columns="policy", values="mean", sort=False)
    rows = [["metric", *map(str, wide.columns)]]
    for metric, values in zip(wide.index, wide.to_numpy(), strict=True):
        cells = ["–" if np.isnan(v) else pretty(float(f"{v:.3g}")) for v in values]
        rows.append([str(metric), *cells])
    return aligned(rows)


def draw_results(
    results: Mapping[str, Details],
    held_out: HeldOut,
    *,
    paths: Mapping[str, Sequence[Details]] | None = None,
) -> dict[str, Drawing]:
    """Return the figures of some policies by name.

    Parameters
    ----------
    results
        By name of the policy.
    held_out
        What they were evaluated by.
    paths
        Sequences of policies to join in the frontier, by name of the arm; each policy alone by
        default.
    """
    arms = paths or {name: [found] for name, found in results.items()}
    drawings: dict[str, Drawing] = {}
    has = set.intersection(*(set(found.per_prompt) for found in results.values()))
    if held_out.gold is not None:
        best = gibbs_path(held_out, held_out.gold, temperatures(held_out.gold, held_out))
        points = frontier_points(arms, "pool")
        limit = 1.15 * float(points["kl"].max()) + 1e-9
        near = best[best["kl"] <= limit] if (best["kl"] <= limit).sum() > 1 else best
        drawings["frontier-pools"] = frontier(points, estimate="pool", best=near)
        if "fresh_gold" in has:
            drawings["frontier"] = frontier(frontier_points(arms, "fresh"), estimate="fresh")
    if held_out.gold is not None and held_out.proxy is not None:
        drawings["over-optimisation"] = optimised(held_out, held_out.proxy)
    wins = "fresh_win_rate" if "fresh_win_rate" in has else "pool_win_rate"
    others = {n: f for n, f in results.items() if wins in f.per_prompt and n != "reference"}
    if others:
        drawings["win-rates"] = wins_of(others, wins)
    return drawings


def optimised(held_out: HeldOut, proxy: RewardModel) -> Drawing:
    """Return gold and proxy reward along the Gibbs policies of the proxy."""
    path = gibbs_path(held_out, proxy, temperatures(proxy, held_out))
    columns = (path[name].to_numpy()[None, :] for name in ("kl", "gold", "proxy"))
    return over_optimisation(*columns, paths="paths")


def wins_of(results: Mapping[str, Details], metric: str) -> Drawing:
    """Return the win rates of policies, by the metric that holds them."""
    found = [f.interval(metric) for f in results.values()]
    ends = ([float(getattr(i, e)) for i in found] for e in ("value", "lower", "upper"))
    return win_rates(list(results), *ends)
