"""What all online learners do in a round: draw a batch, compare, append; and what they report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_theory.arrays import Array
from rlhf_theory.core import PairFeedback, Policy, Problem, Solution
from rlhf_theory.data import PairQuery, PreferenceData
from rlhf_theory.randomness import Key, categorical


def compare(
    problem: Problem,
    data: PreferenceData,
    pi1: Policy,
    pi2: Policy,
    feedback: PairFeedback,
    batch_size: int,
    key: Key,
) -> PreferenceData:
    """Return the data with a batch ``x ~ d0, a1 ~ pi1, a2 ~ pi2`` labelled and appended.

    Draws from ``key`` at ``contexts``, ``a1``, ``a2`` and ``labels``, so that learners that share a
    key meet the same contexts and the same label noise.
    """
    r = problem.n_replicas
    x = problem.sample_contexts(key.child("contexts"), batch_size)
    a1 = categorical(pi1.log_probs(x), key.child("a1").uniform(r, batch_size, like=x.like))
    a2 = categorical(pi2.log_probs(x), key.child("a2").uniform(r, batch_size, like=x.like))
    return data.add(feedback(PairQuery(x, a1, a2), key.child("labels")))


def report(fit: Solution[Any], plan: Solution[Policy]) -> Mapping[str, Array]:
    """Return what every online learner records: ``residual`` and ``converged``."""
    solved = plan.given(fit)
    return {"residual": solved.residual, "converged": solved.converged}
