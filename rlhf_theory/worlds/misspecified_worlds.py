"""Worlds whose reward is not linear in the features, and how far off a linear one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rlhf_theory.arrays import Array, expand_rows, inner, matvec, namespace, to_numpy
from rlhf_theory.core import Policy, RewardModel
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_count, check_nonnegative
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.evaluation.misspecified import expected_comparisons
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.planners.gibbs import GibbsPolicy
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.randomness import Key
from rlhf_theory.register import register
from rlhf_theory.rewards import LinearReward, TableReward
from rlhf_theory.worlds.bandit import Bandit, arguments_of
from rlhf_theory.worlds.linear_worlds import Reference, draw_reference, linear

# Contexts whose rewards set the scale of a world of fresh contexts.
_SCALE_CONTEXTS = 512


@dataclass(frozen=True, eq=False)
class TanhReward:
    r"""A network with one hidden layer, 0 at ``phi = 0``.

    .. math::

        r(x, a) = \sum_{j=1}^{m} v_j \,
            \frac{\tanh(g (\langle w_j, \varphi\rangle + b_j)) - \tanh(g b_j)}{g}

    Attributes
    ----------
    hidden
        Weights ``w``, shape ``(R, m, d)`` or ``(1, m, d)``.
    bias
        ``b``, shape ``(R, m)`` or ``(1, m)``.
    output
        ``v``, shape ``(R, m)`` or ``(1, m)``.
    gain
        ``g``, positive; for ``g -> 0`` the reward tends to ``<sum_j v_j w_j, phi>``.
    """

    hidden: Array
    bias: Array
    output: Array
    gain: float

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``."""

        def network(c: Contexts) -> Array:
            phi, g = c.phi, self.gain
            xp = namespace(phi)
            r, b, a, d = phi.shape
            rows = xp.reshape(phi, (r, b * a, d))
            at_zero = self.bias[:, None, :]
            z = xp.matmul(rows, xp.matrix_transpose(self.hidden)) + at_zero
            units = (xp.tanh(g * z) - xp.tanh(g * at_zero)) / g
            value = xp.matmul(units, self.output[..., None])[..., 0]
            return xp.reshape(value, (value.shape[0], b, a))

        return contexts.lookup(network)


def _spread(rewards: np.ndarray) -> np.ndarray:
    """Return the deviation of rewards ``(R, n, A)`` within contexts, uniform actions, ``(R,)``."""
    return np.asarray(np.sqrt(np.mean(np.var(rewards, axis=-1), axis=-1)))


def _draw_network(
    key: Key, phi: np.ndarray, theta: np.ndarray, width: int, gain: float
) -> TanhReward:
    """Return a random network that tends to ``<theta, phi>`` and spreads as it on ``phi``.

    Parameters
    ----------
    key
        Address of the weights.
    phi
        Features on which the spread is that of the linear reward, shape ``(R, n, A, d)``.
    theta
        Shape ``(R, d)``.
    width, gain
        As in `misspecified`.
    """
    rows, dim = theta.shape
    hidden = key.child("hidden").normal_numpy(rows, width, dim)
    bias = key.child("bias").normal_numpy(rows, width)
    output = key.child("output").normal_numpy(rows, width)
    # A reflection that takes the network's linear part to the direction of theta; the hidden
    # weights have no preferred direction, so their law stays what it was.
    linear_part = np.matmul(output[:, None, :], hidden)[:, 0]
    size = np.linalg.norm(linear_part, axis=-1, keepdims=True)
    norm = np.linalg.norm(theta, axis=-1, keepdims=True)
    mirror = linear_part / size - theta / np.where(norm > 0, norm, 1.0)
    length = np.linalg.norm(mirror, axis=-1, keepdims=True)
    mirror = mirror / np.where(length > 0, length, 1.0)
    along = np.matmul(hidden, mirror[..., None])
    hidden = hidden - 2.0 * along * mirror[:, None, :]
    network = TanhReward(hidden, bias, output / size, gain)
    x = Contexts(phi, np.zeros(phi.shape[:-1]))
    want, have = _spread(LinearReward(theta).rewards(x)), _spread(network.rewards(x))
    # One action: nothing spreads, and any scale will do.
    factor = np.where(have > 0, want / np.where(have > 0, have, 1.0), norm[:, 0])
    return replace(network, output=factor[:, None] * network.output)


