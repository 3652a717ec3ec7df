"""Numbers for the responses of pools, computed once per content."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.candidates import Pools
from rlhf_theory.arrays import Array, as_like, to_numpy
from rlhf_theory.data import Contexts


@runtime_checkable
class Scorer(Protocol):
    """Scores single responses; what it computed it keeps."""

    def scores(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> np.ndarray:
        """Return the reward of every response to its prompt, float64, shape ``(n,)``."""
        ...


def shown(text: str) -> str:
    """Return a text as messages quote it, cut to 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def transcript(prompt: Prompt) -> str:
    """Return a prompt as people read it: a chat line by line, without the marks of its template."""
    if not prompt.messages:
        return prompt.text
    return "\n".join(f"{role}: {content}" for role, content in prompt.messages)


def by_text(prompt: Prompt, response: Response) -> Hashable:
    """Return what tells responses apart for a scorer that reads texts."""
    return prompt.messages or prompt.text, response.text


def by_ids(prompt: Prompt, response: Response) -> Hashable:
    """Return what tells responses apart for a scorer that reads tokens."""
    return prompt.ids, response.ids


def pools_of(contexts: Contexts) -> Pools:
    """Return the pools that contexts come from; ``ValueError`` where there are none."""
    if contexts.source is None or contexts.ids is None:
        message = (
            "Models of texts need contexts of a PromptProblem, which carry prompts and responses; "
            "these have none."
        )
        raise ValueError(message)
    pools: Pools = contexts.source
    return pools


def remembered(
    memo: dict[Hashable, float],
    keys: Sequence[Hashable],
    compute: Callable[[list[int]], Sequence[float] | np.ndarray],
) -> np.ndarray:
    """Return the values of ``keys``, shape ``(n,)``; compute those that ``memo`` does not hold.

    Parameters
    ----------
    memo
        Values by content; extended.
    keys
        One per place; equal keys have equal values.
    compute
        From places, one for each new key, to their values.
    """
    new: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        if key not in memo:
            new.setdefault(key, i)
    if new:
        values = compute(list(new.values()))
        memo.update(zip(new, (float(v) for v in values), strict=True))
    return np.array([memo[key] for key in keys], dtype=np.float64)


def pool_rewards(contexts: Contexts, scorer: Scorer) -> Array:
    """Return the scores of all responses of the contexts, shape ``(R, B, A)``; 0 where absent.

    Only prompts that occur among the contexts are scored.
    """
    pools = pools_of(contexts)
    rows = np.unique(to_numpy(contexts.ids))
    i = np.repeat(rows, [len(pools.responses[r]) for r in rows])
    k = np.concatenate([np.arange(len(pools.responses[r])) for r in rows])
    table = np.zeros(pools.log_pi0.shape)
    table[i, k] = scorer.scores(
        [pools.prompts[r] for r in i], [pools.responses[r][c] for r, c in zip(i, k, strict=True)]
    )
    return contexts.from_table(as_like(table[None, ...], contexts.like))


def asked_pairs(
    contexts: Contexts, a1: Array, a2: Array
) -> tuple[list[Prompt], list[Response], list[Response]]:
    """Return prompts, first and second responses of compared actions ``(R, B)``, row by row.

    ``ValueError`` for an action that the pool does not have.
    """
    pools = pools_of(contexts)
    first, second, ids = np.broadcast_arrays(to_numpy(a1), to_numpy(a2), to_numpy(contexts.ids))
    prompts, left, right = [], [], []
    for i, a, b in zip(ids.flat, first.flat, second.flat, strict=True):
        pool = pools.responses[i]
        if not (0 <= a < len(pool) and 0 <= b < len(pool)):
            message = (
                f"Compared actions must be responses of the pool; prompt {i} has {len(pool)} "
                f"responses and the actions are {a} and {b}."
            )
            raise ValueError(message)
        prompts.append(pools.prompts[i])
        left.append(pool[a])
        right.append(pool[b])
    return prompts, left, right
