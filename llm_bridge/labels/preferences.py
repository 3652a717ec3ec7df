"""General preferences over texts, that need not come from any reward."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from llm_bridge.labels.scoring import asked_pairs, by_text, pools_of, remembered, shown
from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.candidates import Pools
from rlhf_theory.arrays import Array, as_like, to_numpy
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_choice

_LARGEST_HALF = 0.5 * (1.0 - 2.0**-53)


@dataclass(frozen=True, eq=False)
class TextPreference:
    r"""A general preference given by a Python function of texts.

    The function is asked in both orders, and the law of the label is that of a label asked in
    random order, which has no position bias:

    .. math:: P(a \succ b) = \tfrac12 + \tfrac12 \bigl[ f(x,a,b) - f(x,b,a) \bigr].

    It serves as `PreferenceModel` and, asking for compared pairs only, as `PreferenceOracle`.

    Attributes
    ----------
    f
        From the text of a prompt and of two responses to the probability that the first is
        better, in [0, 1]; called once per triple of texts. Equal responses have 1/2 unasked.
    kind
        What ``payoff`` is: ``"probability"``, ``P - 1/2``; or ``"logit"``, where certain wins count
        as the largest probability below one, a logit of 37.
    tables
        What was computed for whole pools, by their content.
    """

    f: Callable[[str, str, str], float]
    kind: Literal["probability", "logit"] = "probability"
    tables: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _memo: dict[Hashable, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("probability", "logit"))

    def halves(
        self, prompts: Sequence[Prompt], first: Sequence[Response], second: Sequence[Response]
    ) -> np.ndarray:
        """Return ``P(first beats second) - 1/2``, shape ``(n,)``, skew to the last bit.

        ``ValueError`` for answers outside [0, 1], NaN included.
        """
        return symmetric_halves(self._memo, self._ask, prompts, first, second)

    def _ask(
        self, prompts: Sequence[Prompt], first: Sequence[Response], second: Sequence[Response]
    ) -> list[float]:
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

    def payoff(self, contexts: Contexts) -> Array:
        """Return payoffs, shape ``(R, B, A, A)``, skew to the last bit; 0 where absent."""
        return pool_payoffs(contexts, self, self.kind)

    def prob(self, contexts: Contexts, a1: Array, a2: Array) -> Array:
        """Return the probability that ``a1`` wins, shape ``(R, B)``."""
        return pair_probabilities(contexts, self, a1, a2)

    def logits(self, contexts: Contexts) -> Array:
        """Return the logits of ``P`` for all pairs, shape ``(R, B, A, A)``."""
        return pool_payoffs(contexts, self, "logit")


class _Pairwise(Protocol):
    @property
    def tables(self) -> dict[str, np.ndarray]: ...

    def halves(
        self, prompts: Sequence[Prompt], first: Sequence[Response], second: Sequence[Response]
    ) -> np.ndarray: ...


_Judge = Callable[
    [Sequence[Prompt], Sequence[Response], Sequence[Response]], Sequence[float] | np.ndarray
]


def symmetric_halves(
    memo: dict[Hashable, float],
    ask: _Judge,
    prompts: Sequence[Prompt],
    first: Sequence[Response],
    second: Sequence[Response],
) -> np.ndarray:
    """Return ``[f(a, b) - f(b, a)] / 2`` of a judge that is asked in both orders, ``(n,)``."""
    differ = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a.text != b.text]
    x = [prompts[i] for i in differ] * 2
    left = [first[i] for i in differ] + [second[i] for i in differ]
    right = [second[i] for i in differ] + [first[i] for i in differ]

    def compute(places: list[int]) -> Sequence[float] | np.ndarray:
        return ask([x[i] for i in places], [left[i] for i in places], [right[i] for i in places])

    keys = [(by_text(p, a), b.text) for p, a, b in zip(x, left, right, strict=True)]
    forth, back = np.split(remembered(memo, keys, compute), 2)
    result = np.zeros(len(prompts))
    result[differ] = 0.5 * (forth - back)
    return result


def pool_payoffs(contexts: Contexts, preference: _Pairwise, kind: str) -> Array:
    """Return the payoffs of a preference for all pairs, shape ``(R, B, A, A)``; 0 where absent.

    Pools that were asked about as a whole are kept, four at most.
    """
    pools = pools_of(contexts)
    rows = [int(i) for i in np.unique(to_numpy(contexts.ids))]
    table = preference.tables.get(pools.content)
    if table is None:
        table = _halves_table(pools, rows, preference)
        if len(rows) == len(pools.prompts):
            if len(preference.tables) >= 4:  # pools change from round to round
                preference.tables.pop(next(iter(preference.tables)))
            preference.tables[pools.content] = table
    if kind == "logit":
        table = half_logits(table)
    return contexts.from_table(as_like(table[None, ...], contexts.like))


def _halves_table(pools: Pools, rows: Sequence[int], preference: _Pairwise) -> np.ndarray:
    sizes = {i: len(pools.responses[i]) for i in rows}
    where = [(i, a, b) for i in rows for a in range(sizes[i]) for b in range(a)]
    half = preference.halves(
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


def pair_probabilities(contexts: Contexts, preference: _Pairwise, a1: Array, a2: Array) -> Array:
    """Return ``P(a1 beats a2)`` of a preference with ``halves``, shape ``(R, B)``."""
    shape = np.broadcast_shapes(tuple(a1.shape), tuple(a2.shape))
    half = preference.halves(*asked_pairs(contexts, a1, a2)).reshape(shape)
    return as_like(half, contexts.like) + 0.5
