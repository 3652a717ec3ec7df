import math

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.core import Solution
from rlhf_theory.errors import ConvergenceError, ShapeError
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.planners.nash import Nash, NashPolicy, best_reply, nash_policy
from rlhf_theory.policies import ReferencePolicy, TablePolicy, kl
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward, RewardDifference
from tests.helpers.backends import LIBRARIES, library_array
from tests.helpers.games import dirichlet, exploitability, mirror_descent, skew, uniform
from tests.helpers.small import finite_problem, log

CYCLE = np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])


def assert_equilibrium(payoff, log_pi0, eta, tol=1e-12):
    """Solve, and check by the formula with plain sums that no opponent gains; return the policy."""
    found = nash_policy(payoff, log_pi0, eta, tol=tol)
    assert found.converged.all()
    assert found.message == ""
    assert found.residual.max() <= tol
    # The plain formula subtracts numbers of the size of payoffs: it sees 1e-12 at best.
    gap = exploitability(payoff, found.value, log_pi0, eta)
    assert np.abs(gap).max() < 1e-12 * (1.0 + np.abs(payoff).max() + eta)
    np.testing.assert_allclose(np.exp(found.value).sum(axis=-1), 1.0, rtol=1e-13)
    # A fixed point in logarithms, actions without mass included.
    reply = best_reply(payoff, found.value, log_pi0, eta)
    present = np.broadcast_to(log_pi0 > -np.inf, reply.shape)
    assert np.array_equal(found.value > -np.inf, present)
    scale = 1.0 + np.abs(payoff).max() / eta
    np.testing.assert_allclose(found.value[present], reply[present], rtol=0, atol=1e-12 * scale)
    return found.value


# ------------------------------------------------------------------------ the grid


def test_500_games_of_50_actions_at_the_smallest_weight():
    rng = np.random.default_rng(0)
    log_pi0 = np.concatenate(
        [np.repeat(uniform(1, 1, 50), 250, axis=0), dirichlet(rng, 250, 1, 50)]
    )
    assert_equilibrium(skew(rng, 500, 1, 50), log_pi0, 1e-3)


@pytest.mark.parametrize("eta", [10.0, 1.0, 0.1, 0.01, 1e-3])
@pytest.mark.parametrize("n_actions", [2, 3, 10, 30])
def test_random_games_of_every_weight(eta, n_actions):
    rng = np.random.default_rng(n_actions)
    payoff = skew(rng, 30, 4, n_actions)
    assert_equilibrium(payoff, uniform(1, 4, n_actions), eta)
    assert_equilibrium(payoff, dirichlet(rng, 30, 4, n_actions), eta)


def test_peaked_references_and_small_weights():
    # Dirichlet(0.1) has masses down to 1e-50; eta beyond what is promised.
    rng = np.random.default_rng(1)
    for eta in (1e-3, 1e-5):
        assert_equilibrium(skew(rng, 40, 3, 12), dirichlet(rng, 40, 3, 12, concentration=0.1), eta)


def test_low_rank_payoffs():
    # Equilibria of the unregularised game form a continuum: pi0 alone decides within it.
    rng = np.random.default_rng(2)
    f, w = rng.normal(size=(60, 2, 20, 4)), rng.normal(size=(60, 2, 4, 4))
    payoff = f @ (w - np.swapaxes(w, -1, -2)) @ np.swapaxes(f, -1, -2)
    payoff = 0.5 * (payoff - np.swapaxes(payoff, -1, -2))
    for eta in (1.0, 1e-3):
        assert_equilibrium(payoff, dirichlet(rng, 60, 2, 20), eta)


# ------------------------------------------------------------------------ known equilibria


@pytest.mark.parametrize("eta", [10.0, 0.3, 1e-3])
def test_a_difference_of_rewards_gives_the_gibbs_policy(xp_like, eta):
    rng = np.random.default_rng(3)
    reward = as_like(rng.normal(size=(4, 3, 6)), xp_like)
    log_pi0 = as_like(dirichlet(rng, 4, 3, 6), xp_like)
    payoff = reward[..., :, None] - reward[..., None, :]
    nash = to_numpy(nash_policy(payoff, log_pi0, eta).value)
    gibbs = to_numpy(gibbs_log_probs(reward, log_pi0, eta))
    np.testing.assert_allclose(nash, gibbs, rtol=0, atol=1e-8)


def test_the_symmetric_cycle_has_the_uniform_equilibrium(xp_like):
    payoff = as_like(CYCLE[None, None], xp_like)
    for eta in (10.0, 0.1, 1e-3):
        found = nash_policy(payoff, as_like(uniform(1, 1, 3), xp_like), eta)
        np.testing.assert_allclose(np.exp(to_numpy(found.value)), 1 / 3, rtol=1e-12)


