import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.rewards import LinearReward
from tests.helpers import reference
from tests.helpers.small import finite_problem


@pytest.mark.parametrize("scale", [1.0, 0.2, 5.0])
def test_win_probabilities_are_the_logistic_of_the_scaled_difference(xp_like, scale):
    problem = finite_problem(xp_like)
    theta = np.random.default_rng(0).normal(size=(3, 2))
    oracle = BradleyTerry(LinearReward(as_like(theta, xp_like)), scale)
    rng = np.random.default_rng(1)
    ids, a1, a2 = rng.integers(3, size=(3, 6)), *rng.integers(4, size=(2, 3, 6))
    x = Contexts.rows(problem.table, int_like(ids, xp_like))
    got = to_numpy(oracle.prob(x, int_like(a1, xp_like), int_like(a2, xp_like)))
    phi = to_numpy(problem.phi)[0]
    for r in range(3):
        for b in range(6):
            z = phi[ids[r, b], a1[r, b]] - phi[ids[r, b], a2[r, b]]
            want = reference.sigmoid(scale * float(z @ theta[r]))
            np.testing.assert_allclose(got[r, b], want, rtol=1e-12, atol=1e-15)


def test_logits_are_exact_where_probabilities_have_rounded(xp_like):
    problem = finite_problem(xp_like)
    oracle = BradleyTerry(LinearReward(as_like([[300.0, 0.0]], xp_like)), 2.0)
    logits = to_numpy(oracle.logits(problem.table))
    f = to_numpy(problem.phi)[..., 0]
    want = 600.0 * (f[..., :, None] - f[..., None, :])
    np.testing.assert_allclose(logits, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan])
def test_a_scale_that_is_not_positive_raises(scale):
    with pytest.raises(ValueError, match="scale must be positive"):
        BradleyTerry(LinearReward(np.zeros((1, 2))), scale)
