"""Fitting a linear reward with a confidence set to a file of preferences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.embeddings.features import FittedFeatures
from llm_bridge.evaluation.details import frame_bytes
from llm_bridge.jobs.heads import is_head, save_head, whole_head
from llm_bridge.jobs.job import Say
from llm_bridge.jobs.settings import FitSettings
from llm_bridge.jobs.sources import split_held_out
from llm_bridge.jobs.texts import unscored
from llm_bridge.labels.preference_files import PreferencePair, read_preferences
from llm_bridge.language.models import LanguageModel
from llm_bridge.pools.data import Comparison, PromptData
from llm_bridge.rewards.calibration import Calibration, calibration
from llm_bridge.rewards.models import HeadFit, fit_ensemble, fit_head
from rlhf_theory.arrays import to_numpy
from rlhf_theory.errors import check_choice
from rlhf_theory.estimators.confidence import ConfidenceRule, Scaled
from rlhf_theory.estimators.ensembles import RewardEnsemble
from rlhf_theory.randomness import Key
from rlhf_theory.register import found
from rlhf_theory.store import write_atomic
from rlhf_theory.studies.signatures import settings_of


def confidence_rule(
    rule: str, *, beta: float, lam: float, norm: float, delta: float
) -> ConfidenceRule:
    """Return a rule by name.

    Parameters
    ----------
    rule
        A name of ``rlhf-theory list radii``. ``"constant"``: a ridge fit and the radius ``beta``,
        no guarantee. The sets of others, such as ``"adaptive"`` and ``"marginal-likelihood"``,
        cover with probability ``1 - delta`` if the reward is linear with ``|theta*| <= norm``;
        ``beta`` multiplies their width, 1 keeps the guarantee.
    beta, lam, norm, delta
        Radius or multiplier, ridge, bound on the parameters, miss probability.
    """
    values = {"beta": beta, "lam": lam, "theta_bound": norm, "delta": delta}
    known = {name: settings_of(entry) for name, entry in found("radius").items()}
    # A rule that is made of another one cannot be made of these numbers.
    names = [
        name
        for name, settings in known.items()
        if all(s.make_default is not None or s.name in values for s in settings.values())
    ]
    check_choice("rule", rule, names)
    given = {name: value for name, value in values.items() if name in known[rule]}
    made: ConfidenceRule = found("radius")[rule].target(**given)
    return made if "beta" in given or beta == 1.0 else Scaled(made, beta)


@dataclass(frozen=True, kw_only=True)
class FitJob(FitSettings):
    """Fit a linear reward."""

    def __post_init__(self) -> None:
        self._rule()
        super().__post_init__()

    def _rule(self) -> ConfidenceRule:
        return confidence_rule(
            self.rule, beta=self.beta, lam=self.lam, norm=self.norm, delta=self.delta
        )

    def study(self) -> dict[str, object]:
        """Return what the results depend on; see `Job`."""
        return {
            **self.origin("fit"),
            **self.features.identity(),
            "rule": repr(self._rule()),
            **self.fit_settings(),
        }

    def plan(self, out: Path) -> list[str]:
        """Return what would be done; see `Job`."""
        pairs, held = split_pairs(self.file, self.test_share, self.seed)
        texts = {(json.dumps(p.prompt), r) for p in pairs for r in (p.chosen, p.rejected)}
        lines = [
            f"{self.file}: {len(pairs)} comparisons, {sum(held)} of them held out.",
            f"{len(texts)} texts to read with {self.source.name}, then a linear reward by "
            f"{self._rule()!r}.",
        ]
        if self.ensemble:
            lines.append(f"Beside it an ensemble of {self.ensemble} fits to bootstraps.")
        if is_head(out):
            lines.append(f"The fit in {out} is complete.")
        return lines

    def run(self, out: Path, say: Say) -> None:
        """Read the texts, fit, measure, write; see `Job`."""
        if whole_head(out):
            say(f"The fit in {out} is complete.")
            say((out / "summary.txt").read_text(encoding="utf-8").rstrip())
            return
        reader = self.source.reader(encoder=self.features.encoder)
        train, held = split_comparisons(self.file, reader, self.test_share, self.seed)
        raw = self.features.make(
            reader, cache=self.cache or out / "cache", batch_size=self.batch_size
        )
        features = raw.fit(*_pieces(train))
        data = data_of(train, features)
        fit = fit_head(data, rule=self._rule(), key=Key(self.seed).child("fit"))
        if message := fit.solution.message:
            say(f"The fit did not converge: {message}")
        report = measured(fit, held, features) if held else None
        members = None
        if self.ensemble:
            key = Key(self.seed).child("ensemble")
            solved = fit_ensemble(data, rule=self._rule(), n_members=self.ensemble, key=key)
            if solved.message:
                say(f"A member of the ensemble did not converge: {solved.message}")
            members = solved.value
        disagreement = "" if members is None else _disagreement(members, fit, data)
        self._write(out, fit, features, report, len(train), members, disagreement)
        say((out / "summary.txt").read_text(encoding="utf-8").rstrip())
        say(f"Reward: {out}")

    def _write(
        self,
        out: Path,
        fit: HeadFit,
        features: FittedFeatures,
        report: Calibration | None,
        n_train: int,
        members: RewardEnsemble | None,
        disagreement: str,
    ) -> None:
        lines = [
            f"Linear reward on {features.dim} features of {self.source.name}, fitted to {n_train} "
            f"comparisons by {self._rule()!r}.",
        ]
        reports = {"cross-fitted": fit.held_out, "held out": report}
        written = ["summary.txt"]
        for name, quality in reports.items():
            if quality is not None:
                lines.append(f"{name}: {quality}")
                path = out / f"calibration-{name.replace(' ', '-')}.parquet"
                write_atomic(path, frame_bytes(quality.table))
                written.append(path.name)
        lines += [disagreement] if disagreement else []
        write_atomic(out / "summary.txt", ("\n".join(lines) + "\n").encode())
        numbers = {
            name: {k: v if np.isfinite(v) else None for k, v in quality.summary().items()}
            for name, quality in reports.items()
            if quality is not None
        }
        about = {
            "model": self.source.name,
            **self.source.identity(),
            **self.features.identity(),
            "pad_token": self.source.pad_token,
            "rule": repr(self._rule()),
            "comparisons": n_train,
            "ensemble": self.ensemble,
            "converged": bool(to_numpy(fit.solution.converged).all()),
            "calibration": numbers,
        }
        save_head(out, fit, features, about, members, written)


def _disagreement(members: RewardEnsemble, fit: HeadFit, data: PromptData) -> str:
    """Return how far members are apart on the comparisons that they were fitted to."""
    margins = [
        to_numpy(data.differences.margins(members.thetas[:, k, :]))[0] for k in range(members.size)
    ]
    spread = float(np.std(margins, axis=0).mean())
    size = float(np.abs(to_numpy(data.differences.margins(fit.reward.theta))[0]).mean())
    return (
        f"ensemble: {members.size} members, whose margins on these comparisons have a standard "
        f"deviation of {spread:.3g} on average; those of the estimate are {size:.3g} in size."
    )


def split_pairs(file: Path, share: float, seed: int) -> tuple[list[PreferencePair], list[bool]]:
    """Return the pairs of a file, and which are of held-out prompts."""
    pairs = read_preferences(file).pairs
    return pairs, split_held_out([p.prompt for p in pairs], share, seed)


def split_comparisons(
    file: Path, reader: LanguageModel | EncoderModel, share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """Return the comparisons of a file to learn from, and those of held-out prompts.

    ``ValueError`` if nothing is left to learn from.
    """
    pairs, held = split_pairs(file, share, seed)
    if all(held):
        message = (
            f"Nothing is left to fit: all {len(pairs)} comparisons are of held-out prompts. Hold "
            "out a smaller share."
        )
        raise ValueError(message)
    parts: tuple[list[Comparison], list[Comparison]] = ([], [])
    for comparison, test in zip(unscored(reader, pairs), held, strict=True):
        parts[test].append(comparison)
    return parts


def _pieces(comparisons: Sequence[Comparison]) -> tuple[list[Any], list[Any]]:
    prompts = [c.prompt for c in comparisons for _ in range(2)]
    return prompts, [r for c in comparisons for r in (c.first, c.second)]


def data_of(comparisons: Sequence[Comparison], features: FittedFeatures) -> PromptData:
    """Return comparisons as data over these features."""
    phi = features.rows(*_pieces(comparisons)).to(torch.float64)
    empty = PromptData.empty(1, int(phi.shape[1]), phi)
    return empty.joined(phi.reshape(len(comparisons), 2, -1), comparisons)


def measured(
    fit: HeadFit, comparisons: Sequence[Comparison], features: FittedFeatures
) -> Calibration:
    """Return how well a fit predicts comparisons that it has not seen."""
    data = data_of(comparisons, features)
    logits = to_numpy(data.differences.margins(fit.reward.theta))[0]
    prompts: dict[object, int] = {}
    group = [prompts.setdefault(c.prompt.ids, len(prompts)) for c in comparisons]
    count, wins = to_numpy(data.count)[0], to_numpy(data.wins)[0]
    kept = count > 0
    return calibration(
        logits[kept], wins[kept] / count[kept], weights=count[kept], prompts=np.array(group)[kept]
    )
