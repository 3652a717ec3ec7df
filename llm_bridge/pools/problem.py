"""Prompts with pools of responses as a problem that the learners of the theory run on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch

from llm_bridge.embeddings.projection import FrozenFeatures, ProjectedFeatures, preference_axes
from llm_bridge.language.models import Ids, Prompt, Text
from llm_bridge.pools.candidates import Pools, draw_pools, refreshed_pools
from llm_bridge.pools.data import MAX_GAME_DIM, Comparison, PromptData
from llm_bridge.pools.report import PoolReport
from rlhf_theory.arrays import Array
from rlhf_theory.core import Policy
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_choice, check_positive, check_shape
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class PromptProblem:
    r"""Prompts as contexts, pools of sampled responses as actions: a `Problem`.

    Every prompt has a pool that stands for the reference policy; the reference policy of the
    problem is the pool's own, ``contexts.log_pi0``. The features are fitted to pi0's responses once
    and frozen. A problem is a value: `refresh` returns another one with pools for the current
    policy and the same features.

    Parameters
    ----------
    prompts
        Texts, messages or `Prompt` objects, at least one.
    policy
        The reference policy pi0, such as a `LanguageModelPolicy`.
    features
        Anything with ``rows(prompts, responses) -> (n, d)``, or with ``fit(prompts, responses)``
        that returns such a thing: it is fitted to pi0's draws, repetitions included.
    pool_size
        Draws ``K`` per prompt; equal ones are merged.
    eta
        Weight of the KL, positive.
    n_replicas
        Replicas ``R``; they share prompts, pools and features, and have labels of their own. For
        many of them `finite` is faster.
    weights
        Law d0 of the prompts, shape ``(N,)``; uniform unless given.
    seed
        Seed of the pools.
    dtype
        ``"float64"`` or ``"float32"``, of the features and of all that is computed from them. They
        stay on the device on which ``features`` returns them.
    reuse_draws
        Whether refreshed pools take their half of pi0 from the first draws; see `refreshed_pools`
        for what speaks against it.

    Raises
    ------
    ValueError
        For no prompts, weights that are no probabilities, features that are not finite.
    """

    def __init__(
        self,
        prompts: Sequence[Text | Prompt],
        policy: Any,
        *,
        features: Any,
        pool_size: int = 8,
        eta: float = 0.1,
        n_replicas: int = 1,
        weights: Sequence[float] | np.ndarray | None = None,
        seed: int = 0,
        dtype: str = "float64",
        reuse_draws: bool = False,
    ) -> None:
        check_positive("eta", eta)
        check_positive("n_replicas", n_replicas)
        check_choice("dtype", dtype, _DTYPES)
        _check_prompts(prompts)
        self.policy, self.pool_size, self.eta = policy, pool_size, eta
        self.n_replicas, self.seed, self.dtype = n_replicas, seed, dtype
        self.reuse_draws = reuse_draws
        self.prompts = tuple(_encoded(policy, p) for p in prompts)
        n = len(self.prompts)
        self.weights = np.full(n, 1.0 / n) if weights is None else np.asarray(weights, dtype=float)
        check_shape("weights", self.weights, (n,), "(N,)")
        pools = self._drawn()
        self.features: FrozenFeatures = _fitted(features, pools)
        self._place(pools, None)

    # ------------------------------------------------------------------ the Problem protocol

    @property
    def dim(self) -> int:
        """Number of features ``d``."""
        return self._finite.dim

    def sample_contexts(self, key: Key, n: int) -> Contexts:
        """Draw ``n`` prompts per replica, independently from d0."""
        return Contexts.rows(self.table, self._finite.sample_contexts(key, n).ids)

    def population(self, key: Key, n: int) -> tuple[Contexts, Array]:  # noqa: ARG002
        """Return all prompts with d0; ``key`` and ``n`` are not needed."""
        return self.table, self._finite.weights

    def empty_data(self) -> PromptData:
        """Return data without comparisons."""
        return PromptData.empty(self.n_replicas, self.dim, self.table.like)

    def tabulate(self, policy: Policy) -> Policy:
        """Return the policy itself: a table would be of these pools, and pools may change."""
        return policy

    def block(self, first: int, stop: int) -> Self:
        """Return replicas ``first .. stop - 1``."""
        new = copy.copy(self)
        new.n_replicas = stop - first
        new._finite = self._finite.block(first, stop)  # noqa: SLF001  (its own copy)
        return new

    # ------------------------------------------------------------------ pools

    def refresh(self, policy: Any, key: Key) -> Self:
        """Return the problem with pools half from pi0 and half from ``policy``.

        ``PromptWorld(refresh=True)`` asks for it before every round. ``ValueError`` for a policy
        that cannot generate.
        """
        pools = refreshed_pools(
            self.pools, self.policy, policy, self.pool_size, key, reuse_draws=self.reuse_draws
        )
        return self.with_pools(pools)

    def with_pools(self, pools: Pools) -> Self:
        """Return this problem with other pools of its prompts; features are kept where known."""
        i, k, _, ids = self.pools.rows()
        known = {key: row for row, key in enumerate(zip(i, ids, strict=True))}
        where, places, prompts, responses = pools.rows()
        old = [known.get(key, -1) for key in zip(where, responses, strict=True)]
        new = [j for j, row in enumerate(old) if row == -1]
        phi = self.table.phi[0, i, k][old]  # of new ones the last row, to be replaced
        if new:
            phi[new] = self._rows([prompts[j] for j in new], [responses[j] for j in new])
        problem = copy.copy(self)
        problem._place(pools, _spread(phi, where, places, pools))  # noqa: SLF001  (its own copy)
        return problem

    def report(self) -> PoolReport:
        """Return what the pools approximate: distinct responses, effective size, covered mass."""
        return self.pools.report()

    def held_out(self, prompts: Sequence[Text | Prompt], *, pool_size: int | None = None) -> Self:
        """Return other prompts with pools of their own from pi0, and the same frozen features.

        The draws are others than those of this problem even where prompts are the same.
        """
        _check_prompts(prompts)
        new = copy.copy(self)
        new.seed = Key(self.seed).child("held-out").seed_int()
        new.pool_size = self.pool_size if pool_size is None else pool_size
        new.prompts = tuple(_encoded(self.policy, p) for p in prompts)
        new.weights = np.full(len(prompts), 1.0 / len(prompts))
        new._place(new._drawn(), None)  # noqa: SLF001  (its own copy)
        return new

    def for_preferences(self, dim: int = MAX_GAME_DIM) -> Self:
        """Return the same pools with features projected to at most ``dim``.

        The projection is onto the principal axes of how the responses to one prompt differ, mass by
        mass: directions that tell prompts apart but no responses come last. Frozen on the pools of
        this problem, so it should be one whose pools are from pi0. A problem with few enough
        features comes back as it is.

        Parameters
        ----------
        dim
            At most 32: a preference that is bilinear in ``(1, phi)`` has ``dim (dim + 1) / 2``
            parameters.
        """
        if not 1 <= dim <= MAX_GAME_DIM:
            message = f"dim must lie in 1 .. {MAX_GAME_DIM}; got {dim}."
            raise ValueError(message)
        if self.dim <= dim:
            return self
        mean, axes = preference_axes(self.table, self._finite.weights, dim)
        features = ProjectedFeatures(self.features, mean, axes)
        new = copy.copy(self)
        new.features = features
        new._place(self.pools, features.apply(self.table.phi))  # noqa: SLF001  (its own copy)
        return new

    def finite(self, n_replicas: int = 1) -> FiniteProblem:
        """Return the pools as a finite problem with counted tables, for many replicas.

        The same contexts, features and reference policy; prompts and texts are gone, so labels must
        come from an oracle over features or places. Pools cannot be refreshed.
        """
        f = self._finite
        return FiniteProblem(f.phi, f.log_pi0, f.weights, self.eta, n_replicas)

    def data_of(self, comparisons: Sequence[Comparison]) -> PromptData:
        """Return comparisons from elsewhere, such as a file, as data of this problem.

        Their responses need not be in any pool.
        """
        prompts = [c.prompt.ids for c in comparisons for _ in range(2)]
        responses = [r.ids for c in comparisons for r in (c.first, c.second)]
        if not comparisons:
            return self.empty_data()
        phi = self._rows(prompts, responses)
        return self.empty_data().joined(phi.reshape(len(comparisons), 2, -1), comparisons)

    def __repr__(self) -> str:
        return (
            f"PromptProblem({len(self.prompts)} prompts, pool_size={self.pool_size}, "
            f"dim={self.dim}, eta={self.eta}, n_replicas={self.n_replicas}, seed={self.seed})"
        )

    # ------------------------------------------------------------------ making

    def _drawn(self) -> Pools:
        """Return pools from the reference policy."""
        return draw_pools(self.policy, self.prompts, self.pool_size, Key(self.seed).child("pools"))

    def _rows(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> torch.Tensor:
        """Return features, shape ``(n, d)``, in the problem's precision."""
        phi = torch.as_tensor(self.features.rows(prompts, responses))
        if phi.ndim != 2 or phi.shape[0] != len(responses):
            message = (
                f"features.rows must return shape (n, d) with n={len(responses)}; "
                f"got {tuple(phi.shape)}."
            )
            raise ValueError(message)
        return phi.to(_DTYPES[self.dtype])

    def _place(self, pools: Pools, phi: torch.Tensor | None) -> None:
        """Set what follows from the pools; ``phi`` ``(1, N, K, d)`` is computed if not given."""
        if phi is None:
            where, places, prompts, responses = pools.rows()
            phi = _spread(self._rows(prompts, responses), where, places, pools)
        weights = torch.from_numpy(self.weights)[None, :].to(phi)
        self.pools, self.table = pools, pool_contexts(pools, phi)
        self._finite = FiniteProblem(phi, self.table.log_pi0, weights, self.eta, self.n_replicas)


