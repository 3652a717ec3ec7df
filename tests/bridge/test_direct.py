"""Learners that train on labels themselves: offline, and round by round."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import rlhf_theory as rt
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.planning.direct import DirectPreference, IterativeDirect
from llm_bridge.planning.examples import label_training
from llm_bridge.planning.examples.label_training import penalties
from llm_bridge.planning.planners import plan_quality
from llm_bridge.pools.data import PromptData
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.pools.world import PromptWorld
from llm_bridge.training.train import TrainingSettings, train
from rlhf_theory.algorithms.offline_pessimistic import LowerBound
from rlhf_theory.core import OfflineAlgorithm, OnlineAlgorithm
from rlhf_theory.data import PairList
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.losses import DPO, IPO, KTO, VPO, XPO
from rlhf_theory.planners.gibbs import GibbsPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from tests.helpers.assembled import Judged, compared
from tests.helpers.prompts import TokenFeatures, string_problem
from tests.helpers.rewarded import (
    ETA,
    REWARD,
    TEXTS,
    feedback,
    labelled,
    rewarded_problem,
    win_probability,
)

QUICK = TrainingSettings(steps=4, batch_size=8, learning_rate=1e-3)
KEY = Key(3)


@pytest.fixture(scope="module")
def policy(tiny_model):
    return LanguageModelPolicy(tiny_model, BatchedSampler(max_new_tokens=4))


@pytest.fixture(scope="module")
def problem(policy):
    return rewarded_problem(policy)


class Recorder:
    """Stands in for training: remembers what it was given, and trains."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, base: Any, examples: Any, loss: Any, settings: Any, **more: Any) -> Any:
        result = train(base, examples, loss, settings, **more)
        self.calls.append((base, examples, loss, result.model))
        return result


@pytest.fixture
def recorder(monkeypatch):
    stand_in = Recorder()
    monkeypatch.setattr(label_training, "train", stand_in)
    return stand_in


# ---------------------------------------------------------------- offline


def test_probabilities_as_labels_lead_to_the_gibbs_policy(policy, problem):
    """Labels without noise: DPO's minimiser is the Gibbs policy of the reward (identity I6)."""
    data = labelled(problem, 300, soft=True)
    settings = TrainingSettings(steps=60, batch_size=32, learning_rate=3e-3)
    plan = DirectPreference.of(settings)(problem, data, KEY)
    before, after = (
        float(plan_quality(pi, REWARD, problem, KEY).gap[0]) for pi in (policy, plan.value)
    )
    assert before > 0.2
    assert after < 0.05 * before
    assert bool(plan.converged[0])
    assert plan.n_iter == 60


def test_margins_lead_to_the_gibbs_policy_of_the_lower_bound(problem):
    """The direct version of pessimism plans for ``r - Gamma``, as the pessimistic learner does."""
    data = labelled(problem, 300, soft=True)
    rule = Constant(beta=10.0, lam=1.0)
    settings = TrainingSettings(steps=80, batch_size=32, learning_rate=3e-3)
    plan = DirectPreference.of(settings, radius=rule)(problem, data, KEY)
    confidence = rule.confidence_set(rule.fit(data), data, problem)

    class Pessimistic:
        def rewards(self, contexts: Any) -> Any:
            # The truth lowered by the penalty: labels here are without noise.
            centre = LinearReward(confidence.center).rewards(contexts)
            return REWARD.rewards(contexts) + LowerBound(confidence).rewards(contexts) - centre

    target = GibbsPolicy(REWARD, ETA)
    far = float(plan_quality(target, Pessimistic(), problem, KEY).gap[0])
    near = float(plan_quality(plan.value, Pessimistic(), problem, KEY).gap[0])
    assert far > 0.02
    assert near < 0.1 * far


