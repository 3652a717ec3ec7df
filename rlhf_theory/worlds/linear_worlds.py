"""Worlds with linear rewards and Bradley-Terry labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import gammaincinv

from rlhf_theory.arrays import Array
from rlhf_theory.errors import check_choice, check_count, check_nonnegative, check_positive
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.problems import FiniteProblem, FreshProblem
from rlhf_theory.randomness import Key
from rlhf_theory.register import register
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds.bandit import Bandit, arguments_of

Reference = Literal["uniform", "dirichlet", "peaked"]


def draw_features(key: Key, rows: int, n: int, actions: int, dim: int, decay: float) -> np.ndarray:
    """Return random features of norm 1, shape ``(rows, n, A, d)``.

    Normal with variances proportional to ``i^-decay``, ``i = 1 .. d``, then normalised: 0 gives
    the uniform law on the sphere, larger values an ill-conditioned covariance.
    """
    spectrum = np.arange(1, dim + 1) ** (-0.5 * decay)
    g = key.child("phi").normal_numpy(rows, n, actions, dim) * spectrum
    return np.asarray(g / np.linalg.norm(g, axis=-1, keepdims=True))


def draw_theta(key: Key, rows: int, dim: int, norm: float) -> np.ndarray:
    """Return parameters of a given norm in a random direction, shape ``(rows, d)``."""
    g = key.child("theta").normal_numpy(rows, dim)
    return np.asarray(norm * g / np.linalg.norm(g, axis=-1, keepdims=True))


def draw_reference(
    key: Key, kind: Reference, rewards: np.ndarray, peak: float, concentration: float = 1.0
) -> np.ndarray:
    """Return log-probabilities of the reference policy, shape of ``rewards`` ``(R, n, A)``.

    ``"uniform"``; ``"dirichlet"``: a symmetric Dirichlet draw per context with ``concentration``
    per action, 1 for the flat law, less for few actions that have nearly all mass, whatever their
    reward; ``"peaked"``: proportional to ``exp(-peak (r* - mean r*) / std r*)`` per context, which
    covers the best actions poorly.
    """
    rows, n, actions = rewards.shape
    if kind == "uniform":
        return np.full((rows, n, actions), -math.log(actions))
    if kind == "dirichlet":
        # Gamma draws by inversion, normalised. Those of shape 1 are exponential.
        u = key.child("pi0").uniform_numpy(rows, n, actions)
        gamma = -np.log1p(-u) if concentration == 1.0 else gammaincinv(concentration, u)
        logits = np.log(gamma + 1e-300)
    else:
        spread = rewards.std(axis=-1, keepdims=True) + 1e-300
        logits = -peak * (rewards - rewards.mean(axis=-1, keepdims=True)) / spread
    top = logits.max(axis=-1, keepdims=True)
    return np.asarray(logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True)))


@dataclass(frozen=True, eq=False)
class LinearContexts:
    """Features and reference policy of random contexts, see `draw_features`, `draw_reference`.

    Attributes
    ----------
    theta
        Parameters of the reward that a peaked reference policy avoids, shape ``(R|1, d)``.
    """

    theta: np.ndarray
    actions: int
    decay: float
    reference: Reference
    peak: float
    concentration: float = 1.0

    def problem(self, key: Key, contexts: int, eta: float, replicas: int) -> FiniteProblem:
        """Return a problem of equally likely contexts."""
        rows, dim = self.theta.shape
        phi = draw_features(key, rows, contexts, self.actions, dim, self.decay)
        rewards = np.matmul(phi.reshape(rows, -1, dim), self.theta[..., None])[..., 0]
        table = rewards.reshape(rows, contexts, self.actions)
        log_pi0 = draw_reference(key, self.reference, table, self.peak, self.concentration)
        return FiniteProblem(phi, log_pi0, np.full((1, contexts), 1.0 / contexts), eta, replicas)

    def __call__(self, key: Key, rows: int, n: int) -> tuple[Array, Array]:
        """Return features and log-probabilities of contexts that never repeat."""
        dim = self.theta.shape[1]
        phi = draw_features(key, rows, n, self.actions, dim, self.decay)
        rewards = np.zeros(phi.shape[:-1])
        if self.reference == "peaked":  # then theta is shared
            rewards = phi @ self.theta[0]
        return phi, draw_reference(key, self.reference, rewards, self.peak, self.concentration)


@register("world", "linear", {"contexts": 4, "actions": 4, "dim": 3})
def linear(
    *,
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
    name: str = "linear",
) -> Bandit:
    """Return a world with rewards ``<theta*, phi(x, a)>`` and Bradley-Terry labels.

    Parameters
    ----------
    contexts
        Number of equally likely contexts; None for fresh contexts that never repeat.
    actions, dim
        ``A`` and ``d``.
    eta
        Weight of the KL, positive.
    replicas
        Number of replicas ``R``.
    seed
        Seed of the instance; the data follow the seed of a run.
    theta_norm
        ``|theta*|``; features have norm 1.
    decay
        Power with which the variances of the features fall, 0 for a flat spectrum.
    reference
        ``"uniform"``, ``"dirichlet"`` or ``"peaked"`` (away from good actions), see
        `draw_reference`.
    peak
        How peaked, in logits per standard deviation of the reward.
    concentration
        Of the Dirichlet draws, at least 0.05; 0.1 leaves nearly all mass on one or two actions.
    scale
        ``s`` of the labels ``sigma(s (r1 - r2))``.
    instances
        ``"shared"``: replicas share features, theta* and pi0 and differ in data; ``"own"``: each
        has its own.

    Examples
    --------
    >>> world = linear(contexts=5, actions=3, dim=2, replicas=4)
    >>> world.problem.dim, world.n_replicas
    (2, 4)
    """
    settings = arguments_of(linear, locals())
    for label, value in (("actions", actions), ("dim", dim), ("replicas", replicas)):
        check_count(label, value)
    if contexts is not None and contexts < 1:
        message = f"contexts must be at least 1, or None for fresh contexts; got {contexts}."
        raise ValueError(message)
    check_nonnegative("theta_norm", theta_norm)
    check_nonnegative("decay", decay)
    check_positive("scale", scale)
    if not 0.05 <= concentration < math.inf:  # below, most draws round to zero
        message = f"concentration must be at least 0.05 and finite; got {concentration}."
        raise ValueError(message)
    check_choice("reference", reference, ("uniform", "dirichlet", "peaked"))
    check_choice("instances", instances, ("shared", "own"))
    rows = 1 if instances == "shared" else replicas
    key = Key(seed).child("linear")
    theta = draw_theta(key, rows, dim, theta_norm)
    draw = LinearContexts(theta, actions, decay, reference, peak, concentration)
    problem: FiniteProblem | FreshProblem
    if contexts is None:
        if instances == "own" and reference == "peaked":
            message = (
                "Fresh contexts with own instances cannot have a peaked reference policy: it would "
                "tell theta* to the draws of another replica's block. Use instances='shared'."
            )
            raise ValueError(message)
        problem = FreshProblem(draw, dim, eta, replicas, theta)
    else:
        problem = draw.problem(key, contexts, eta, replicas)
    reward = LinearReward(theta)
    return Bandit(
        name=name,
        problem=problem,
        oracle=BradleyTerry(reward, scale),
        reward=reward,
        theta_star=theta,
        settings=settings,
    )
