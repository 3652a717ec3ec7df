"""Responses beside the pools of a problem, where the pools go on standing for pi0.

Rewards that are measured from the reference policy, such as lower bounds and ensembles, read it off
the contexts. Responses that another policy wrote must not take its place there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llm_bridge.language.sampler import Response
from llm_bridge.pools.candidates import Pools, filled, score_responses
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.arrays import to_numpy
from rlhf_theory.core import RewardModel

# Finite, so that nothing multiplies 0 and infinity, and below what any policy's log-ratio to pi0
# could lift to a mass that counts.
_LOG_NOTHING = -1e6


def beside(
    pools: Pools, responses: Sequence[Sequence[Response]], log_pi0: np.ndarray
) -> tuple[Pools, np.ndarray]:
    """Return the pools with further responses of no mass, and where in them each response is.

    What any policy over the pools expects stays as it was. A response that a pool already has keeps
    its place and its mass there.

    Parameters
    ----------
    pools
        Pools of ``N`` prompts.
    responses
        ``n`` responses to each of them, from anywhere; equal ones share a place.
    log_pi0
        Their sequence log-probabilities under the reference model, shape ``(N, n)``, finite.

    Returns
    -------
    The pools, whose further responses have the log-mass -1e6, and places of shape ``(N, n)``.
    """
    rows: list[tuple[Response, ...]] = []
    log_mass: list[np.ndarray] = []
    log_prob: list[np.ndarray] = []
    places = np.zeros(log_pi0.shape, dtype=np.int64)
    for i, (pool, row) in enumerate(zip(pools.responses, responses, strict=True)):
        at = {r.ids: k for k, r in enumerate(pool)}
        places[i] = [at.setdefault(r.ids, len(at)) for r in row]
        place, first = np.unique(places[i], return_index=True)
        own, added = len(pool), first[place >= len(pool)]
        rows.append((*pool, *(row[j] for j in added)))
        log_mass.append(np.r_[pools.log_mass[i, :own], np.full(len(added), _LOG_NOTHING)])
        log_prob.append(np.r_[pools.log_pi0[i, :own], log_pi0[i, added]])
    mass, prob = filled(log_mass, -np.inf), filled(log_prob)
    return replace(pools, responses=tuple(rows), log_mass=mass, log_pi0=prob), places


def drawn_rewards(
    model: RewardModel, problem: PromptProblem, drawn: Sequence[Sequence[Response]]
) -> np.ndarray:
    """Return the rewards of ``n`` responses to every prompt, whoever drew them, shape ``(N, n)``.

    Rewards that are measured from pi0 see it in the pools of the problem.
    """
    log_pi0 = score_responses(problem.policy, problem.prompts, drawn)
    pools, places = beside(problem.pools, drawn, log_pi0)
    table = to_numpy(model.rewards(problem.with_pools(pools).table))[0]
    return np.take_along_axis(table, places, axis=1)
