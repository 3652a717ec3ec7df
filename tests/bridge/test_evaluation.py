from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import rlhf_theory as rt
from llm_bridge.evaluation.details import Details
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.evaluation.metrics import METRICS
from llm_bridge.evaluation.win_rates import off_diagonal_mean, win_matrix
from llm_bridge.labels.oracles import RewardModelOracle, TextReward
from llm_bridge.labels.preferences import TextPreference
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.planners.best_of_n import BestOfNPolicy
from rlhf_theory.planners.gibbs import GibbsPolicy
from rlhf_theory.planners.nash import nash_policy
from rlhf_theory.policies import ReferencePolicy, TablePolicy
from rlhf_theory.rewards import LinearReward
from tests.helpers.assembled import Assembled
from tests.helpers.language import llama, word_tokenizer

# Five tokens and at most three of them: 4 + 16 + 64 + ... = every response can be listed.
LONGEST = 3
ETA = 0.5


def count_a(prompt: str, response: str) -> float:
    words = response.split()
    return words.count("a") - 0.5 * words.count("b") + 0.25 * (prompt == "b")


class Lengths:
    """Features: the length, and the last token's number."""

    def rows(self, prompts, responses):
        return torch.tensor(
            [[float(len(r)), r[-1] + 0.5 * len(p)] for p, r in zip(prompts, responses, strict=True)]
        )


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(["a", "b"])


def policy_of(tokenizer, seed, new=LONGEST):
    return LanguageModelPolicy(llama(tokenizer, seed=seed), BatchedSampler(max_new_tokens=new))


@pytest.fixture(scope="module")
def reference(tokenizer):
    return policy_of(tokenizer, 0)


@pytest.fixture(scope="module")
def other(tokenizer):
    return policy_of(tokenizer, 1)


@pytest.fixture(scope="module")
def problem(reference):
    prompts = ["a", "b", "a b", "b a", "a a b"]
    return PromptProblem(prompts, reference, features=Lengths(), pool_size=6, eta=ETA, seed=3)


@pytest.fixture(scope="module")
def gold():
    return TextReward(count_a)


def everything(model):
    """All responses of at most three tokens: finished ones, and cut ones of three."""
    n = len(model.tokenizer)
    eos = model.eos_id
    going = [t for t in range(n) if t != eos]
    rows = [(*r, eos) for k in range(LONGEST) for r in itertools.product(going, repeat=k)]
    return rows + list(itertools.product(going, repeat=LONGEST))


def exact(problem, policy, reward):
    """KL, J, gold, entropy and length by enumeration, the mean over prompts."""
    rows = everything(problem.policy.model)
    totals = np.zeros(4)
    for prompt in problem.prompts:
        x = [prompt.ids] * len(rows)
        log_pi = sequence_log_probs(policy.model, x, rows)
        log_pi0 = sequence_log_probs(problem.policy.model, x, rows)
        pi = np.exp(log_pi)
        assert pi.sum() == pytest.approx(1.0, abs=1e-5)
        r = np.array([reward(prompt.text, policy.model.decode(ids)) for ids in rows])
        length = np.array([len(ids) for ids in rows])
        totals += [pi @ (log_pi - log_pi0), pi @ r, -pi @ log_pi, pi @ length]
    kl, mean, entropy, length = totals / len(problem.prompts)
    return {
        "fresh_kl_k1": kl,
        "fresh_kl_k3": kl,
        "fresh_gold": mean,
        "fresh_objective": mean - problem.eta * kl,
        "fresh_entropy": entropy,
        "fresh_length": length,
    }


# --------------------------------------------------------------------------- pools


