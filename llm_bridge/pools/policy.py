"""A language model as a policy of the theory: probabilities over the responses of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import Ids, LanguageModel
from llm_bridge.language.sampler import BatchedSampler, Response, Sampler
from llm_bridge.pools.candidates import Pools
from llm_bridge.storage.kept import Arrays, Kept, unworded, words
from rlhf_theory.arrays import Array, as_like, log_softmax, namespace, take_rows, to_numpy
from rlhf_theory.core import Policy, Problem
from rlhf_theory.data import Contexts
from rlhf_theory.randomness import Key


@dataclass(frozen=True, eq=False)
class LanguageModelPolicy:
    r"""A language model, seen through pools of responses.

    Over a pool the policy is

    .. math:: \pi(a \mid x, \text{pool}) \propto w(a)\, \pi(a \mid x) / \pi_0(a \mid x),

    with ``w`` the mass of ``a`` in the pool's own version of pi0: the pool stands for draws from
    pi0, so that the model's probabilities alone would count pi0 twice.

    Attributes
    ----------
    model
        The language model.
    sampler
        How responses are drawn.
    batch_size
        Rows per forward pass when responses are scored.
    kept
        Where samples and scores are kept by content, so that none is computed twice; None for
        nowhere.
    """

    model: LanguageModel
    sampler: Sampler = field(default_factory=BatchedSampler)
    batch_size: int = 32
    kept: Kept | None = field(default=None, repr=False)
    # Not carried over by `replace`, which may put in another model.
    _scores: dict[tuple[str, bool], np.ndarray] = field(
        default_factory=dict, init=False, repr=False
    )

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, sampler: Sampler | None = None, batch_size: int = 32, **load: Any
    ) -> Self:
        """Load from a folder or a hub id; ``load`` as in `LanguageModel.from_pretrained`."""
        model = LanguageModel.from_pretrained(name, **load)
        return cls(model, sampler or BatchedSampler(), batch_size)

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities over the pools of the contexts, shape ``(R, B, A)``.

        ``ValueError`` for contexts that come from no pools.
        """
        pools, log_pi0 = contexts.source, contexts.log_pi0
        if not isinstance(pools, Pools) or contexts.ids is None:
            message = (
                "A language model needs contexts of a PromptProblem, which carry prompts and "
                "responses; these have none."
            )
            raise ValueError(message)
        ids = to_numpy(contexts.ids)
        scores = self.pool_scores(pools, np.unique(ids))
        shift = take_rows(as_like(scores - pools.log_pi0, log_pi0)[None, ...], contexts.ids)
        xp = namespace(log_pi0)
        absent = log_pi0 == -float("inf")
        return log_softmax(log_pi0 + xp.where(absent, xp.zeros_like(shift), shift))

    def pool_scores(
        self, pools: Pools, rows: np.ndarray | None = None, *, bf16: bool = False
    ) -> np.ndarray:
        """Return sequence log-probabilities of the responses in pools, shape ``(N, K)``.

        0 where a pool is short. With ``rows``, those of other prompts may be NaN. With ``bf16``
        they are what a training in half precision compares itself with.
        """
        rows = np.arange(len(pools.prompts)) if rows is None else rows
        unknown = np.full(pools.log_pi0.shape, np.nan)
        known = self._scores.setdefault((pools.content, bf16), unknown)
        missing = [int(i) for i in rows if np.isnan(known[i, 0])]
        if missing:
            i, k, prompts, responses = pools.rows(missing)
            values = self.sequence_log_probs(prompts, responses, bf16=bf16)
            known[missing] = 0.0  # places without a response
            known[i, k] = values
        return known

    def sequence_log_probs(
        self, prompts: Sequence[Ids], responses: Sequence[Ids], *, bf16: bool = False
    ) -> np.ndarray:
        """Return ``log pi(response | prompt)``, shape ``(n,)``; see `sequence_log_probs`."""

        def computed() -> Arrays:
            scores = sequence_log_probs(
                self.model, prompts, responses, batch_size=self.batch_size, bf16=bf16
            )
            return {"scores": scores}

        if self.kept is None:
            return computed()["scores"]
        texts = {"prompts": _numbers(prompts), "responses": _numbers(responses)}
        question = {**self.model.about, "batch_size": self.batch_size, "bf16": bf16, **texts}
        return self.kept.once("scores", question, computed)["scores"]

    def sample(self, prompts: Sequence[Ids], n: int, key: Key) -> list[list[Response]]:
        """Return ``n`` independent responses to every prompt."""
        sampler = repr(self.sampler)
        if self.kept is None or " at 0x" in sampler:  # settings that nobody can read
            return self.sampler(self.model, prompts, n, key)

        def drawn() -> Arrays:
            rows = self.sampler(self.model, prompts, n, key)
            return {"rows": words([[astuple(r) for r in row] for row in rows])}

        address = [key.seed, key.first, *(p if isinstance(p, str) else int(p) for p in key.path)]
        question = {"sampler": sampler, "prompts": _numbers(prompts), "n": n, "key": address}
        found: Any = unworded(
            self.kept.once("samples", {**self.model.about, **question}, drawn)["rows"]
        )
        return [[Response(tuple(r[0]), *r[1:]) for r in row] for row in found]


def _numbers(texts: Sequence[Ids]) -> list[list[int]]:
    return [list(map(int, ids)) for ids in texts]


def require_model(policy: Policy, what: str) -> LanguageModelPolicy:
    """Return the policy, known to be a language model; raise ``ValueError`` if it is none."""
    if not isinstance(policy, LanguageModelPolicy):
        message = (
            f"{what} must be a LanguageModelPolicy, because its weights are trained; got "
            f"{type(policy).__name__}."
        )
        raise ValueError(message)
    return policy


def reference_model(problem: Problem) -> LanguageModelPolicy:
    """Return pi0 of a problem as the language model that a training starts from.

    ``ValueError`` for a problem that has no policy, one whose policy is no language model, and one
    with several replicas.
    """
    policy = getattr(problem, "policy", None)
    if policy is None:
        message = (
            "A language model is trained from the policy and on the pools of a PromptProblem; got "
            f"{type(problem).__name__}, which has no policy. Plan exactly there, or give prompts."
        )
        raise ValueError(message)
    model = require_model(policy, "The problem's reference policy pi0")
    if problem.n_replicas != 1:
        message = (
            f"A language model is trained once: the problem must have n_replicas=1; got "
            f"{problem.n_replicas}. Run other replicas with other seeds."
        )
        raise ValueError(message)
    return model