def pool_contexts(pools: Pools, phi: torch.Tensor) -> Contexts:
    """Return the contexts of pools whose responses have the features ``(1, N, K, d)``."""
    mass = torch.from_numpy(pools.log_mass)[None, ...].to(phi)
    ids = torch.arange(len(pools.prompts), device=phi.device)[None, :]
    # Single precision rounds the masses: normalise again, in it.
    return Contexts(phi, torch.log_softmax(mass, dim=-1), ids, pools, whole=True)


def _check_prompts(prompts: Sequence[Text | Prompt]) -> None:
    if isinstance(prompts, str) or len(prompts) == 0:
        message = f"prompts must be a list of texts or messages, at least one; got {prompts!r}."
        raise ValueError(message)


def _encoded(policy: Any, prompt: Text | Prompt) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    encoded: Prompt = policy.model.encode_prompt(prompt)
    return encoded


def _fitted(features: Any, pools: Pools) -> FrozenFeatures:
    """Return features that no longer change, fitted to pi0's draws where they have to be."""
    if hasattr(features, "fit"):
        draws = pools.draws.responses if pools.draws is not None else pools.responses
        features = features.fit(
            [p.ids for p, row in zip(pools.prompts, draws, strict=True) for _ in row],
            [r.ids for row in draws for r in row],
        )
    if not hasattr(features, "rows"):
        message = (
            "features must have rows(prompts, responses) -> (n, d), or fit(prompts, responses) "
            f"that returns such features; got {type(features).__name__}."
        )
        raise TypeError(message)
    fitted: FrozenFeatures = features
    return fitted


def _spread(
    phi: torch.Tensor, where: Sequence[int], places: Sequence[int], pools: Pools
) -> torch.Tensor:
    """Return rows ``(n, d)`` at their prompts and places, shape ``(1, N, K, d)``."""
    table = phi.new_empty(len(pools.prompts), pools.size, phi.shape[1])
    # Places without a response repeat the prompt's first: they add no direction of their own.
    first = [j for j, k in enumerate(places) if k == 0]
    table[:] = phi[first][:, None, :]
    table[list(where), list(places)] = phi
    return table[None, ...]