def test_penalties_are_widths_from_the_mean_feature(policy, problem):
    data = labelled(problem, 40)
    rule = Constant(beta=0.7, lam=2.0)
    gamma = penalties(rule.confidence_set(rule.fit(data), data, problem), problem, data)
    counted = data.count[0] > 0
    phi = data.pairs.phi[0, counted].numpy()
    sigma = 2.0 * np.eye(3) + np.einsum("nd,ne->de", phi[:, 0] - phi[:, 1], phi[:, 0] - phi[:, 1])
    row = {p: i for i, p in enumerate(problem.prompts)}
    x = problem.table
    nu = torch.einsum("nk,nkd->nd", x.log_pi0[0].exp(), x.phi[0]).numpy()
    v = phi - nu[[row[c.prompt] for c in data.comparisons]][:, None, :]
    expected = 0.7 * np.sqrt(np.einsum("njd,de,nje->nj", v, np.linalg.inv(sigma), v))
    np.testing.assert_allclose(gamma, expected, rtol=1e-8)
    assert gamma.shape == (len(data.comparisons), 2)


def test_a_prompt_with_several_pools_is_measured_from_all_of_them(policy):
    """Two equal prompts: each response has one penalty, from the mean over both pools."""
    twice = [TEXTS[0], TEXTS[1], TEXTS[0]]
    problem = PromptProblem(twice, policy, features=TokenFeatures(3), pool_size=4, eta=ETA)
    assert {r.ids for r in problem.pools.responses[0]} != {
        r.ids for r in problem.pools.responses[2]
    }
    data = labelled(problem, 60)
    rule = Constant(beta=0.7, lam=2.0)
    confidence = rule.confidence_set(rule.fit(data), data, problem)
    gamma = penalties(confidence, problem, data)
    x = problem.table
    nu = torch.einsum("nk,nkd->nd", x.log_pi0[0].exp(), x.phi[0]).numpy()
    nu[[0, 2]] = nu[[0, 2]].mean(axis=0)
    row = {p: i for i, p in enumerate(problem.prompts)}
    phi = data.pairs.phi[0, data.count[0] > 0].numpy()
    v = phi - nu[[row[c.prompt] for c in data.comparisons]][:, None, :]
    inverse = np.linalg.inv(confidence.sigma[0].numpy())
    np.testing.assert_allclose(
        gamma, 0.7 * np.sqrt(np.einsum("njd,de,nje->nj", v, inverse, v)), rtol=1e-8
    )
    # The same tokens under another text are looked up by the tokens.
    assert problem.data_of(data.comparisons).comparisons == data.comparisons
    renamed = [replace(c, prompt=replace(c.prompt, text="other")) for c in data.comparisons]
    again = penalties(confidence, problem, problem.data_of(renamed))
    np.testing.assert_allclose(again, gamma, rtol=1e-9)
    # The order of the prompts decides nothing.
    pools, order = problem.pools, [2, 1, 0]
    parts = {name: getattr(pools, name)[order] for name in ("log_mass", "log_pi0", "ess")}
    responses = tuple(pools.responses[i] for i in order)
    turned = problem.with_pools(replace(pools, responses=responses, draws=None, **parts))
    np.testing.assert_allclose(penalties(confidence, turned, data), gamma, rtol=1e-12)


def test_examples_are_the_comparisons(policy, problem, recorder):
    data = labelled(problem, 40)
    DirectPreference.of(QUICK)(problem, data, KEY)
    base, examples, loss, _ = recorder.calls[0]
    assert base is policy.model
    assert loss == DPO(ETA)
    assert len(examples) == len(data.comparisons) == int(data.n_labels[0])
    for e, c in zip(examples, data.comparisons, strict=True):
        assert e.prompt == c.prompt.ids
        assert e.responses == (c.first.ids, c.second.ids)
        assert e.target == (c.label,)
        assert e.log_ref == (c.log_pi0_first, c.log_pi0_second)
        assert e.gamma == ()


