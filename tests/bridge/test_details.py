"""Intervals over prompts that have weights."""

import numpy as np
import pytest

from llm_bridge.evaluation.details import Details
from llm_bridge.evaluation.held_out import HeldOut
from rlhf_theory.evaluation.statistics import mean_interval
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from tests.helpers.prompts import string_problem


def details(value, weights, name="x"):
    value = np.atleast_2d(value)
    return Details(tuple(map(str, range(value.shape[1]))), {name: value}, np.asarray(weights))


def test_prompts_count_by_their_weight_in_value_and_ends():
    # 20 prompts of weight .9 that all win, 20 of weight .1 that all lose.
    value = np.repeat([1.0, 0.0], 20)
    found = details(value, np.repeat([0.9 / 20, 0.1 / 20], 20))
    interval = found.interval("x")
    assert interval.value == pytest.approx(0.9)
    assert 0.7 < interval.lower < 0.9 < interval.upper < 1.0
    assert found.summary().loc[0, "mean"] == pytest.approx(0.9)
    assert found.difference(details(value, found.weights), "x").value == 0.0
    other = details(value, np.full(40, 1 / 40))
    with pytest.raises(ValueError, match="same weights"):
        found.difference(other, "x")


def test_equal_weights_give_the_interval_of_a_mean():
    value = Key(1).normal_numpy(3, 30)
    found = details(value, np.full(30, 1 / 30))
    got, want = found.interval("x"), mean_interval(value.T)
    for name in ("value", "lower", "upper"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-12)
    error = value.std(axis=1, ddof=1) / np.sqrt(30)
    np.testing.assert_allclose(found.standard_error("x"), error, rtol=1e-12)


def test_prompts_without_weight_do_not_count():
    value = Key(2).normal_numpy(1, 9)
    value[0, 5:] = np.nan
    part = details(value, [0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0, 0])
    alone = details(value[:, :4], [0.1, 0.2, 0.3, 0.4])
    assert part.interval("x").ends == alone.interval("x").ends
    assert part.standard_error("x") == alone.standard_error("x")
    one = details(value, np.eye(9)[0])
    assert np.isnan(one.standard_error("x")).all()
    assert one.interval("x").value == value[0, 0]


@pytest.mark.statistical
def test_weighted_standard_errors_are_the_spread_of_weighted_means():
    # 4000 means of 200 prompts with random weights: their deviation is known to 1.1 %; eight of
    # those are allowed with the error's own bias of order 1/n (false alarms below 1e-6).
    n, m = 4000, 200
    w = np.exp(Key(3).normal_numpy(n, m))
    w /= w.sum(axis=1, keepdims=True)
    v = Key(4).normal_numpy(n, m) * 2.0 + 5.0
    spread = (w * v).sum(axis=1).std()
    errors = [details(v[i], w[i]).standard_error("x")[0] for i in range(n)]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.09)
    uniform = v.std(axis=1, ddof=1).mean() / np.sqrt(m)
    assert spread > 1.4 * uniform


def test_held_out_problems_pass_their_weights_on():
    weights = np.array([0.6, 0.1, 0.1, 0.1, 0.05, 0.05])
    problem = string_problem(weights=weights)
    reward = LinearReward(problem.table.phi.new_tensor([[1.0, -1.0, 2.0]]))
    held_out = HeldOut(problem, reward, n_samples=4)
    found = held_out(problem.policy)
    record = held_out.records[0]
    assert record.interval("fresh_gold").value == pytest.approx(found["fresh_gold"][0])
    value = record.per_prompt["fresh_kl_k3"]
    assert found["fresh_kl_k3_error"] == pytest.approx(details(value, weights).standard_error("x"))
    assert found["fresh_win_rate_lower"] <= found["fresh_win_rate"] <= found["fresh_win_rate_upper"]
