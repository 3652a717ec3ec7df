"""DPO-type training as a planning oracle, against the exact Gibbs policy."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import rlhf_theory as rt
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.sampler import BatchedSampler, Response
from llm_bridge.planning.planners import DPOPlanner, plan_quality
from llm_bridge.pools.candidates import Pools
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.training.train import TrainingSettings, train
from rlhf_theory.contexts import Contexts
from rlhf_theory.losses import DPO, XPO, planning
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from tests.helpers.assembled import Assembled
from tests.helpers.language import llama, word_tokenizer
from tests.helpers.prompts import TokenFeatures, string_problem
from tests.helpers.rewarded import ETA, REWARD, feedback, rewarded_problem

QUICK = TrainingSettings(steps=40, batch_size=8, learning_rate=3e-3)
KEY = Key(3)


@pytest.fixture(scope="module")
def policy(tiny_model):
    return LanguageModelPolicy(tiny_model, BatchedSampler(max_new_tokens=4))


@pytest.fixture(scope="module")
def problem(policy):
    return rewarded_problem(policy)


def _gap(policy: Any, problem: Any, reward: Any = REWARD) -> float:
    return float(plan_quality(policy, reward, problem, KEY).gap[0])


# ---------------------------------------------------------------- where all strings are known


@pytest.fixture(scope="module")
def strings():
    """Two prompts, all 39 finished answers of at most three words of three as their pools."""
    model = llama(word_tokenizer(["a", "b", "c"]), seed=1)
    policy = LanguageModelPolicy(model, BatchedSampler(max_new_tokens=4))
    problem = PromptProblem(["a b", "c"], policy, features=TokenFeatures(3), pool_size=2, eta=ETA)
    words = [i for i in range(model.n_tokens) if i not in (model.pad_id, model.eos_id)][-3:]
    answers = [(*w, model.eos_id) for m in (1, 2, 3) for w in itertools.product(words, repeat=m)]
    prompts = problem.prompts
    log_pi0 = np.stack([sequence_log_probs(model, [p.ids] * 39, answers) for p in prompts])
    responses = tuple(Response(a, model.decode(a), math.nan) for a in answers)
    log_mass = log_pi0 - np.logaddexp.reduce(log_pi0, axis=1, keepdims=True)
    pools = Pools(prompts, (responses, responses), log_mass, log_pi0, np.full(2, 39.0))
    return problem.with_pools(pools)


def test_training_approaches_the_gibbs_policy_over_all_strings(strings):
    """The gap of the reference falls to a hundredth, by the law of all strings itself."""
    pi0 = strings.policy
    before = _gap(pi0, strings)
    settings = TrainingSettings(
        steps=200, batch_size=2, learning_rate=3e-3, schedule="cosine", warmup=10
    )
    plan = DPOPlanner.of(settings)(REWARD, strings, KEY, None)
    assert before > 0.2
    assert float(plan.residual[0]) < before / 100
    # A second way, without the pools' arithmetic: probabilities of the strings themselves.
    x, _ = strings.population(KEY, 1)
    model = plan.value.model
    rewards, gaps = REWARD.rewards(x).numpy()[0], []
    for i, prompt in enumerate(strings.prompts):
        answers = [r.ids for r in strings.pools.responses[i]]
        log_pi = sequence_log_probs(model, [prompt.ids] * len(answers), answers)
        log_pi -= np.logaddexp.reduce(log_pi)
        log_star = strings.pools.log_mass[i] + rewards[i] / ETA
        log_star -= np.logaddexp.reduce(log_star)
        gaps.append(float(np.sum(np.exp(log_pi) * (log_pi - log_star))))
    assert ETA * np.mean(gaps) == pytest.approx(float(plan.residual[0]), rel=1e-4)


# ---------------------------------------------------------------- the planning gap


def test_residual_is_the_gap_of_the_objective(problem):
    plan = DPOPlanner.of(replace(QUICK, steps=5))(REWARD, problem, KEY, None)
    quality = plan_quality(plan.value, REWARD, problem, KEY)
    assert float(plan.residual[0]) == pytest.approx(float(quality.gap[0]), rel=1e-9)
    # Identity I1: the divergence from the Gibbs policy is what is lacking in the objective.
    lacking = float(quality.best[0] - quality.objective[0])
    assert float(plan.residual[0]) == pytest.approx(lacking, rel=1e-9)
    assert float(quality.objective[0]) == pytest.approx(
        float(quality.reward[0] - ETA * quality.kl_to_reference[0]), rel=1e-12
    )
    assert plan.n_iter == 5


@pytest.mark.parametrize("loss", [None, "exponential", "savage", "infonca"])
def test_exact_losses_plan_exactly(policy, problem, loss):
    before = _gap(policy, problem)
    plan = DPOPlanner.of(QUICK, loss=loss)(REWARD, problem, KEY, None)
    assert before > 0.2
    assert float(plan.residual[0]) < 0.02 * before
    assert bool(plan.converged[0])


@pytest.mark.parametrize(
    "loss", ["ipo", "nca", "bco", "sppo", planning("f-dpo", ETA, divergence="forward-kl"), "hinge"]
)
def test_other_losses_plan_better_than_nothing(policy, problem, loss):
    plan = DPOPlanner.of(QUICK, loss=loss)(REWARD, problem, KEY, None)
    assert float(plan.residual[0]) < 0.4 * _gap(policy, problem)


def test_a_plan_that_is_far_off_has_not_converged(problem):
    settings = replace(QUICK, steps=1, learning_rate=1e-6)
    plan = DPOPlanner.of(settings)(REWARD, problem, KEY, None)
    assert not bool(plan.converged[0])
    assert "More steps" in plan.message
    content = DPOPlanner.of(settings, tol=100.0)(REWARD, problem, KEY, None)
    assert bool(content.converged[0])


def test_sampled_pairs_plan_too(policy, problem):
    plan = DPOPlanner.of(QUICK, pairs=10)(REWARD, problem, KEY, None)
    assert float(plan.residual[0]) < 0.1 * _gap(policy, problem)


# ---------------------------------------------------------------- the reference itself


@dataclass(frozen=True)
class PerPrompt:
    """A reward that depends on the prompt alone."""

    def rewards(self, contexts: Contexts) -> Any:
        return contexts.ids[..., None] * torch.ones_like(contexts.log_pi0)


@pytest.mark.parametrize("reward", [LinearReward(torch.zeros(1, 3).double()), PerPrompt()])
def test_a_reward_that_says_nothing_gives_the_reference_untrained(
    policy, problem, reward, monkeypatch
):
    monkeypatch.setattr("llm_bridge.training.train.train", None)
    plan = DPOPlanner()(reward, problem, KEY, None)
    assert plan.value is policy
    assert float(plan.residual[0]) == 0.0
    assert bool(plan.converged[0])


class Recorder:
    """Stands in for training: remembers what it was given, changes nothing."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, base: Any, examples: Any, loss: Any, settings: Any, **more: Any) -> Any:
        self.calls.append((base, examples, loss, more))
        return train(base, examples, loss, replace(settings, steps=1, learning_rate=1e-9), **more)