@dataclass(frozen=True, eq=False)
class _FreshPeaked:
    """Contexts of another draw with a reference policy peaked away from a shared reward."""

    draw: Callable[[Key, int, int], tuple[Array, Array]]
    reward: TanhReward
    peak: float

    def __call__(self, key: Key, rows: int, n: int) -> tuple[Array, Array]:
        phi, log_pi0 = self.draw(key, rows, n)
        rewards = self.reward.rewards(Contexts(phi, log_pi0))
        return phi, draw_reference(key, "peaked", rewards, self.peak)


@register("world", "misspecified", {"contexts": 4, "actions": 4, "dim": 3})
def misspecified(
    *,
    gain: float = 2.0,
    width: int = 32,
    contexts: int | None = 20,
    actions: int = 10,
    dim: int = 8,
    eta: float = 0.1,
    replicas: int = 64,
    seed: int = 0,
    theta_norm: float = 1.0,
    decay: float = 0.0,
    reference: Reference = "uniform",
    peak: float = 2.0,
    concentration: float = 1.0,
    scale: float = 1.0,
    instances: Literal["shared", "own"] = "shared",
    name: str = "misspecified",
) -> Bandit:
    """Return a world whose reward is a random tanh network of the features.

    Labels are Bradley-Terry in that reward, the truth is exact, and a learner of linear rewards is
    wrong however many labels it gets; `misspecification` tells by how much. Features are those of
    `linear` of the same seed and dials (pi0 too, unless it is peaked: it then avoids the good
    actions of this reward), and the network is scaled so that the variance of its rewards over
    uniform actions is, in the mean over contexts, that of the linear ones.

    Parameters
    ----------
    gain
        ``g`` of `TanhReward`: how steep the units are, whose inputs have about unit variance. 0
        gives the world `linear`, with its ``theta_star``, and is the limit of small gains; a
        positive gain leaves ``theta_star`` None. The part of the variance that no linear reward
        explains is about .05, .15, .28 and .37 at gains .5, 1, 2 and 4 in the mean over instances
        of the other defaults, with a deviation of .1 between them.
    width
        Hidden units ``m``.
    theta_norm
        Norm of theta* in the linear world whose spread this one has; 0 for no reward at all.
    reference, peak, concentration, scale, instances
        As in `linear`.
    contexts, actions, dim, eta, replicas, seed, decay
        As in `linear`. Every reward is linear with ``dim=1``, and in a single context of at most
        ``dim + 1`` actions.

    Examples
    --------
    >>> world = misspecified(contexts=5, actions=3, dim=2, replicas=4)
    >>> world.theta_star is None, world.problem.dim
    (True, 2)
    """
    check_nonnegative("gain", gain)
    check_count("width", width)
    settings = arguments_of(misspecified, locals())
    base = linear(replicas=replicas, **arguments_of(linear, settings))
    if gain == 0.0:
        return replace(base, settings=settings)
    key = Key(seed).child("misspecified")
    problem = base.problem
    if isinstance(problem, FreshProblem):
        rows = 1 if instances == "shared" else replicas
        phi, _ = problem.draw(key.child("scale"), rows, _SCALE_CONTEXTS)
    else:
        phi = problem.phi
    reward = _draw_network(key, phi, to_numpy(base.theta_star), width, gain)
    labelled: RewardModel = reward
    if isinstance(problem, FreshProblem):
        if reference == "peaked":
            problem = replace(problem, draw=_FreshPeaked(problem.draw, reward, peak))
    else:
        values = reward.rewards(problem.table)
        # Labels look rewards up: the network need not run again in every round.
        labelled = TableReward(values)
        if reference == "peaked":
            problem = replace(problem, log_pi0=draw_reference(key, reference, values, peak))
    return replace(
        base,
        problem=problem,
        oracle=BradleyTerry(labelled, scale),
        reward=reward,
        theta_star=None,
        settings=settings,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Misspecification:
    """How far the reward of a world is from a linear one.

    Attributes
    ----------
    theta
        Least-squares fit of reward differences, shape ``(R, d)``; of minimal norm.
    residual
        Root mean square of the reward differences that it leaves, shape ``(R,)``.
    share
        Their part of the mean square of all reward differences, in [0, 1], shape ``(R,)``.
    pseudo_true
        What Bradley-Terry maximum likelihood tends to, shape ``(R, d)``.
    floor
        Gap of the Gibbs policy of ``pseudo_true``, shape ``(R,)``: what planning on the fit tends
        to as labels of these pairs go to infinity.
    """

    theta: Array
    residual: Array
    share: Array
    pseudo_true: Array
    floor: Array


def misspecification(world: Bandit, behaviour: Policy | None = None) -> Misspecification:
    """Return how far off linear rewards are, with pairs drawn independently from one policy.

    Both fits are of the population: no labels are drawn. The first knows the reward, the second
    only the law of the labels, so a mixture of annotators has a ``floor`` at ``share = 0`` (see
    `annotators`). An online learner asks for pairs of its own and may settle elsewhere, see
    `evaluation.misspecified.self_consistent_fit`.

    Parameters
    ----------
    world
        A world with a reward; the label scale of its settings counts as known.
    behaviour
        Policy of both actions; pi0 by default.

    Raises ``ValueError`` for a world without a reward, and ``TypeError`` where contexts have more
    pairs of actions than a table holds.
    """
    if world.reward is None:
        message = (
            f"World {world.name!r} has no reward to be misspecified about; its preferences are "
            "measured by `evaluation.intransitivity`."
        )
        raise ValueError(message)
    x, weights = world.population
    log_pi = (ReferencePolicy() if behaviour is None else behaviour).log_probs(x)
    xp = namespace(log_pi)
    p = xp.exp(log_pi)
    phi, r = x.phi, world.reward.rewards(x)
    # Differences of two independent draws have twice the variance of one.
    z = phi - xp.sum(p[..., None] * phi, axis=-2, keepdims=True)
    u = r - xp.sum(p * r, axis=-1, keepdims=True)
    joint = weights[..., None] * p
    part = joint[..., None] * z
    flat = xp.reshape(part, (part.shape[0], -1, part.shape[-1]))
    rows = xp.reshape(z, (z.shape[0], -1, z.shape[-1]))
    across = xp.matrix_transpose(flat)
    cov = xp.matmul(across, rows)
    theta = matvec(xp.linalg.pinv(cov), matvec(across, xp.reshape(u, (u.shape[0], -1))))
    total = xp.sum(joint * u * u, axis=(-2, -1))
    left = xp.sum(joint * (u - inner(z, theta)) ** 2, axis=(-2, -1))
    some = xp.where(total > 0, total, xp.ones_like(total))
    pseudo_true = _pseudo_true(world, log_pi)
    plan = GibbsPolicy(LinearReward(pseudo_true), world.problem.eta)
    n = world.n_replicas
    return Misspecification(
        theta=expand_rows(theta, n),
        residual=expand_rows(xp.sqrt(2.0 * left), n),
        share=expand_rows(left / some, n),
        pseudo_true=expand_rows(pseudo_true, n),
        floor=world.evaluate(plan)["gap"],
    )


def _pseudo_true(world: Bandit, log_pi: Array) -> Array:
    """Return the Bradley-Terry fit of infinitely many labels of ``pi x pi``, ``(R|1, d)``."""
    x, weights = world.population
    prob = world.preferences
    # What all replicas share is fitted once.
    rows = max(v.shape[0] for v in (x.phi, x.log_pi0, weights, prob, log_pi))
    problem = FiniteProblem(x.phi, x.log_pi0, weights, world.problem.eta, rows)
    data = expected_comparisons(problem, prob, log_pi, log_pi)
    scale = float(world.settings.get("scale", 1.0))
    return bradley_terry_mle(data, scale=scale).require()
