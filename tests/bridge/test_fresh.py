"""Fresh responses beside the pools: rewards that are measured from pi0 stay measured from pi0."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.labels.oracles import RewardModelOracle, TextReward
from llm_bridge.labels.preferences import TextPreference
from llm_bridge.language.sampler import Response
from llm_bridge.pools.beside import beside, drawn_rewards
from llm_bridge.rewards.models import ModelEnsemble, OnFeatures
from rlhf_theory.algorithms.offline_pessimistic import LowerBound
from rlhf_theory.estimators.ellipsoid import Ellipsoid
from rlhf_theory.estimators.ensembles import RewardEnsemble
from rlhf_theory.rewards import LinearReward
from tests.helpers.prompts import TokenFeatures, random_strings, string_problem

THETAS = torch.tensor([[[1.0, -2.0, 0.5], [1.5, 1.0, -1.0]]], dtype=torch.float64)
REWARD = LinearReward(THETAS[:, 0, :])


def ball(beta):
    one = torch.eye(3, dtype=torch.float64)[None]
    return Ellipsoid(THETAS[:, 0, :], torch.tensor([beta], dtype=torch.float64), lambda: one)


@pytest.fixture(scope="module")
def problem():
    return string_problem(n_prompts=4, n_strings=9, pool_size=5, spread=2.0)


@pytest.fixture(scope="module")
def other():
    """A policy far from pi0, most of whose responses are in no pool."""
    return random_strings(4, 9, seed=8, spread=2.0)


def centred_features(problem, drawn):
    """Features of the draws less the mean feature of pi0 on the pools, computed one by one."""
    rows = []
    for i, (prompt, row) in enumerate(zip(problem.prompts, drawn.responses, strict=True)):
        pool = problem.pools.responses[i]
        of_pool = problem.features.rows([prompt.ids] * len(pool), [r.ids for r in pool]).numpy()
        nu = np.exp(problem.pools.log_mass[i, : len(pool)]) @ of_pool
        of_row = problem.features.rows([prompt.ids] * len(row), [r.ids for r in row]).numpy()
        rows.append(of_row - nu)
    return np.array(rows)


def test_a_lower_bound_of_radius_0_rises_as_the_reward_does(problem, other):
    def gain(proxy):
        held_out = HeldOut(problem, REWARD, proxy=proxy, n_samples=6)
        return held_out(other)["fresh_proxy"][0] - held_out(problem.policy)["fresh_proxy"][0]

    assert gain(LowerBound(ball(0.0))) == pytest.approx(gain(REWARD), rel=1e-9)
    assert abs(gain(REWARD)) > 0.1


@pytest.mark.parametrize("name", ["lower", "min", "models", "own"])
def test_rewards_measured_from_pi0_are_measured_from_the_pools(problem, other, name):
    members = [LinearReward(THETAS[:, k, :]) for k in range(2)]
    models = {
        "lower": LowerBound(ball(0.7)),
        "min": RewardEnsemble(THETAS).min_reward(),
        "models": ModelEnsemble(members).uncertainty_weighted(0.3),
        "own": OnFeatures(TokenFeatures(3), LowerBound(ball(0.7))),
    }
    held_out = HeldOut(problem, REWARD, proxy=models[name], n_samples=5)
    found = held_out.fresh(other)
    v = centred_features(problem, held_out._draw(other))
    each = v @ THETAS[0].numpy().T
    lower = each[..., 0] - 0.7 * np.linalg.norm(v, axis=-1)
    want = {
        "lower": lower,
        "own": lower,
        "min": each.min(axis=-1),
        "models": each.mean(axis=-1) - 0.3 * each.var(axis=-1),
    }
    assert_allclose(found.per_prompt["fresh_proxy"][0], want[name].mean(axis=1), rtol=1e-9)
    # The same model, by the draws of imitation.
    drawn = held_out._draw(other).responses
    assert_allclose(drawn_rewards(models[name], problem, drawn), want[name], rtol=1e-9)


def test_labels_of_a_reward_measured_from_pi0_are_too(problem, other):
    law = RewardModelOracle(LowerBound(ball(0.7)))
    held_out = HeldOut(problem, preference=law, n_samples=3)
    found = held_out.fresh(other).per_prompt["fresh_win_rate"][0]
    r, base = (
        v @ THETAS[0, 0].numpy() - 0.7 * np.linalg.norm(v, axis=-1)
        for v in (centred_features(problem, held_out._draw(p)) for p in (other, problem.policy))
    )
    p = 1.0 / (1.0 + np.exp(base[:, None, :] - r[:, :, None]))
    want = (p.sum(axis=(1, 2)) - np.trace(p, axis1=1, axis2=2)) / 6
    assert_allclose(found, want, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_responses_beside_the_pools_change_no_expectation(dtype, other):
    problem = string_problem(
        n_prompts=4, n_strings=9, pool_size=5, spread=2.0, dtype=dtype, features=TokenFeatures(3)
    )
    held_out = HeldOut(problem, REWARD, n_samples=6)
    drawn = held_out._draw(other)
    for features in (True, False):
        x = drawn.contexts(features)
        log_pi0 = x.log_pi0[0].double().numpy()
        own = problem.table.log_pi0[0].numpy()
        there = np.array([len(p) for p in x.source.responses])
        present = np.arange(log_pi0.shape[1]) < there[:, None]
        assert np.array_equal(np.isfinite(log_pi0), present)
        assert_allclose(np.exp(log_pi0).sum(axis=1), 1.0, atol=1e-6)
        for i, pool in enumerate(problem.pools.responses):
            assert_allclose(log_pi0[i, : len(pool)], own[i, : len(pool)], atol=1e-6)
            assert not np.exp(log_pi0[i, len(pool) :]).any()
        # A policy that is far from pi0 leaves them without mass as well.
        mass = np.exp(other.log_probs(x)[0].double().numpy())
        for i, pool in enumerate(problem.pools.responses):
            assert not mass[i, len(pool) :].any()


def test_known_responses_keep_their_place_and_their_features(problem):
    pools = problem.pools
    known = pools.responses[0][1]
    new = Response((200, 3), "new", 0.0)
    rows = [[known, new, new], *([pool[0]] * 3 for pool in pools.responses[1:])]
    log_pi0 = np.full((4, 3), -2.0)
    wider, places = beside(pools, rows, log_pi0)
    end = len(pools.responses[0])
    assert places.tolist() == [[1, end, end], *([[0, 0, 0]] * 3)]
    assert wider.responses == ((*pools.responses[0], new), *pools.responses[1:])
    assert wider.log_pi0[0, end] == -2.0
    assert wider.log_pi0[0, 1] == pools.log_pi0[0, 1]
    before = problem.features.calls
    assert problem.with_pools(wider).table.shape[2] == max(end + 1, pools.size)
    assert problem.features.calls == before + 1


def test_rewards_of_texts_are_asked_for_the_fresh_responses_alone(problem, other):
    asked = []
    reward = TextReward(lambda x, a: asked.append((x, a)) or float(len(a) + int(a[1:])))
    held_out = HeldOut(problem, reward, n_samples=2)
    found = held_out.fresh(other)
    drawn = {
        (p.text, r.text)
        for policy in (other, problem.policy)
        for p, row in zip(problem.prompts, held_out._draw(policy).responses, strict=True)
        for r in row
    }
    assert set(asked) == drawn
    want = [len(a) + int(a[1:]) for a in found.answers["response"]]
    assert found.answers["fresh_gold"].tolist() == want


def test_features_of_fresh_responses_are_computed_once(problem, other):
    held_out = HeldOut(problem, REWARD, proxy=LowerBound(ball(0.7)), n_samples=4)
    assert np.isfinite(held_out.fresh(problem.policy).per_prompt["fresh_proxy"]).all()
    before = problem.features.calls
    held_out.fresh(other)
    drawn = held_out._draw(other)
    new = sum(
        len({r.ids for r in row} - {r.ids for r in pool})
        for row, pool in zip(drawn.responses, problem.pools.responses, strict=True)
    )
    assert 0 < new == problem.features.calls - before


def test_preferences_of_texts_read_no_features(problem, other):
    before = problem.features.calls
    law = TextPreference(lambda _x, a, b: 0.9 if a > b else 0.1)
    rate = HeldOut(problem, preference=law, n_samples=3).fresh(other).per_prompt["fresh_win_rate"]
    assert problem.features.calls == before
    assert ((rate > 0.1 - 1e-12) & (rate < 0.9 + 1e-12)).all()