def test_the_limit_of_a_cycle_without_regularisation():
    # NE of a 3-cycle is proportional to (A23, A31, A12).
    rng = np.random.default_rng(4)
    a12, a23, a31 = rng.uniform(0.2, 1.0, size=(3, 10, 1))
    zero = np.zeros_like(a12)
    rows = [[zero, a12, -a31], [-a12, zero, a23], [a31, -a23, zero]]
    payoff = np.stack([np.stack(r, axis=-1) for r in rows], axis=-2)
    want = np.stack([a23, a31, a12], axis=-1)
    want = want / want.sum(axis=-1, keepdims=True)
    for eta, close in ((1e-3, 2e-2), (1e-6, 2e-5)):  # the distance is of order eta
        got = np.exp(assert_equilibrium(payoff, dirichlet(rng, 10, 1, 3), eta))
        np.testing.assert_allclose(got, want, atol=close)


def test_two_actions_solve_a_scalar_equation():
    # With payoff m for 1 against 2: logit p = logit p0 + m / eta, whatever p is.
    m, eta, log_pi0 = 0.7, 0.2, np.log([[[0.3, 0.7]]])
    found = assert_equilibrium(np.array([[[[0.0, m], [-m, 0.0]]]]), log_pi0, eta)
    np.testing.assert_allclose(
        found[0, 0, 0] - found[0, 0, 1], np.log(0.3 / 0.7) + m / eta, rtol=1e-12
    )


def test_the_last_iterate_of_mirror_descent_agrees():
    rng = np.random.default_rng(5)
    payoff = np.tanh(skew(rng, 10, 2, 6)) / 2
    log_pi0 = dirichlet(rng, 10, 2, 6)
    slow = mirror_descent(payoff, log_pi0, 0.5, 300)
    np.testing.assert_allclose(assert_equilibrium(payoff, log_pi0, 0.5), slow, rtol=0, atol=1e-10)


def test_what_the_equilibrium_wins_is_a_divergence(xp_like):
    # J(pi*, pi2) = eta KL(pi2 || pi*) for every pi2 (theory sheet 2.1).
    rng = np.random.default_rng(6)
    eta = 0.2
    payoff, log_pi0, other = skew(rng, 5, 3, 7), dirichlet(rng, 1, 3, 7), dirichlet(rng, 5, 3, 7)
    star = nash_policy(as_like(payoff, xp_like), as_like(log_pi0, xp_like), eta).value
    right = eta * to_numpy(kl(as_like(other, xp_like), star))
    star, p, q = to_numpy(star), np.exp(to_numpy(star)), np.exp(other)
    left = np.einsum("rxa,rxab,rxb->rx", p, payoff, q)
    left -= eta * (p * (star - log_pi0)).sum(axis=-1) - eta * (q * (other - log_pi0)).sum(axis=-1)
    np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-13)


def test_the_residual_is_the_exploitability():
    rng = np.random.default_rng(7)
    payoff, log_pi0 = skew(rng, 4, 3, 8), dirichlet(rng, 4, 3, 8)
    cut = nash_policy(payoff, log_pi0, 0.05, max_iter=2)
    want = exploitability(payoff, cut.value, log_pi0, 0.05).max(axis=-1)
    np.testing.assert_allclose(cut.residual, want, rtol=1e-8, atol=1e-15)
    assert not cut.converged.any()
    assert "did not converge in 2 iterations" in cut.message
    with pytest.raises(ConvergenceError, match="max_iter"):
        cut.require()


# ------------------------------------------------------------------------ degenerate games


def test_zero_payoff_gives_the_reference_policy():
    rng = np.random.default_rng(8)
    log_pi0 = dirichlet(rng, 3, 2, 5, concentration=0.1)
    found = nash_policy(np.zeros((3, 2, 5, 5)), log_pi0, 1e-3)
    np.testing.assert_allclose(found.value, log_pi0, rtol=1e-12, atol=1e-12)
    assert (found.residual == 0).all() or found.residual.max() < 1e-25


def test_one_action_gets_everything():
    found = nash_policy(np.zeros((2, 3, 1, 1)), np.zeros((1, 3, 1)), 1e-3)
    assert np.array_equal(found.value, np.zeros((2, 3, 1)))
    assert found.converged.all()


