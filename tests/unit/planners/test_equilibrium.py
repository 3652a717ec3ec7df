import numpy as np
import pytest

from rlhf_theory.planners.equilibrium import solve_skew_games
from rlhf_theory.planners.skew_games import SkewGames
from tests.helpers.games import dirichlet, skew

# What has broken earlier forms of the solver: payoffs of a few values (ties), of low rank (a
# continuum of unregularised equilibria), huge against eta, and references with masses of 1e-50.
KINDS = ("normal", "signs", "low rank", "rewards")


def payoffs(kind, rng, n, actions):
    if kind == "normal":
        return skew(rng, n, actions)
    if kind == "signs":
        return np.sign(skew(rng, n, actions))
    if kind == "low rank":
        f, w = rng.normal(size=(n, actions, 4)), skew(rng, n, 4)
        s = f @ w @ np.swapaxes(f, -1, -2)
        return 0.5 * (s - np.swapaxes(s, -1, -2))
    r = rng.normal(size=(n, actions))
    return r[:, :, None] - r[:, None, :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("concentration", [1.0, 0.1])
def test_hard_games_are_solved_in_few_steps(kind, concentration):
    rng = np.random.default_rng(KINDS.index(kind))
    for actions, eta, scale in ((3, 1e-4, 1.0), (10, 1e-4, 10.0), (25, 1e-5, 1.0)):
        s = scale * payoffs(kind, rng, 60, actions)
        log_pi0 = dirichlet(rng, 60, 1, actions, concentration=concentration)
        found = solve_skew_games(SkewGames.of(s, log_pi0, eta), eta, tol=1e-12, max_iter=200)
        assert found.solved.all()
        assert found.gap.max() < 1e-12
        # Some 800 000 games of this kind, eta down to 1e-6, took at most 91.
        assert found.n_iter <= 100


def test_a_solved_game_does_not_depend_on_its_company():
    rng = np.random.default_rng(5)
    s, log_pi0 = skew(rng, 40, 8), dirichlet(rng, 40, 1, 8)
    s[20:] *= 1e-3  # half of the games are easy and leave early
    eta = 1e-3
    together = solve_skew_games(SkewGames.of(s, log_pi0, eta), eta, tol=1e-12, max_iter=200)
    for part in (slice(0, 20), slice(20, 40), slice(7, 8)):
        games = SkewGames.of(s[part], log_pi0[part], eta)
        alone = solve_skew_games(games, eta, tol=1e-12, max_iter=200)
        np.testing.assert_allclose(alone.log_p, together.log_p[part], rtol=0, atol=1e-10)
        np.testing.assert_allclose(alone.gap, together.gap[part], rtol=0, atol=1e-20)


def test_the_iteration_limit_is_kept_and_reported():
    rng = np.random.default_rng(6)
    games = SkewGames.of(skew(rng, 10, 8), dirichlet(rng, 10, 1, 8), 1e-3)
    found = solve_skew_games(games, 1e-3, tol=1e-12, max_iter=3)
    assert found.n_iter == 3
    assert not found.solved.all()
    assert np.array_equal(found.solved, found.gap <= 1e-12)


def test_a_larger_tolerance_saves_steps_and_keeps_its_word():
    rng = np.random.default_rng(7)
    games = SkewGames.of(skew(rng, 30, 8), dirichlet(rng, 30, 1, 8), 0.5)
    loose = solve_skew_games(games, 0.5, tol=1e-3, max_iter=200)
    tight = solve_skew_games(games, 0.5, tol=1e-12, max_iter=200)
    assert loose.solved.all()
    assert loose.n_iter <= tight.n_iter
    np.testing.assert_allclose(np.exp(loose.log_p), np.exp(tight.log_p), atol=1e-3)
