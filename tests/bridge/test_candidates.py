import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import BatchedSampler, Response
from llm_bridge.pools.candidates import Generating, Pools, draw_pools, refreshed_pools
from llm_bridge.pools.policy import LanguageModelPolicy
from rlhf_theory.errors import ShapeError
from rlhf_theory.randomness import Key
from tests.helpers.prompts import FewStrings, few_prompts, random_strings


def moved(policy, step=2.0, seed=9):
    """Another policy over the same strings, some nats away."""
    logits = policy.log_p + step * Key(seed).normal_numpy(*policy.log_p.shape)
    return FewStrings(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


@pytest.fixture
def reference():
    return random_strings(5, 6)


@pytest.fixture
def pools(reference):
    return draw_pools(reference, few_prompts(5), 9, Key(1))


def test_a_draw_has_mass_one_over_k_and_equal_draws_are_merged(reference, pools):
    drawn = reference.sample([(i,) for i in range(5)], 9, Key(1).child("pi0"))
    assert sum(len(p) for p in pools.responses) < 45  # some were equal
    for i, row in enumerate(drawn):
        counts = {}
        for r in row:
            counts[r.ids] = counts.get(r.ids, 0) + 1
        assert [r.ids for r in pools.responses[i]] == list(counts)
        expected = np.array(list(counts.values())) / 9
        np.testing.assert_allclose(np.exp(pools.log_mass[i, : len(counts)]), expected, rtol=1e-12)
        assert (pools.log_mass[i, len(counts) :] == -np.inf).all()
        scores = reference.sequence_log_probs([(i,)] * len(counts), list(counts))
        np.testing.assert_array_equal(pools.log_pi0[i, : len(counts)], scores)
        assert (pools.log_pi0[i, len(counts) :] == 0).all()
    np.testing.assert_allclose(pools.ess, 9.0, rtol=1e-12)
    assert pools.size == max(len(p) for p in pools.responses)


def test_the_content_tells_pools_apart(reference, pools):
    again = draw_pools(reference, few_prompts(5), 9, Key(1))
    assert again.content == pools.content
    assert len(pools.content) == 32
    assert draw_pools(reference, few_prompts(5), 9, Key(2)).content != pools.content
    # A token that moves from the prompt to the response, masses that differ, another prompt.
    one = Pools(
        (Prompt("", (1, 2)),), ((Response((3,), "", 0.0),),), *np.zeros((2, 1, 1)), np.ones(1)
    )
    two = replace(one, prompts=(Prompt("", (1,)),), responses=((Response((2, 3), "", 0.0),),))
    assert one.content != two.content
    mass = pools.log_mass.copy()
    mass[0, :2] = mass[0, 1::-1]
    assert (mass != pools.log_mass).any()
    assert replace(pools, log_mass=mass).content != pools.content


def test_refreshed_weights_are_those_of_the_balance_heuristic(reference, pools):
    policy, key, k = moved(reference), Key(3), 9
    new = refreshed_pools(pools, reference, policy, k, key)
    assert policy.asked == [4]
    prompts = [(i,) for i in range(5)]
    old = reference.sample(prompts, 5, key.child("pi0"))
    drawn = policy.sample(prompts, 4, key.child("policy"))
    for i in range(5):
        weight, every = {}, []
        for r in (*old[i], *drawn[i]):
            p0, pt = math.exp(reference.log_p[i, r.ids[0]]), math.exp(policy.log_p[i, r.ids[0]])
            every.append(p0 / (5 / 9 * p0 + 4 / 9 * pt))
            weight[r.ids] = weight.get(r.ids, 0.0) + every[-1]
        got = {r.ids: math.exp(m) for r, m in zip(new.responses[i], new.log_mass[i], strict=False)}
        assert set(got) == set(weight)
        for ids, w in weight.items():
            assert math.isclose(got[ids], w / sum(every), rel_tol=1e-12)
        assert math.isclose(new.ess[i], sum(every) ** 2 / sum(w * w for w in every), rel_tol=1e-12)


def test_the_reference_refreshes_to_equal_weights(reference, pools):
    new = refreshed_pools(pools, reference, reference, 8, Key(3))
    np.testing.assert_allclose(new.ess, 8.0, rtol=1e-12)
    np.testing.assert_allclose(
        np.exp(new.log_mass) * 8, np.round(np.exp(new.log_mass) * 8), atol=1e-12
    )


def test_a_far_policy_leaves_half_of_the_draws(reference, pools):
    # All its mass on one string: those draws weigh next to nothing, pi0's weigh 2.
    log_p = np.full((5, 6), -60.0)
    log_p[:, 3] = 0.0
    reference = FewStrings(np.log(np.array([[0.3, 0.2, 0.3, 1e-9, 0.1, 0.1]] * 5)))
    new = refreshed_pools(pools, reference, FewStrings(log_p), 8, Key(3))
    assert (new.ess >= 4 - 1e-6).all()
    assert any(r.ids == (3,) for r in new.responses[0])


def estimates(pools, value):
    """The pools' estimates of ``E_pi0 value``, one per prompt."""
    return np.array(
        [
            np.exp(mass[: len(pool)]) @ value[[r.ids[0] for r in pool]]
            for mass, pool in zip(pools.log_mass, pools.responses, strict=True)
        ]
    )


@pytest.mark.statistical
def test_refreshed_pools_estimate_expectations_under_pi0():
    # Five two-sided tests at 1e-6 in all, on 20 pools of 1000 draws per prompt: standard error
    # 1/140 of the spread of the value, and the bias of the ratio, of order 1/1000, is far below.
    reference = random_strings(100, 6)
    log_p = np.repeat(reference.log_p[:5], 20, axis=0)
    reference = FewStrings(log_p)
    policy = FewStrings(np.repeat(moved(FewStrings(log_p[::20])).log_p, 20, axis=0))
    value = np.array([1.0, -2.0, 0.5, 3.0, -1.0, 0.0])
    pools = draw_pools(reference, few_prompts(100), 2, Key(1))
    new = refreshed_pools(pools, reference, policy, 1000, Key(2))
    got = estimates(new, value).reshape(5, 20)
    exact = np.exp(log_p[::20]) @ value
    bound = norm.isf(1e-7) * got.std(axis=1, ddof=1) / math.sqrt(20)
    # Twenty estimates of a standard deviation: Student's tail at 1e-7 is 1.7 times the normal one.
    assert (np.abs(got.mean(axis=1) - exact) < 1.7 * bound).all()
    # And it would be seen if the draws of the policy were taken for draws of pi0.
    flat = replace(new, log_mass=np.log(np.exp(new.log_mass) * 0 + 1 / new.size))
    assert (np.abs(estimates(flat, value).reshape(5, 20).mean(axis=1) - exact) > bound).all()


@pytest.mark.statistical
def test_pi0s_draws_are_drawn_anew_because_the_policy_has_seen_the_old_ones():
    # A policy that raises the better and lowers the worse half of its prompt's own draws, by two
    # nats each. One-sided tests at 5 standard errors (3e-7): the reused half leans, a new one does
    # not; the lean is 20 standard errors.
    n, s, k = 800, 400, 8
    reference = FewStrings(np.full((n, s), -math.log(s)))
    value = np.linspace(-1.0, 1.0, s)
    pools = draw_pools(reference, few_prompts(n), k, Key(1))
    logits = reference.log_p.copy()
    for i, pool in enumerate(pools.responses):
        ids = [r.ids[0] for r in pool]
        logits[i, ids] += 2.0 * np.where(value[ids] > np.median(value[ids]), 1.0, -1.0)
    policy = FewStrings(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))

    def lean(reuse):
        new = refreshed_pools(pools, reference, policy, k, Key(2), reuse_draws=reuse)
        got = estimates(new, value)
        return got.mean() / (got.std(ddof=1) / math.sqrt(n))

    assert abs(lean(reuse=False)) < 5
    assert lean(reuse=True) < -5


