"""Maximise a bonus around a policy: alternation between policies and directions, many starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from rlhf_theory.arrays import Array, expand_rows, full_like, namespace, select, take_rows
from rlhf_theory.core import Solution
from rlhf_theory.errors import check_shape
from rlhf_theory.planners.tilting import Form, Response, Space, respond, tilt
from rlhf_theory.policies import kl
from rlhf_theory.randomness import Key

_HINT = "Raise `max_iter`; the bonus found is a lower bound of a local maximum."
# How many starts are kept after how many alternations, until one is left; and how exactly the tilt
# is found on the way: coarser, starts that differ by less than that are told apart by chance.
_STAGES = ((4, 4), (1, 8))
_LOOSE = 1e-4
_ROUGH = 2
_EXACT = 1e-13
# Steps that an extrapolation replaces: at most 1 / (1 - this).
_FURTHEST = 0.97


@dataclass(frozen=True, eq=False)
class Enhancement:
    r"""A policy that maximises a bonus around the main agent.

    Attributes
    ----------
    log_probs
        The policy, :math:`\pi_1 e^{\tau \langle u, \varphi \rangle}` normalised, ``(R, B, A)``.
    gamma
        Its bonus :math:`\beta \lVert E\varphi(\pi') - E\varphi(\pi_1) \rVert_{\Sigma^{-1}}`,
        shape ``(R,)``.
    kl
        ``E_x KL(pi' || pi1)``, shape ``(R,)``.
    objective
        What was maximised: ``gamma - eta kl`` in the penalised form, else ``gamma``; ``(R,)``.
    direction
        ``u``, with ``|u|_Sigma = beta``, shape ``(R, d)``; 0 where nothing is uncertain.
    tau
        The tilt, shape ``(R,)``; infinite where the policy is an argmax.
    """

    log_probs: Array
    gamma: Array
    kl: Array
    objective: Array
    direction: Array
    tau: Array

    def on(self, phi: Array, log_pi1: Array) -> Array:
        """Return the policy on other contexts, shape ``(R, B, A)``.

        Parameters
        ----------
        phi
            Features, shape ``(R, B, A, d)`` or ``(1, B, A, d)``.
        log_pi1
            The main agent there, shape ``(R, B, A)`` or ``(1, B, A)``.
        """
        xp = namespace(phi, log_pi1)
        _, b, a, d = phi.shape
        flat = xp.reshape(phi, (phi.shape[0], b * a, d))
        scores = xp.matmul(flat, self.direction[..., None])
        scores = xp.reshape(scores, (scores.shape[0], b, a))
        return tilt(log_pi1, scores, self.tau[:, None])


class Search(TypedDict, total=False):
    """Where a search starts, and when it stops; what is not given is as in `search`.

    Attributes
    ----------
    n_random
        Number of random starts.
    axes
        Whether to start from the ``d`` principal axes of the features in the metric of ``sigma``,
        both signs.
    start
        Further directions ``u``, shape ``(R, d)`` or ``(R, S, d)``: those of a similar problem,
        such as the round before.
    tol
        Largest residual, the share of the bonus that the next direction still gains.
    max_iter
        Alternations of the best start, after those that chose it.
    """

    n_random: int
    axes: bool
    start: Array | None
    tol: float
    max_iter: int


def _directions(
    space: Space, lower: Array, key: Key, n_random: int, given: Array | None, *, axes: bool
) -> Array:
    """Return the unit vectors from which to start, shape ``(R, S, d)``."""
    xp = namespace(space.v)
    n_replicas, n, d = space.v.shape
    found = []
    if given is not None:
        rows = given if given.ndim == 3 else given[:, None, :]
        check_shape("start", rows, (None, None, d), "(R, S, d)")
        found.append(xp.matmul(expand_rows(rows, n_replicas), lower))
    if axes:
        present = xp.astype(space.log_pi1[:, 0, ...] > -math.inf, space.v.dtype)
        share = present / xp.sum(present, axis=-1, keepdims=True)
        share = xp.reshape(share * space.weights[:, 0, :, None], (n_replicas, n))
        covariance = xp.matmul(xp.matrix_transpose(space.v * share[..., None]), space.v)
        _, vectors = xp.linalg.eigh(covariance)
        rows = xp.flip(xp.matrix_transpose(vectors), axis=1)
        found += [rows, -rows]
    if n_random:
        found.append(key.normal(n_replicas, n_random, d, like=space.v))
    if not found:
        message = "The search needs a start: axes=True, n_random > 0 or `start`."
        raise ValueError(message)
    return _unit(xp.concat(found, axis=1))


def _unit(u: Array) -> Array:
    """Return ``u`` with length one; the first axis where it is 0 (nothing to follow there)."""
    xp = namespace(u)
    norm = xp.sqrt(xp.sum(u * u, axis=-1, keepdims=True))
    first = xp.concat(
        [xp.ones_like(u[..., :1]), xp.zeros_like(u[..., 1:])],
        axis=-1,
    )
    return xp.where(norm > 0, u / xp.where(norm > 0, norm, xp.ones_like(norm)), first)


@dataclass(frozen=True, eq=False)
class _State:
    """Directions followed, what they reached, and where they go next."""

    u: Array
    response: Response
    objective: Array
    residual: Array
    done: Array


def _advance(
    space: Space, form: Form, eta: float, last: _State | None, u: Array, tau: Array, aim: _Aim
) -> _State:
    """Follow the directions ``u``, a step from ``last``, to the best policies along them."""
    xp = namespace(u)
    new = respond(space, u, tau, eta, form, aim.tilt, aim.rough)
    gamma = xp.sqrt(xp.sum(new.g * new.g, axis=-1))
    value = gamma - eta * new.kl if form == "penalised" else gamma
    moved = gamma > 0
    residual = xp.abs(1.0 - new.inner / xp.where(moved, gamma, xp.ones_like(gamma)))
    residual = xp.where(moved, residual, xp.zeros_like(gamma))
    done = (residual <= aim.tol) & (aim.tilt <= 0.1 * aim.tol)
    if last is None:
        return _State(u, new, value, residual, done)
    # A start that has converged stays put, and so does one that a step would let fall: by rounding
    # if the step was plain, and then it has converged too.
    go = ~last.done & (value >= last.objective)
    return _State(
        select(go, u, last.u),
        Response(*(select(go, x, old) for x, old in zip(new, last.response, strict=True))),
        select(go, value, last.objective),
        select(go, residual, last.residual),
        last.done | (go & done) | (~go & (not aim.jump)),
    )


@dataclass(frozen=True, eq=False)
class _Aim:
    """How exact a step has to be.

    Attributes
    ----------
    tol
        Residual at which a start is done.
    tilt
        Tolerance of the tilt, shape ``(R, S)``.
    jump
        Whether the step extrapolates, and may fail.
    rough
        Evaluations of the tilt after which a step of a start that is still to be chosen ends; 0
        for no such end.
    """

    tol: float
    tilt: Array
    jump: bool = False
    rough: int = 0


def _polish(
    space: Space, form: Form, eta: float, u: Array, tau: Array, tol: float, max_iter: int
) -> tuple[_State, int]:
    """Alternate to the end. The convergence is linear, so every third step extrapolates."""
    xp = namespace(u)
    last = _advance(space, form, eta, None, u, tau, _Aim(tol, xp.full_like(tau, _LOOSE)))
    before = xp.zeros_like(u)
    n_iter = 1
    while n_iter < max_iter and not bool(xp.all(last.done)):
        # Errors of the tilt stay well below what a step gains.
        exact = xp.clip(1e-3 * last.residual, _EXACT, _LOOSE)
        step = _unit(last.response.g) - last.u
        jump = n_iter % 3 == 0
        u = last.u + step
        if jump:
            # Steps shrink by the factor rho, so 1 / (1 - rho) of them are left.
            square = xp.sum(before * before, axis=-1)
            rho = xp.sum(step * before, axis=-1) / xp.where(square > 0, square, square + 1.0)
            u = last.u + step / (1.0 - xp.clip(rho, 0.0, _FURTHEST))[..., None]
        last = _advance(space, form, eta, last, _unit(u), last.response.tau, _Aim(tol, exact, jump))
        before = step
        n_iter += 1
    return last, n_iter


def search(
    form: Form,
    prepared: tuple[Space, Array],
    eta: float,
    key: Key,
    *,
    n_random: int = 4,
    axes: bool = True,
    start: Array | None = None,
    tol: float = 1e-10,
    max_iter: int = 100,
) -> Solution[Enhancement]:
    """Return the best policy that the starts lead to.

    Parameters
    ----------
    form
        What is maximised, see `respond`.
    prepared
        The space and its ``L``, from `whiten`.
    eta
        Weight of the KL; of no consequence in the free form.
    key
        Address of the random starts.
    n_random, axes, start, tol, max_iter
        See `Search`.
    """
    space, lower = prepared
    u = _directions(space, lower, key, n_random, start, axes=axes)
    xp = namespace(u)
    tau = full_like(u.shape[:2], 2.0 / eta, u)
    # All starts advance a little; then the best few; then the best is followed to the end.
    for keep, rounds in _STAGES:
        if u.shape[1] <= keep:
            continue
        for k in range(rounds):
            # Only what the starts are ranked by has to be exact.
            rough = _ROUGH if k < rounds - 1 else 0
            aim = _Aim(tol, xp.full_like(tau, _LOOSE), rough=rough)
            state = _advance(space, form, eta, None, u, tau, aim)
            u, tau = _unit(state.response.g), state.response.tau
        order = xp.argsort(state.objective, axis=-1, descending=True, stable=True)
        u, tau = take_rows(u, order[:, :keep]), take_rows(tau, order[:, :keep])
    last, n_iter = _polish(space, form, eta, u, tau, tol, max_iter)
    return _best(space, form, eta, last, tol, n_iter)


def _best(
    space: Space, form: Form, eta: float, state: _State, tol: float, n_iter: int
) -> Solution[Enhancement]:
    """Return the best start of every replica."""
    xp = namespace(state.u)
    index = xp.argmax(state.objective, axis=-1, keepdims=True)
    u, tau = take_rows(state.u, index), take_rows(state.response.tau, index)
    log_probs = tilt(space.log_pi1, space.scores(u), tau[..., None])
    g = space.mean(xp.exp(log_probs))[:, 0, :]
    gamma = xp.sqrt(xp.sum(g * g, axis=-1))
    divergence = xp.sum(space.weights * kl(log_probs, space.log_pi1), axis=-1)[:, 0]
    u = xp.where(gamma[:, None] > 0, u[:, 0, :], xp.zeros_like(g))
    residual = take_rows(state.residual, index)[:, 0]
    value = Enhancement(
        log_probs[:, 0, ...],
        gamma,
        divergence,
        gamma - eta * divergence if form == "penalised" else gamma,
        space.parameters(u),
        tau[:, 0],
    )
    return Solution(value, residual, residual <= tol, n_iter, _HINT)