@pytest.mark.parametrize("eta", [1.0, 1e-3])
def test_duplicates_share_the_mass_of_one_action(eta):
    rng = np.random.default_rng(9)
    payoff, log_pi0 = skew(rng, 20, 1, 6), dirichlet(rng, 20, 1, 6)
    twice = np.array([0, 1, 1, 2, 3, 4, 5])
    split = log_pi0[..., twice].copy()
    split[..., 1] += np.log(0.25)
    split[..., 2] += np.log(0.75)
    one = assert_equilibrium(payoff, log_pi0, eta)
    two = assert_equilibrium(payoff[..., twice, :][..., twice], split, eta)
    merged = np.concatenate(
        [two[..., :1], np.logaddexp(two[..., 1:2], two[..., 2:3]), two[..., 3:]], axis=-1
    )
    np.testing.assert_allclose(merged, one, rtol=0, atol=1e-8)


def test_dominated_actions_vanish_and_their_logarithm_is_right():
    rng = np.random.default_rng(10)
    payoff = skew(rng, 20, 1, 5)
    payoff[..., 4, :4], payoff[..., :4, 4] = -20.0, 20.0
    found = assert_equilibrium(payoff, uniform(1, 1, 5), 1e-3)
    assert found[..., 4].max() < -1e4


def test_independent_blocks():
    # Two cycles that ignore each other: both are played, and pi0 decides how much.
    payoff = np.zeros((1, 1, 6, 6))
    payoff[..., :3, :3], payoff[..., 3:, 3:] = CYCLE, 5.0 * CYCLE
    for eta in (1.0, 1e-3):
        got = np.exp(assert_equilibrium(payoff, uniform(1, 1, 6), eta))
        np.testing.assert_allclose(got, 1 / 6, rtol=1e-10)
        assert_equilibrium(payoff, np.log([[[0.3, 0.2, 0.1, 0.05, 0.05, 0.3]]]), eta)


@pytest.mark.parametrize("eta", [1.0, 1e-3])
def test_absent_actions_are_as_if_they_were_not_there(xp_like, eta):
    rng = np.random.default_rng(11)
    payoff, log_pi0 = skew(rng, 6, 2, 5), dirichlet(rng, 6, 2, 5)
    larger = rng.normal(size=(6, 2, 7, 7)) * 100.0
    larger = larger - np.swapaxes(larger, -1, -2)
    there = np.array([0, 2, 3, 5, 6])
    larger[np.ix_(range(6), range(2), there, there)] = payoff
    padded = np.full((6, 2, 7), -np.inf)
    padded[..., there] = log_pi0
    want = nash_policy(payoff, log_pi0, eta).value
    found = nash_policy(as_like(larger, xp_like), as_like(padded, xp_like), eta)
    got = to_numpy(found.value)
    assert to_numpy(found.converged).all()
    np.testing.assert_allclose(got[..., there], want, rtol=0, atol=1e-9)
    assert (got[..., [1, 4]] == -np.inf).all()


def test_huge_payoffs():
    rng = np.random.default_rng(12)
    found = nash_policy(1e6 * skew(rng, 20, 1, 6), uniform(1, 1, 6), 1.0)
    assert found.converged.all()


# ------------------------------------------------------------------------ invariances


def test_permuting_actions_permutes_the_policy():
    rng = np.random.default_rng(13)
    payoff, log_pi0 = skew(rng, 20, 2, 9), dirichlet(rng, 20, 2, 9)
    order = rng.permutation(9)
    got = nash_policy(payoff[..., order, :][..., order], log_pi0[..., order], 0.01).value
    want = nash_policy(payoff, log_pi0, 0.01).value[..., order]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


def test_scaling_payoff_and_weight_together_changes_nothing():
    rng = np.random.default_rng(14)
    payoff, log_pi0 = skew(rng, 5, 2, 6), dirichlet(rng, 1, 2, 6)
    one, two = nash_policy(payoff, log_pi0, 0.05), nash_policy(8 * payoff, log_pi0, 0.4)
    np.testing.assert_allclose(one.value, two.value, rtol=0, atol=1e-10)


def test_a_replica_alone_is_the_same_as_in_a_block():
    rng = np.random.default_rng(15)
    payoff, log_pi0 = skew(rng, 12, 3, 10), dirichlet(rng, 12, 3, 10)
    for eta in (0.3, 1e-3):
        block = nash_policy(payoff, log_pi0, eta)
        for r in (0, 5, 11):
            alone = nash_policy(payoff[r : r + 1], log_pi0[r : r + 1], eta)
            np.testing.assert_allclose(alone.value[0], block.value[r], rtol=0, atol=1e-10)