def test_without_data_the_result_is_the_reference(policy, problem, recorder):
    plan = DirectPreference()(problem, problem.empty_data(), KEY)
    assert plan.value is policy
    assert float(plan.residual[0]) == 0.0
    # A response against itself is no comparison.
    x = problem.sample_contexts(KEY, 3)
    zero = torch.zeros((1, 3), dtype=torch.int64)
    data = problem.empty_data().add(
        compared(x, zero, zero, torch.ones((1, 3), dtype=torch.float64))
    )
    assert DirectPreference()(problem, data, KEY).value is policy
    assert recorder.calls == []


@pytest.mark.parametrize("loss", ["exponential", "robust-dpo", KTO(ETA), VPO(ETA, 0.1, "offline")])
def test_losses_get_what_they_need(problem, loss):
    sample = 1 if isinstance(loss, VPO) else None
    learner = DirectPreference.of(QUICK, loss=loss, sample=sample)
    plan = learner(problem, labelled(problem, 20), KEY)
    assert isinstance(plan.value, LanguageModelPolicy)
    assert plan.n_iter == 4


def test_the_residual_is_what_the_loss_still_fell(problem, recorder):
    settings = replace(QUICK, steps=10, learning_rate=3e-3)
    plan = DirectPreference.of(settings)(problem, labelled(problem, 60), KEY)
    assert float(plan.residual[0]) >= 0.0
    assert bool(plan.converged[0])
    one = DirectPreference.of(replace(QUICK, steps=1))
    assert math.isinf(float(one(problem, labelled(problem, 10), KEY).residual[0]))


# ---------------------------------------------------------------- rounds


@pytest.mark.parametrize("pairs", ["on-policy", "from-reference", "optimistic", "best-worst"])
def test_every_rule_runs_and_pools_follow(problem, pairs):
    learner = IterativeDirect.of(QUICK, batch_size=12, pairs=pairs)

    def evaluate(pi: Any) -> Any:
        return {"suboptimality": plan_quality(pi, REWARD, problem, KEY).gap}

    judge = Judged(evaluate, ("suboptimality",))
    world = PromptWorld(problem=problem, feedback=feedback, judge=judge, refresh=True)
    trace = rt.run(learner, world, rounds=2, seed=1)
    labels = trace["labels"][0]
    assert 0 == labels[0] < labels[1] < labels[2] <= 24
    assert np.isfinite(trace["suboptimality"]).all()
    assert {"residual", "converged", "labels"} <= set(trace.arrays)
    assert f"pairs='{pairs}'" in trace.settings["learner"]


@pytest.mark.parametrize(
    ("reference", "data"), [("fixed", "all"), ("fixed", "latest"), ("last", "latest")]
)
@pytest.mark.parametrize("start", ["reference", "last"])
def test_named_settings_mean_what_they_say(policy, problem, recorder, reference, start, data):
    learner = IterativeDirect.of(
        replace(QUICK, steps=2, learning_rate=1e-2),
        batch_size=8,
        data=data,
        reference=reference,
        start=start,
    )
    state = learner.init(problem, problem.empty_data(), KEY)
    assert state.plan.value is policy
    first, _ = learner.step(state, problem, feedback, KEY.child("round", 0))
    second, _ = learner.step(first, problem, feedback, KEY.child("round", 1))
    assert state.plan.value is policy  # states are left as they are
    (base0, _, _, model0), (base1, examples, _, _) = recorder.calls
    assert base0 is policy.model
    assert first.plan.value.model is model0
    measured = policy if reference == "fixed" else first.plan.value
    assert base1 is (measured if start == "reference" else first.plan.value).model
    n0, n1 = int(first.data.n_labels[0]), int(second.data.n_labels[0])
    assert len(examples) == (n1 if data == "all" else n1 - n0)
    for e in examples:
        scores = measured.sequence_log_probs([e.prompt] * 2, e.responses)
        np.testing.assert_allclose(e.log_ref, scores, atol=1e-4)


