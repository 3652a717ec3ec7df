from decimal import Decimal, getcontext

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.policies import (
    FunctionPolicy,
    MixturePolicy,
    ReferencePolicy,
    SolvedPolicy,
    TablePolicy,
    entropy,
    expectation,
    kl,
    uniform_log_probs,
)
from tests.helpers import reference


def log(p):
    with np.errstate(divide="ignore"):
        return np.log(p)


def make(like, x=4, a=3):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(a), size=(1, x))
    p[0, 1] = [0.5, 0.0, 0.5]
    phi = as_like(rng.normal(size=(1, x, a, 2)), like)
    return Contexts(phi, as_like(log(p), like), int_like([list(range(x))], like), whole=True), p


def sampled(contexts, like, rows=3, b=5):
    ids = np.random.default_rng(1).integers(contexts.shape[1], size=(rows, b))
    return Contexts.rows(contexts, int_like(ids, like)), ids


def test_policies_agree_on_the_table_and_on_rows_of_it(xp_like):
    table, p = make(xp_like)
    rows, ids = sampled(table, xp_like)
    q = np.random.default_rng(2).dirichlet(np.ones(3), size=(3, 4))
    stored = TablePolicy(as_like(log(q), xp_like))
    same = FunctionPolicy(stored.log_probs)
    np.testing.assert_array_equal(to_numpy(stored.log_probs(table)), log(q))
    want = np.take_along_axis(log(q), ids[..., None], axis=1)
    np.testing.assert_array_equal(to_numpy(stored.log_probs(rows)), want)
    np.testing.assert_array_equal(to_numpy(same.log_probs(rows)), want)
    np.testing.assert_array_equal(to_numpy(ReferencePolicy().log_probs(rows)), log(p)[0][ids])


def test_a_table_policy_needs_ids(xp_like):
    table, p = make(xp_like)
    with pytest.raises(ValueError, match="contexts with ids"):
        TablePolicy(as_like(log(p), xp_like)).log_probs(Contexts(table.phi, table.log_pi0))


def test_mixtures_average_probabilities(xp_like):
    table, p = make(xp_like)
    q = np.random.default_rng(2).dirichlet(np.ones(3), size=(3, 4))
    q[:, 1, 1] = 0.0
    q /= q.sum(axis=-1, keepdims=True)
    mix = MixturePolicy((ReferencePolicy(), TablePolicy(as_like(log(q), xp_like))), (0.25, 0.75))
    got = to_numpy(mix.log_probs(table))
    np.testing.assert_allclose(np.exp(got), 0.25 * p + 0.75 * q, rtol=1e-13)
    assert (got[:, 1, 1] == -np.inf).all()


def test_a_component_of_weight_zero_never_acts(xp_like):
    table, p = make(xp_like)
    other = TablePolicy(as_like(log(np.full((1, 4, 3), 1 / 3)), xp_like))
    got = MixturePolicy((ReferencePolicy(), other), (1.0, 0.0)).log_probs(table)
    np.testing.assert_array_equal(to_numpy(got), log(p))


@pytest.mark.parametrize("weights", [(0.5, 0.4), (1.0,), (0.5, 0.5, 0.0), (1.5, -0.5)])
def test_mixture_weights_are_checked(weights):
    with pytest.raises(ValueError, match="weights must be"):
        MixturePolicy((ReferencePolicy(), ReferencePolicy()), weights)


def test_uniform_log_probs_are_over_present_actions(xp_like):
    table, p = make(xp_like)
    got = np.exp(to_numpy(uniform_log_probs(table.log_pi0)))
    np.testing.assert_allclose(got.sum(axis=-1), 1.0, rtol=1e-14)
    np.testing.assert_array_equal(got > 0, p > 0)
    np.testing.assert_allclose(got[0, 1], [0.5, 0.0, 0.5], rtol=1e-14)


def test_expectation_ignores_absent_actions(xp_like):
    values = np.array([[[1.0, np.inf, 3.0]]])
    got = expectation(
        as_like(log(np.array([[[0.25, 0.0, 0.75]]])), xp_like), as_like(values, xp_like)
    )
    np.testing.assert_allclose(to_numpy(got), [[2.5]], rtol=1e-14)


