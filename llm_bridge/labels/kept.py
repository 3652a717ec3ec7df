"""Rewards and preferences that are asked about a text once, by whichever run."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llm_bridge.labels.oracles import TextReward
from llm_bridge.labels.preferences import JudgedPreference, Kind
from llm_bridge.labels.scoring import Scorer, by_ids, by_text, pool_rewards, remembered
from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.storage.kept import Kept
from rlhf_theory.arrays import Array
from rlhf_theory.data import Contexts


@dataclass(frozen=True, eq=False)
class KeptReward:
    """A reward that scores single responses, and is not asked for a score twice.

    Attributes
    ----------
    reward
        Who is asked.
    content
        What tells the reward apart: equal contents give equal scores.
    kept
        Where scores are kept.
    """

    reward: Scorer
    content: str
    kept: Kept
    _memo: dict[Hashable, float] = field(default_factory=dict, init=False, repr=False)

    def scores(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> np.ndarray:
        """Return the reward of every response to its prompt, float64, shape ``(n,)``."""

        def compute(places: list[int]) -> np.ndarray:
            x, y = [prompts[i] for i in places], [responses[i] for i in places]
            question = {
                "reward": self.content,
                "pairs": [_named(p, r) for p, r in zip(x, y, strict=True)],
            }
            found = self.kept.once("rewards", question, lambda: {"r": self.reward.scores(x, y)})
            return found["r"]

        by = by_text if isinstance(self.reward, TextReward) else by_ids
        keys = [by(p, r) for p, r in zip(prompts, responses, strict=True)]
        return remembered(self._memo, keys, compute)

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``; 0 for absent responses."""
        return pool_rewards(contexts, self)


@dataclass(frozen=True, eq=False)
class KeptPreference(JudgedPreference):
    """A preference whose judge is not asked about a pair of texts twice.

    Attributes
    ----------
    preference
        Who is asked.
    content
        What tells the judge apart: equal contents give equal answers.
    kept
        Where answers are kept.
    kind, tables
        See `JudgedPreference`.
    """

    preference: JudgedPreference
    content: str
    kept: Kept
    kind: Kind = "probability"
    tables: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _memo: dict[Hashable, float] = field(default_factory=dict, init=False, repr=False)

    def first_shown_wins(
        self, prompts: Sequence[Prompt], first: Sequence[Response], second: Sequence[Response]
    ) -> np.ndarray:
        """Return what the judge says, shape ``(n,)``."""

        def ask() -> dict[str, np.ndarray]:
            return {"f": np.asarray(self.preference.first_shown_wins(prompts, first, second))}

        rows = zip(prompts, first, second, strict=True)
        asked = [[*_named(x, a), b.text] for x, a, b in rows]
        return self.kept.once("wins", {"judge": self.content, "asked": asked}, ask)["f"]


def _named(prompt: Prompt, response: Response) -> list[object]:
    return [prompt.text, list(map(int, prompt.ids)), response.text, list(map(int, response.ids))]