def test_shared_arguments_broadcast():
    rng = np.random.default_rng(16)
    payoff, log_pi0 = skew(rng, 1, 2, 4), dirichlet(rng, 3, 2, 4)
    found = nash_policy(payoff, log_pi0, 0.1)
    assert found.value.shape == (3, 2, 4)
    assert found.residual.shape == found.converged.shape == (3,)
    want = nash_policy(np.repeat(payoff, 3, axis=0), log_pi0, 0.1).value
    np.testing.assert_allclose(found.value, want, rtol=0, atol=1e-12)


def test_array_libraries_agree():
    rng = np.random.default_rng(17)
    payoff, log_pi0 = skew(rng, 6, 2, 8), dirichlet(rng, 6, 2, 8)
    for eta in (1.0, 1e-3):
        want = nash_policy(payoff, log_pi0, eta).value
        for name in LIBRARIES[1:]:
            like = library_array(name)
            found = nash_policy(as_like(payoff, like), as_like(log_pi0, like), eta)
            np.testing.assert_allclose(to_numpy(found.value), want, rtol=0, atol=1e-8)


def test_single_precision_converges_to_what_it_can_resolve():
    rng = np.random.default_rng(18)
    payoff, log_pi0 = skew(rng, 20, 2, 8), dirichlet(rng, 20, 2, 8)
    for eta in (1.0, 0.01):
        found = nash_policy(payoff.astype(np.float32), log_pi0.astype(np.float32), eta)
        assert found.value.dtype == np.float32
        assert found.converged.all()
        want = nash_policy(payoff, log_pi0, eta).value
        np.testing.assert_allclose(np.exp(found.value), np.exp(want), atol=2e-3)


# ------------------------------------------------------------------------ warm starts


def test_a_warm_start_changes_the_work_and_not_the_answer():
    rng = np.random.default_rng(19)
    payoff, log_pi0 = skew(rng, 64, 5, 10), uniform(1, 5, 10)
    last = nash_policy(payoff, log_pi0, 0.05)
    nearby = payoff + 0.01 * skew(rng, 64, 5, 10)
    cold = nash_policy(nearby, log_pi0, 0.05)
    warm = nash_policy(nearby, log_pi0, 0.05, start=last.value)
    np.testing.assert_allclose(warm.value, cold.value, rtol=0, atol=1e-9)
    assert warm.n_iter <= 6 < cold.n_iter


def test_a_solved_game_needs_no_iteration():
    rng = np.random.default_rng(20)
    payoff, log_pi0 = skew(rng, 8, 2, 6), dirichlet(rng, 8, 2, 6)
    found = nash_policy(payoff, log_pi0, 1e-3)
    again = nash_policy(payoff, log_pi0, 1e-3, start=found.value)
    assert again.n_iter == 0
    np.testing.assert_allclose(again.value, found.value, rtol=0, atol=1e-10)


@pytest.mark.parametrize("eta", [1.0, 1e-3])
def test_a_bad_start_does_no_harm(eta):
    rng = np.random.default_rng(21)
    payoff, log_pi0 = skew(rng, 40, 2, 10), dirichlet(rng, 1, 2, 10)
    want = nash_policy(payoff, log_pi0, eta).value
    peaked = log(np.eye(10)[rng.integers(10, size=(40, 2))])
    for start in (peaked, dirichlet(rng, 40, 2, 10, concentration=0.05), log_pi0):
        found = nash_policy(payoff, log_pi0, eta, start=start)
        assert found.converged.all()
        np.testing.assert_allclose(found.value, want, rtol=0, atol=1e-9)


# ------------------------------------------------------------------------ bad input


def game(n_actions=3):
    return skew(np.random.default_rng(22), 2, 1, n_actions), uniform(1, 1, n_actions)


@pytest.mark.parametrize("eta", [0.0, -1.0, math.nan, math.inf])
def test_the_weight_must_be_positive(eta):
    with pytest.raises(ValueError, match="eta must be positive"):
        nash_policy(*game(), eta)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_payoffs_must_be_finite(bad):
    payoff, log_pi0 = game()
    payoff[1, 0, 0, 1] = bad
    with pytest.raises(ValueError, match="payoff must be finite"):
        nash_policy(payoff, log_pi0, 0.1)


def test_win_probabilities_are_no_antisymmetric_payoff():
    payoff, log_pi0 = game()
    with pytest.raises(ValueError, match="pass P - 1/2"):
        nash_policy(0.5 + 0.1 * np.tanh(payoff), log_pi0, 0.1)