def test_offline_data_are_trained_on_first(policy, problem, recorder):
    learner = IterativeDirect.of(QUICK, batch_size=8, data="latest")
    data = labelled(problem, 10)
    data = data.add(compared(*_batch(problem, 6)))
    state = learner.init(problem, data, KEY)
    assert isinstance(state.plan.value, LanguageModelPolicy)
    assert state.plan.value is not policy
    assert learner.policy(state) is state.plan.value
    assert len(recorder.calls[0][1]) == int(data.n_labels[0])  # not the last batch alone


def _batch(problem: Any, n: int) -> Any:
    x = problem.sample_contexts(KEY.child("more"), n)
    a1, a2 = torch.zeros((1, n), dtype=torch.int64), torch.ones((1, n), dtype=torch.int64)
    return x, a1, a2, win_probability(x, a1, a2)


def test_optimistic_losses_sample_the_reference(problem, recorder):
    loss = XPO(ETA, 0.01)
    learner = IterativeDirect.of(QUICK, loss=loss, batch_size=8, pairs="from-reference")
    state = learner.init(problem, problem.empty_data(), KEY)
    learner.step(state, problem, feedback, KEY)
    assert {e.sample for e in recorder.calls[0][1]} == {1}
    for pairs in ("on-policy", "optimistic", "best-worst"):
        with pytest.raises(ValueError, match="pairs='from-reference'"):
            IterativeDirect(loss=loss, pairs=pairs)


def test_runs_with_one_key_are_equal(problem):
    learner = IterativeDirect.of(QUICK, batch_size=8)
    ends = []
    for _ in range(2):
        state = learner.init(problem, problem.empty_data(), KEY)
        ends.append(learner.step(state, problem, feedback, KEY.child("round", 0))[0])
    one, other = (e.plan.value.log_probs(problem.table) for e in ends)
    assert torch.equal(one, other)


def test_learners_follow_their_protocols():
    assert isinstance(DirectPreference(), OfflineAlgorithm)
    assert isinstance(IterativeDirect(), OnlineAlgorithm)


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loss": "dop"}, "Did you mean 'dpo'"),
        ({"loss": "infonca"}, "needs a loss of pairs|need a loss of pairs"),
        ({"pairs": "onpolicy"}, "Did you mean 'on-policy'"),
        ({"data": "last"}, "data"),
        ({"reference": "pi0"}, "reference"),
        ({"reference": "last"}, "same labels .* again in every round"),
        ({"start": "pi0"}, "start"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        IterativeDirect(**change)


def test_bad_input_is_refused(policy, problem):
    learner = DirectPreference.of(QUICK)
    data = labelled(problem, 10)
    with pytest.raises(ValueError, match="PromptData"):
        learner(problem, PairList.empty(1, 3, data.count), KEY)
    strings = string_problem(2, 5)
    for refused in (
        lambda: learner(strings, strings.empty_data(), KEY),
        lambda: IterativeDirect().init(strings, strings.empty_data(), KEY),
    ):
        with pytest.raises(ValueError, match="must be a LanguageModelPolicy"):
            refused()
    finite = problem.finite()
    with pytest.raises(ValueError, match="got FiniteProblem, which has no policy"):
        learner(finite, finite.empty_data(), KEY)
    many = PromptProblem(TEXTS, policy, features=TokenFeatures(3), n_replicas=2)
    with pytest.raises(ValueError, match="n_replicas=1"):
        learner(many, many.empty_data(), KEY)
    with pytest.raises(ValueError, match="does not take a margin"):
        DirectPreference.of(QUICK, loss=IPO(0.3), radius=Constant(beta=1.0))(problem, data, KEY)
    elsewhere = problem.held_out(["is elm good"])
    with pytest.raises(ValueError, match="pools for every compared prompt"):
        DirectPreference.of(QUICK, radius=Constant(beta=1.0))(elsewhere, data, KEY)
    assert isinstance(data, PromptData)