def test_reused_draws_are_the_first_ones(reference, pools):
    policy = moved(reference)
    reference.asked.clear()
    new = refreshed_pools(pools, reference, policy, 8, Key(3), reuse_draws=True)
    assert reference.asked == []
    again = refreshed_pools(new, reference, policy, 8, Key(4), reuse_draws=True)
    for i, row in enumerate(pools.draws.responses):
        first = {r.ids for r in row[:4]}
        for refreshed in (new, again):
            assert first <= {r.ids for r in refreshed.responses[i]}
    # Where there are too few of them, new ones are drawn.
    refreshed_pools(pools, reference, policy, 30, Key(3), reuse_draws=True)
    assert reference.asked == [15]


def test_only_policies_that_generate_refresh(reference, pools):
    class Scores:
        def sequence_log_probs(self, prompts, responses):
            return np.zeros(len(responses))

    assert isinstance(reference, Generating)
    with pytest.raises(ValueError, match=r"can generate refreshes pools.*got Scores"):
        refreshed_pools(pools, reference, Scores(), 4, Key(0))
    with pytest.raises(ValueError, match="at least 2 draws"):
        refreshed_pools(pools, reference, reference, 1, Key(0))
    with pytest.raises(ValueError, match="pool_size=0"):
        draw_pools(reference, few_prompts(5), 0, Key(0))


