import numpy as np
import pytest

from rlhf_theory import worlds
from rlhf_theory.algorithms.offline_nash import OfflinePessimisticNash, PessimisticPreference
from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.data import Contexts
from rlhf_theory.estimators.confidence import (
    Adaptive,
    Constant,
    Ellipsoid,
    LikelihoodRatio,
    MarginalLikelihood,
    Scaled,
)
from rlhf_theory.evaluation.exploitability import exploitability
from rlhf_theory.evaluation.gaps import mean_kl
from rlhf_theory.experiments.runner import run
from rlhf_theory.features import game_features
from rlhf_theory.planners.nash import Nash, nash_policy
from rlhf_theory.planners.saddle import PessimisticNash
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import SkewBilinear
from tests.helpers.assembled import compared


def small(replicas=4, **changes):
    settings = {"cycle": 0.5, "contexts": 3, "actions": 4, "dim": 2, "eta": 0.3}
    return worlds.intransitive(**{**settings, **changes}, replicas=replicas)


def instance(seed, replicas=6, x=2, a=3, d=2, eta=0.3):
    """A problem and an ellipsoid over preferences."""
    rng = np.random.default_rng(seed)
    p = d * (d + 1) // 2
    log_pi0 = np.log(rng.dirichlet(np.ones(a), size=(1, x)))
    weights = rng.dirichlet(np.ones(x), size=1)
    phi = rng.normal(size=(1, x, a, d))
    rows = rng.normal(size=(replicas, p + 2, p))
    sigma = np.swapaxes(rows, 1, 2) @ rows + 0.3 * np.eye(p)
    beta = 10.0 ** rng.uniform(-1.5, 0.7, size=replicas)
    center = rng.normal(size=(replicas, p))
    problem = FiniteProblem(phi, log_pi0, weights, eta, replicas)
    return problem, Ellipsoid(center, beta, lambda: sigma), rng


# --------------------------------------------------------------------------- the pessimistic payoff


def test_the_payoff_is_the_estimate_minus_a_symmetric_bonus(xp_like):
    problem, ball, _ = instance(0)
    problem = problem.to(xp_like)
    center, beta, sigma = (as_like(v, xp_like) for v in (ball.center, ball.beta, ball.sigma))
    model = PessimisticPreference(Ellipsoid(center, beta, lambda: sigma))
    x = problem.table
    bonus, payoff = to_numpy(model.bonus(x)), to_numpy(model.payoff(x))
    psi = to_numpy(game_features(x))[0]
    inverse = np.linalg.inv(ball.sigma)
    width = np.sqrt(np.einsum("xabp,rpq,xabq->rxab", psi, inverse, psi))
    np.testing.assert_allclose(bonus, ball.beta[:, None, None, None] * width, atol=1e-12)
    np.testing.assert_allclose(bonus, np.swapaxes(bonus, 2, 3), atol=1e-12)
    assert np.all(bonus[:, :, [0, 1, 2], [0, 1, 2]] == 0.0)
    logit = to_numpy(SkewBilinear(center).payoff(x))
    np.testing.assert_allclose(payoff, logit - bonus, atol=1e-12)


def test_the_payoff_of_drawn_contexts_is_that_of_the_table():
    problem, ball, _ = instance(1)
    model = PessimisticPreference(ball)
    ids = np.array([[1, 0, 1]])
    rows = Contexts.rows(problem.table, ids)
    np.testing.assert_array_equal(model.payoff(rows), model.payoff(problem.table)[:, ids[0]])


# --------------------------------------------------------------------------- the theorem


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_of_the_theorem_holds_on_the_event(seed):
    # gap(pi1) + eta KL(pi* || pi1) <= 2 E_{pi*, pi2} b for every truth in the ellipsoid, on its
    # boundary too, with pi2 the computed min player; rounding only.
    problem, ball, rng = instance(
        seed, x=1 + seed % 3, a=2 + seed % 4, d=1 + seed % 3, eta=(0.1, 0.5, 2.0)[seed % 3]
    )
    model = PessimisticPreference(ball)
    plan = PessimisticNash()(model, problem, Key(0))
    log_pi1 = plan.require().log_probs(problem.table)
    pi2, bonus = np.exp(plan.warm.log_probs(problem.table)), model.bonus(problem.table)
    root = np.swapaxes(np.linalg.inv(np.linalg.cholesky(ball.sigma)), 1, 2)
    tightest = np.inf
    for _ in range(40):
        u = rng.normal(size=ball.center.shape)
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        u *= rng.choice([1.0, 1.0, rng.uniform()])
        truth = ball.center + ball.beta[:, None] * (root @ u[..., None])[..., 0]
        payoff = SkewBilinear(truth).payoff(problem.table)
        log_star = nash_policy(payoff, problem.log_pi0, problem.eta).require()
        gap = exploitability(payoff, log_pi1, problem.log_pi0, problem.weights, problem.eta)
        left = gap + problem.eta * mean_kl(log_star, log_pi1, problem.weights)
        expected = np.einsum("rxa,rxab,rxb->rx", np.exp(log_star), bonus, pi2)
        right = 2.0 * np.sum(problem.weights * expected, axis=-1)
        assert np.all(left <= right * (1 + 1e-9) + 1e-13)
        tightest = min(tightest, float(np.min(right / left)))
    assert tightest < 20.0


