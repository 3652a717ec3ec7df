"""A preference on pools as examples: the comparisons that it would label against an opponent."""

from __future__ import annotations

import numpy as np

from llm_bridge.planning.examples.pool_examples import pairs_of
from llm_bridge.pools.candidates import Pools
from llm_bridge.training.examples import Example
from rlhf_theory.losses import PairLoss


def game_examples(
    pools: Pools,
    loss: PairLoss,
    log_ref: np.ndarray,
    mu: np.ndarray,
    win: np.ndarray,
    d0: np.ndarray,
) -> list[Example]:
    """Return one example per prompt: all pairs of its pool, from ``mu x mu``.

    SPPO's targets do not depend on the other response, so that pairs of a response with itself move
    no minimiser; with them each response weighs ``mu``, as in the paper, and not ``mu (1 - mu)``.
    """
    examples = []
    for n, responses in enumerate(pools.responses):
        k = len(responses)
        if d0[n] == 0.0 or (k < 2 and loss.law != "full"):
            continue  # nothing to compare
        pairs, share = pairs_of(mu[n, :k], loss)
        wins: tuple[float, ...] = ()
        if "wins" in loss.needs:
            wins = tuple(map(float, win[n, :k, :k] @ mu[n, :k]))
        examples.append(
            Example(
                prompt=pools.prompts[n].ids,
                responses=tuple(r.ids for r in responses),
                log_ref=tuple(map(float, log_ref[n, :k])),
                target=tuple(float(win[n, a, b]) for a, b in pairs),
                pairs=tuple(pairs),
                share=tuple(map(float, share)),
                weight=float(d0[n]) * len(pools.responses),
                wins=wins,
            )
        )
    return examples
