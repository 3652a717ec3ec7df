import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.planners.gibbs import Gibbs, GibbsPolicy, gibbs_log_probs, log_partition
from rlhf_theory.policies import TablePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from tests.helpers import reference
from tests.helpers.small import finite_problem, log


@pytest.mark.parametrize("eta", [0.05, 0.3, 2.0])
def test_the_gibbs_policy_is_the_reweighted_reference(xp_like, eta):
    rng = np.random.default_rng(0)
    r, p0 = rng.normal(size=(2, 3, 4)), rng.dirichlet(np.ones(4), size=(1, 3))
    p0[0, 1] = [0.5, 0.0, 0.5, 0.0]
    got = to_numpy(gibbs_log_probs(as_like(r, xp_like), as_like(log(p0), xp_like), eta))
    want = [[reference.gibbs(r[k, x], p0[0, x], eta) for x in range(3)] for k in range(2)]
    np.testing.assert_allclose(np.exp(got), want, rtol=1e-11, atol=1e-300)
    assert (got[:, 1, [1, 3]] == -np.inf).all()


def test_the_gibbs_policy_maximises_the_objective(xp_like):
    # Against a search over logits; and its value is the log-partition.
    rng = np.random.default_rng(1)
    r, p0 = rng.normal(size=4), rng.dirichlet(np.ones(4))
    r_x, lp0 = as_like(r[None, None], xp_like), as_like(log(p0)[None, None], xp_like)
    for eta in (0.2, 1.0):
        found = minimize(
            lambda u, eta=eta: -reference.value([np.exp(log_softmax(u))], [r], [p0], [1.0], eta),
            np.zeros(4),
            options={"gtol": 1e-9},
        )
        got = to_numpy(gibbs_log_probs(r_x, lp0, eta))[0, 0]
        value = to_numpy(log_partition(r_x, lp0, eta))[0, 0]
        np.testing.assert_allclose(value, -found.fun, rtol=1e-8)
        np.testing.assert_allclose(np.exp(got), np.exp(log_softmax(found.x)), atol=1e-4)
        exact = reference.value([np.exp(got)], [r], [p0], [1.0], eta)
        np.testing.assert_allclose(value, exact, rtol=1e-12)


@pytest.mark.parametrize("eta", [1e-8, 1e8])
def test_huge_and_tiny_eta(xp_like, eta):
    r, p0 = np.array([[[0.3, 1.0, -0.2]]]), np.array([[[0.2, 0.3, 0.5]]])
    got = np.exp(to_numpy(gibbs_log_probs(as_like(r, xp_like), as_like(log(p0), xp_like), eta)))
    want = p0 if eta > 1 else np.array([[[0.0, 1.0, 0.0]]])
    np.testing.assert_allclose(got, want, atol=1e-7)


def test_one_action_is_played(xp_like):
    one = as_like([[[3.0]]], xp_like)
    zero = as_like([[[0.0]]], xp_like)
    assert to_numpy(gibbs_log_probs(one, zero, 0.1))[0, 0, 0] == 0.0
    np.testing.assert_allclose(to_numpy(log_partition(one, zero, 0.1)), [[3.0]], rtol=1e-13)


def test_the_planner_returns_the_policy_of_the_problems_eta(xp_like):
    problem = finite_problem(xp_like, absent=((1, 2),))
    model = LinearReward(as_like([[1.0, 0.5]], xp_like))
    plan = Gibbs()(model, problem, Key(0), None)
    assert to_numpy(plan.converged).all()
    assert tuple(plan.residual.shape) == (3,)
    assert isinstance(plan.value, TablePolicy)
    want = gibbs_log_probs(model.rewards(problem.table), problem.log_pi0, problem.eta)
    np.testing.assert_array_equal(to_numpy(plan.value.log_probs(problem.table)), to_numpy(want))
    ids = int_like([[2, 0], [1, 1], [0, 0]], xp_like)
    rows = Contexts.rows(problem.table, ids)
    direct = GibbsPolicy(model, problem.eta).log_probs(rows)
    np.testing.assert_array_equal(to_numpy(plan.value.log_probs(rows)), to_numpy(direct))


def test_the_policy_checks_eta():
    with pytest.raises(ValueError, match="eta must be positive"):
        GibbsPolicy(LinearReward(np.zeros((1, 1))), 0.0)
