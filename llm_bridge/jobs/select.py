"""Selection of the pairs that people should compare next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_bridge.embeddings.features import FittedFeatures
from llm_bridge.jobs.heads import load_head
from llm_bridge.jobs.job import Say
from llm_bridge.jobs.settings import SelectSettings
from llm_bridge.jobs.sources import read_prompts
from llm_bridge.jobs.variants import Variant, variant_of
from llm_bridge.labels.people import LabelFile
from llm_bridge.labels.preference_files import Preferences, write_preferences
from llm_bridge.planning.examples.selection import distinct_pairs, most_informative
from llm_bridge.planning.pair_rules import BestWorst
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.algorithms.rounds import compare
from rlhf_theory.arrays import full_like, int_like, to_numpy
from rlhf_theory.core import ConfidenceSet, PairFeedback, RewardModel
from rlhf_theory.data import Comparisons, Contexts, PairQuery
from rlhf_theory.errors import check_choice, check_positive
from rlhf_theory.estimators.confidence import Constant, Scalable
from rlhf_theory.planners.gibbs import GibbsPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.register import Entry, found
from rlhf_theory.rewards import LinearReward

_BATCHES = 20

INFORMATIVE = "informative"
"""The rule that no policy draws for."""


@dataclass(frozen=True, kw_only=True)
class SelectJob(SelectSettings):
    """Choose pairs for people to label, no pair twice."""

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, (INFORMATIVE, "best-worst", *_explorers()))
        check_positive("pairs", self.pairs)
        if self.features.encoder:
            message = "The reference model writes responses: it must be a language model."
            raise ValueError(message)
        if self._reward[1].kind != "estimate" and self.rule == INFORMATIVE:
            message = (
                f"The rule 'informative' would ignore the version in {self.reward!r}: it asks what "
                "is known, not what is believed. Leave it out, or take another rule."
            )
            raise ValueError(message)

    @property
    def _reward(self) -> tuple[str | None, Variant]:
        return (None, Variant()) if self.reward is None else variant_of(self.reward)

    def study(self) -> dict[str, object]:
        """Return what the results depend on; see `Job`."""
        return {
            **self.origin("select"),
            **self.features.identity(),
            **self.named("reward", "rule", "pairs", "pool_size", "eta", "max_new_tokens", "seed"),
        }

    def plan(self, out: Path) -> list[str]:
        """Return what would be done; see `Job`."""
        n = len(read_prompts(self.file))
        lines = [
            f"{self.file}: {n} prompts, {self.pool_size} responses of {self.source.name} to each.",
            f"{self.pairs} pairs by the rule {self.rule!r}, given "
            + (f"the reward in {self.reward}." if self.reward else "no reward yet."),
        ]
        pending = out / "labels" / "pending.jsonl"
        if pending.is_file():
            waiting = sum(1 for line in pending.read_text("utf-8").split("\n") if line.strip())
            lines.append(f"{waiting} questions are in {pending}.")
        return lines

    def run(self, out: Path, say: Say) -> None:
        """Write the questions; once they are answered, write them as preferences; see `Job`.

        Raises
        ------
        LabelsPending
            When there are questions without answers; says where they are.
        ValueError
            If the rule finds nothing that could be compared.
        """
        policy = self.policy_of(self.source)
        features: Any
        confidence: Scalable | None = None
        reward: RewardModel | None = None
        folder, variant = self._reward
        if folder is not None:
            head = load_head(Path(folder), self.source, tokens_of=policy.model, variant=variant)
            features, confidence = head.features, head.confidence
            reward = head.model(variant)
        else:
            features = self.features.make(
                policy.model, cache=out / "cache", batch_size=self.batch_size
            )
        problem = self.problem(read_prompts(self.file), policy, features)
        if isinstance(problem.features, FittedFeatures) and self.reward is None:
            problem.features.save(out / "transform.safetensors")
        pairs = self._pairs(problem, confidence, reward)
        found = pairs.shape[1]
        if found == 0:
            message = (
                "No two different texts were found to compare: responses, or the policy of the "
                "estimate, hardly vary. Raise eta or pool_size, or take another rule."
            )
            raise ValueError(message)
        if found < self.pairs:
            say(f"Only {found} different pairs of the {self.pairs} asked for were found.")
        data = _labelled(problem, pairs, LabelFile(out / "labels"), Key(self.seed))
        preferences = Preferences.of(data)
        path = out / "preferences.jsonl"
        write_preferences(path, preferences, replace=True)
        say(f"All questions are answered: {len(preferences.items)} preferences in {path}.")

    def _pairs(
        self,
        problem: PromptProblem,
        confidence: ConfidenceSet | None,
        reward: RewardModel | None,
    ) -> np.ndarray:
        """Return at most ``pairs`` different ones, shape ``(3, n)``: prompts, both responses."""
        known: Any = confidence
        if known is None:
            rule, empty = Constant(beta=1.0), problem.empty_data()
            known = rule.confidence_set(rule.fit(empty), empty)
        if self.rule == INFORMATIVE:
            return self._informative(problem, known)
        reward = LinearReward(known.center) if reward is None else reward
        return self._drawn(problem, known, reward, Key(self.seed).child("select"))

    def _informative(self, problem: PromptProblem, known: Any) -> np.ndarray:
        asked = self.pairs
        while True:
            chosen = np.stack(most_informative(problem.table, known.sigma, asked))
            new = chosen[:, distinct_pairs(problem.pools, *chosen)]
            if new.shape[1] >= self.pairs or chosen.shape[1] < asked:
                return new[:, : self.pairs]
            # Different responses may have equal texts. The choice is greedy: it begins as before.
            asked *= 2

    def _drawn(
        self, problem: PromptProblem, known: Any, reward: RewardModel, key: Key
    ) -> np.ndarray:
        empty = problem.empty_data()
        pi1 = GibbsPolicy(reward, self.eta)
        best_worst = BestWorst(n=4, proxy=reward)
        if self.rule != "best-worst":
            pi2 = _explorers()[self.rule].target()(problem, pi1, known, key.child("enhancer"))
        found = np.zeros((3, 0), dtype=np.int64)
        for batch in range(_BATCHES):
            here = key.child("more", batch) if batch else key
            seen = _Seen()
            if self.rule == "best-worst":
                best_worst(problem, empty, pi1, seen, self.pairs, here)
            else:
                compare(problem, empty, pi1, pi2, seen, self.pairs, here)
            found = np.concatenate([found, *seen.pairs], axis=1)
            found = found[:, distinct_pairs(problem.pools, *found)]
            if found.shape[1] >= self.pairs:
                break
        return found[:, : self.pairs]


def _explorers() -> dict[str, Entry]:
    """Return the enhancers that explore for an estimate of a reward."""
    return {k: e for k, e in found("enhancer").items() if e.facts.more in (None, "reward")}


@dataclass
class _Seen:
    """Feedback that notes what is asked, and answers nothing that is used."""

    pairs: list[np.ndarray] = field(default_factory=list)

    def __call__(self, query: PairQuery, key: Key) -> Comparisons:  # noqa: ARG002
        """Return labels, all 0."""
        asked = (query.contexts.ids, query.a1, query.a2)
        self.pairs.append(np.stack([to_numpy(v)[0] for v in asked]))
        return query.answered(full_like(tuple(query.a1.shape), 0.0, query.contexts.like))


def _labelled(problem: PromptProblem, pairs: np.ndarray, labels: PairFeedback, key: Key) -> Any:
    """Return the comparisons of pairs ``(3, n)``; raises ``LabelsPending``."""
    row, a1, a2 = (int_like(v[None, :], problem.table.like) for v in pairs)
    x = Contexts.rows(problem.table, row)
    return problem.empty_data().add(labels(PairQuery(x, a1, a2), key))
