import numpy as np
import pytest

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.errors import ShapeError
from rlhf_theory.planners.nash import best_reply, nash_policy
from rlhf_theory.planners.saddle import PessimisticNash, two_player_saddle
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.problems import FreshProblem
from rlhf_theory.randomness import Key
from tests.helpers.backends import LIBRARIES, library_array
from tests.helpers.games import dirichlet, skew, uniform
from tests.helpers.small import finite_problem


def pessimistic(rng, *shape):
    """Skew payoffs minus a symmetric bonus with diagonal 0."""
    bonus = np.abs(rng.normal(size=(*shape, shape[-1])))
    bonus = (bonus + np.swapaxes(bonus, -1, -2)) * (1.0 - np.eye(shape[-1]))
    return skew(rng, *shape) - 0.3 * bonus


def duality_gap(payoff, log_pi1, log_pi2, log_pi0, eta):
    """The certificate of theory sheet 2.2, with plain sums, per context."""

    def divergence(log_pi):
        p = np.exp(log_pi)
        with np.errstate(invalid="ignore"):
            return np.where(p > 0, p * (log_pi - log_pi0), 0.0).sum(axis=-1)

    def log_mean(x):
        top = x.max(axis=-1, keepdims=True)
        return top[..., 0] + np.log((np.exp(log_pi0) * np.exp(x - top)).sum(axis=-1))

    against2 = np.matmul(payoff, np.exp(log_pi2)[..., None])[..., 0]
    against1 = np.matmul(np.exp(log_pi1)[..., None, :], payoff)[..., 0, :]
    first = log_mean(against2 / eta) + divergence(log_pi2)
    second = divergence(log_pi1) + log_mean(-against1 / eta)
    return eta * (first + second)


@pytest.mark.parametrize("eta", [10.0, 1.0, 0.1, 0.01, 1e-3])
def test_saddle_points_of_every_weight(eta):
    rng = np.random.default_rng(0)
    for n_actions in (2, 5, 20):
        payoff = pessimistic(rng, 20, 3, n_actions)
        for log_pi0 in (uniform(1, 3, n_actions), dirichlet(rng, 20, 3, n_actions)):
            found = two_player_saddle(payoff, log_pi0, eta)
            assert found.converged.all()
            assert found.residual.max() <= 1e-12
            one, two = found.value
            gap = duality_gap(payoff, one, two, log_pi0, eta)
            assert np.abs(gap).max() < 1e-12 * (1.0 + np.abs(payoff).max() + eta)
            # Each is the best reply to the other, in logarithms.
            scale = 1.0 + np.abs(payoff).max() / eta
            transposed = -np.swapaxes(payoff, -1, -2)
            for policy, reply in (
                (one, best_reply(payoff, two, log_pi0, eta)),
                (two, best_reply(transposed, one, log_pi0, eta)),
            ):
                np.testing.assert_allclose(policy, reply, rtol=0, atol=1e-12 * scale)


def test_the_residual_is_the_duality_gap():
    rng = np.random.default_rng(1)
    payoff, log_pi0 = pessimistic(rng, 3, 2, 6), dirichlet(rng, 3, 2, 6)
    cut = two_player_saddle(payoff, log_pi0, 0.1, max_iter=1)
    want = duality_gap(payoff, *cut.value, log_pi0, 0.1).max(axis=-1)
    np.testing.assert_allclose(cut.residual, want, rtol=1e-8, atol=1e-15)
    assert not cut.converged.any()


@pytest.mark.parametrize("eta", [1.0, 1e-3])
def test_an_antisymmetric_payoff_gives_the_symmetric_equilibrium_twice(xp_like, eta):
    rng = np.random.default_rng(2)
    payoff, log_pi0 = (
        as_like(skew(rng, 6, 2, 5), xp_like),
        as_like(dirichlet(rng, 6, 2, 5), xp_like),
    )
    one, two = two_player_saddle(payoff, log_pi0, eta).value
    want = to_numpy(nash_policy(payoff, log_pi0, eta).value)
    np.testing.assert_allclose(to_numpy(one), want, rtol=0, atol=1e-9)
    np.testing.assert_allclose(to_numpy(two), want, rtol=0, atol=1e-9)


