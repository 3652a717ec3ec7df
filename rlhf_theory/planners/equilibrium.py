"""Equilibria of KL-regularised skew games, many at once: the engine of `nash` and `saddle`.

The path: with ``h = eta_target log pi0`` fixed, ``eta`` falls from the size of the payoffs to its
target, by a factor that each game adapts to itself. (Fixing ``log pi0`` instead would make the path
steep where used actions differ by dozens of nats in ``log pi0``.) The step is Newton's, in ``log
pi``. The safeguards: where a fall of ``eta`` leads too far, the point and ``eta`` both go a part of
the way; where a step does not halve ``KL(pi || BR)``, the best of it, shorter ones and mixtures
towards ``BR`` (which always descend) is taken; and where that fails repeatedly, the game returns to
its last point close to the path and is more careful from then on.

Source: theory sheet 8, "Solving the regularised game to machine precision".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from rlhf_theory.arrays import (
    Array,
    full_like,
    int_like,
    namespace,
    select,
    to_numpy,
)
from rlhf_theory.planners.skew_games import (
    Point,
    SkewGames,
    best_of,
    choose,
    moved,
    newton_step,
    point,
)

# Near the path, as KL(pi || BR) and Jeffreys divergence: eta may fall from here.
_NEAR_KL, _NEAR_JEFFREYS = 0.3, 2.0
# Well inside the region where Newton converges ("firm"): a game that lost the path returns to its
# last such point, and from then on lowers eta from such points only.
_FIRM_KL, _FIRM_JEFFREYS = 1e-3, 4e-3
# A fall of eta is accepted up to this KL(pi || BR).
_FAR_KL = 0.5
# Parts of a fall of eta that are tried where the whole leads too far.
_PARTS = (0.5, 0.25, 0.1)
# Factors by which eta falls: the first try, and the largest fall.
_FIRST_FACTOR, _LEAST_FACTOR = 0.1, 0.01
# Newton steps that did not halve KL(pi || BR) before a game counts as lost.
_PATIENCE = 3
# Share of solved games at which they leave the computation.
_CROWD = 0.25
# Iterate until KL(pi || BR) is this small, beyond any tolerance on eta KL: one Newton step later
# log-probabilities are exact to rounding.
_GOAL_KL = 1e-13
# Where rounding does not allow that, at most this counts as solved.
_ROUNDED_KL = 1e-4


class SkewSolution(NamedTuple):
    """Equilibria.

    Attributes
    ----------
    log_p
        Log-policies, shape ``(G, k, A)``; very negative for absent actions.
    gap
        ``eta KL(pi || BR(pi))`` summed over players, shape ``(G,)``; infinite if not a number.
    solved
        Whether the gap is below the tolerance, or below what rounding allows, shape ``(G,)``.
    n_iter
        Newton steps of the slowest game.
    """

    log_p: Array
    gap: Array
    solved: Array
    n_iter: int


@dataclass(frozen=True, eq=False)
class _State:
    """Where each game stands; every array has the games first."""

    log_p: Array
    eta: Array
    kl: Array
    jeffreys: Array
    log_factor: Array  # by how much eta falls next
    hold: Array  # True: a Newton step at this eta before it falls again
    failures: Array  # Newton steps that did not halve since eta fell
    strict: Array  # True: eta falls from firm points only
    anchor: Array  # last firm point
    anchor_eta: Array

    def rows(self, index: Array) -> _State:
        """Return some of the games."""
        xp = namespace(self.log_p)
        taken = {f.name: xp.take(getattr(self, f.name), index, axis=0) for f in fields(self)}
        return _State(**taken)

    def where(self, mask: Array, other: _State) -> _State:
        """Return this state where ``mask``, else the other."""
        return _State(
            **{
                f.name: select(mask, getattr(self, f.name), getattr(other, f.name))
                for f in fields(self)
            }
        )


def _start(games: SkewGames, eta: float, start: Array | None) -> _State:
    """Return the first state: cold at an ``eta`` of the size of the payoffs, or warm."""
    xp = namespace(games.skew)
    g = games.skew.shape[0]
    target = full_like((g,), eta, games.field)
    cold = xp.maximum(games.size, target)
    anchor_eta = 4.0 * cold
    if start is None:
        first, first_eta = games.normalised(games.field / cold[:, None, None]), cold
    else:
        first, first_eta = games.normalised(start), target
    at = point(games, first, first_eta)
    never = games.size < 0.0
    return _State(
        log_p=first,
        eta=first_eta,
        kl=at.kl,
        jeffreys=at.jeffreys,
        log_factor=full_like((g,), math.log(_FIRST_FACTOR), first),
        hold=never,
        failures=full_like((g,), 0.0, first),
        strict=never,
        anchor=games.normalised(games.field / anchor_eta[:, None, None]),
        anchor_eta=anchor_eta,
    )


def _advance(games: SkewGames, s: _State, target: float, goal: Array) -> _State:
    """Return the state after one Newton step."""
    xp = namespace(s.log_p)
    firm = (s.kl <= _FIRM_KL) & (s.jeffreys <= _FIRM_JEFFREYS)
    near = (s.kl <= _NEAR_KL) & (s.jeffreys <= _NEAR_JEFFREYS)
    lower = (firm | (near & ~s.strict)) & ~s.hold & (s.eta > target)
    least = full_like((1,), target, s.eta)
    eta = xp.where(lower, xp.maximum(s.eta * xp.exp(s.log_factor), least), s.eta)
    at = point(games, s.log_p, eta)
    step = newton_step(games, at, eta)
    new = point(games, moved(games, s.log_p, step, eta, 1.0), eta)

    halved = (new.kl <= 0.5 * at.kl) | (new.kl <= goal)
    far = lower & ~(new.kl <= _FAR_KL)
    stuck = ~lower & ~halved
    part = xp.ones_like(s.eta)
    if bool(xp.any(far)):
        # Too far: the point and eta go the same part of the way.
        for fraction in _PARTS:
            between = s.eta * xp.exp(fraction * xp.log(eta / s.eta))
            trial = point(games, moved(games, s.log_p, step, between, fraction), between)
            fits = far & (trial.kl <= _FAR_KL)
            new, far = choose(fits, trial, new), far & ~fits
            eta, part = xp.where(fits, between, eta), xp.where(fits, fraction, part)
    if bool(xp.any(stuck)):
        new = best_of(games, at, step, eta, stuck, new)
    return _settled(s, _Move(new, eta, lower, lower & firm, part, far, stuck))


class _Move(NamedTuple):
    """What one Newton step did; masks of shape ``(G,)``."""

    new: Point
    eta: Array
    lower: Array  # eta was to fall
    firm: Array  # ... from a firm point
    part: Array  # ... and fell by this part of the way
    far: Array  # ... or not at all, since all parts led too far
    stuck: Array  # eta stayed, and the step did not halve KL


def _settled(s: _State, move: _Move) -> _State:
    """Return the next state."""
    xp = namespace(move.eta)
    new, eta, lower, firm, part, far, stuck = move
    # A whole fall makes the next twice as bold (in log eta), a part of one more careful.
    bold = xp.where(part == 1.0, 2.0 * xp.ones_like(part), xp.sqrt(part))
    bold = xp.where(far, full_like((1,), 0.3, part), bold)
    least = full_like((1,), math.log(_LEAST_FACTOR), eta)
    failures = xp.where(lower, xp.zeros_like(eta), s.failures + xp.astype(stuck, eta.dtype))
    onward = _State(
        log_p=select(far, s.log_p, new.log_p),
        eta=xp.where(far, s.eta, eta),
        kl=xp.where(far, s.kl, new.kl),
        jeffreys=xp.where(far, s.jeffreys, new.jeffreys),
        log_factor=xp.where(lower, xp.maximum(bold * s.log_factor, least), s.log_factor),
        hold=far,
        failures=failures,
        strict=s.strict,
        anchor=select(firm, s.log_p, s.anchor),
        anchor_eta=xp.where(firm, s.eta, s.anchor_eta),
    )
    # Lost: back to the last firm point.
    careful = 0.25 * xp.log(s.eta / s.anchor_eta)
    back = replace(
        onward,
        log_p=s.anchor,
        eta=s.anchor_eta,
        log_factor=xp.minimum(careful, full_like((1,), -1e-3, eta)),
        kl=xp.zeros_like(eta),
        jeffreys=xp.zeros_like(eta),
        strict=xp.ones_like(far),
        failures=xp.zeros_like(failures),
    )
    return back.where(failures >= _PATIENCE, onward)


def solve_skew_games(
    games: SkewGames, eta: float, *, tol: float, max_iter: int, start: Array | None = None
) -> SkewSolution:
    """Return the equilibria.

    Parameters
    ----------
    games
        The games; see `SkewGames.of`.
    eta
        Weight of the KL, positive.
    tol
        A game is solved when ``eta KL(pi || BR(pi))`` is below it (rounding permitting); its
        policy is then refined to rounding.
    max_iter
        Newton steps per game.
    start
        Log-policies to start from, shape ``(G, k, A)``; None starts from the reference policy.
    """
    xp = namespace(games.skew)
    size = games.size
    # Rounding: log-replies are off by some eps |S| / eta, KL by the square of that.
    rounding = 64.0 * float(xp.finfo(games.skew.dtype).eps) * (1.0 + size / eta)
    least = xp.minimum(rounding * rounding, full_like((1,), _ROUNDED_KL, size))
    goal = xp.maximum(full_like((1,), min(tol / eta, _GOAL_KL), size), least)
    crowd = _Crowd(np.arange(size.shape[0]), games, _start(games, eta, start), goal)
    left: list[tuple[np.ndarray, Array]] = []
    n_iter = 0
    while crowd.index.size:
        done = to_numpy((crowd.state.kl <= crowd.goal) & (crowd.state.eta <= eta))
        done = done | (n_iter == max_iter)
        # Solved games leave in bulk: each departure copies the matrices of those that stay.
        if done.mean() > _CROWD:
            left.append((crowd.index[done], crowd.rows(done).state.log_p))
            crowd, done = crowd.rows(~done), done[~done]
        if done.size:
            n_iter += 1
            new = _advance(crowd.games, crowd.state, eta, crowd.goal)
            # A solved game stays put, so its value cannot depend on the others.
            stays = int_like(done, size) > 0
            crowd = replace(crowd, state=crowd.state.where(stays, new))
    order = int_like(np.argsort(np.concatenate([i for i, _ in left])), size)
    log_p = xp.take(xp.concat([x for _, x in left], axis=0), order, axis=0)
    log_p, kl = _refined(games, log_p, eta, goal)
    solved = kl <= xp.maximum(full_like((1,), tol / eta, size), least)
    return SkewSolution(log_p, eta * kl, solved, n_iter)


@dataclass(frozen=True, eq=False)
class _Crowd:
    """The games that are still computed, and their places among all."""

    index: np.ndarray
    games: SkewGames
    state: _State
    goal: Array

    def rows(self, mask: np.ndarray) -> _Crowd:
        """Return some of the games."""
        xp = namespace(self.goal)
        index = int_like(np.nonzero(mask)[0], self.goal)
        return _Crowd(
            self.index[mask],
            self.games.rows(index),
            self.state.rows(index),
            xp.take(self.goal, index, axis=0),
        )


def _refined(games: SkewGames, log_p: Array, eta: float, goal: Array) -> tuple[Array, Array]:
    """Return policies and KL after a Newton step, a best reply and a Newton step.

    KL fixes a policy only to its root, and says nothing about actions without mass. The reply sets
    those, but it magnifies errors in the others by ``max |S| / eta``; the last step removes them.
    """
    xp = namespace(log_p)
    weight = full_like((log_p.shape[0],), eta, log_p)
    at = point(games, log_p, weight)
    near = moved(games, log_p, newton_step(games, at, weight), weight, 1.0)
    answer = point(games, point(games, near, weight).reply, weight)
    new = point(games, games.normalised(answer.log_p + newton_step(games, answer, weight)), weight)
    # Unsolved games keep what they have if it is better: the refinement may lead anywhere.
    best = choose(new.kl <= xp.maximum(at.kl, goal), new, at)
    return best.log_p, xp.where(best.kl >= 0.0, best.kl, full_like((1,), math.inf, weight))
