import numpy as np
import pytest

from rlhf_theory import worlds
from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy, Uniform
from rlhf_theory.algorithms.game_enhancers import InformationRatio, exploitability_bound
from rlhf_theory.algorithms.nash_game import NashGame, game_model
from rlhf_theory.arrays import full_like, namespace, to_numpy
from rlhf_theory.estimators.confidence import Adaptive, Constant, MarginalLikelihood, Scaled
from rlhf_theory.evaluation.exploitability import best_reply
from rlhf_theory.experiments.runner import run
from rlhf_theory.oracles.general import GeneralPreference
from rlhf_theory.oracles.labels import feedback_from
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.planners.nash import Nash
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward, SkewBilinear
from rlhf_theory.worlds.bandit import Bandit

ENHANCERS = (InformationRatio(), FromReference(), OnPolicy(), Uniform())


def small(replicas=5, **changes):
    settings = {"cycle": 0.5, "contexts": 3, "actions": 4, "dim": 2, "eta": 0.3}
    return worlds.intransitive(**{**settings, **changes}, replicas=replicas)


def play(learner, world, rounds, seed=0):
    key = Key(seed)
    state = learner.init(world.problem, world.problem.empty_data(), key.child("init"))
    for t in range(rounds):
        feedback = feedback_from(world.oracle)
        state, report = learner.step(state, world.problem, feedback, key.child("round", t))
        assert set(report) == {"residual", "converged"}
        assert bool(np.all(to_numpy(report["converged"])))
    return state


# --------------------------------------------------------------------------- laws


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_the_equilibrium_of_a_bradley_terry_estimate_is_the_gibbs_policy(xp_like, eta):
    world = small(dim=3, eta=eta).to(xp_like)
    theta = world.theta_star[:, :3]
    zero = full_like((1, 3), 0.0, theta)
    bradley_terry = namespace(theta).concat([-theta, zero], axis=1)
    nash = Nash()(game_model(bradley_terry, "logit"), world.problem, Key(0)).require()
    x = world.problem.table
    gibbs = gibbs_log_probs(LinearReward(theta).rewards(x), x.log_pi0, eta)
    got, want = to_numpy(nash.log_probs(x)), to_numpy(gibbs)
    np.testing.assert_allclose(got, want, atol=1e-8, rtol=0)
    # Not so for the payoff P - 1/2.
    other = Nash()(game_model(bradley_terry, "probability"), world.problem, Key(0))
    assert np.max(np.abs(to_numpy(other.require().log_probs(x)) - want)) > 0.05


@pytest.mark.parametrize("game", ["logit", "probability"])
def test_the_main_agent_is_the_equilibrium_of_the_estimate(game):
    world = small()
    state = play(NashGame(game=game, batch_size=20), world, 2)
    x = world.problem.table
    logit = SkewBilinear(state.fit.value).payoff(x)
    payoff = logit if game == "logit" else 1.0 / (1.0 + np.exp(-logit)) - 0.5
    log_pi = NashGame().policy(state).log_probs(x)
    reply = best_reply(payoff, log_pi, x.log_pi0, world.problem.eta)
    np.testing.assert_allclose(np.exp(log_pi), np.exp(reply), atol=1e-9)


def test_all_labels_are_counted_and_only_those_of_different_actions():
    world = small()
    for enhancer in ENHANCERS:
        state = play(NashGame(enhancer=enhancer, batch_size=30), world, 2)
        labels = to_numpy(state.data.n_labels)
        assert np.all(labels <= 60)
        assert np.all(labels > 15)


def test_learners_with_one_key_meet_the_same_contexts_and_first_actions():
    # Before any label all main agents are pi0, so on-policy pairs are those against pi0.
    world = small()
    first = play(NashGame(enhancer=OnPolicy(), batch_size=20), world, 1)
    second = play(NashGame(enhancer=FromReference(), batch_size=20), world, 1)
    np.testing.assert_array_equal(first.data.count, second.data.count)
    np.testing.assert_array_equal(first.data.wins, second.data.wins)


def test_a_multiplier_changes_the_bound_and_not_the_play():
    # The information ratio does not depend on the radius; with 0 the bound is 0.
    world = small()
    rule = Adaptive(theta_bound=2.0)
    plain = play(NashGame(radius=rule, batch_size=20), world, 2)
    scaled = play(NashGame(radius=Scaled(rule, 0.0), batch_size=20), world, 2)
    np.testing.assert_array_equal(plain.fit.value, scaled.fit.value)
    bounds = [
        exploitability_bound(world.problem, s.plan.value, s.confidence, Key(1)).require()
        for s in (plain, scaled)
    ]
    assert np.all(bounds[0] > 0.0)
    np.testing.assert_allclose(bounds[1], 0.0, rtol=0, atol=1e-15)


# --------------------------------------------------------------------------- edges


@pytest.mark.parametrize("game", ["logit", "probability"])
def test_without_labels_the_main_agent_is_pi0(xp_like, game):
    world = small().to(xp_like)
    state = play(NashGame(game=game), world, 0)
    x = world.problem.table
    got = to_numpy(state.plan.require().log_probs(x))
    np.testing.assert_allclose(got, to_numpy(x.log_pi0) + 0.0 * got, atol=1e-14)


