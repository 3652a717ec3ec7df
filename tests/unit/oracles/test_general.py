import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.oracles import (
    AnnotatorMixture,
    BradleyTerry,
    GeneralPreference,
    preference_matrix,
)
from rlhf_theory.rewards import LinearReward, SkewBilinear, TablePreference, TableReward
from tests.helpers import reference
from tests.helpers.small import finite_problem


def test_logit_payoffs_are_logistic_and_probability_payoffs_are_shifted(xp_like):
    problem = finite_problem(xp_like)
    theta = np.random.default_rng(0).normal(size=(3, 3))
    model = SkewBilinear(as_like(theta, xp_like))
    payoff = to_numpy(model.payoff(problem.table))
    got = to_numpy(preference_matrix(GeneralPreference(model), problem.table))
    want = [reference.sigmoid(u) for u in payoff.ravel()]
    np.testing.assert_allclose(got.ravel(), want, rtol=1e-12, atol=1e-15)
    small = TablePreference(as_like(0.5 * np.tanh(payoff), xp_like))
    got = to_numpy(preference_matrix(GeneralPreference(small, "probability"), problem.table))
    np.testing.assert_allclose(got, 0.5 + 0.5 * np.tanh(payoff), rtol=1e-12)


@pytest.mark.parametrize(("rows1", "rows2"), [(1, 3), (3, 1), (3, 3)])
def test_actions_of_one_row_serve_all_replicas(xp_like, rows1, rows2):
    problem = finite_problem(xp_like)
    for model_rows in (1, 3):
        theta = np.random.default_rng(0).normal(size=(model_rows, 3))
        oracle = GeneralPreference(SkewBilinear(as_like(theta, xp_like)))
        matrix = to_numpy(preference_matrix(oracle, problem.table))
        rng = np.random.default_rng(1)
        a1, a2 = rng.integers(4, size=(rows1, 3)), rng.integers(4, size=(rows2, 3))
        got = to_numpy(oracle.prob(problem.table, int_like(a1, xp_like), int_like(a2, xp_like)))
        for r in range(3):
            for b in range(3):
                want = matrix[r % model_rows, b, a1[r % rows1, b], a2[r % rows2, b]]
                np.testing.assert_allclose(got[r, b], want, rtol=1e-12)


def test_a_probability_payoff_outside_its_range_raises(xp_like):
    problem = finite_problem(xp_like)
    zero = int_like([[0, 0, 0]], xp_like)
    for bad in (0.6, np.nan):
        table = TablePreference(as_like(np.full((1, 3, 4, 4), bad), xp_like))
        with pytest.raises(ValueError, match=r"must lie in \[-1/2, 1/2\]"):
            GeneralPreference(table, "probability").prob(problem.table, zero, zero)


def test_an_unknown_payoff_raises():
    with pytest.raises(ValueError, match="payoff must be one of logit, probability"):
        GeneralPreference(TablePreference(np.zeros((1, 1, 2, 2))), "logits")


def test_a_mixture_of_annotators_averages_their_probabilities(xp_like):
    # Theory 9.3: w = (.6, .4), r1 = (0, 1, 2), r2 = (0, 3, -4); Borda (own 1/2 included)
    # .382, .627, .492.
    problem = finite_problem(xp_like, x=1, a=3)
    rewards = [
        TableReward(as_like([[row]], xp_like)) for row in ((0.0, 1.0, 2.0), (0.0, 3.0, -4.0))
    ]
    oracle = AnnotatorMixture([BradleyTerry(r) for r in rewards], [0.6, 0.4])
    p = to_numpy(preference_matrix(oracle, problem.table))[0, 0]
    np.testing.assert_allclose(p.mean(axis=1), [0.382, 0.627, 0.492], atol=5e-4)
    want = 0.6 * reference.sigmoid(-1.0) + 0.4 * reference.sigmoid(-3.0)
    np.testing.assert_allclose(p[0, 1], want, rtol=1e-13)


def test_logits_of_a_mixture_are_exact_where_probabilities_round(xp_like):
    # P(1 beats 0) = .6 sigma(u) + .4 sigma(v): at 2 and 3 from the probability, at 200 and 300 from
    # 1 - P = .6 e^-200 (1 + e^-100 2/3), which is zero beside one.
    for u, v, want in (
        (2.0, 3.0, np.log(1 / (1 - 0.6 / (1 + np.exp(-2)) - 0.4 / (1 + np.exp(-3))) - 1)),
        (200.0, 300.0, 200.0 - np.log(0.6)),
    ):
        problem = finite_problem(xp_like, x=1, a=2)
        rewards = [TableReward(as_like([[[0.0, r]]], xp_like)) for r in (u, v)]
        oracle = AnnotatorMixture([BradleyTerry(r) for r in rewards], [0.6, 0.4])
        logits = to_numpy(oracle.logits(problem.table))[0, 0]
        np.testing.assert_allclose(logits, [[0.0, -want], [want, 0.0]], rtol=1e-12)


@pytest.mark.parametrize("weights", [[0.5, 0.4], [1.0], [1.5, -0.5]])
def test_annotator_weights_are_checked(weights):
    two = [BradleyTerry(LinearReward(np.zeros((1, 2))))] * 2
    with pytest.raises(ValueError, match="weights must be"):
        AnnotatorMixture(two, weights)


def test_logits_agree_with_probabilities(xp_like):
    problem = finite_problem(xp_like)
    u = to_numpy(SkewBilinear(as_like([[0.4, -1.0, 0.7]], xp_like)).payoff(problem.table))
    logit = GeneralPreference(TablePreference(as_like(u, xp_like)))
    shifted = GeneralPreference(TablePreference(as_like(0.4 * np.tanh(u), xp_like)), "probability")
    for oracle in (logit, shifted):
        p = to_numpy(preference_matrix(oracle, problem.table))
        got = to_numpy(oracle.logits(problem.table))
        np.testing.assert_allclose(got, np.log(p) - np.log1p(-p), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(got, -np.swapaxes(got, -1, -2))


def test_contexts_without_ids_are_served_too(xp_like):
    problem = finite_problem(xp_like)
    oracle = GeneralPreference(SkewBilinear(as_like([[0.4, -1.0, 0.7]], xp_like)))
    bare = Contexts(problem.phi, problem.log_pi0)
    np.testing.assert_array_equal(
        to_numpy(preference_matrix(oracle, bare)),
        to_numpy(preference_matrix(oracle, problem.table)),
    )
