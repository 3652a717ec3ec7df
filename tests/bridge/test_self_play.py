"""Self-play: every round's loss has its map as minimiser; training comes nearer to equilibrium."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.planning.examples.game_examples import game_examples
from llm_bridge.planning.self_play import SelfPlay, decreasing_step
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.algorithms.nash_game import NashGame
from rlhf_theory.arrays import to_numpy
from rlhf_theory.evaluation.exploitability import exploitability
from rlhf_theory.losses import Comparisons, soft
from rlhf_theory.oracles import GeneralPreference, feedback_from
from rlhf_theory.planners.nash import nash_policy
from rlhf_theory.policies import kl
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import ProbabilityPreference, SkewBilinear
from tests.helpers.prompts import TokenFeatures, string_problem

TAU = 0.25


@pytest.fixture(scope="module")
def problem(tiny_model):
    policy = LanguageModelPolicy(tiny_model, BatchedSampler(max_new_tokens=3))
    prompts = ["what color is oak ?", "what color is pine ?"]
    return PromptProblem(prompts, policy, features=TokenFeatures(3), pool_size=5, eta=TAU)


@pytest.fixture(scope="module")
def preference():
    # Skew-bilinear with a cyclic part, as a probability.
    theta = torch.tensor([[1.0, -2.0, 0.5, 3.0, -2.0, 2.5]], dtype=torch.float64)
    return ProbabilityPreference(SkewBilinear(theta))


def log_sum_exp(x):
    top = x.max()
    return top + math.log(np.exp(x - top).sum())


def normalised(x):
    return x - log_sum_exp(x)


def minimiser(loss, example, free):
    """Return the log-probabilities that minimise the loss of one prompt, by LBFGS."""
    k = len(example.responses)
    ref = torch.tensor(example.log_ref, dtype=torch.float64)
    wins = torch.tensor(example.wins, dtype=torch.float64) if example.wins else None
    x = torch.zeros(k, dtype=torch.float64, requires_grad=True)
    first, second = (list(c) for c in zip(*example.pairs, strict=True))
    p = torch.tensor(example.target, dtype=torch.float64)
    share = torch.tensor(example.share, dtype=torch.float64)
    optimiser = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-13, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        log_pi = ref + x if free else torch.log_softmax(ref + x, 0)
        c = Comparisons(
            log_pi[first],
            log_pi[second],
            ref[first],
            ref[second],
            win_w=None if wins is None else wins[first],
            win_l=None if wins is None else wins[second],
        )
        value = (share * soft(loss, c, p)).sum()
        value.backward()
        return value

    for _ in range(5):
        optimiser.step(closure)
    return (ref + x).detach().numpy()


@pytest.mark.parametrize("update", ["inpo", "nash-md", "sppo"])
def test_the_loss_of_a_round_has_its_map_as_minimiser(problem, preference, update):
    # pi_t: any policy over the pool, made by moving the pool's log-ratios.
    pools = problem.pools
    contexts, weights = problem.population(Key(0), 0)
    move = Key(5).normal_numpy(*pools.log_pi0.shape) * (pools.log_mass > -np.inf)
    log_pi = pools.log_pi0 + move
    log_q = np.stack([normalised(row) for row in pools.log_mass + move])
    planner = SelfPlay(update=update, step=1.5)
    win = to_numpy(preference.payoff(contexts))[0] + 0.5
    loss, log_ref, log_mu = planner._step(TAU, 0, pools.log_mass, pools.log_pi0, log_pi, log_q)
    examples = game_examples(pools, loss, log_ref, np.exp(log_mu), win, to_numpy(weights)[0])
    for n, example in enumerate(examples):
        k = len(pools.responses[n])
        share = 0.0 if update == "sppo" else 1.5 * TAU
        base = (1 - share) * log_pi[n, :k] + share * pools.log_pi0[n, :k]
        law = np.exp(log_q[n, :k])
        if update == "nash-md":
            law = np.exp(normalised((1 - share) * log_q[n, :k] + share * pools.log_mass[n, :k]))
        want = base + 1.5 * (win[n, :k, :k] @ law - 0.5)
        got = minimiser(loss, example, free=update == "sppo")
        if update != "sppo":  # the normaliser is free
            got, want = got - got.mean(), want - want.mean()
        assert_allclose(got, want, atol=1e-6)


def test_exact_rounds_obey_the_bound_of_the_decreasing_step(problem, preference):
    # KL(pi* || pi_T) <= 2 / (tau^2 (T + 1)), with the map itself in place of training.
    contexts, _ = problem.population(Key(0), 0)
    payoff = to_numpy(preference.payoff(contexts))
    log_pi0 = to_numpy(contexts.log_pi0)
    star = to_numpy(nash_policy(payoff, log_pi0, TAU).value)
    log_q = log_pi0.copy()
    for t in range(200):
        a = decreasing_step(TAU, t)
        gain = (payoff @ np.exp(log_q)[..., None])[..., 0]
        with np.errstate(invalid="ignore"):
            log_q = (1 - a * TAU) * log_q + a * TAU * log_pi0 + a * gain
        log_q = np.where(np.isfinite(log_pi0), log_q, -np.inf)
        log_q = log_q - np.log(np.exp(log_q).sum(-1, keepdims=True))
        assert (kl(star, log_q) <= 2 / (TAU**2 * (t + 2))).all()
    assert kl(star, log_q).max() < 1e-4


@pytest.mark.parametrize("update", ["inpo", "nash-md", "sppo"])
def test_training_comes_nearer_to_the_equilibrium(problem, preference, update):
    settings = TrainingSettings(
        epochs=25, batch_size=2, learning_rate=3e-3, schedule="constant", progress=False
    )
    step = 2.0 if update == "sppo" else None
    planner = SelfPlay.of(settings, update=update, rounds=2, step=step)
    plan = planner(preference, problem, Key(1))
    contexts, weights = problem.population(Key(0), 0)
    payoff = preference.payoff(contexts)

    def gap(policy):
        log_pi = policy.log_probs(contexts)
        return float(exploitability(payoff, log_pi, contexts.log_pi0, weights, TAU)[0])

    assert_allclose(float(plan.residual[0]), gap(plan.value), rtol=1e-10)
    assert gap(plan.value) < 0.5 * gap(problem.policy)
    assert plan.n_iter == 2 * 25
    assert bool(plan.converged[0]) == (gap(plan.value) <= planner.tol)


@pytest.mark.parametrize(("share", "converged"), [(1.01, True), (0.99, False)])
def test_a_plan_has_converged_just_where_its_gap_is_within_the_tolerance(
    problem, preference, share, converged
):
    settings = TrainingSettings(epochs=1, batch_size=2, learning_rate=1e-3, progress=False)
    gap = float(SelfPlay.of(settings, rounds=1)(preference, problem, Key(1)).residual[0])
    assert gap > 0.0
    plan = SelfPlay.of(settings, rounds=1, tol=share * gap)(preference, problem, Key(1))
    assert float(plan.residual[0]) == pytest.approx(gap, rel=1e-9)
    assert bool(plan.converged[0]) is converged


def test_nothing_learnt_yet_is_answered_by_pi0(problem):
    zero = ProbabilityPreference(SkewBilinear(torch.zeros(1, 6, dtype=torch.float64)))
    plan = SelfPlay()(zero, problem, Key(0))
    assert plan.value is problem.policy
    assert float(plan.residual[0]) < 1e-12


def test_the_nash_learner_of_the_theory_plans_by_self_play(problem, preference):
    settings = TrainingSettings(epochs=1, batch_size=2, learning_rate=1e-3, progress=False)
    planner = SelfPlay.of(settings, rounds=1)
    learner = NashGame(batch_size=4, game="probability", planner=planner)
    labels = feedback_from(GeneralPreference(preference, "probability"))
    state = learner.init(problem, problem.empty_data(), Key(3))
    assert learner.policy(state) is problem.policy
    state, report = learner.step(state, problem, labels, Key(3).child("round", 0))
    assert isinstance(learner.policy(state), LanguageModelPolicy)
    assert learner.policy(state) is not problem.policy
    assert 0.0 <= float(report["residual"][0]) < 10.0


def test_refuses_what_cannot_work(problem):
    logit = SkewBilinear(torch.full((1, 6), 4.0, dtype=torch.float64))
    with pytest.raises(ValueError, match="game='probability'"):
        SelfPlay()(logit, problem, Key(0))
    with pytest.raises(ValueError, match="sppo"):
        SelfPlay(update="sppo")
    with pytest.raises(ValueError, match="at most 1"):
        SelfPlay(step=10.0)(ProbabilityPreference(logit), problem, Key(0))
    with pytest.raises(ValueError, match="update"):
        SelfPlay(update="impo")
    with pytest.raises(ValueError, match="LanguageModelPolicy"):
        SelfPlay()(ProbabilityPreference(logit), string_problem(2, 5), Key(0))

    @dataclass
    class NoPools:
        policy: object = problem.policy
        n_replicas = 1
        eta = TAU

        def population(self, key, n):
            return problem.finite().population(key, n)

    with pytest.raises(ValueError, match="no pools"):
        SelfPlay()(ProbabilityPreference(logit), NoPools(), Key(0))
