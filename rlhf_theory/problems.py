"""What a learner may know: contexts, features, reference policy and KL weight; no labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rlhf_theory.arrays import (
    Array,
    as_like,
    block_rows,
    check_finite,
    expand_rows,
    full_like,
    int_like,
    log_softmax,
    namespace,
)
from rlhf_theory.core import Policy
from rlhf_theory.data import Contexts, PairList, PairTable
from rlhf_theory.errors import ShapeError, check_positive, check_shape
from rlhf_theory.policies import TablePolicy, check_log_probs
from rlhf_theory.randomness import Key
from rlhf_theory.visited_pairs import VisitedPairs

# Pairs up to which a finite problem keeps a full table of counts from the start: so small, it costs
# about what a list of the visited pairs does.
SMALL_TABLE = 1000


def check_contexts(contexts: Contexts) -> None:
    """Raise ``ValueError`` unless features are finite and pi0 is a distribution per context."""
    check_finite("phi", contexts.phi)
    check_log_probs("log_pi0", contexts.log_pi0)


def _empty_data(table: Contexts, n_replicas: int) -> PairTable | VisitedPairs:
    """Return data without comparisons: a list of visited pairs that becomes a table in time.

    A table is as much work with one pair as with all; a list grows. Measured, they meet where a
    sixth of the cells could be filled, or earlier where features are many: a pair of the list costs
    ``d^2``, a context of the table ``A d (A + d)``.
    """
    _, x, a, d = table.shape
    cells = x * (a * (a - 1) // 2)
    if cells <= SMALL_TABLE:
        return PairTable.empty(table, n_replicas)
    return VisitedPairs.empty(table, n_replicas, room=min(cells / 6, x * a * (a + d) / d))


@dataclass(frozen=True, eq=False)
class FiniteProblem:
    """Finitely many contexts.

    Attributes
    ----------
    phi
        Features, shape ``(R, X, A, d)`` or ``(1, X, A, d)``.
    log_pi0
        Reference policy, shape ``(R, X, A)`` or ``(1, X, A)``; ``-inf`` marks absent actions.
    weights
        Law d0 of the contexts, shape ``(R, X)`` or ``(1, X)``; sums to one.
    eta
        Weight of the KL, positive.
    n_replicas
        Number of replicas ``R``.
    """

    phi: Array
    log_pi0: Array
    weights: Array
    eta: float
    n_replicas: int
    table: Contexts = field(init=False)

    def __post_init__(self) -> None:
        check_positive("eta", self.eta)
        like = self.phi
        xp = namespace(like, self.log_pi0, self.weights)
        check_shape("phi", like, (None, None, None, None), "(R, X, A, d)")
        ids = int_like([list(range(like.shape[1]))], like)
        table = Contexts(self.phi, self.log_pi0, ids, whole=True)
        check_contexts(table)
        check_shape("weights", self.weights, (None, like.shape[1]), "(R, X)")
        for name, array in (("phi", like), ("log_pi0", self.log_pi0), ("weights", self.weights)):
            if array.shape[0] not in (1, self.n_replicas):
                message = (
                    f"{name} must have 1 or n_replicas={self.n_replicas} rows; "
                    f"got {array.shape[0]}."
                )
                raise ShapeError(message)
        total = xp.sum(self.weights, axis=-1)
        slack = max(1e-9, 100.0 * float(xp.finfo(self.weights.dtype).eps))
        if not bool(xp.all(self.weights >= 0)) or not bool(xp.all(xp.abs(total - 1.0) < slack)):
            message = "weights must be probabilities of the contexts that sum to one."
            raise ValueError(message)
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "_empty", _empty_data(table, self.n_replicas))

    @property
    def dim(self) -> int:
        """Number of features ``d``."""
        return int(self.phi.shape[-1])

    def sample_contexts(self, key: Key, n: int) -> Contexts:
        """Draw ``n`` contexts per replica from d0."""
        u = key.uniform(self.n_replicas, n, like=self.phi)
        xp = namespace(u)
        cumulative = xp.cumulative_sum(self.weights, axis=-1)
        total = cumulative[:, -1:]
        level = (u * total)[:, :, None]
        below = (cumulative[:, None, :] <= level) & (cumulative < total)[:, None, :]
        return Contexts.rows(self.table, xp.sum(xp.astype(below, xp.int64), axis=-1))

    def population(self, key: Key, n: int) -> tuple[Contexts, Array]:  # noqa: ARG002
        """Return all contexts with d0; ``key`` and ``n`` are not needed."""
        return self.table, self.weights

    def empty_data(self) -> PairTable | VisitedPairs:
        """Return data without comparisons: visited pairs, or a table where that is small."""
        return self._empty  # type: ignore[attr-defined, no-any-return]

    def tabulate(self, policy: Policy) -> TablePolicy:
        """Return the policy as a table over all contexts."""
        if isinstance(policy, TablePolicy):
            return policy
        return TablePolicy(policy.log_probs(self.table))

    def block(self, first: int, stop: int) -> FiniteProblem:
        """Return replicas ``first .. stop - 1``."""
        phi, log_pi0, weights = (
            block_rows(x, first, stop) for x in (self.phi, self.log_pi0, self.weights)
        )
        return replace(self, phi=phi, log_pi0=log_pi0, weights=weights, n_replicas=stop - first)

    def to(self, like: Array) -> FiniteProblem:
        """Return the same problem in the library, on the device and with the dtype of ``like``."""
        phi, log_pi0 = as_like(self.phi, like), as_like(self.log_pi0, like)
        return replace(self, phi=phi, log_pi0=log_pi0, weights=as_like(self.weights, like))


@dataclass(frozen=True, eq=False)
class FreshProblem:
    """Contexts that never repeat, drawn by a function.

    Attributes
    ----------
    draw
        From a key, a number of replicas and ``n`` to features ``(R, n, A, d)`` and reference
        log-probabilities ``(R, n, A)``; rows must follow the replica as draws of a `Key` do.
    dim
        Number of features ``d``.
    eta
        Weight of the KL, positive.
    n_replicas
        Number of replicas ``R``.
    like
        Array that tells library, device and dtype.
    """

    draw: Callable[[Key, int, int], tuple[Array, Array]]
    dim: int
    eta: float
    n_replicas: int
    like: Array

    def __post_init__(self) -> None:
        check_positive("eta", self.eta)

    def sample_contexts(self, key: Key, n: int) -> Contexts:
        """Draw ``n`` contexts per replica."""
        return self._contexts(key, self.n_replicas, n)

    def shared_contexts(self, key: Key, n: int) -> Contexts:
        """Draw ``n`` contexts that all replicas share."""
        return self._contexts(key, 1, n)

    def _contexts(self, key: Key, rows: int, n: int) -> Contexts:
        phi, log_pi0 = self.draw(key, rows, n)
        return Contexts(as_like(phi, self.like), log_softmax(as_like(log_pi0, self.like)))

    def population(self, key: Key, n: int) -> tuple[Contexts, Array]:
        """Return ``n`` draws with weights ``1 / n``."""
        x = self.sample_contexts(key.child("population"), n)
        return x, expand_rows(full_like((1, n), 1.0 / n, self.like), self.n_replicas)

    def empty_data(self) -> PairList:
        """Return data without comparisons."""
        return PairList.empty(self.n_replicas, self.dim, self.like)

    def tabulate(self, policy: Policy) -> Policy:
        """Return the policy itself: contexts never repeat."""
        return policy

    def block(self, first: int, stop: int) -> FreshProblem:
        """Return replicas ``first .. stop - 1``."""
        return replace(self, n_replicas=stop - first)

    def to(self, like: Array) -> FreshProblem:
        """Return the same problem in the library, on the device and with the dtype of ``like``."""
        return replace(self, like=as_like(self.like, like))