def test_pool_metrics_are_sums_over_the_pool(problem, gold, other):
    found = HeldOut(problem, gold, n_samples=0).pool(other)
    for i, (prompt, pool) in enumerate(zip(problem.prompts, problem.pools.responses, strict=True)):
        log_mass = problem.pools.log_mass[i, : len(pool)]
        x, ids = [prompt.ids] * len(pool), [r.ids for r in pool]
        log_pi = sequence_log_probs(other.model, x, ids)
        log_pi = log_pi - sequence_log_probs(problem.policy.model, x, ids) + log_mass
        pi = np.exp(log_pi) / np.exp(log_pi).sum()
        r = np.array([count_a(prompt.text, a.text) for a in pool])
        kl = pi @ (np.log(pi) - log_mass)
        star = np.exp(log_mass + r / ETA)
        star /= star.sum()
        values = {name: float(v[0, i]) for name, v in found.per_prompt.items()}
        assert values["pool_kl"] == pytest.approx(kl, abs=1e-6)
        assert values["pool_gold"] == pytest.approx(pi @ r, abs=1e-6)
        assert values["pool_objective"] == pytest.approx(pi @ r - ETA * kl, abs=1e-6)
        # Identity I1, with both sides computed here.
        best = star @ r - ETA * (star @ (np.log(star) - log_mass))
        assert values["pool_gap"] == pytest.approx(best - (pi @ r - ETA * kl), abs=1e-6)
        m = np.exp(log_mass)
        beats = (r[:, None] > r[None, :]) + 0.5 * (r[:, None] == r[None, :])
        assert values["pool_win_rate"] == pytest.approx(pi @ beats @ m, abs=1e-6)
        assert values["pool_ess"] == pytest.approx(6 / np.sum(pi**2 / m), rel=1e-5)


def test_the_gap_is_the_loss_in_the_objective(problem, gold):
    """Identity I1 to 1e-10: J(pi*) - J(pi) = eta KL(pi || pi*) for policies over pools."""
    held_out = HeldOut(problem, gold, n_samples=0)
    best = held_out(GibbsPolicy(gold, ETA))
    assert abs(best["pool_gap"][0]) < 1e-12
    for policy in (ReferencePolicy(), GibbsPolicy(gold, 3 * ETA), BestOfNPolicy(gold, 3)):
        found = held_out(policy)
        lost = best["pool_objective"][0] - found["pool_objective"][0]
        assert found["pool_gap"][0] == pytest.approx(lost, abs=1e-10)
        assert found["pool_gap"][0] > 1e-3


def test_the_reference_is_worth_all_draws_and_wins_half(problem, gold):
    found = HeldOut(problem, gold, n_samples=0)(ReferencePolicy())
    assert found["pool_kl"][0] == 0.0
    assert found["pool_win_rate"][0] == pytest.approx(0.5, abs=1e-12)
    assert found["pool_ess"][0] == pytest.approx(6.0, rel=1e-6)


def test_exploitability_on_pools_vanishes_at_the_equilibrium_only(problem):
    law = TextPreference(lambda _x, a, b: 0.9 if len(a) > len(b) else 0.4)
    for game, payoff in (("probability", law), ("logit", TextPreference(law.f, kind="logit"))):
        held_out = HeldOut(problem, preference=law, game=game, n_samples=0)
        x = problem.table
        solved = nash_policy(payoff.payoff(x), x.log_pi0, ETA).require()
        assert held_out(TablePolicy(solved))["pool_exploitability"][0] < 1e-10
        assert held_out(ReferencePolicy())["pool_exploitability"][0] > 1e-4
        assert "pool_gold" not in held_out(ReferencePolicy())


def test_proxies_and_replicas_keep_their_own_columns(reference, gold):
    problem = PromptProblem(
        ["a", "b"], reference, features=Lengths(), pool_size=4, eta=ETA, n_replicas=3
    )
    theta = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    held_out = HeldOut(problem, gold, proxy=LinearReward(theta), n_samples=2)
    found = held_out(GibbsPolicy(LinearReward(theta), ETA))
    assert all(v.shape == (3,) for v in found.values())
    assert len(set(found["pool_proxy"])) == 3
    assert np.isnan(found["fresh_proxy"]).all()
    # The same theta in all replicas gives one value.
    assert len(set(held_out(ReferencePolicy())["fresh_gold"])) == 1