@pytest.mark.parametrize("reference", ["fixed", "last"])
@pytest.mark.parametrize("start", ["reference", "last"])
def test_start_and_reference_mean_what_they_say(policy, problem, monkeypatch, reference, start):
    other = LanguageModelPolicy(
        DPOPlanner.of(QUICK)(REWARD, problem, KEY, None).value.model, policy.sampler
    )
    recorder = Recorder()
    monkeypatch.setattr("llm_bridge.training.train.train", recorder)
    planner = DPOPlanner.of(QUICK, reference=reference, start=start)
    plan = planner(REWARD, problem, KEY, other)
    base, examples, loss, _ = recorder.calls[0]
    measured = policy if reference == "fixed" else other
    assert base is (measured if start == "reference" else other).model
    assert loss == DPO(ETA)
    for e in examples:
        scores = measured.sequence_log_probs([e.prompt] * len(e.responses), e.responses)
        np.testing.assert_allclose(e.log_ref, scores, atol=1e-4)
    # Nothing was trained, so the residual is the gap of where it began to its own target.
    x, weights = problem.population(KEY, 1)
    target = gibbs_log_probs(REWARD.rewards(x), measured.log_probs(x), ETA)
    log_pi = (measured if start == "reference" else other).log_probs(x)
    gap = ETA * (weights * (log_pi.exp() * (log_pi - target)).sum(-1)).sum(-1)
    assert float(plan.residual[0]) == pytest.approx(float(gap[0]), rel=1e-3)
    # Without a policy before, everything is pi0.
    planner(REWARD, problem, KEY, None)
    assert recorder.calls[1][0] is policy.model


# ---------------------------------------------------------------- the law of the pairs


@pytest.mark.parametrize(
    ("loss", "law", "lifted"),
    [
        ("dpo", None, True),
        ("infonca", None, True),
        ("ipo", None, False),
        ("bco", None, False),
        ("dpo", "pool", False),
        ("ipo", "draws", True),
    ],
)
def test_responses_of_next_to_no_mass_are_trained_on(problem, monkeypatch, loss, law, lifted):
    """Those of a refreshed pool that the policy wrote, once it is nats away from pi0."""
    pools = problem.pools
    mass = np.exp(pools.log_mass)
    mass[:, 1] *= 1e-6
    far = replace(pools, log_mass=np.log(mass / mass.sum(axis=1, keepdims=True)))
    recorder = Recorder()
    monkeypatch.setattr("llm_bridge.training.train.train", recorder)
    planner = DPOPlanner.of(QUICK, loss=loss, law=law)
    planner(REWARD, problem.with_pools(far), KEY, None)
    for e, response in zip(recorder.calls[0][1], [r[1].ids for r in far.responses], strict=True):
        if loss == "infonca":
            # Of 8 x 6 members one draw has at least half of 8.
            assert [e.responses[m] for m in e.group].count(response) >= 4
            continue
        k = e.responses.index(response)
        share = math.fsum(s for s, pair in zip(e.share, e.pairs, strict=True) if k in pair)
        assert share / math.fsum(e.share) > 0.1 if lifted else share < 1e-5


