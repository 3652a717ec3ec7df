"""Rules that choose comparisons: the pairs they are meant to choose, never a pair of one action."""

import numpy as np
import pytest

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.query_rules import QUERY_RULES, Query
from tests.helpers.labelled import counted_data

R, X, A, D = 3, 4, 4, 3


def query(n=50, theta=None, m=6, seed=0):
    data, problem, _ = counted_data(np.zeros(1), n=n)
    x = problem.sample_contexts(Key(seed).child("contexts"), m)
    theta = np.zeros((R, D)) if theta is None else theta
    return Query(problem, data, theta, x.ids, Key(seed).child("query"))


@pytest.mark.parametrize("name", list(QUERY_RULES))
def test_pairs_are_of_two_actions_and_replicas_follow_their_key(name):
    q = query(theta=np.random.default_rng(0).normal(size=(R, D)))
    a1, a2 = QUERY_RULES[name](q)
    assert a1.shape == a2.shape == (R, 6)
    assert np.all(a1 != a2)
    assert np.all((a1 >= 0) & (a1 < A) & (a2 >= 0) & (a2 < A))
    again = QUERY_RULES[name](q)
    np.testing.assert_array_equal(again, (a1, a2))


def test_widths_are_those_of_the_definition():
    q = query()
    phi, count = q.problem.phi[0], q.data.count
    z = q.data.differences.z[0]
    for r in range(R):
        inverse = np.linalg.inv(np.eye(D) + (z.T * count[r]) @ z)
        for x in range(X):
            for a in range(A):
                for b in range(A):
                    v = phi[x, a] - phi[x, b]
                    assert q.squared_widths()[r, x, a, b] == pytest.approx(
                        v @ inverse @ v, abs=1e-12
                    )


def test_fixed_pairs_are_uniform():
    q = query(m=6000)
    a1, a2 = QUERY_RULES["fixed"](q)
    share = np.bincount((A * a1 + a2).ravel(), minlength=A * A) / a1.size
    pairs = share.reshape(A, A)[np.triu_indices(A, k=1)]
    # 18 000 draws over six pairs: standard error .0028; five of them.
    np.testing.assert_allclose(pairs, 1 / 6, atol=0.014)


def test_gshf_explores_away_from_what_it_exploits():
    theta = 50.0 * np.random.default_rng(0).normal(size=(1, D)).repeat(R, axis=0)
    q = query(theta=theta)
    a1, a2 = QUERY_RULES["GSHF"](q)
    width = q.squared_widths()
    rewards = np.einsum("xad,rd->rxa", q.problem.phi[0], theta)
    for r in range(R):
        for k, x in enumerate(q.ids[r]):
            # With such rewards the Gibbs policy has mass on the best action alone.
            assert a1[r, k] == rewards[r, x].argmax()
            assert a2[r, k] == width[r, x, a1[r, k]].argmax()


def test_max_inp_takes_the_widest_plausible_pair():
    q = query()  # all rewards 0: everything is plausible
    a1, a2 = QUERY_RULES["MaxInP"](q)
    width = q.squared_widths()
    for r in range(R):
        for k, x in enumerate(q.ids[r]):
            assert width[r, x, a1[r, k], a2[r, k]] == pytest.approx(width[r, x].max())


def test_max_inp_drops_what_is_confidently_worse():
    theta = 1e4 * np.random.default_rng(0).normal(size=(1, D)).repeat(R, axis=0)
    q = query(theta=theta)
    a1, a2 = QUERY_RULES["MaxInP"](q)
    rewards = np.einsum("xad,rd->rxa", q.problem.phi[0], theta)
    for r in range(R):
        for k, x in enumerate(q.ids[r]):
            assert rewards[r, x].argmax() in (a1[r, k], a2[r, k])
