"""A reward on pools as examples: the comparisons, or groups, that the reward itself would label."""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement
from typing import Any, Literal

import numpy as np

from llm_bridge.pools.candidates import Pools
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.training.examples import Example, with_mismatched
from rlhf_theory.arrays import Array, to_numpy
from rlhf_theory.core import Problem
from rlhf_theory.data import Contexts
from rlhf_theory.losses import GroupLoss, PairLoss
from rlhf_theory.randomness import Key

# A pool of K draws has masses that are multiples of 1/K; this makes the others nearly so, and costs
# nothing, since repeated responses go through the model once.
_REPEATS = 8


def planning_examples(
    problem: Problem,
    contexts: Contexts,
    rewards: np.ndarray,
    weights: np.ndarray,
    reference: LanguageModelPolicy,
    loss: PairLoss | GroupLoss,
    pairs: Literal["all"] | int,
    key: Key,
    *,
    lifted: bool,
    bf16: bool,
) -> list[Example]:
    """Return a reward on the pools of a problem as examples, measured from ``reference``.

    Parameters
    ----------
    problem, contexts
        Whose pools, and the ``n`` contexts among them; ``ValueError`` for contexts without pools.
    rewards, weights
        Shape ``(n, K)``, and the law of the contexts, shape ``(n,)``.
    reference
        The policy that the loss measures from.
    loss, pairs, key
        As in `pool_examples`.
    lifted
        Whether masses of responses below that of one draw are lifted to it.
    bf16
        Whether they are trained on in half precision: so is the reference then.
    """
    pools = contexts.source
    if not isinstance(pools, Pools) or contexts.ids is None:
        message = "A language model is planned on the pools of a PromptProblem; got no pools."
        raise ValueError(message)
    rows = to_numpy(contexts.ids)[0]
    log_ref = pools.log_pi0[rows]
    if reference is not getattr(problem, "policy", None) or bf16:
        log_ref = reference.pool_scores(pools, rows, bf16=bf16)[rows]
    n_draws = max(getattr(problem, "pool_size", 0), pools.size)
    least, size = 1.0 / n_draws if lifted else 0.0, _REPEATS * n_draws
    examples = pool_examples(pools, rows, rewards, weights, log_ref, loss, pairs, size, key, least)
    if "z0" in loss.needs:
        return with_mismatched(
            reference.model, examples, bf16=bf16, score=reference.sequence_log_probs
        )
    return examples


def pool_examples(
    pools: Pools,
    rows: np.ndarray,
    rewards: np.ndarray,
    weights: np.ndarray,
    log_ref: np.ndarray,
    loss: PairLoss | GroupLoss,
    pairs: Literal["all"] | int,
    size: int,
    key: Key,
    least: float = 0.0,
) -> list[Example]:
    """Return one example per prompt, with the labels that a reward gives as probabilities.

    Parameters
    ----------
    pools
        Prompts and responses.
    rows
        Places of ``n`` prompts in the pools.
    rewards
        Shape ``(n, K)``.
    weights
        Law of the prompts, shape ``(n,)``; those of weight 0 are left out, and those with one
        response where its comparison with itself says nothing to the loss.
    log_ref
        ``log pi_ref`` of the responses, shape ``(n, K)``.
    loss
        What the examples are for.
    pairs
        All pairs weighted by ``mu x mu``, or so many draws from that law; see `pairs_of`.
    size
        Members of a group, for losses of groups; they repeat responses that ``mu`` has often.
    key
        Address of the draws.
    least
        ``mu`` is the pool's law with masses below this one lifted to it; 0 leaves it as it is.
    """
    u = key.uniform_numpy(len(rows), 1 if pairs == "all" else pairs)
    examples = []
    for n, row in enumerate(rows.tolist()):
        k = len(pools.responses[row])
        if weights[n] == 0.0 or (k < 2 and (loss.takes == "groups" or loss.law != "full")):
            continue  # nothing to compare
        r, mass = rewards[n, :k], np.exp(pools.log_mass[row, :k])
        mu = np.maximum(mass, least)
        mu = mu / mu.sum()
        given: dict[str, Any]
        if loss.takes == "groups":
            places, given = _group(r, mu, size, float(u[n, 0]))
        else:
            places, given = _pairs(r, mu, loss, None if pairs == "all" else u[n])
        if not places:
            continue  # one response has all the mass
        if "wins" in loss.needs:
            given["wins"] = _wins(r, mass, places)
        examples.append(
            Example(
                prompt=pools.prompts[row].ids,
                responses=tuple(pools.responses[row][p].ids for p in places),
                log_ref=tuple(float(log_ref[n, p]) for p in places),
                weight=float(weights[n]) * len(rows),
                **given,
            )
        )
    return examples


def pairs_of(
    mu: np.ndarray, loss: PairLoss | GroupLoss
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return the pairs of a pool that a loss can learn from, and the share of each in ``mu x mu``.

    Those of a response with itself are left out where they are a constant, see `PairLoss`.
    """
    chosen = combinations_with_replacement if loss.law == "full" else combinations
    pairs = list(chosen(range(len(mu)), 2))
    return pairs, np.array([(1.0 if a == b else 2.0) * mu[a] * mu[b] for a, b in pairs])


def _pairs(
    r: np.ndarray, mu: np.ndarray, loss: PairLoss | GroupLoss, u: np.ndarray | None
) -> tuple[list[int], dict[str, Any]]:
    """Return which responses are compared, and their pairs.

    All pairs, or those that the uniform numbers ``u`` draw. The rewards are of all responses.
    """
    pairs, share = pairs_of(mu, loss)
    if u is not None:
        below = np.cumsum(share)
        drawn = np.minimum(np.searchsorted(below, u * below[-1], side="right"), len(pairs) - 1)
        number, count = np.unique(drawn, return_counts=True)
        share = below[-1] * count / len(u)
        pairs = [pairs[int(i)] for i in number]
    # The worse first: a probability near 0 keeps its digits in float32, one near 1 loses them.
    pairs = [(a, b) if r[a] <= r[b] else (b, a) for a, b in pairs]
    places = sorted({p for pair in pairs for p in pair})
    at = {p: k for k, p in enumerate(places)}
    return places, {
        "pairs": tuple((at[a], at[b]) for a, b in pairs),
        "target": tuple(float(_logistic(r[a] - r[b])) for a, b in pairs),
        "share": tuple(map(float, share)),
    }


def _group(r: np.ndarray, mu: np.ndarray, size: int, u: float) -> tuple[list[int], dict[str, Any]]:
    """Return a group with each response as often as its law says: equidistant levels.

    Exact for masses that are multiples of ``1 / size``, and so for draws without weights.
    """
    below = np.cumsum(mu)
    levels = (np.arange(size) + u) / size * below[-1]
    drawn = np.minimum(np.searchsorted(below, levels, side="right"), len(r) - 1)
    places, group = np.unique(drawn, return_inverse=True)
    if len(places) < 2:
        return [], {}
    return places.tolist(), {
        "group": tuple(group.tolist()),
        "target": tuple(float(v) for v in r[drawn]),
    }


def _logistic(u: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -np.asarray(u, dtype=float)))  # all digits where it is small


def _wins(r: np.ndarray, mass: np.ndarray, places: list[int]) -> tuple[float, ...]:
    """Return the probabilities of beating a draw from the pool's pi0."""
    return tuple(map(float, _logistic(r[places][:, None] - r[None, :]) @ mass))