# --------------------------------------------------------------------------- fresh responses


@pytest.mark.statistical
def test_fresh_estimates_agree_with_enumeration(problem, gold, other):
    """Each within 5 standard errors, seed fixed: false alarms below 6 * 6e-7."""
    held_out = HeldOut(problem, gold, n_samples=400)
    found = held_out.fresh(other)
    truth = exact(problem, other, count_a)
    for name, value in truth.items():
        each = found.answers[name].to_numpy()
        # Prompts are fixed, so only the responses of a prompt vary.
        groups = each.reshape(len(problem.prompts), -1)
        error = np.sqrt(groups.var(axis=1, ddof=1).mean() / each.size)
        assert abs(found.mean(name)[0] - value) < 5 * error, name
        assert error < 0.1
    assert truth["fresh_kl_k1"] > 0.05


@pytest.mark.statistical
def test_the_win_rate_agrees_with_enumeration(problem, gold, other):
    """Within 4.5 standard errors of a rate over independent prompts' pairs: false alarms 7e-6."""
    found = HeldOut(problem, gold, n_samples=300).fresh(other)
    rows = everything(problem.policy.model)
    total = 0.0
    for prompt in problem.prompts:
        x = [prompt.ids] * len(rows)
        pi, pi0 = (np.exp(sequence_log_probs(p.model, x, rows)) for p in (other, problem.policy))
        r = np.array([count_a(prompt.text, other.model.decode(ids)) for ids in rows])
        total += pi @ win_matrix(r, r) @ pi0
    rate = total / len(problem.prompts)
    # A U-statistic of two samples varies by at most (1/4 + 1/4) / n per prompt.
    error = np.sqrt(0.5 / 300 / len(problem.prompts))
    assert found.mean("fresh_win_rate")[0] == pytest.approx(rate, abs=4.5 * error)


def test_a_policy_against_itself_has_no_kl_and_wins_half_exactly(problem, gold, reference):
    held_out = HeldOut(problem, gold, n_samples=3)
    for policy in (reference, ReferencePolicy()):
        found = held_out(policy)
        assert found["fresh_kl_k1"][0] == found["fresh_kl_k3"][0] == 0.0
        assert found["fresh_kl_k3_error"][0] == 0.0
        assert found["fresh_win_rate"][0] == 0.5
        assert found["fresh_objective"][0] == found["fresh_gold"][0]


def test_win_rates_are_antisymmetric(problem, gold, other, reference):
    law = TextPreference(lambda _x, a, b: 0.5 + 0.4 * np.tanh(len(a) - len(b)))
    for preference in (None, law, RewardModelOracle(gold)):
        options = {"preference": preference, "n_samples": 3}
        forth = HeldOut(problem, gold, **options).details(other)
        back = HeldOut(problem, gold, baseline=other, **options).details(reference)
        for name in ("fresh_win_rate", "pool_win_rate"):
            total = forth.per_prompt[name] + back.per_prompt[name]
            np.testing.assert_allclose(total, 1.0, atol=1e-12)
        assert abs(forth.mean("fresh_win_rate")[0] - 0.5) > 1e-3


def test_one_prompt_has_no_standard_error(reference, gold):
    problem = PromptProblem(["a"], reference, features=Lengths(), pool_size=3, eta=ETA)
    found = HeldOut(problem, gold, n_samples=2)(reference)
    assert np.isnan(found["fresh_kl_k3_error"]).all()
    assert np.isfinite(found["fresh_kl_k3"]).all()