@pytest.mark.parametrize(
    "log_pi0", [uniform(1, 1, 3) + 0.1, np.full((1, 1, 3), -np.inf), np.full((1, 1, 3), np.nan)]
)
def test_the_reference_policy_must_be_a_distribution(log_pi0):
    with pytest.raises(ValueError, match="sum to one"):
        nash_policy(game()[0], log_pi0, 0.1)


def test_shapes_must_fit():
    payoff, log_pi0 = game()
    with pytest.raises(ShapeError, match=r"payoff must have shape \(R, B, A, A\)"):
        nash_policy(payoff[0], log_pi0, 0.1)
    with pytest.raises(ShapeError, match="log_pi0 must have shape"):
        nash_policy(payoff, uniform(1, 1, 4), 0.1)
    with pytest.raises(ShapeError, match="start must have shape"):
        nash_policy(payoff, log_pi0, 0.1, start=uniform(1, 2, 3))
    with pytest.raises(ShapeError, match="1 or R rows"):
        nash_policy(payoff, uniform(3, 1, 3), 0.1)


def test_a_start_must_not_be_nan():
    payoff, log_pi0 = game()
    with pytest.raises(ValueError, match="start must be log-probabilities"):
        nash_policy(payoff, log_pi0, 0.1, start=np.full((1, 1, 3), np.nan))


# ------------------------------------------------------------------------ planner


def test_the_planner_solves_all_contexts_of_a_finite_problem(xp_like, key):
    problem = finite_problem(xp_like, absent=[(1, 2)])
    model = RewardDifference(LinearReward(as_like([[1.0, -0.5], [0.2, 0.3], [0.0, 2.0]], xp_like)))
    plan = Nash()(model, problem, key)
    assert isinstance(plan, Solution)
    assert isinstance(plan.value, TablePolicy)
    assert to_numpy(plan.converged).shape == (3,)
    table, _ = problem.population(key, 1)
    want = gibbs_log_probs(model.reward.rewards(table), table.log_pi0, problem.eta)
    got = plan.value.log_probs(table)
    np.testing.assert_allclose(to_numpy(got), to_numpy(want), rtol=0, atol=1e-8)
    again = Nash()(model, problem, key, plan.value)
    assert again.n_iter == 0


class Fixed:
    """A payoff table shared by all replicas."""

    def __init__(self, table):
        self.table = table

    def payoff(self, contexts):
        return contexts.lookup(lambda _: self.table)


def test_what_replicas_share_is_solved_once(key):
    problem = finite_problem(np.zeros(1), replicas=5)
    plan = Nash()(Fixed(skew(np.random.default_rng(23), 1, 3, 4)), problem, key, ReferencePolicy())
    assert plan.value.table.shape == (1, 3, 4)
    assert plan.residual.shape == plan.converged.shape == (5,)


def test_fresh_contexts_are_solved_when_they_are_met(xp_like, key):
    def draw(key, n_replicas, n):
        phi = key.child("phi").normal_numpy(n_replicas, n, 4, 2)
        return phi, np.zeros((n_replicas, n, 4))

    problem = FreshProblem(draw, 2, 0.2, 3, xp_like)
    model = RewardDifference(LinearReward(as_like([[1.0, -0.5]], xp_like)))
    plan = Nash()(model, problem, key)
    assert isinstance(plan.value, NashPolicy)
    x = problem.sample_contexts(Key(5), 6)
    want = gibbs_log_probs(model.reward.rewards(x), x.log_pi0, 0.2)
    np.testing.assert_allclose(to_numpy(plan.value.log_probs(x)), to_numpy(want), rtol=0, atol=1e-8)


def test_a_policy_that_cannot_be_solved_raises(key):
    problem = finite_problem(np.zeros(1))
    table, _ = problem.population(key, 1)
    # Beyond double precision: payoffs are 10^20 times the weight of the KL.
    hopeless = NashPolicy(Fixed(1e10 * skew(np.random.default_rng(24), 1, 3, 4)), 1e-10)
    with pytest.raises(ConvergenceError, match="beyond double precision"):
        hopeless.log_probs(table)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="tol must be positive"):
        Nash(tol=0.0)
    with pytest.raises(ValueError, match="eta must be positive"):
        NashPolicy(Fixed(None), -1.0)


def test_a_finite_problem_of_one_action(key):
    problem = FiniteProblem(
        np.ones((1, 2, 1, 1)), np.zeros((1, 2, 1)), np.full((1, 2), 0.5), 0.1, 2
    )
    plan = Nash()(Fixed(np.zeros((1, 2, 1, 1))), problem, key)
    assert np.array_equal(plan.value.table, np.zeros((1, 2, 1)))
