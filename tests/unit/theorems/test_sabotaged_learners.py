from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from rlhf_theory.arrays import to_numpy
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.sabotaged_learners import misread
from rlhf_theory.worlds import linear


def test_labels_that_are_misread():
    world = linear(replicas=3, seed=1)
    data = world.offline_data(Key(2), 400)
    assert misread(data, 0.0) is data

    def theta(share):
        return to_numpy(bradley_terry_mle(misread(data, share), ridge=0.1).require())

    # Winners for losers: the opposite reward; a half: none at all.
    assert_allclose(theta(1.0), -theta(0.0), atol=1e-8)
    assert_allclose(theta(0.5), 0.0, atol=1e-12)
    # A share s of labels turns a frequency p of wins into p + s (1 - 2p).
    share, count, wins = 0.05, to_numpy(data.count), to_numpy(data.wins)
    p = np.divide(wins, count, out=np.zeros_like(wins), where=count > 0)
    expected = count * (p + share * (1.0 - 2.0 * p))
    assert_allclose(to_numpy(misread(data, share).wins), expected, atol=1e-12)