def test_one_seed_gives_the_same_numbers_and_another_one_does_not(problem, gold, other):
    first, again, moved = (
        HeldOut(problem, gold, n_samples=2, seed=seed).details(other) for seed in (0, 0, 1)
    )
    assert first.to_pandas().equals(again.to_pandas())
    assert first.answers.equals(again.answers)
    assert not first.answers["response"].equals(moved.answers["response"])
    assert np.array_equal(first.per_prompt["pool_gap"], moved.per_prompt["pool_gap"])


def test_policies_share_their_random_numbers(problem, gold, reference):
    # A policy that is nearly the reference gives nearly always the same answers to the same
    # numbers; with other numbers one in some ten is the same.
    model = reference.model.clone()
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.mul_(1.0 + 1e-4)
    near = LanguageModelPolicy(model, reference.sampler)
    answers = [
        HeldOut(problem, gold, n_samples=20, seed=seed).fresh(policy).answers["response"]
        for policy, seed in ((reference, 0), (near, 0), (near, 1))
    ]
    assert (answers[0] == answers[1]).mean() > 0.95
    assert (answers[0] == answers[2]).mean() < 0.5


def test_fresh_rewards_of_features_are_those_of_the_rows(problem, other):
    theta = torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    held_out = HeldOut(problem, LinearReward(theta), n_samples=2)
    found = held_out.fresh(other)
    drawn = held_out._draw(other)
    for i, (prompt, row) in enumerate(zip(drawn.prompts, drawn.responses, strict=True)):
        phi = Lengths().rows([prompt.ids] * 2, [r.ids for r in row]).double()
        assert found.per_prompt["fresh_gold"][0, i] == pytest.approx(float((phi @ theta[0]).mean()))


def test_text_metrics_get_both_texts(problem, gold, other):
    metrics = {"words": lambda _x, a: len(a.split()), "prompt": lambda x, _a: len(x)}
    found = HeldOut(problem, gold, n_samples=2, text_metrics=metrics).fresh(other)
    words = [len(a.split()) for a in found.answers["response"]]
    assert found.answers["fresh_words"].tolist() == words
    assert found.per_prompt["fresh_prompt"][0].tolist() == [len(p.text) for p in problem.prompts]


def test_policies_that_cannot_generate_get_nan_under_the_same_names(problem, gold, other):
    held_out = HeldOut(problem, gold, n_samples=2)
    pool_only, both = held_out(GibbsPolicy(gold, ETA)), held_out(other)
    assert pool_only.keys() == both.keys()
    for name, value in pool_only.items():
        assert np.isnan(value).all() == name.startswith("fresh_")
    assert np.isfinite(list(both.values())).all()
    assert len(held_out.records) == 2
    assert set(both) <= set(METRICS)


# --------------------------------------------------------------------------- intervals and files


def test_details_have_intervals_and_paired_differences(problem, gold, other, reference, tmp_path):
    held_out = HeldOut(problem, gold, n_samples=3)
    a, b = held_out.details(other), held_out.details(reference)
    interval = a.interval("fresh_gold")
    assert interval.lower < interval.value < interval.upper
    assert interval.value == pytest.approx(a.mean("fresh_gold")[0])
    gap = a.difference(b, "fresh_gold")
    assert gap.value == pytest.approx(interval.value - b.interval("fresh_gold").value)
    summary = a.summary().set_index("metric")
    assert summary.loc["fresh_gold", "mean"] == pytest.approx(interval.value)
    a.save(tmp_path, "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.answers.parquet", "other.parquet"]
    back = Details.load(tmp_path, "other")
    assert back.to_pandas().equals(a.to_pandas())
    assert back.answers.equals(a.answers)
    assert back.mean("fresh_gold") == a.mean("fresh_gold")


def test_details_of_other_prompts_are_not_paired():
    one = Details(("a",), {"x": np.zeros((1, 1))}, np.ones(1))
    other = Details(("b",), {"x": np.zeros((1, 1))}, np.ones(1))
    with pytest.raises(ValueError, match="same prompts"):
        one.difference(other, "x")
    with pytest.raises(ValueError, match="one column per prompt"):
        Details(("a", "b"), {"x": np.zeros((1, 1))}, np.ones(2))


