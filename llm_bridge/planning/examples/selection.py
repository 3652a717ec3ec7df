"""Which pairs of responses to have labelled next: the most informative ones, chosen one by one."""

from __future__ import annotations

import numpy as np

from llm_bridge.labels.scoring import transcript
from llm_bridge.pools.candidates import Pools
from rlhf_theory.arrays import Array, to_numpy
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_positive

_LARGEST = 40_000_000


def most_informative(
    contexts: Contexts,
    sigma: Array,
    pairs: int,
    *,
    per_prompt: int | None = None,
    repeat: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Return pairs of which each adds most to what is known, given those before it.

    Greedy D-optimal design: with :math:`\Sigma` the design matrix of all labels so far,

    .. math:: z_t = \arg\max_z z^\top \Sigma_t^{-1} z, \qquad
              \Sigma_{t+1} = \Sigma_t + z_t z_t^\top,

    over the differences ``z`` of two responses to one prompt.

    Parameters
    ----------
    contexts
        Pools that all replicas share, features ``(1, N, K, d)``.
    sigma
        Design matrix ``Sigma``, shape ``(1, d, d)``, positive definite.
    pairs
        How many to choose.
    per_prompt
        Most pairs of one prompt; None for no limit.
    repeat
        Whether a pair may be chosen again, as the greedy design itself would: a second label can
        tell more than a first one elsewhere. Only for labellers who answer independently every
        time; one answer that is counted twice tells nothing new.

    Returns
    -------
    Rows of the contexts, first and second actions, each of shape ``(n,)``; fewer where there are
    no more pairs, or none within the limit.

    Raises
    ------
    ValueError
        If no prompt has two different responses.

    Source: [2402.10500] (APO), for a batch; theory sheet 5.
    """
    check_positive("pairs", pairs)
    phi, log_pi0 = to_numpy(contexts.phi)[0], to_numpy(contexts.log_pi0)[0]
    row, first, second = _all_pairs(log_pi0 > -np.inf)
    if row.size == 0:
        message = "There is nothing to compare: no prompt has two different responses in its pool."
        raise ValueError(message)
    if row.size * phi.shape[-1] > _LARGEST:
        message = (
            f"{row.size} pairs of {phi.shape[-1]} features are too many to compare at once. Take "
            "fewer prompts, smaller pools, or fewer features."
        )
        raise MemoryError(message)
    z = (phi[row, first] - phi[row, second]).astype(np.float64)
    inverse = np.linalg.inv(to_numpy(sigma)[0].astype(np.float64))
    gain = np.einsum("nd,de,ne->n", z, inverse, z)
    left = np.full(log_pi0.shape[0], np.inf if per_prompt is None else per_prompt)
    closed = np.zeros(row.size, dtype=bool)
    chosen: list[int] = []
    while len(chosen) < pairs:
        open_ = np.where((left[row] > 0) & ~closed, gain, -np.inf)
        best = int(np.argmax(open_))
        if open_[best] == -np.inf:
            break
        chosen.append(best)
        if not repeat:
            closed[best] = True
        left[row[best]] -= 1
        # Sherman-Morrison: gains fall by what the new label tells about them.
        u = inverse @ z[best]
        scale = 1.0 + gain[best]
        inverse -= np.outer(u, u) / scale
        gain = np.maximum(gain - (z @ u) ** 2 / scale, 0.0)
    return row[chosen], first[chosen], second[chosen]


def _all_pairs(present: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all pairs of present actions, prompt by prompt."""
    i, j = np.triu_indices(present.shape[1], k=1)
    row, pair = np.nonzero(present[:, i] & present[:, j])
    return row, i[pair], j[pair]


def distinct_pairs(
    pools: Pools, row: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Return the places of pairs that ask people something new, in their order.

    Of pairs with the same texts, in whichever order, only the first is kept. Equal texts are no
    question, and responses without text cannot be kept as preferences.

    Parameters
    ----------
    pools
        Prompts and responses.
    row, first, second
        Prompts and compared actions, each of shape ``(n,)``.
    """
    seen: dict[tuple[str, frozenset[str]], int] = {}
    for place, (i, a, b) in enumerate(zip(row, first, second, strict=True)):
        texts = frozenset((pools.responses[i][a].text, pools.responses[i][b].text))
        if len(texts) == 2 and all(t.strip() for t in texts):
            seen.setdefault((transcript(pools.prompts[i]), texts), place)
    return np.array(sorted(seen.values()), dtype=np.int64)
