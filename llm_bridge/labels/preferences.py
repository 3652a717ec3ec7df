"""General preferences over texts, that need not come from any reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from llm_bridge.labels.scoring import asked_pairs, by_text, pools_of, remembered, shown
from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.candidates import Pools
from rlhf_theory.arrays import Array, as_like, to_numpy
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_choice

_LARGEST_HALF = 0.5 * (1.0 - 2.0**-53)

Kind = Literal["probability", "logit"]
"""What ``payoff`` is: ``P - 1/2``; or the logit of ``P``."""


class JudgedPreference(ABC):
    r"""A general preference by a judge ``f`` of texts that is asked in both orders.

    The law of the label is that of a label asked in random order, which has no position bias:

    .. math:: P(a \succ b) = \tfrac12 + \tfrac12 \bigl[ f(x,a,b) - f(x,b,a) \bigr].

    It serves as `PreferenceModel` and, asking for compared pairs only, as `PreferenceOracle`.

    Attributes
    ----------
    kind
        What ``payoff`` is: ``"probability"``, ``P - 1/2``; or ``"logit"``, where certain wins count
        as the largest probability below one, a logit of 37.
    tables
        What was computed for whole pools, by their content; four at most.
    """

    kind: Kind
    tables: dict[str, np.ndarray]
    _memo: dict[Hashable, float]

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("probability", "logit"))

    @abstractmethod
    def first_shown_wins(
        self, prompts: Sequence[Prompt], first: Sequence[Response], second: Sequence[Response]
    ) -> Sequence[float] | np.ndarray:
        """Return what the judge says for ``f(x, a, b)``, shape ``(n,)``; not symmetric."""
        ...

    def halves(
        self, prompts: Sequence[Prompt], first: Sequence[Response], second: Sequence[Response]
    ) -> np.ndarray:
        """Return ``P(first beats second) - 1/2``, shape ``(n,)``, skew to the last bit.

        Raises what the judge raises, and keeps nothing then.
        """
        differ = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a.text != b.text]
        x = [prompts[i] for i in differ] * 2
        left = [first[i] for i in differ] + [second[i] for i in differ]
        right = [second[i] for i in differ] + [first[i] for i in differ]

        def compute(places: list[int]) -> Sequence[float] | np.ndarray:
            return self.first_shown_wins(
                [x[i] for i in places], [left[i] for i in places], [right[i] for i in places]
            )

        keys = [(by_text(p, a), b.text) for p, a, b in zip(x, left, right, strict=True)]
        forth, back = np.split(remembered(self._memo, keys, compute), 2)
        result = np.zeros(len(prompts))
        result[differ] = 0.5 * (forth - back)
        return result

    def payoff(self, contexts: Contexts) -> Array:
        """Return payoffs, shape ``(R, B, A, A)``, skew to the last bit; 0 where absent."""
        return self._pooled(contexts, self.kind)

    def prob(self, contexts: Contexts, a1: Array, a2: Array) -> Array:
        """Return the probability that ``a1`` wins, ``(R, B)``; asks about these pairs only."""
        shape = np.broadcast_shapes(tuple(a1.shape), tuple(a2.shape))
        half = self.halves(*asked_pairs(contexts, a1, a2)).reshape(shape)
        return as_like(half, contexts.like) + 0.5

    def logits(self, contexts: Contexts) -> Array:
        """Return the logits of ``P`` for all pairs, shape ``(R, B, A, A)``."""
        return self._pooled(contexts, "logit")

    def _pooled(self, contexts: Contexts, kind: Kind) -> Array:
        pools = pools_of(contexts)
        rows = [int(i) for i in np.unique(to_numpy(contexts.ids))]
        table = self.tables.get(pools.content)
        if table is None:
            table = self._table(pools, rows)
            if len(rows) == len(pools.prompts):
                if len(self.tables) >= 4:  # pools change from round to round
                    self.tables.pop(next(iter(self.tables)))
                self.tables[pools.content] = table
        if kind == "logit":
            table = half_logits(table)
        return contexts.from_table(as_like(table[None, ...], contexts.like))

    def _table(self, pools: Pools, rows: Sequence[int]) -> np.ndarray:
        sizes = {i: len(pools.responses[i]) for i in rows}
        where = [(i, a, b) for i in rows for a in range(sizes[i]) for b in range(a)]
        half = self.halves(
            [pools.prompts[i] for i, _, _ in where],
            [pools.responses[i][a] for i, a, _ in where],
            [pools.responses[i][b] for i, _, b in where],
        )
        n, k = pools.log_pi0.shape
        table = np.zeros((n, k, k))
        i, a, b = np.array(where, dtype=np.int64).reshape(-1, 3).T
        table[i, a, b], table[i, b, a] = half, -half
        return table


def half_logits(half: np.ndarray) -> np.ndarray:
    """Return the logits of probabilities ``1/2 + half``, odd to the last bit and finite."""
    size = np.minimum(np.abs(half), _LARGEST_HALF)
    return np.asarray(np.copysign(2.0 * np.arctanh(2.0 * size), half))


@dataclass(frozen=True, eq=False)
class TextPreference(JudgedPreference):
    """A general preference given by a Python function of texts.

    Attributes
    ----------
    f
        From the text of a prompt and of two responses to the probability that the first is
        better, in [0, 1]; called once per triple of texts. Equal responses have 1/2 unasked.
    kind, tables
        See `JudgedPreference`.
    """

    f: Callable[[str, str, str], float]
    kind: Kind = "probability"
    tables: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _memo: dict[Hashable, float] = field(default_factory=dict, init=False, repr=False)

    def first_shown_wins(
        self, prompts: Sequence[Prompt], first: Sequence[Response], second: Sequence[Response]
    ) -> list[float]:
        """Return ``f(x, a, b)``, ``n`` numbers.

        ``ValueError`` for answers outside [0, 1], NaN included.
        """
        values = []
        for x, a, b in zip(prompts, first, second, strict=True):
            value = float(self.f(x.text, a.text, b.text))
            if not 0.0 <= value <= 1.0:
                message = (
                    f"A preference must be a probability in [0, 1]; got {value} for the prompt "
                    f"{shown(x.text)} and the responses {shown(a.text)} and {shown(b.text)}."
                )
                raise ValueError(message)
            values.append(value)
        return values
