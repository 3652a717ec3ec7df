"""Planning by imitation: what is kept follows the right law, and imitating it improves."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import chi2

from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.planning.rejection import Imitation, chosen_draws
from llm_bridge.pools.beside import drawn_rewards
from llm_bridge.pools.candidates import draw_responses
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.randomness import Key, categorical
from rlhf_theory.rewards import LinearReward
from tests.helpers.prompts import TokenFeatures

ETA = 0.5
REWARD = LinearReward(torch.tensor([[2.0, -3.0, 1.0]], dtype=torch.float64))


@pytest.fixture(scope="module")
def problem(tiny_model):
    policy = LanguageModelPolicy(tiny_model, BatchedSampler(max_new_tokens=3))
    prompts = ["what color is oak ?", "what color is pine ?"]
    return PromptProblem(prompts, policy, features=TokenFeatures(3), pool_size=6, eta=ETA)


@pytest.mark.statistical
def test_kept_draws_follow_the_gibbs_policy():
    # Chi-squared over 4 actions, false-alarm rate 1e-6. With 400 draws of every row its largest
    # reward is the largest there is (an action of mass .1 is missed with probability 5e-19).
    r = np.array([0.0, 0.7, -0.5, 0.2])
    log_pi0 = np.log([0.4, 0.1, 0.3, 0.2])
    n, rows = 400, 50
    u = Key(1).child("a").uniform_numpy(1, rows * n)
    actions = categorical(np.tile(log_pi0, (1, rows * n, 1)), u).reshape(rows, n)
    kept = chosen_draws(r[actions], "rejection", ETA, Key(1).child("u").uniform_numpy(rows, n))
    counts = np.bincount(actions[kept], minlength=4)
    law = np.exp(gibbs_log_probs(r[None, None], log_pi0[None, None], ETA))[0, 0]
    statistic = ((counts - counts.sum() * law) ** 2 / (counts.sum() * law)).sum()
    assert statistic < chi2.isf(1e-6, df=3)


def test_the_best_draw_is_always_kept():
    rewards = Key(2).normal_numpy(20, 7)
    u = Key(3).uniform_numpy(20, 7)
    kept = chosen_draws(rewards, "rejection", 1e-3, u)
    assert kept[np.arange(20), rewards.argmax(1)].all()
    best = chosen_draws(rewards, "best", 1e-3, u)
    assert (best.sum(1) == 1).all()
    assert best[np.arange(20), rewards.argmax(1)].all()


def test_rewards_of_draws_are_those_of_their_texts(problem):
    drawn = draw_responses(problem.policy, problem.prompts, 9, Key(4))
    rewards = drawn_rewards(REWARD, problem, drawn)
    for i, prompt in enumerate(problem.prompts):
        phi = problem.features.rows([prompt.ids] * 9, [r.ids for r in drawn[i]])
        assert_allclose(rewards[i], (phi @ REWARD.theta[0]).numpy(), atol=1e-12)


@pytest.mark.parametrize(("rule", "stages"), [("rejection", 1), ("rejection", 2), ("best", 1)])
def test_imitation_raises_the_objective(problem, rule, stages):
    # The best rule keeps one draw per prompt, so that an epoch is a single step.
    epochs = 40 if rule == "best" else 6
    settings = TrainingSettings(epochs=epochs, batch_size=8, learning_rate=2e-3, progress=False)
    planner = Imitation.of(settings, rule=rule, stages=stages, draws=64)
    plan = planner(REWARD, problem, Key(5))
    contexts, weights = problem.population(Key(0), 0)
    r = REWARD.rewards(contexts)

    def reward(policy):
        return float((weights[..., None] * policy.log_probs(contexts).exp() * r).sum())

    assert reward(plan.value) > reward(problem.policy) + 0.2
    assert float(plan.residual[0]) >= 0.0
    assert plan.n_iter > 0


@pytest.mark.parametrize(("share", "converged"), [(1.01, True), (0.99, False)])
def test_a_plan_has_converged_just_where_its_gap_is_within_the_tolerance(problem, share, converged):
    settings = TrainingSettings(epochs=1, batch_size=8, learning_rate=1e-3, progress=False)
    gap = float(Imitation.of(settings, draws=8)(REWARD, problem, Key(5)).residual[0])
    assert gap > 0.0
    plan = Imitation.of(settings, draws=8, tol=share * gap)(REWARD, problem, Key(5))
    assert float(plan.residual[0]) == pytest.approx(gap, rel=1e-9)
    assert bool(plan.converged[0]) is converged


def test_refuses_what_cannot_work(problem):
    for bad in ({"rule": "worst"}, {"stages": 0}, {"draws": 1}, {"tol": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Imitation(**bad)
    with pytest.raises(ValueError, match="PromptProblem"):
        Imitation()(REWARD, problem.finite(1), Key(0))