def test_entropy_is_the_sum_and_counts_no_absent_action(xp_like):
    p = np.array([[[0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]])
    got = to_numpy(entropy(as_like(log(p), xp_like)))
    want = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    np.testing.assert_allclose(got, [[want, 0.0, np.log(3.0)]], rtol=1e-14, atol=0)


# ------------------------------------------------------------------ KL


def test_kl_is_the_sum_where_that_is_safe(xp_like):
    rng = np.random.default_rng(3)
    p, q = rng.dirichlet(np.ones(6), size=(2, 20)), rng.dirichlet(0.3 * np.ones(6), size=(1, 20))
    q = np.maximum(q, 1e-30)
    q /= q.sum(axis=-1, keepdims=True)
    got = to_numpy(kl(as_like(log(p), xp_like), as_like(log(q), xp_like)))
    want = [[reference.kl(p[r, b], q[0, b]) for b in range(20)] for r in range(2)]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    back = to_numpy(kl(as_like(log(q), xp_like), as_like(log(p), xp_like)))
    want = [[reference.kl(q[0, b], p[r, b]) for b in range(20)] for r in range(2)]
    np.testing.assert_allclose(back, want, rtol=1e-12)


def exact_bregman(log_p, log_q):
    """``sum p log(p/q) - p + q`` of given log-probabilities, with 400 digits."""
    getcontext().prec = 400
    total = Decimal(0)
    for a, b in zip(log_p, log_q, strict=True):
        p, q = Decimal(float(a)).exp(), Decimal(float(b)).exp()
        total += p * (Decimal(float(a)) - Decimal(float(b))) - p + q
    return float(total)


@pytest.mark.parametrize("distance", [1e-150, 1e-30, 1e-15, 1e-8, 1e-4, 1e-3, 1e-2, 0.3, 3.0, 30.0])
def test_kl_does_not_cancel_for_close_policies(xp_like, distance):
    # Log-probabilities that differ by `distance`; at 1e-150 the value is near 1e-300. The first
    # action is the most likely one with log-probability 0, so that the difference is no rounding.
    log_p = np.array([[[0.0, -2.0, -1.0, -40.0]]])
    log_q = log_p + distance * np.array([1.0, 0.0, 0.0, 0.0])
    got = to_numpy(kl(as_like(log_p, xp_like), as_like(log_q, xp_like)))[0, 0]
    np.testing.assert_allclose(got, exact_bregman(log_p[0, 0], log_q[0, 0]), rtol=1e-12)
    log_q = log_p - distance * np.array([1.0, 0.5, 0.0, 0.1])
    got = to_numpy(kl(as_like(log_p, xp_like), as_like(log_q, xp_like)))[0, 0]
    np.testing.assert_allclose(got, exact_bregman(log_p[0, 0], log_q[0, 0]), rtol=1e-12)


def test_kl_is_never_negative(xp_like):
    rng = np.random.default_rng(4)
    log_p = log(rng.dirichlet(np.ones(5), size=(1, 2000)))
    noise = rng.normal(size=log_p.shape) * 10.0 ** rng.uniform(-17, 1, size=(1, 2000, 1))
    got = to_numpy(kl(as_like(log_p, xp_like), as_like(log_p + noise, xp_like)))
    assert (got >= 0).all()
    assert (to_numpy(kl(as_like(log_p, xp_like), as_like(log_p, xp_like))) == 0).all()


def test_kl_with_absent_actions(xp_like):
    p = np.array([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25], [0.5, 0.0, 0.5]]])
    q = np.array([[[0.25, 0.75, 0.0], [0.2, 0.3, 0.5], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]])
    got = to_numpy(kl(as_like(log(p), xp_like), as_like(log(q), xp_like)))[0]
    np.testing.assert_allclose(
        got[0], 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75), rtol=1e-13
    )
    np.testing.assert_allclose(got[1], np.log(5.0), rtol=1e-13)
    assert np.isinf(got[2:]).all()


def test_kl_far_apart_neither_overflows_nor_warns(xp_like):
    # p has mass e^-900, which is 0 in doubles, where q has nearly all: log(q/p) = 900.
    log_p = np.array([[[0.0, -900.0]]])
    log_q = np.array([[[-900.0, 0.0]]])
    got = to_numpy(kl(as_like(log_p, xp_like), as_like(log_q, xp_like)))[0, 0]
    np.testing.assert_allclose(got, 900.0, rtol=1e-12)
    gone = np.array([[[0.0, -np.inf]]])
    got = to_numpy(kl(as_like(log_p, xp_like), as_like(gone, xp_like)))[0, 0]
    assert got == 0.0  # mass that underflows counts as none


def test_a_solved_policy_is_a_table_on_its_contexts_and_computed_elsewhere(xp_like):
    contexts, p = make(xp_like)
    same, _ = make(xp_like)
    marked = as_like(log(np.roll(p, 1, axis=-1)), xp_like)  # what only the table can answer
    policy = SolvedPolicy(contexts, marked, ReferencePolicy())
    assert policy.log_probs(contexts) is marked
    rows, ids = sampled(contexts, xp_like)
    np.testing.assert_array_equal(to_numpy(policy.log_probs(rows)), to_numpy(marked)[0][ids])
    # Equal numbers of another table are other actions: pools that were drawn again.
    np.testing.assert_array_equal(to_numpy(policy.log_probs(same)), to_numpy(same.log_pi0))
    rows, ids = sampled(same, xp_like)
    np.testing.assert_array_equal(to_numpy(policy.log_probs(rows)), log(p)[0][ids])