def test_one_action_is_played_and_nothing_is_learnt(xp_like):
    world = small(actions=1).to(xp_like)
    for enhancer in ENHANCERS:
        state = play(NashGame(enhancer=enhancer, batch_size=4), world, 2)
        assert np.all(to_numpy(state.plan.value.log_probs(world.problem.table)) == 0.0)
        assert np.all(to_numpy(state.data.n_labels) == 0.0)
        assert np.all(to_numpy(state.fit.value) == 0.0)


def test_actions_without_reference_mass_are_never_played():
    world = small()
    problem = world.problem
    p = np.exp(problem.log_pi0) * np.array([1.0, 1.0, 0.0, 1.0])
    with np.errstate(divide="ignore"):
        log_pi0 = np.log(p / p.sum(axis=-1, keepdims=True))
    masked = FiniteProblem(problem.phi, log_pi0, problem.weights, problem.eta, 5)
    holed = Bandit(name="holed", problem=masked, oracle=world.oracle, game="logit")
    for enhancer in ENHANCERS:
        state = play(NashGame(enhancer=enhancer, batch_size=20), holed, 2)
        log_pi = state.plan.value.log_probs(masked.table)
        assert np.all(log_pi[:, :, 2] == -np.inf)
        assert np.all(np.isfinite(log_pi[:, :, [0, 1, 3]]))
        assert np.all(np.isfinite(holed.evaluate(state.plan.value)["exploitability"]))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="batch_size must be positive"):
        NashGame(batch_size=0)
    with pytest.raises(ValueError, match="game must be"):
        NashGame(game="logits")
    world = small()
    learner = NashGame(radius=MarginalLikelihood(form="likelihood"), batch_size=4)
    with pytest.raises(ValueError, match="needs a confidence ellipsoid"):
        play(learner, world, 1)


# --------------------------------------------------------------------------- array programs


def test_a_replica_alone_is_the_replica_in_a_block():
    world = small()
    for enhancer in ENHANCERS:
        learner = NashGame(enhancer=enhancer, batch_size=20, radius=Adaptive(theta_bound=2.0))
        together = run(learner, world, rounds=3, seed=3)
        alone = run(learner, world, rounds=3, seed=3, block=1)
        for name in ("exploitability", "kl", "labels"):
            np.testing.assert_allclose(together[name], alone[name], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("enhancer", ENHANCERS, ids=lambda e: type(e).__name__)
def test_array_libraries_agree_on_a_short_run(xp_like, enhancer):
    learner = NashGame(enhancer=enhancer, batch_size=20, radius=Adaptive(theta_bound=2.0))
    world = small(replicas=2)
    want = run(learner, world, rounds=3, seed=3)
    got = run(learner, world.to(xp_like), rounds=3, seed=3)
    for name in ("exploitability", "kl", "labels"):
        np.testing.assert_allclose(got[name], want[name], atol=1e-8)


def draw(key, rows, n):
    phi = key.child("phi").normal_numpy(rows, n, 3, 2)
    return phi, np.full((rows, n, 3), -np.log(3.0))


def fresh(replicas=4):
    """Contexts that never repeat, with a bilinear preference."""
    theta = np.array([[0.5, -0.3, 0.8]])
    problem = FreshProblem(draw, 2, 0.5, replicas, theta)
    oracle = GeneralPreference(SkewBilinear(theta))
    return Bandit(name="fresh", problem=problem, oracle=oracle, game="logit", theta_star=theta)


@pytest.mark.parametrize("enhancer", ENHANCERS, ids=lambda e: type(e).__name__)
def test_contexts_that_never_repeat(enhancer):
    learner = NashGame(enhancer=enhancer, batch_size=64, radius=Constant(beta=1.0))
    trace = run(learner, fresh(), rounds=6, seed=0)
    assert np.all(trace["exploitability"][:, -1] < 0.3 * trace["exploitability"][:, 0])
    assert np.all(trace["converged"][:, :-1] == 1.0)
    alone = run(learner, fresh(), rounds=6, seed=0, block=1)
    np.testing.assert_allclose(trace["exploitability"], alone["exploitability"], atol=1e-10)


def test_the_bound_of_contexts_that_never_repeat_is_above_the_gap_on_them():
    world = fresh()
    learner = NashGame(batch_size=64, radius=Adaptive(theta_bound=1.0))
    state = play(learner, world, 3)
    bound = exploitability_bound(world.problem, state.plan.value, state.confidence, Key(5))
    assert np.all(state.confidence.contains(world.theta_star))
    assert np.all(world.evaluate(state.plan.value)["exploitability"] <= bound.require())


# --------------------------------------------------------------------------- learning


@pytest.mark.statistical
@pytest.mark.parametrize("game", ["logit", "probability"])
def test_exploitability_vanishes_where_no_reward_explains_the_preference(game):
    """Mean over 16 replicas after 10 000 labels, below 2 % of that of pi0; expected .3 %.

    Deterministic given the seed; replicas spread by a factor of two, so a false alarm at another
    seed is below 1e-6. Notices a learner that fits a reward: that stays above 10 %.
    """
    world = small(replicas=16, cycle=1.0, dim=3, game=game)
    for enhancer in ENHANCERS:
        learner = NashGame(enhancer=enhancer, batch_size=2500, game=game)
        gap = run(learner, world, rounds=4, seed=0)["exploitability"].mean(axis=0)
        assert gap[-1] < 0.02 * gap[0]
