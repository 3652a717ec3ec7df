"""Pools: the responses among which a policy chooses, each with its mass under the reference.

A pool stands for the reference policy pi0 by a weighted sample of it. Drawn from pi0 alone each
draw has mass ``1 / K``. A refreshed pool has half of its draws from pi0 and half from the current
policy ``pi_t``, so that the responses which training has made likely are there at all, and each
draw weighs ``pi0 / q`` with ``q`` the mixture of both: at most about 2, however far ``pi_t`` has
moved, so that a refreshed pool is worth at least about half of its draws.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llm_bridge.language.models import Ids, Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.report import PoolReport
from rlhf_theory.errors import ShapeError, check_shape
from rlhf_theory.randomness import Key


@runtime_checkable
class Generating(Protocol):
    """A policy that can write responses and score them."""

    def sample(self, prompts: Sequence[Ids], n: int, key: Key) -> list[list[Response]]:
        """Return ``n`` independent responses to every prompt."""
        ...

    def sequence_log_probs(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> np.ndarray:
        """Return ``log pi(response | prompt)``, shape ``(n,)``."""
        ...


@dataclass(frozen=True, eq=False)
class Draws:
    """Independent responses of the reference policy, repetitions included.

    Attributes
    ----------
    responses
        The same number for every prompt.
    log_pi0
        Their sequence log-probabilities under the reference model, shape ``(N, n)``.
    """

    responses: tuple[tuple[Response, ...], ...]
    log_pi0: np.ndarray


@dataclass(frozen=True, eq=False)
class Pools:
    """Distinct responses to every prompt, with their mass in the pool's version of pi0.

    Attributes
    ----------
    prompts
        ``N`` prompts.
    responses
        Distinct responses to every prompt, at least one; responses with the same tokens were merged
        with their mass.
    log_mass
        Normalised log-mass, shape ``(N, K)`` with ``K`` the most responses that a prompt has;
        ``-inf`` fills up.
    log_pi0
        Log-probability of every response under the reference model, summed over its tokens, shape
        ``(N, K)``; 0 fills up.
    ess
        Effective sample size of the draws, ``(sum w)^2 / sum w^2``, shape ``(N,)``: the number of
        draws where all come from pi0.
    draws
        The draws from pi0 that the pools were first made of; None where they are not known.
    """

    prompts: tuple[Prompt, ...]
    responses: tuple[tuple[Response, ...], ...]
    log_mass: np.ndarray
    log_pi0: np.ndarray
    ess: np.ndarray
    draws: Draws | None = None

    def __post_init__(self) -> None:
        n = len(self.prompts)
        sizes = [len(r) for r in self.responses]
        if len(sizes) != n or min(sizes, default=0) < 1:
            message = (
                f"Pools need at least one prompt and at least one response for each; got {n} "
                f"prompts with {sizes} responses."
            )
            raise ShapeError(message)
        for name in ("log_mass", "log_pi0"):
            check_shape(name, getattr(self, name), (n, max(sizes)), "(N, K)")
        check_shape("ess", self.ess, (n,), "(N,)")
        total = np.exp(self.log_mass).sum(axis=1)
        fits = (self.log_mass > -np.inf).sum(axis=1) <= sizes
        if not (np.abs(total - 1.0) < 1e-6).all() or not fits.all():
            message = "log_mass must be normalised over the responses of every prompt; it is not."
            raise ValueError(message)
        if not np.isfinite(self.log_pi0).all():
            message = (
                "log_pi0 must be finite: the reference model gives some response of the pools "
                "probability 0, or NaN. Check the model's weights and dtype."
            )
            raise ValueError(message)

    @property
    def size(self) -> int:
        """Responses ``K`` of the largest pool."""
        return int(self.log_mass.shape[1])

    @cached_property
    def content(self) -> str:
        """Hash of prompts, responses and masses, 32 hex digits: equal for equal pools."""
        digest = hashlib.blake2b(digest_size=16)
        for prompt, responses in zip(self.prompts, self.responses, strict=True):
            for ids in (prompt.ids, *(r.ids for r in responses)):
                # Each part says how long it is, so that no token can change sides unseen.
                digest.update(np.array([len(ids), *ids], dtype=np.int64).tobytes())
            digest.update(b"|")
        digest.update(np.ascontiguousarray(self.log_mass, dtype=np.float64).tobytes())
        return digest.hexdigest()

    def rows(
        self, prompts: Sequence[int] | None = None
    ) -> tuple[list[int], list[int], list[Ids], list[Ids]]:
        """Return responses one by one: prompt, place, tokens of the prompt, of the response.

        Those of all prompts, or of these.
        """
        chosen = range(len(self.prompts)) if prompts is None else prompts
        where = [(i, k) for i in chosen for k in range(len(self.responses[i]))]
        return (
            [i for i, _ in where],
            [k for _, k in where],
            [self.prompts[i].ids for i, _ in where],
            [self.responses[i][k].ids for i, k in where],
        )

    def report(self) -> PoolReport:
        """Return what these pools approximate."""
        present = self.log_mass > -np.inf
        return PoolReport(
            distinct=present.sum(axis=1),
            ess=self.ess,
            covered=np.where(present, np.exp(self.log_pi0), 0.0).sum(axis=1),
            furthest=-np.min(np.where(present, self.log_mass, 0.0), axis=1),
        )


def draw_pools(reference: Generating, prompts: Sequence[Prompt], size: int, key: Key) -> Pools:
    """Return pools of ``size`` draws from the reference policy.

    Parameters
    ----------
    reference
        The reference policy, which samples at temperature 1.
    prompts
        At least one.
    size
        Draws per prompt, at least 1; equal ones are merged.
    key
        Address of the draws.

    Raises
    ------
    ValueError
        If the policy samples at another temperature, or gives a draw probability 0.
    """
    if size < 1:
        message = f"A pool needs at least one draw; got pool_size={size}."
        raise ValueError(message)
    drawn = draw_responses(reference, prompts, size, key.child("pi0"))
    log_pi0 = score_responses(reference, prompts, drawn)
    draws = Draws(drawn, log_pi0)
    return merge_draws(prompts, drawn, log_pi0, np.zeros_like(log_pi0), draws)


def refreshed_pools(
    pools: Pools,
    reference: Generating,
    policy: Any,
    size: int,
    key: Key,
    *,
    reuse_draws: bool = False,
) -> Pools:
    r"""Return pools for the same prompts, half from pi0 and half from the current policy.

    Each draw weighs

    .. math:: w(a) = \pi_0(a \mid x) / q(a \mid x), \qquad
              q = \tfrac{n_0}{K} \pi_0 + \tfrac{n_1}{K} \pi_t

    with ``n_0 = ceil(K / 2)`` and ``n_1 = floor(K / 2)``, normalised within the pool.

    Parameters
    ----------
    pools
        The pools before.
    reference
        The reference policy.
    policy
        The current policy; must generate.
    size
        Draws ``K`` per prompt, at least 2.
    key
        Address of the draws.
    reuse_draws
        Take the half of pi0 from the draws that ``pools`` were first made of instead of new ones.
        It saves time, but the weights then lean: a policy that was trained on labels of these very
        draws has raised the winners and lowered the losers among them, so that ``pi0 / q`` counts
        the winners too little. New draws do not know the policy, and nothing leans.

    Raises
    ------
    ValueError
        If the policy cannot generate, or samples at another temperature than 1.

    Source: the balance heuristic of multiple importance sampling, Veach and Guibas (1995).
    """
    if not isinstance(policy, Generating):
        message = (
            "Only a policy that can generate refreshes pools (it has `sample` and "
            f"`sequence_log_probs`, like LanguageModelPolicy); got {type(policy).__name__}. Plan "
            "with a planner that trains a model, such as DPOPlanner, or keep the pools."
        )
        raise ValueError(message)
    if size < 2:
        message = f"A refreshed pool needs at least 2 draws, one from each; got pool_size={size}."
        raise ValueError(message)
    n1 = size // 2
    n0 = size - n1
    prompts = pools.prompts
    draws = pools.draws
    if reuse_draws and draws is not None and draws.log_pi0.shape[1] >= n0:
        old, log_old = tuple(r[:n0] for r in draws.responses), draws.log_pi0[:, :n0]
    else:
        old = draw_responses(reference, prompts, n0, key.child("pi0"))
        log_old = score_responses(reference, prompts, old)
    new = draw_responses(policy, prompts, n1, key.child("policy"))
    log_pi0 = np.concatenate([log_old, score_responses(reference, prompts, new)], axis=1)
    responses = tuple((*a, *b) for a, b in zip(old, new, strict=True))
    log_pi = score_responses(policy, prompts, responses)
    log_q = np.logaddexp(math.log(n0 / size) + log_pi0, math.log(n1 / size) + log_pi)
    return merge_draws(prompts, responses, log_pi0, log_pi0 - log_q, draws)


def draw_responses(
    policy: Any, prompts: Sequence[Prompt], n: int, key: Key
) -> tuple[tuple[Response, ...], ...]:
    """Return ``n`` responses to every prompt; ``ValueError`` unless the temperature is 1."""
    temperature = getattr(getattr(policy, "sampler", None), "temperature", 1.0)
    if temperature != 1.0:
        message = (
            "Pools stand for the policy itself: its sampler must have temperature 1; got "
            f"{temperature}."
        )
        raise ValueError(message)
    drawn = policy.sample([p.ids for p in prompts], n, key)
    return tuple(tuple(row) for row in drawn)


def score_responses(
    policy: Any, prompts: Sequence[Prompt], responses: Sequence[Sequence[Response]]
) -> np.ndarray:
    """Return sequence log-probabilities ``(N, n)``; equal responses are scored once."""
    place: dict[tuple[int, Ids], int] = {}
    index = [
        [place.setdefault((i, r.ids), len(place)) for r in row] for i, row in enumerate(responses)
    ]
    values = policy.sequence_log_probs(
        [prompts[i].ids for i, _ in place], [ids for _, ids in place]
    )
    scores: np.ndarray = np.asarray(values, dtype=np.float64)[np.array(index)]
    return scores


def merge_draws(
    prompts: Sequence[Prompt],
    responses: Sequence[Sequence[Response]],
    log_pi0: np.ndarray,
    log_weight: np.ndarray | None = None,
    draws: Draws | None = None,
) -> Pools:
    """Return the pools of draws ``(N, n)``, weighted or not; equal responses share a place."""
    if log_weight is None:
        log_weight = np.zeros_like(log_pi0)
    # In logarithms, and from the largest: weights of long responses would underflow.
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    ess = weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)
    distinct: list[tuple[Response, ...]] = []
    log_mass: list[np.ndarray] = []
    log_prob: list[np.ndarray] = []
    for i, row in enumerate(responses):
        place: dict[Ids, int] = {}
        places = [place.setdefault(r.ids, len(place)) for r in row]
        first = np.unique(places, return_index=True)[1]
        mass = np.bincount(places, weights=weight[i])
        # A draw that pi0 all but excludes may underflow: it stays in the pool with a tiny mass.
        log_mass.append(np.log(np.maximum(mass / math.fsum(mass), np.finfo(float).tiny)))
        log_prob.append(log_pi0[i, first])
        distinct.append(tuple(row[j] for j in first))
    return Pools(
        tuple(prompts), tuple(distinct), filled(log_mass, -np.inf), filled(log_prob), ess, draws
    )


def filled(rows: Sequence[np.ndarray], fill: float = 0.0) -> np.ndarray:
    """Return rows of different lengths as one table, filled up to the longest."""
    table = np.full((len(rows), max(map(len, rows))), fill)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
