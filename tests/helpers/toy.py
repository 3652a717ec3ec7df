"""A toy prompt problem, as a bridge would make it: one replica, no ids, pools of all sizes."""

from dataclasses import dataclass, replace

import numpy as np

from rlhf_theory.arrays import as_like, int_like
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import PairList, PairQuery
from rlhf_theory.evaluation.gaps import mean_kl, suboptimality
from rlhf_theory.oracles import BradleyTerry, feedback_from
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.randomness import categorical
from rlhf_theory.rewards import LinearReward
from tests.helpers.assembled import Assembled

THETA = (1.0, -0.5, 0.3)


@dataclass(frozen=True, eq=False)
class ToyPrompts:
    """Twelve prompts with pools of one to four responses, padded to four; ``like`` as elsewhere.

    Padding has ``log_pi0 = -inf`` and large finite features, which nothing may look at.
    """

    like: object
    eta: float = 0.2
    n_replicas: int = 1
    dim: int = 3
    seed: int = 0

    @property
    def pools(self):
        rng = np.random.default_rng(self.seed)
        phi, sizes = rng.normal(size=(1, 12, 4, 3)), 1 + np.arange(12) % 4
        phi /= np.linalg.norm(phi, axis=-1, keepdims=True)
        present = np.arange(4)[None, :] < sizes[:, None]
        weight = rng.random((12, 4)) * present
        phi[0][~present] = 1e3
        with np.errstate(divide="ignore"):
            return phi, np.log(weight / weight.sum(axis=1, keepdims=True))[None]

    def _contexts(self, rows):
        phi, log_pi0 = self.pools
        source = [f"prompt {k}" for k in rows]
        return Contexts(
            as_like(phi[:, rows], self.like), as_like(log_pi0[:, rows], self.like), source=source
        )

    def sample_contexts(self, key, n):
        u = key.uniform_numpy(1, n)[0]
        return self._contexts(np.floor(12 * u).astype(int))

    def population(self, key, n):
        x = self._contexts(np.arange(12))
        return x, as_like(np.full((1, 12), 1 / 12), self.like)

    def empty_data(self):
        return PairList.empty(1, 3, self.like)

    def tabulate(self, policy):
        return policy

    def to(self, like):
        return replace(self, like=like)


def toy_reward(like):
    return LinearReward(as_like([THETA], like))


def toy_feedback(like):
    """Labels; fails for contexts that the problem did not give out."""
    inner = feedback_from(BradleyTerry(toy_reward(like), 2.0))

    def feedback(query, key):
        assert query.contexts.source is not None
        assert len(query.contexts.source) == query.a1.shape[1]
        return inner(query, key)

    return feedback


def toy_evaluate(problem):
    """Gap and KL over all prompts."""

    def evaluate(policy):
        x, w = problem.population(None, 0)
        best = gibbs_log_probs(toy_reward(problem.like).rewards(x), x.log_pi0, problem.eta)
        log_pi = policy.log_probs(x)
        return {
            "gap": suboptimality(log_pi, best, w, problem.eta),
            "kl": mean_kl(log_pi, x.log_pi0, w),
        }

    return evaluate


def toy_data(problem, key, n):
    """``n`` offline comparisons of two draws from pi0."""
    x = problem.sample_contexts(key.child("x"), n)
    a1, a2 = (categorical(x.log_pi0, key.child(k).uniform(1, n, like=problem.like)) for k in "ab")
    query = PairQuery(x, *(int_like(a, problem.like) for a in (a1, a2)))
    return problem.empty_data().add(toy_feedback(problem.like)(query, key.child("y")))


def toy_world(problem, **parts):
    """The problem as a world, with its labels and its truth unless others are given."""
    own = {"feedback": toy_feedback(problem.like), "evaluate": toy_evaluate(problem)}
    return Assembled(problem, **(own | parts))