def test_the_law_of_draws_from_pi0_is_that_of_the_pool(problem, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("llm_bridge.training.train.train", recorder)
    for law in ("pool", "draws"):
        DPOPlanner.of(QUICK, law=law)(REWARD, problem, KEY, None)
    for one, other in zip(*(call[1] for call in recorder.calls), strict=True):
        assert one.share == pytest.approx(other.share, rel=1e-12)
        assert replace(one, share=()) == replace(other, share=())


# ---------------------------------------------------------------- in a learner


def _run(problem: Any, rounds: int, change: Any = None) -> tuple[Any, list[Any]]:
    planner = DPOPlanner.of(replace(QUICK, steps=15))
    learner = rt.OnlineIterative(batch_size=400, planner=planner)
    deployed = []

    def evaluate(pi: Any) -> Any:
        deployed.append(pi)
        return {"suboptimality": plan_quality(pi, REWARD, problem, KEY).gap}

    world = Assembled(problem, feedback, evaluate, change=change)
    return rt.run(learner, world, rounds=rounds, seed=1), deployed


def test_the_online_learner_trains_a_model(policy, problem):
    trace, deployed = _run(problem, rounds=1)
    assert deployed[0] is policy  # before any label
    assert isinstance(deployed[1], LanguageModelPolicy)
    # 400 labels tell three parameters well, and the plan gets near what they say.
    assert trace["suboptimality"][0, 1] < 0.2 * trace["suboptimality"][0, 0]
    assert trace["residual"][0, 0] < 0.2 * trace["suboptimality"][0, 0]
    assert len(trace.settings["learner"]) < 2000  # not the layers of a model


def test_pools_follow_the_trained_model(policy, problem):
    asked: list[Any] = []

    def change(problem: Any, pi: Any, key: Key) -> Any:
        asked.append((pi, problem.refresh(pi, key)))
        return asked[-1][1]

    _, deployed = _run(problem, rounds=2, change=change)
    assert [pi for pi, _ in asked] == deployed[:2]
    contents = {fresh.pools.content for _, fresh in asked} | {problem.pools.content}
    assert len(contents) == 3


def test_trainings_are_found_again_by_a_second_run(problem, tmp_path):
    planner = DPOPlanner.of(QUICK, folder=tmp_path)
    first = planner(REWARD, problem, KEY, None)
    folders = sorted(p.name for p in tmp_path.iterdir() if p.is_dir())
    again = planner(REWARD, problem, KEY, None)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == folders
    assert len(folders) == 1
    assert again.value.model.fingerprint == first.value.model.fingerprint
    assert float(again.residual[0]) == float(first.residual[0])


# ---------------------------------------------------------------- what goes wrong


def test_what_cannot_be_planned_is_refused(policy, problem):
    planner = DPOPlanner.of(QUICK)
    with pytest.raises(ValueError, match="n_replicas=1"):
        planner(REWARD, rewarded_problem(policy, n_replicas=2), KEY, None)
    with pytest.raises(ValueError, match="reference policy pi0 must be a LanguageModelPolicy"):
        planner(REWARD, string_problem(2, 5), KEY, None)
    with pytest.raises(ValueError, match="must be a LanguageModelPolicy"):
        replace(planner, start="last")(REWARD, problem, KEY, ReferencePolicy())
    with pytest.raises(ValueError, match="finite"):
        planner(LinearReward(torch.full((1, 3), math.nan).double()), problem, KEY, None)
    x, weights = problem.population(KEY, 1)
    finite = FiniteProblem(x.phi, x.log_pi0, weights, ETA, 1)
    with pytest.raises(ValueError, match="pools of a PromptProblem; got FiniteProblem, which has"):
        planner(REWARD, finite, KEY, None)

    class NoPools:
        """A problem of somebody's own, with a language model but without pools."""

        policy, n_replicas, eta, population = problem.policy, 1, ETA, finite.population

    with pytest.raises(ValueError, match="got no pools"):
        planner(REWARD, NoPools(), KEY, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loss": "dop"}, "Did you mean 'dpo'"),
        ({"loss": "kto"}, "does not plan"),
        ({"loss": "simpo"}, "does not plan"),
        ({"pairs": 0}, "pairs"),
        ({"loss": "infonca", "pairs": 3}, "whole pools"),
        ({"reference": "both"}, "reference"),
        ({"start": "first"}, "start"),
        ({"law": "uniform"}, "law"),
        ({"tol": 0.0}, "tol"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        DPOPlanner(**change)


def test_losses_that_need_a_sample_are_refused(problem):
    with pytest.raises(ValueError, match="must have a sample"):
        DPOPlanner.of(QUICK, loss=XPO(ETA, 0.1))(REWARD, problem, KEY, None)