def test_another_temperature_is_refused(tiny_policy):
    hot = replace(tiny_policy, sampler=BatchedSampler(max_new_tokens=4, temperature=0.7))
    prompt = tiny_policy.model.encode_prompt("what color is oak ?")
    with pytest.raises(ValueError, match=r"temperature 1; got 0\.7"):
        draw_pools(hot, [prompt], 4, Key(0))
    pools = draw_pools(tiny_policy, [prompt], 4, Key(0))
    with pytest.raises(ValueError, match="temperature 1"):
        refreshed_pools(pools, tiny_policy, hot, 4, Key(0))


def test_impossible_responses_are_refused(reference):
    class Broken(FewStrings):
        def sequence_log_probs(self, prompts, responses):
            return np.full(len(responses), np.nan)

    with pytest.raises(ValueError, match="log_pi0 must be finite"):
        draw_pools(Broken(reference.log_p), few_prompts(5), 3, Key(0))


def test_pools_that_do_not_fit_are_refused(pools):
    with pytest.raises(ShapeError, match="at least one prompt"):
        replace(pools, responses=pools.responses[:-1])
    with pytest.raises(ShapeError, match="at least one response"):
        replace(pools, responses=((), *pools.responses[1:]))
    with pytest.raises(ShapeError, match="log_pi0 must have shape"):
        replace(pools, log_pi0=pools.log_pi0[:, :-1])
    with pytest.raises(ValueError, match="normalised over the responses"):
        replace(pools, log_mass=pools.log_mass + 0.1)
    # Mass in a place without a response.
    even = np.full_like(pools.log_mass, -math.log(pools.size))
    assert any(len(p) < pools.size for p in pools.responses)
    with pytest.raises(ValueError, match="normalised over the responses"):
        replace(pools, log_mass=even)


def test_the_report_says_what_pools_approximate(reference, pools):
    report = pools.report()
    for i, pool in enumerate(pools.responses):
        p = np.exp([reference.log_p[i, r.ids[0]] for r in pool])
        assert math.isclose(report.covered[i], p.sum(), rel_tol=1e-12)
        assert report.distinct[i] == len(pool)
        least = min(pools.log_mass[i, : len(pool)])
        assert math.isclose(report.furthest[i], -least, rel_tol=1e-12)
    overall = report.overall
    assert overall["ess_min"] == pytest.approx(9.0)
    assert overall["distinct_mean"] == np.mean([len(p) for p in pools.responses])
    assert overall["covered_min"] == report.covered.min()
    assert "worth 9.0 draws" in str(report)
    # With every string in every pool the whole of pi0 is covered.
    full = draw_pools(FewStrings(np.log(np.full((2, 3), 1 / 3))), few_prompts(2), 60, Key(0))
    np.testing.assert_allclose(full.report().covered, 1.0, rtol=1e-12)


def test_pools_of_a_model(tiny_policy):
    prompts = [tiny_policy.model.encode_prompt(t) for t in ("what color is oak ?", "oak ?")]
    pools = draw_pools(tiny_policy, prompts, 5, Key(0))
    # Scored by the code that scores every policy, which agrees with the sampler's own account.
    for i, pool in enumerate(pools.responses):
        np.testing.assert_allclose(
            pools.log_pi0[i, : len(pool)], [r.log_prob for r in pool], atol=1e-4
        )
    # A policy of other sampler settings refreshes the same: weights come from the models.
    other = LanguageModelPolicy(tiny_policy.model, BatchedSampler(max_new_tokens=8, batch_size=2))
    new = refreshed_pools(pools, tiny_policy, other, 6, Key(1))
    np.testing.assert_allclose(new.ess, 6.0, rtol=1e-6)
