import nashpy
import numpy as np
import pytest

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.errors import ShapeError
from rlhf_theory.planners.matrix_game import UnregularisedNash, matrix_game
from rlhf_theory.planners.nash import nash_policy
from rlhf_theory.planners.saddle import two_player_saddle
from rlhf_theory.problems import FreshProblem
from tests.helpers.games import skew, uniform
from tests.helpers.small import finite_problem


def test_values_and_policies_agree_with_nashpy():
    rng = np.random.default_rng(0)
    payoff = rng.normal(size=(5, 2, 4, 3))
    found = matrix_game(payoff)
    assert found.converged.all()
    for i in np.ndindex(5, 2):
        x, y = nashpy.Game(payoff[i]).linear_program()
        np.testing.assert_allclose(found.value.row[i], x, atol=1e-7)
        np.testing.assert_allclose(found.value.column[i], y, atol=1e-7)
        np.testing.assert_allclose(found.value.value[i], x @ payoff[i] @ y, atol=1e-8)


def test_neither_player_can_gain(xp_like):
    rng = np.random.default_rng(1)
    payoff = rng.normal(size=(3, 2, 6, 6))
    found = matrix_game(as_like(payoff, xp_like))
    x, y, v = (to_numpy(part) for part in found.value)
    np.testing.assert_allclose(x.sum(axis=-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(y.sum(axis=-1), 1.0, rtol=1e-12)
    best = np.einsum("rxab,rxb->rxa", payoff, y).max(axis=-1)
    worst = np.einsum("rxa,rxab->rxb", x, payoff).min(axis=-1)
    np.testing.assert_allclose(best, v, atol=1e-9)
    np.testing.assert_allclose(worst, v, atol=1e-9)
    np.testing.assert_allclose(to_numpy(found.residual), (best - worst).max(axis=-1), atol=1e-12)
    assert to_numpy(found.converged).all()


def test_the_cycle_of_three_actions():
    a12, a23, a31 = 0.4, 1.0, 0.2
    payoff = np.array([[0.0, a12, -a31], [-a12, 0.0, a23], [a31, -a23, 0.0]])[None, None]
    found = matrix_game(payoff)
    want = np.array([a23, a31, a12]) / (a12 + a23 + a31)
    np.testing.assert_allclose(found.value.row[0, 0], want, atol=1e-12)
    np.testing.assert_allclose(found.value.value, 0.0, atol=1e-12)


def test_regularised_values_tend_to_the_value_of_the_game():
    rng = np.random.default_rng(2)
    payoff = rng.normal(size=(6, 2, 5, 5))
    value = matrix_game(payoff).value.value
    log_pi0 = uniform(1, 2, 5)
    # Each KL is at most log 5, so the two values differ by at most eta log 5.
    for eta in (0.1, 1e-3, 1e-5):
        one, two = two_player_saddle(payoff, log_pi0, eta).value
        game = np.einsum("rxa,rxab,rxb->rx", np.exp(one), payoff, np.exp(two))
        kl1 = (np.exp(one) * (one - log_pi0)).sum(axis=-1)
        kl2 = (np.exp(two) * (two - log_pi0)).sum(axis=-1)
        assert np.abs(game - eta * kl1 + eta * kl2 - value).max() <= eta * np.log(5) + 1e-9


def test_regularised_equilibria_tend_to_one_of_the_game():
    # Generic skew games of odd size have a single equilibrium, in the limit of eta -> 0.
    rng = np.random.default_rng(3)
    payoff = skew(rng, 10, 1, 5)
    want = matrix_game(payoff).value.row
    got = np.exp(nash_policy(payoff, uniform(1, 1, 5), 1e-6).value)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_absent_actions_are_not_played(xp_like):
    payoff = np.full((1, 1, 3, 3), 100.0)
    payoff[0, 0, 1:, 1:] = [[0.0, 1.0], [-1.0, 0.0]]
    present = as_like([[[0.0, 1.0, 1.0]]], xp_like) > 0
    found = matrix_game(as_like(payoff, xp_like), present=present)
    np.testing.assert_allclose(to_numpy(found.value.row), [[[0.0, 1.0, 0.0]]], atol=1e-12)
    np.testing.assert_allclose(to_numpy(found.value.value), 0.0, atol=1e-12)


def test_one_action_and_large_payoffs():
    assert matrix_game(np.full((2, 1, 1, 1), 3.0)).value.value.tolist() == [[3.0], [3.0]]
    rng = np.random.default_rng(4)
    payoff = rng.normal(size=(3, 1, 4, 4))
    small, large = matrix_game(payoff), matrix_game(1e8 * payoff)
    np.testing.assert_allclose(large.value.row, small.value.row, atol=1e-9)
    assert large.converged.all()


def test_a_failed_program_is_not_converged(monkeypatch):
    class Failed:
        success, nit, x = False, 7, None

    monkeypatch.setattr("rlhf_theory.planners.matrix_game.linprog", lambda *_, **__: Failed())
    found = matrix_game(np.zeros((1, 1, 2, 2)))
    assert not found.converged.any()
    assert "linear program failed" in found.message


def test_bad_input():
    with pytest.raises(ValueError, match="payoff must be finite"):
        matrix_game(np.full((1, 1, 2, 2), np.nan))
    with pytest.raises(ShapeError, match="payoff"):
        matrix_game(np.zeros((2, 2)))
    with pytest.raises(ShapeError, match="present"):
        matrix_game(np.zeros((1, 1, 2, 2)), present=np.ones((1, 1, 3), dtype=bool))


class Fixed:
    def __init__(self, table):
        self.table = table

    def payoff(self, contexts):
        return contexts.lookup(lambda _: self.table)


def test_the_planner_plays_the_row_player(xp_like, key):
    problem = finite_problem(xp_like, absent=[(1, 2)])
    payoff = skew(np.random.default_rng(5), 1, 3, 4)
    plan = UnregularisedNash()(Fixed(as_like(payoff, xp_like)), problem, key)
    table, _ = problem.population(key, 1)
    p = np.exp(to_numpy(plan.value.log_probs(table)))
    assert p.shape == (1, 3, 4)
    assert to_numpy(plan.residual).shape == (3,)
    assert p[0, 1, 2] == 0.0
    gain = np.einsum("rxa,rxab->rxb", p, payoff)
    gain[0, 1, 2] = 0.0
    assert gain.min() > -1e-9


def test_the_planner_needs_finite_contexts(key):
    problem = FreshProblem(
        lambda _, r, n: (np.zeros((r, n, 2, 1)), np.zeros((r, n, 2))), 1, 0.1, 1, np.zeros(1)
    )
    with pytest.raises(ValueError, match="finitely many contexts"):
        UnregularisedNash()(Fixed(np.zeros((1, 1, 2, 2))), problem, key)