def test_without_a_judge_there_are_no_rewards_and_no_winners(problem, other):
    found = HeldOut(problem, n_samples=2)(other)
    assert set(found) == {
        *("pool_kl", "pool_ess", "fresh_kl_k1", "fresh_kl_k3", "fresh_kl_k3_error"),
        *("fresh_length", "fresh_entropy", "fresh_finished"),
    }
    assert found["fresh_kl_k1"][0] > 0.0


@pytest.mark.parametrize(
    "more",
    [
        {"n_samples": 0},
        {"n_samples": 2},
        {"n_samples": 2, "proxied": True},
        {"n_samples": 0, "judged": False},
        {"n_samples": 2, "judged": False, "text_metrics": {"words": lambda p, r: 1.0}},
        {"n_samples": 2, "game": "probability"},
    ],
)
def test_a_judge_names_what_it_measures(problem, gold, more):
    given = dict(more)
    truth = gold if given.pop("judged", True) else None
    given |= {"proxy": gold} if given.pop("proxied", False) else {}
    given |= {"preference": RewardModelOracle(gold)} if "game" in given else {}
    judge = HeldOut(problem, truth, **given)
    assert set(judge.metrics) == set(judge(ReferencePolicy()))
    assert len(set(judge.metrics)) == len(judge.metrics)
    assert judge.metrics[0] == ("pool_kl" if truth is None else "pool_gap")


def test_it_runs_as_the_evaluation_of_a_learner(problem, gold):
    held_out = HeldOut(problem.held_out(["b b", "a b b"]), gold, n_samples=0)
    trace = rt.run(
        rt.OnlineIterative(batch_size=4),
        Assembled(problem, rt.feedback_from(RewardModelOracle(gold)), held_out),
        rounds=1,
        seed=1,
    )
    assert trace["pool_gap"].shape == (1, 2)
    assert np.isfinite(trace["pool_objective"]).all()


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_samples": 1}, "0 or at least 2"),
        ({"n_samples": -1}, "n_samples"),
        ({"game": "logit"}, "needs preference"),
        ({"gold": 3.0}, "reward model, or an oracle"),
        ({"text_metrics": {"gold": count_a}}, "fresh_gold is taken"),
    ],
)
def test_settings_that_cannot_work_are_refused(problem, gold, settings, words):
    with pytest.raises(ValueError, match=words):
        HeldOut(problem, **{"gold": gold, **settings})


def test_a_baseline_that_cannot_generate_and_a_warm_policy_are_refused(problem, gold, other):
    held_out = HeldOut(problem, gold, baseline=GibbsPolicy(gold, ETA), n_samples=2)
    with pytest.raises(ValueError, match="baseline that can generate"):
        held_out(other)
    warm = LanguageModelPolicy(other.model, BatchedSampler(max_new_tokens=3, temperature=0.7))
    with pytest.raises(ValueError, match="temperature 1"):
        HeldOut(problem, gold, n_samples=2)(warm)


def test_an_oracle_stands_for_its_reward_and_a_preference_for_itself(problem, gold):
    oracle = HeldOut(problem, RewardModelOracle(gold), n_samples=0)(ReferencePolicy())
    plain = HeldOut(problem, gold, n_samples=0)(ReferencePolicy())
    assert oracle == plain
    law = TextPreference(lambda *_: 0.5)
    rate = HeldOut(problem, law, n_samples=0)(ReferencePolicy())["pool_win_rate"][0]
    assert rate == pytest.approx(0.5, abs=1e-12)


def test_the_mean_of_pairs_leaves_the_diagonal_out():
    values = np.array([[9.0, 1.0], [0.0, 9.0]])
    assert off_diagonal_mean(values) == 0.5