def test_swapping_the_players_swaps_the_policies():
    rng = np.random.default_rng(3)
    payoff, log_pi0 = pessimistic(rng, 8, 2, 6), dirichlet(rng, 1, 2, 6)
    one, two = two_player_saddle(payoff, log_pi0, 0.05).value
    b, a = two_player_saddle(-np.swapaxes(payoff, -1, -2), log_pi0, 0.05).value
    np.testing.assert_allclose(a, one, rtol=0, atol=1e-9)
    np.testing.assert_allclose(b, two, rtol=0, atol=1e-9)


def test_constants_and_separable_payoffs_are_solved_in_closed_form():
    # M(a, b) = f(a) + g(b) + c: each player plays alone.
    rng = np.random.default_rng(4)
    f, g, log_pi0 = rng.normal(size=(3, 2, 5)), rng.normal(size=(3, 2, 5)), dirichlet(rng, 1, 2, 5)
    for eta in (1.0, 1e-3):
        payoff = f[..., :, None] + g[..., None, :] + 100.0
        one, two = two_player_saddle(payoff, log_pi0, eta).value
        for policy, value in ((one, f), (two, -g)):
            want = log_pi0 + value / eta
            want = want - np.logaddexp.reduce(want, axis=-1, keepdims=True)
            np.testing.assert_allclose(policy, want, rtol=0, atol=1e-8)


def test_absent_actions_are_as_if_they_were_not_there(xp_like):
    rng = np.random.default_rng(5)
    payoff, log_pi0 = pessimistic(rng, 4, 2, 4), dirichlet(rng, 4, 2, 4)
    there = np.array([0, 2, 3, 5])
    larger = rng.normal(size=(4, 2, 6, 6)) * 50.0
    larger[np.ix_(range(4), range(2), there, there)] = payoff
    padded = np.full((4, 2, 6), -np.inf)
    padded[..., there] = log_pi0
    want = two_player_saddle(payoff, log_pi0, 0.02).value
    found = two_player_saddle(as_like(larger, xp_like), as_like(padded, xp_like), 0.02)
    for got, expected in zip(map(to_numpy, found.value), want, strict=True):
        np.testing.assert_allclose(got[..., there], expected, rtol=0, atol=1e-9)
        assert (got[..., [1, 4]] == -np.inf).all()


def test_a_replica_alone_and_array_libraries():
    rng = np.random.default_rng(6)
    payoff, log_pi0 = pessimistic(rng, 5, 2, 6), dirichlet(rng, 5, 2, 6)
    for eta in (0.5, 1e-3):
        want = two_player_saddle(payoff, log_pi0, eta).value
        alone = two_player_saddle(payoff[3:4], log_pi0[3:4], eta).value
        for player in (0, 1):
            np.testing.assert_allclose(alone[player][0], want[player][3], rtol=0, atol=1e-10)
        for name in LIBRARIES[1:]:
            like = library_array(name)
            got = two_player_saddle(as_like(payoff, like), as_like(log_pi0, like), eta).value
            for player in (0, 1):
                np.testing.assert_allclose(to_numpy(got[player]), want[player], rtol=0, atol=1e-8)


def test_a_warm_start_saves_steps():
    rng = np.random.default_rng(7)
    payoff, log_pi0 = pessimistic(rng, 16, 3, 8), uniform(1, 3, 8)
    last = two_player_saddle(payoff, log_pi0, 0.05)
    nearby = payoff + 0.01 * skew(rng, 16, 3, 8)
    cold = two_player_saddle(nearby, log_pi0, 0.05)
    warm = two_player_saddle(nearby, log_pi0, 0.05, start=last.value)
    assert warm.n_iter < cold.n_iter
    np.testing.assert_allclose(warm.value[0], cold.value[0], rtol=0, atol=1e-9)


