from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import PairQuery
from rlhf_theory.oracles import (
    AnnotatorMixture,
    BradleyTerry,
    feedback_from,
    preference_logits,
    preference_matrix,
)
from rlhf_theory.oracles.labels import log_odds
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from tests.helpers.small import finite_problem
from tests.helpers.statistics import assert_frequency


def bradley_terry(like, rows=1):
    return BradleyTerry(LinearReward(as_like(np.tile([[1.0, -0.5]], (rows, 1)), like)))


@pytest.mark.parametrize("rows", [1, 3])
def test_the_matrix_holds_the_probability_of_every_pair(xp_like, rows):
    problem, oracle = finite_problem(xp_like, rows=rows), bradley_terry(xp_like)
    p = to_numpy(preference_matrix(oracle, problem.table))
    assert p.shape == (rows, 3, 4, 4)
    rng = np.random.default_rng(0)
    a1, a2 = rng.integers(4, size=(2, 3, 3))
    got = to_numpy(oracle.prob(problem.table, int_like(a1, xp_like), int_like(a2, xp_like)))
    for r in range(3):
        for b in range(3):
            np.testing.assert_array_equal(got[r, b], p[r % rows, b, a1[r, b], a2[r, b]])


def test_the_matrix_asks_once_where_the_oracle_tells_all(xp_like):
    problem, oracle = finite_problem(xp_like), bradley_terry(xp_like)
    asked = []

    def prob(contexts, a1, a2):
        asked.append((a1, a2))
        return oracle.prob(contexts, a1, a2)

    told = SimpleNamespace(prob=prob, probabilities=oracle.probabilities)
    mixture = AnnotatorMixture([told, oracle], [0.5, 0.5])
    for each in (told, mixture):
        assert to_numpy(preference_matrix(each, problem.table)).shape == (1, 3, 4, 4)
    assert not asked
    # One that does not is asked about every pair, also inside a mixture.
    preference_matrix(
        AnnotatorMixture([SimpleNamespace(prob=prob), oracle], [0.5, 0.5]), problem.table
    )
    assert len(asked) == 16


def test_labels_follow_the_key_and_the_replica(xp_like):
    problem, feedback = finite_problem(xp_like, replicas=4), feedback_from(bradley_terry(xp_like))
    x = problem.sample_contexts(Key(1), 50)
    a1, a2 = int_like(np.zeros((4, 50)), xp_like), int_like(np.ones((4, 50)), xp_like)
    y = to_numpy(feedback(PairQuery(x, a1, a2), Key(2)).y)
    assert set(np.unique(y)) <= {0.0, 1.0}
    np.testing.assert_array_equal(y, to_numpy(feedback(PairQuery(x, a1, a2), Key(2)).y))
    part = PairQuery(x.block(1, 3), a1[1:3, :], a2[1:3, :])
    got = to_numpy(feedback(part, Key(2).block(1)).y)
    np.testing.assert_array_equal(got, y[1:3])
    host = finite_problem(np.zeros(1), replicas=4)
    query = PairQuery(host.sample_contexts(Key(1), 50), to_numpy(a1), to_numpy(a2))
    want = feedback_from(bradley_terry(np.zeros(1)))(query, Key(2))
    np.testing.assert_array_equal(y, want.y)


def test_replicas_that_share_everything_still_get_their_own_labels():
    # One row of probabilities, many rows of draws.
    problem = finite_problem(np.zeros(1), replicas=4)
    x = Contexts.rows(problem.table, np.zeros((1, 200), dtype=np.int64))
    zero = np.zeros((4, 200), dtype=np.int64)
    query = PairQuery(x, zero, zero + 1)
    y = feedback_from(bradley_terry(np.zeros(1)))(query, Key(2)).y
    assert y.shape == (4, 200)
    assert not np.array_equal(y[0], y[1])


@pytest.mark.statistical
def test_labels_have_the_probability_of_the_oracle():
    # 40 000 labels: notices a probability that is off by 0.013.
    problem, oracle = finite_problem(np.zeros(1), replicas=4), bradley_terry(np.zeros(1))
    p = preference_matrix(oracle, problem.table)
    a1, a2 = np.full((4, 10_000), 2), np.full((4, 10_000), 3)
    x = Contexts.rows(problem.table, np.ones((4, 10_000), dtype=np.int64))
    y = feedback_from(oracle)(PairQuery(x, a1, a2), Key(7)).y
    assert_frequency(y.sum(), y.size, p[0, 1, 2, 3])


def test_log_odds_are_skew_and_finite_even_for_certain_wins(xp_like):
    p = np.array([[[[0.5, 1.0, 0.9], [0.0, 0.5, 0.3], [0.1, 0.7, 0.5]]]])
    got = to_numpy(log_odds(as_like(p, xp_like)))
    np.testing.assert_array_equal(got, -np.swapaxes(got, -1, -2))
    np.testing.assert_allclose(got[0, 0, 0, 2], np.log(9.0), rtol=1e-13)
    assert np.isfinite(got).all()
    assert got[0, 0, 0, 1] > 600.0


def test_logits_come_from_the_oracle_or_from_its_probabilities(xp_like):
    problem, oracle = finite_problem(xp_like), bradley_terry(xp_like)
    exact = to_numpy(preference_logits(oracle, problem.table))
    # The same law, by an oracle without `logits` and by a mixture with one annotator.
    told = SimpleNamespace(prob=oracle.prob)
    for same in (told, AnnotatorMixture([oracle], [1.0])):
        got = to_numpy(preference_logits(same, problem.table))
        np.testing.assert_allclose(got, exact, rtol=1e-11, atol=1e-12)
