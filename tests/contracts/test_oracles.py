"""Every oracle against its protocol."""

from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.core import Feedback, PreferenceOracle
from rlhf_theory.data import PairQuery
from rlhf_theory.oracles import (
    AnnotatorMixture,
    BradleyTerry,
    GeneralPreference,
    feedback_from,
    preference_logits,
    preference_matrix,
)
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward, SkewBilinear, TablePreference, TableReward
from rlhf_theory.worlds.bandit import cut
from tests.helpers.small import finite_problem


def reward(like, rows=1, size=1.0):
    theta = size * np.random.default_rng(0).normal(size=(rows, 2))
    return LinearReward(as_like(theta, like))


def table(like):
    m = np.random.default_rng(1).uniform(-0.25, 0.25, size=(1, 3, 4, 4))
    return TablePreference(as_like(m - np.swapaxes(m, -1, -2), like))


ORACLES = {
    "bradley-terry": lambda like: BradleyTerry(reward(like)),
    "bradley-terry-scaled": lambda like: BradleyTerry(reward(like, 3), 3.0),
    "bradley-terry-extreme": lambda like: BradleyTerry(reward(like, 1, 500.0)),
    "bilinear": lambda like: GeneralPreference(
        SkewBilinear(as_like(np.random.default_rng(2).normal(size=(3, 3)), like))
    ),
    "probability": lambda like: GeneralPreference(table(like), "probability"),
    "mixture": lambda like: AnnotatorMixture(
        [
            BradleyTerry(reward(like)),
            GeneralPreference(table(like)),
            BradleyTerry(TableReward(as_like(np.arange(12.0).reshape(1, 3, 4) % 5, like))),
        ],
        [0.5, 0.3, 0.2],
    ),
}


@pytest.fixture(params=ORACLES)
def build(request):
    return ORACLES[request.param]


def draws(like, n=40):
    rng = np.random.default_rng(3)
    ids, a1, a2 = rng.integers(3, size=(3, n)), *rng.integers(4, size=(2, 3, n))
    return ids, a1, a2, (int_like(ids, like), int_like(a1, like), int_like(a2, like))


def test_probabilities_of_both_orders_add_to_one(build, xp_like):
    oracle, problem = build(xp_like), finite_problem(xp_like)
    assert isinstance(oracle, PreferenceOracle)
    _, _, _, (ids, a1, a2) = draws(xp_like)
    x = Contexts.rows(problem.table, ids)
    p, q = to_numpy(oracle.prob(x, a1, a2)), to_numpy(oracle.prob(x, a2, a1))
    assert p.shape == (3, 40)
    assert (p >= 0).all()
    assert (p <= 1).all()
    np.testing.assert_allclose(p + q, 1.0, rtol=1e-13)
    same = to_numpy(oracle.prob(x, a1, a1))
    np.testing.assert_allclose(same, 0.5, rtol=1e-13)


def test_gathered_and_listed_contexts_agree(build, xp_like):
    # By rows of the table, and by contexts that carry their own features and ids.
    oracle, problem = build(xp_like), finite_problem(xp_like)
    _, _, _, (ids, a1, a2) = draws(xp_like)
    x = Contexts.rows(problem.table, ids)
    own = Contexts(x.phi, x.log_pi0, ids)
    want = to_numpy(oracle.prob(x, a1, a2))
    np.testing.assert_allclose(to_numpy(oracle.prob(own, a1, a2)), want, rtol=1e-12)


def test_the_matrix_and_the_logits_are_the_law(build, xp_like):
    oracle, problem = build(xp_like), finite_problem(xp_like)
    ids, a1, a2, arrays = draws(xp_like)
    matrix = np.broadcast_to(to_numpy(preference_matrix(oracle, problem.table)), (3, 3, 4, 4))
    x = Contexts.rows(problem.table, arrays[0])
    p = to_numpy(oracle.prob(x, *arrays[1:]))
    rows = np.arange(3)[:, None]
    np.testing.assert_allclose(p, matrix[rows, ids, a1, a2], rtol=1e-12)
    logits = np.broadcast_to(to_numpy(preference_logits(oracle, problem.table)), matrix.shape)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(1 / (1 + np.exp(-logits)), matrix, rtol=1e-9, atol=1e-13)
    np.testing.assert_array_equal(logits, -np.swapaxes(logits, -1, -2))


def test_probabilities_at_once_are_those_of_pair_after_pair(build, xp_like):
    # To the bit: they are the truth that learners are measured by.
    oracle, problem = build(xp_like), finite_problem(xp_like)
    for x in (problem.table, Contexts.rows(problem.table, int_like([[2, 0]], xp_like))):
        got = to_numpy(preference_matrix(oracle, x))
        one_by_one = to_numpy(preference_matrix(SimpleNamespace(prob=oracle.prob), x))
        np.testing.assert_array_equal(got, one_by_one)


def test_feedback_draws_zeros_and_ones_by_the_key(build, xp_like):
    oracle, problem = build(xp_like), finite_problem(xp_like)
    feedback = feedback_from(oracle)
    assert isinstance(feedback, Feedback)
    _, _, _, (ids, a1, a2) = draws(xp_like)
    x = Contexts.rows(problem.table, ids)
    y = to_numpy(feedback(PairQuery(x, a1, a2), Key(1)).y)
    assert y.shape == (3, 40)
    assert np.isin(y, [0.0, 1.0]).all()
    np.testing.assert_array_equal(y, to_numpy(feedback(PairQuery(x, a1, a2), Key(1)).y))
    want = Key(1).uniform_numpy(3, 40) < to_numpy(oracle.prob(x, a1, a2))
    np.testing.assert_array_equal(y, want)


def test_a_block_of_an_oracle_is_the_oracle_of_its_replicas(build, xp_like):
    oracle, problem = build(xp_like), finite_problem(xp_like)
    _, _, _, (ids, a1, a2) = draws(xp_like)
    whole = to_numpy(oracle.prob(Contexts.rows(problem.table, ids), a1, a2))
    part = Contexts.rows(problem.table, ids[1:3, :])
    got = to_numpy(cut(oracle, 1, 3).prob(part, a1[1:3, :], a2[1:3, :]))
    np.testing.assert_allclose(got, whole[1:3], rtol=1e-12)
