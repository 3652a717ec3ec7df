import numpy as np

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.planners.argmax import Argmax, argmax_log_probs
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import TableReward


def test_ties_share_in_proportion_to_pi0(xp_like):
    r = as_like(np.array([[[1.0, 1.0, 0.0]]]), xp_like)
    lp = as_like(np.log(np.array([[[0.2, 0.6, 0.2]]])), xp_like)
    assert np.allclose(np.exp(to_numpy(argmax_log_probs(r, lp))), [[[0.25, 0.75, 0.0]]])


def test_is_the_limit_of_the_gibbs_policy():
    rng = np.random.default_rng(0)
    r, lp = rng.normal(size=(4, 3, 5)), np.full((1, 3, 5), -np.log(5.0))
    problem = FiniteProblem(np.zeros((1, 3, 5, 1)), lp, np.full((1, 3), 1 / 3), 0.1, 4)
    plan = Argmax()(TableReward(r), problem, Key(0))
    limit = np.exp(gibbs_log_probs(r, lp, 1e-5))
    assert np.allclose(np.exp(plan.require().log_probs(problem.table)), limit, atol=1e-9)