def test_bad_input():
    payoff, log_pi0 = np.zeros((2, 1, 3, 3)), uniform(1, 1, 3)
    with pytest.raises(ValueError, match="eta must be positive"):
        two_player_saddle(payoff, log_pi0, 0.0)
    with pytest.raises(ValueError, match="payoff must be finite"):
        two_player_saddle(payoff * np.nan, log_pi0, 1.0)
    with pytest.raises(ShapeError):
        two_player_saddle(np.zeros((2, 1, 3, 4)), log_pi0, 1.0)
    with pytest.raises(ShapeError, match="start"):
        two_player_saddle(payoff, log_pi0, 1.0, start=(uniform(1, 1, 2), log_pi0))


# ------------------------------------------------------------------------ planner


class Fixed:
    def __init__(self, table):
        self.table = table

    def payoff(self, contexts):
        return contexts.lookup(lambda _: self.table)


def test_the_planner_returns_the_max_player_and_keeps_the_min_player(xp_like, key):
    problem = finite_problem(xp_like, absent=[(1, 2)])
    table, _ = problem.population(key, 1)
    model = Fixed(as_like(pessimistic(np.random.default_rng(8), 3, 3, 4), xp_like))
    plan = PessimisticNash()(model, problem, key)
    want = two_player_saddle(model.table, table.log_pi0, problem.eta).value
    for policy, expected in zip((plan.value, plan.warm), want, strict=True):
        np.testing.assert_array_equal(to_numpy(policy.log_probs(table)), to_numpy(expected))
    both = PessimisticNash().players(model, problem, key, None)
    np.testing.assert_array_equal(
        to_numpy(both.value[1].log_probs(table)), to_numpy(plan.warm.log_probs(table))
    )
    assert plan.message == ""
    again = PessimisticNash()(model, problem, key, plan.value)
    assert again.n_iter <= 2  # the min player is started at its best reply


def test_pessimism_bounds_the_gap_of_the_max_player(key):
    # Theory sheet 2.2: with |R_hat - R*| <= b pointwise,
    # gap(pi1) + eta KL(pi* || pi1) <= 2 E_{a1 ~ pi*, a2 ~ pi2} b.
    rng = np.random.default_rng(9)
    problem = finite_problem(np.zeros(1), eta=0.1, replicas=200)
    table, _ = problem.population(key, 1)
    truth = skew(rng, 200, 3, 4)
    bonus = np.abs(rng.normal(size=truth.shape))
    bonus = 0.5 * (bonus + np.swapaxes(bonus, -1, -2)) * (1.0 - np.eye(4))
    error = skew(rng, 200, 3, 4)
    estimate = truth + bonus * error / np.abs(error).max()
    plan = PessimisticNash()(Fixed(estimate - bonus), problem, key)
    one, two = (to_numpy(p.log_probs(table)) for p in (plan.value, plan.warm))
    star = nash_policy(truth, table.log_pi0, 0.1).value
    reply = best_reply(truth, one, table.log_pi0, 0.1)
    left = 0.1 * (np.exp(one) * (one - reply)).sum(axis=-1)
    left += 0.1 * (np.exp(star) * (star - one)).sum(axis=-1)
    right = 2 * np.einsum("rxa,rxab,rxb->rx", np.exp(star), bonus, np.exp(two))
    assert (left <= right + 1e-12).all()


def test_fresh_contexts_are_solved_when_they_are_met(xp_like, key):
    def draw(key, n_replicas, n):
        return key.child("phi").normal_numpy(n_replicas, n, 4, 2), np.zeros((n_replicas, n, 4))

    class Rule:
        def payoff(self, contexts):
            r = contexts.phi[..., 0]
            return r[..., :, None] - 2.0 * r[..., None, :]

    problem = FreshProblem(draw, 2, 0.2, 3, xp_like)
    plan = PessimisticNash()(Rule(), problem, key, ReferencePolicy())
    x = problem.sample_contexts(Key(5), 6)
    reward = to_numpy(x.phi)[..., 0]
    for policy, value in ((plan.value, reward), (plan.warm, 2 * reward)):
        want = value / 0.2
        want = want - np.logaddexp.reduce(want, axis=-1, keepdims=True)
        np.testing.assert_allclose(to_numpy(policy.log_probs(x)), want, rtol=0, atol=1e-8)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="tol must be positive"):
        PessimisticNash(tol=-1.0)
