"""Comparisons of responses: numbers for the estimators, texts and tokens for training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from llm_bridge.language.models import Ids, Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.candidates import Pools
from rlhf_theory.arrays import Array, as_like, full_like, int_like, namespace, to_numpy
from rlhf_theory.data import Comparisons, Contexts, Design, PairList, PairQuery, Pairs
from rlhf_theory.errors import check_shape

MAX_GAME_DIM = 32
"""Features up to which a general preference is learnt: it has d (d + 1) / 2 parameters."""


@dataclass(frozen=True)
class Comparison:
    """A labelled pair of responses.

    Attributes
    ----------
    prompt, first, second
        What was compared.
    log_pi0_first, log_pi0_second
        Sequence log-probabilities under the reference model, in nats.
    label
        1 where the first won, 0 where the second did; between them for soft labels.
    round
        Which batch of comparisons this one came with, from 0 on.
    weight
        How often the pair counts; 1 unless data were reweighted.
    """

    prompt: Prompt
    first: Response
    second: Response
    log_pi0_first: float
    log_pi0_second: float
    label: float
    round: int = 0
    weight: float = 1.0


def prompt_numbers(comparisons: Sequence[Comparison]) -> list[int]:
    """Return which prompt each comparison is of, by numbers from 0 on in their order."""
    prompts: dict[Ids, int] = {}
    return [prompts.setdefault(c.prompt.ids, len(prompts)) for c in comparisons]


@dataclass(frozen=True, eq=False)
class _FromPools:
    """A batch of comparisons within pools; indices of shape ``(R|1, B)``."""

    pools: Pools
    ids: np.ndarray
    a1: np.ndarray
    a2: np.ndarray

    @property
    def size(self) -> int:
        """Comparisons per replica."""
        return int(self.a1.shape[1])

    def comparison(self, replica: int, place: int) -> Comparison:
        """Return a comparison with the weight that it came with; labels are kept apart."""
        i, a, b = (
            int(x[min(replica, x.shape[0] - 1), place]) for x in (self.ids, self.a1, self.a2)
        )
        pool, log_pi0 = self.pools.responses[i], self.pools.log_pi0[i]
        prompt = self.pools.prompts[i]
        return Comparison(prompt, pool[a], pool[b], float(log_pi0[a]), float(log_pi0[b]), math.nan)


@dataclass(frozen=True, eq=False)
class _Given:
    """A batch of comparisons from elsewhere, the same for all replicas."""

    comparisons: tuple[Comparison, ...]

    @property
    def size(self) -> int:
        return len(self.comparisons)

    def comparison(self, replica: int, place: int) -> Comparison:  # noqa: ARG002
        return self.comparisons[place]


@dataclass(frozen=True, eq=False)
class PromptData(PairList):
    """Comparisons of a `PromptProblem`; a `PreferenceData` that still knows the texts.

    Features and masses are those at the time of a comparison, so that pools may change afterwards.
    Where both responses are the same (the same place of a pool) a comparison counts nothing: no
    label, nothing to estimators. It is kept for losses that learn from it, see `comparisons_of`.

    Attributes
    ----------
    pairs
        The compared actions; ``log_pi0`` are the log-masses of the pools at the time.
    count, wins
        How often each pair was compared, and how often the first response won, shape ``(R, n)``.
    batches
        What was compared, batch by batch.
    first_round
        Number of the first batch.
    """

    batches: tuple[_FromPools | _Given, ...] = field(default=(), repr=False)
    first_round: int = 0

    @cached_property
    def skew(self) -> Design:
        """The design of the bilinear preference; ``ValueError`` beyond 32 features."""
        dim = int(self.pairs.phi.shape[-1])
        if dim > MAX_GAME_DIM:
            message = (
                f"A general preference over d={dim} features would have {dim * (dim + 1) // 2} "
                f"parameters; at most {MAX_GAME_DIM} features are allowed. Learn it on a "
                f"projection: problem.for_preferences(dim={MAX_GAME_DIM})."
            )
            raise ValueError(message)
        return super().skew

    def add(self, record: Comparisons) -> PromptData:
        """Return the data with comparisons ``(R, B)`` added.

        ``ValueError`` for contexts that a `PromptProblem` did not give out.
        """
        contexts = record.query.contexts
        if not isinstance(contexts.source, Pools) or contexts.ids is None:
            message = (
                "Comparisons must be of contexts that a PromptProblem gave out, which carry their "
                "prompts and responses; these do not."
            )
            raise ValueError(message)
        batch = _FromPools(
            contexts.source, *map(to_numpy, (contexts.ids, record.query.a1, record.query.a2))
        )
        return replace(super().add(record), batches=(*self.batches, batch))

    def joined(self, phi: Array, comparisons: Sequence[Comparison]) -> PromptData:
        """Return the data with comparisons from elsewhere added, the same for all replicas.

        Parameters
        ----------
        phi
            Features of both responses, shape ``(n, 2, d)``; see `PromptProblem.data_of`.
        comparisons
            ``n`` comparisons; those of a response with itself count nothing.
        """
        n = len(comparisons)
        if n == 0:
            return self
        like, dim = self.count, self.pairs.phi.shape[-1]
        check_shape("phi", phi, (n, 2, dim), "(n, 2, d)")
        # Each pair is a context of its own with two actions; of equal ones the same is taken twice.
        log_pi0 = np.array([[[c.log_pi0_first, c.log_pi0_second] for c in comparisons]])
        contexts = Contexts(as_like(phi, like)[None, ...], as_like(log_pi0, like))
        second = int_like([[int(c.first.ids != c.second.ids) for c in comparisons]], like)
        xp = namespace(like)
        label = as_like(np.array([[c.label for c in comparisons]]), like)
        query = PairQuery(contexts, xp.zeros_like(second), second)
        added = super().add(query.answered(label))
        weight = as_like(np.array([[c.weight for c in comparisons]]), like)
        old = full_like((1, self.count.shape[1]), 1.0, like)
        weight = xp.concat([old, weight], axis=1)
        added = added.reweighted(added.count * weight, added.wins * weight)
        return replace(added, batches=(*self.batches, _Given(tuple(comparisons))))

    @property
    def latest(self) -> PromptData:
        """The comparisons of the last batch alone; empty where there are none."""
        if not self.batches:
            return self
        last = self.batches[-1]
        start = self.count.shape[1] - last.size
        pairs = Pairs(self.pairs.phi[:, start:, ...], self.pairs.log_pi0[:, start:, ...])
        first_round = self.first_round + len(self.batches) - 1
        return PromptData(pairs, self.count[:, start:], self.wins[:, start:], (last,), first_round)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The comparisons that count, in their order; for data of one replica."""
        n_replicas = self.count.shape[0]
        if n_replicas != 1:
            message = (
                f"These data have {n_replicas} replicas, each with comparisons of its own: ask for "
                "those of one by comparisons_of(replica)."
            )
            raise ValueError(message)
        return self.comparisons_of(0)

    def comparisons_of(self, replica: int, *, equal: bool = False) -> list[Comparison]:
        """Return the comparisons of one replica that count, in their order.

        With ``equal`` also those of a response with itself, for losses that learn from them without
        a label: their label here is 1 and says nothing, their weight what they came with.
        """
        count, wins = to_numpy(self.count[replica, :]), to_numpy(self.wins[replica, :])
        found: list[Comparison] = []
        start = 0
        for number, batch in enumerate(self.batches, self.first_round):
            for place in range(batch.size):
                c, w = float(count[start + place]), float(wins[start + place])
                if c == 0 and not equal:
                    continue
                pair = batch.comparison(replica, place)
                if c == 0 and pair.first.ids == pair.second.ids:
                    c = w = pair.weight
                if c > 0:
                    found.append(replace(pair, label=w / c, round=number, weight=c))
            start += batch.size
        return found
