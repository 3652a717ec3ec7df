from __future__ import annotations

import numpy as np
import pytest

from llm_bridge.embeddings.featureless import NoFeatures
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.evaluation.paths import best_of_n_path, gibbs_path, temperatures
from llm_bridge.labels.oracles import TextReward
from llm_bridge.pools.problem import PromptProblem


@pytest.fixture(scope="module")
def held_out(tiny_policy):
    prompts = ["what color is oak ?", "where is trout ?", "tell me"]
    problem = PromptProblem(prompts, tiny_policy, features=NoFeatures(), pool_size=12, eta=0.5)
    return HeldOut(problem, TextReward(lambda _x, a: len(a) % 7), n_samples=0)


def test_a_gibbs_path_begins_at_the_reference_and_climbs(held_out):
    gold = held_out.gold
    path = gibbs_path(held_out, gold, temperatures(gold, held_out))
    assert path["strength"].is_monotonic_increasing
    assert path["kl"][0] == 0.0
    assert path["strength"][0] == 0.0
    assert (np.diff(path["kl"]) > 0).all()
    assert (np.diff(path["proxy"]) > 0).all()
    np.testing.assert_allclose(path["gold"], path["proxy"])
    # The strongest is next to the best response of every pool.
    contexts = held_out.problem.table
    best = gold.rewards(contexts).amax(dim=-1).mean()
    assert float(path["gold"].iloc[-1]) == pytest.approx(float(best), abs=0.05)


def test_no_path_is_above_that_of_the_gold_reward(held_out):
    gold = held_out.gold
    best = gibbs_path(held_out, gold, temperatures(gold, held_out, 200))
    proxy = TextReward(lambda _x, a: len(a) % 7 + 2.0 * ("o" in a))
    for path in (
        best_of_n_path(held_out, gold, [2, 4, 8]),
        gibbs_path(held_out, proxy, temperatures(proxy, held_out)),
    ):
        inside = path[path["kl"] <= best["kl"].max()]
        bound = np.interp(inside["kl"], best["kl"], best["gold"])
        # Linear interpolation of a concave curve lies below it.
        assert (inside["gold"] <= bound + 0.02).all()
    assert best_of_n_path(held_out, gold, [1, 4])["strength"].tolist() == [0.0, 3.0]


def test_a_reward_without_differences_has_a_path_that_stays(held_out):
    flat = TextReward(lambda *_: 1.0)
    path = gibbs_path(held_out, flat, temperatures(flat, held_out, 3))
    assert np.abs(path["kl"]).max() < 1e-12


def test_no_features_are_zeros_for_as_many_rows():
    phi = NoFeatures().rows(["a", "b"], ["c", "d"])
    assert phi.shape == (2, 1)
    assert not phi.any()
    with pytest.raises(ValueError, match="one prompt per response"):
        NoFeatures().rows(["a"], [])
