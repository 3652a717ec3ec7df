"""Every policy against its protocol."""

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.core import Policy
from rlhf_theory.planners.best_of_n import BestOfNPolicy
from rlhf_theory.planners.gibbs import GibbsPolicy
from rlhf_theory.planners.nash import NashPolicy
from rlhf_theory.policies import (
    FunctionPolicy,
    MixturePolicy,
    ReferencePolicy,
    TablePolicy,
    uniform_log_probs,
)
from rlhf_theory.randomness import Key, categorical
from rlhf_theory.rewards import LinearReward, SkewBilinear
from tests.helpers.small import finite_problem, log

ABSENT = ((0, 1), (1, 0), (1, 3))


def reward(like):
    return LinearReward(as_like(np.random.default_rng(0).normal(size=(3, 2)), like))


def stored(like):
    p = np.random.default_rng(1).dirichlet(np.ones(4), size=(3, 3))
    for c, a in ABSENT:
        p[:, c, a] = 0.0
    return TablePolicy(as_like(log(p / p.sum(axis=-1, keepdims=True)), like))


POLICIES = {
    "reference": lambda like: ReferencePolicy(),
    "table": stored,
    "uniform": lambda like: FunctionPolicy(lambda c: uniform_log_probs(c.log_pi0)),
    "mixture": lambda like: MixturePolicy((ReferencePolicy(), stored(like)), (0.3, 0.7)),
    "gibbs": lambda like: GibbsPolicy(reward(like), 0.2),
    "best-of-n": lambda like: BestOfNPolicy(reward(like), 3),
    "nash": lambda like: NashPolicy(
        SkewBilinear(as_like(np.random.default_rng(2).normal(size=(3, 3)), like)), 0.3
    ),
}


@pytest.fixture(params=POLICIES)
def build(request):
    return POLICIES[request.param]


def contexts(like):
    problem = finite_problem(like, absent=ABSENT)
    ids = np.random.default_rng(3).integers(3, size=(3, 6))
    return problem.table, Contexts.rows(problem.table, int_like(ids, like)), ids


def test_probabilities_sum_to_one_and_absent_actions_have_none(build, xp_like):
    policy = build(xp_like)
    assert isinstance(policy, Policy)
    for x in contexts(xp_like)[:2]:
        log_pi = to_numpy(policy.log_probs(x))
        assert log_pi.shape[1:] == x.shape[1:3]
        assert log_pi.shape[0] in (1, 3)
        np.testing.assert_allclose(np.exp(log_pi).sum(axis=-1), 1.0, rtol=1e-10)
        assert not np.isnan(log_pi).any()
        absent = np.broadcast_to(~np.isfinite(to_numpy(x.log_pi0)), log_pi.shape)
        assert (log_pi[absent] == -np.inf).all()
        assert type(policy.log_probs(x)) is type(xp_like)


def test_rows_of_the_table_are_rows_of_its_policy(build, xp_like):
    policy = build(xp_like)
    table, rows, ids = contexts(xp_like)
    whole = np.broadcast_to(to_numpy(policy.log_probs(table)), (3, 3, 4))
    want = np.take_along_axis(whole, ids[..., None], axis=1)
    np.testing.assert_array_equal(
        np.broadcast_to(to_numpy(policy.log_probs(rows)), want.shape), want
    )
    block = rows.block(0, 3)
    np.testing.assert_array_equal(
        np.broadcast_to(to_numpy(policy.log_probs(block)), want.shape), want
    )


def test_draws_never_hit_an_absent_action(build, xp_like):
    policy = build(xp_like)
    _, rows, _ = contexts(xp_like)
    log_pi0 = np.broadcast_to(to_numpy(rows.log_pi0), (3, 6, 4))
    log_pi = policy.log_probs(rows)
    for k in range(20):
        a = to_numpy(categorical(log_pi, Key(k).uniform(3, 6, like=xp_like)))
        assert np.isfinite(np.take_along_axis(log_pi0, a[..., None], axis=-1)).all()


def test_contexts_without_ids_are_enough_unless_there_is_a_table(build, xp_like):
    policy = build(xp_like)
    table, _, _ = contexts(xp_like)
    bare = Contexts(table.phi, table.log_pi0)
    holds_table = isinstance(policy, TablePolicy | MixturePolicy)
    if holds_table:
        with pytest.raises(ValueError, match="contexts with ids"):
            policy.log_probs(bare)
    else:
        np.testing.assert_array_equal(
            to_numpy(policy.log_probs(bare)), to_numpy(policy.log_probs(table))
        )