def test_without_bonus_it_is_the_equilibrium_of_the_estimate(xp_like):
    world = small().to(xp_like)
    data = world.offline_data(Key(1), 200)
    learner = OfflinePessimisticNash(radius=Scaled(Adaptive(theta_bound=2.0), 0.0))
    plan = learner(world.problem, data, Key(0))
    fit = Adaptive(theta_bound=2.0).fit(data, data.skew)
    nash = Nash()(SkewBilinear(fit.value), world.problem, Key(0))
    x = world.problem.table
    got, want = (to_numpy(p.require().log_probs(x)) for p in (plan, nash))
    np.testing.assert_allclose(got, want, atol=1e-8)
    # Both players are that equilibrium.
    np.testing.assert_allclose(to_numpy(plan.warm.log_probs(x)), want, atol=1e-8)


def test_a_huge_bonus_is_still_solved():
    world = small()
    data = world.offline_data(Key(1), 50)
    plan = OfflinePessimisticNash(radius=Constant(beta=1e3))(world.problem, data, Key(0))
    x = world.problem.table
    assert np.all(plan.residual <= 1e-8)
    assert np.all(np.isfinite(world.evaluate(plan.value)["exploitability"]))
    np.testing.assert_allclose(np.sum(np.exp(plan.value.log_probs(x)), axis=-1), 1.0, rtol=1e-12)


# --------------------------------------------------------------------------- edges


@pytest.mark.parametrize(
    "rule", [Constant(beta=2.0), Adaptive(), MarginalLikelihood(form="likelihood")]
)
def test_without_labels_it_is_pi0(rule):
    world = small()
    plan = OfflinePessimisticNash(radius=rule)(world.problem, world.problem.empty_data(), Key(0))
    got = plan.require().log_probs(world.problem.table)
    np.testing.assert_allclose(got, world.problem.log_pi0 + 0.0 * got, atol=1e-14)


def test_only_the_replicas_without_labels_get_pi0():
    world = small()
    data = world.offline_data(Key(1), 40)
    keep = np.array([1.0, 0.0, 1.0, 0.0])[:, None]
    some = data.reweighted(keep * data.count, keep * data.wins)
    learner = OfflinePessimisticNash()
    got = learner(world.problem, some, Key(0)).require().log_probs(world.problem.table)
    want = learner(world.problem, data, Key(0)).require().log_probs(world.problem.table)
    np.testing.assert_allclose(got[::2], want[::2], atol=1e-12)
    np.testing.assert_allclose(got[1::2], world.problem.log_pi0 + 0.0 * got[1::2], atol=1e-14)


def test_one_action(xp_like):
    world = small(actions=1).to(xp_like)
    data = world.offline_data(Key(1), 20)
    plan = OfflinePessimisticNash()(world.problem, data, Key(0))
    assert np.all(to_numpy(plan.require().log_probs(world.problem.table)) == 0.0)


def draw(key, rows, n):
    phi = key.child("phi").normal_numpy(rows, n, 3, 2)
    return phi, np.full((rows, n, 3), -np.log(3.0))


def test_contexts_that_never_repeat_get_the_policy_of_their_own_games():
    problem = FreshProblem(draw, 2, 0.5, 3, np.zeros(1))
    x = problem.sample_contexts(Key(4), 5)
    rng = np.random.default_rng(0)
    a1, a2 = rng.integers(3, size=(2, 3, 5))
    data = problem.empty_data().add(compared(x, a1, a2, rng.integers(2, size=(3, 5)).astype(float)))
    learner = OfflinePessimisticNash(radius=Constant(beta=0.5))
    plan = learner(problem, data, Key(0))
    new = problem.sample_contexts(Key(5), 4)
    log_pi = plan.require().log_probs(new)
    finite = FiniteProblem(new.phi, new.log_pi0, np.full((1, 4), 0.25), 0.5, 3)
    fit = Constant(beta=0.5).fit(data, data.skew)
    ball = Constant(beta=0.5).confidence_set(fit, data, problem, data.skew)
    want = PessimisticNash()(PessimisticPreference(ball), finite, Key(0))
    np.testing.assert_allclose(log_pi, want.require().log_probs(finite.table), atol=1e-9)


# --------------------------------------------------------------------------- array programs


@pytest.mark.parametrize("rule", [Adaptive(theta_bound=2.0), LikelihoodRatio(theta_bound=2.0)])
def test_array_libraries_agree(xp_like, rule):
    learner = OfflinePessimisticNash(radius=Scaled(rule, 0.1))
    want = run(learner, small(), pairs=[10, 400], seed=2)
    got = run(learner, small().to(xp_like), pairs=[10, 400], seed=2)
    np.testing.assert_allclose(got["exploitability"], want["exploitability"], atol=1e-8)
    assert np.all(want["converged"] == 1.0)


def test_a_replica_alone_is_the_replica_in_a_block():
    learner = OfflinePessimisticNash(radius=Scaled(Adaptive(theta_bound=2.0), 0.1))
    together = run(learner, small(), pairs=[10, 400], seed=2)
    alone = run(learner, small(), pairs=[10, 400], seed=2, block=1)
    np.testing.assert_allclose(together["exploitability"], alone["exploitability"], atol=1e-10)
