"""What exploitabilities of `nash-general-preference` must be where there are many labels.

Around the equilibrium pi* of the logit game everything is linear in the error ``E`` of the payoff
and in the bonus ``b``. With ``Pi`` the covariance of an action under pi* and
``C(v) = E_x Var_{pi*} v``,

* the plug-in equilibrium has exploitability ``C(E pi*) / (2 eta)``, in the mean
  ``E_x tr(H^-1 G_x) / (2 eta)``, ``H`` the Fisher information of the pairs and ``G_x`` the
  covariance of ``E_{b ~ pi*} psi(x, a, b)`` over ``a``;
* for the pessimist, whose payoff is ``R + E - b``, the players of the saddle point are apart by
  ``D`` with ``(I + Pi R / eta) D = 2 Pi b pi* / eta``. Its policy is moved by the part that is not
  noise to ``log pi1 - log pi* = (-b pi* + R D / 2) / eta`` up to a constant, and its exploitability
  is that of the noise plus ``C(-b pi* + R D) / (2 eta)``.

Source: derived here, tested by finite differences of the saddle point and by drawn errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_theory.arrays import to_numpy
from rlhf_theory.data import PreferenceData
from rlhf_theory.estimators.mle import fisher_information
from rlhf_theory.features import game_features
from rlhf_theory.worlds.bandit import Bandit


@dataclass(frozen=True, eq=False)
class Linearised:
    """The logit game around its equilibrium.

    Attributes
    ----------
    world
        Finite, one game for all replicas.
    weights
        Probabilities of the contexts, ``(X,)``.
    star
        The equilibrium, probabilities ``(X, A)``.
    payoff
        ``R``, ``(X, A, A)``.
    psi
        Features of pairs, ``(X, A, A, p)``.
    """

    world: Bandit
    weights: np.ndarray
    star: np.ndarray
    payoff: np.ndarray
    psi: np.ndarray

    @classmethod
    def of(cls, world: Bandit) -> Linearised:
        """Return that of a world."""
        x, weights = world.population
        psi = to_numpy(game_features(x))[0]
        payoff = psi @ to_numpy(world.theta_star)[0]
        return cls(world, to_numpy(weights)[0], np.exp(to_numpy(world.nash.require()))[0],
                   payoff, psi)  # fmt: skip

    def covariance(self, f: np.ndarray, g: np.ndarray) -> np.ndarray:
        """Return ``E_x Cov_{pi*}(f, g)`` of functions of the action, ``(R, X, A)``; shape (R,)."""
        mean_f, mean_g, both = (np.einsum("xa,rxa->rx", self.star, v) for v in (f, g, f * g))
        return np.asarray((both - mean_f * mean_g) @ self.weights)

    def noise(self, data: PreferenceData) -> np.ndarray:
        """Return the mean exploitability of the plug-in equilibrium of such data, ``(R,)``.

        Infinite where the data leave a direction open.
        """
        facing = np.einsum("xb,xabp->xap", self.star, self.psi)
        spread = facing - np.einsum("xa,xap->xp", self.star, facing)[:, None]
        g = np.einsum("x,xa,xap,xaq->pq", self.weights, self.star, spread, spread)
        count = to_numpy(data.count)
        truth = np.broadcast_to(to_numpy(self.world.theta_star), (count.shape[0], g.shape[0]))
        h = to_numpy(fisher_information(truth, data.skew, data.count))
        seen = np.linalg.eigvalsh(h)[:, 0] > 1e-12 * count.sum(axis=-1)
        solved = np.linalg.solve(np.where(seen[:, None, None], h, np.eye(g.shape[0])), g)
        trace = np.trace(solved, axis1=1, axis2=2)
        return np.where(seen, trace / (2.0 * self.world.problem.eta), np.inf)

    def moved(self, bonus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how a bonus ``(R, X, A, A)`` moves the pessimist, and its distance to best reply.

        Both are ``eta`` times differences of log-probabilities, ``(R, X, A)``, up to a constant.
        """
        eta, eye = self.world.problem.eta, np.eye(self.star.shape[1])
        pi = self.star[:, :, None] * (eye - self.star[:, None, :])
        facing = np.einsum("xb,rxab->rxa", self.star, bonus)
        apart = np.linalg.solve(
            (eye + pi @ self.payoff / eta)[None],
            2.0 * np.einsum("xab,rxb->rxa", pi, facing)[..., None] / eta,
        )[..., 0]
        reply = np.einsum("xab,rxb->rxa", self.payoff, apart)
        return reply / 2.0 - facing, reply - facing

    def pessimist(self, data: PreferenceData, bonus: np.ndarray) -> np.ndarray:
        """Return the mean exploitability of the pessimist with such data and bonus, ``(R,)``."""
        _, off = self.moved(bonus)
        return self.noise(data) + self.covariance(off, off) / (2.0 * self.world.problem.eta)

    def shift(self, log_pi: np.ndarray, bonus: np.ndarray) -> np.ndarray:
        """Return how far a policy has moved along the way of the pessimist, ``(R,)``; 1 is all."""
        way, _ = self.moved(bonus)
        found = self.world.problem.eta * (log_pi - np.log(self.star))
        along = self.covariance(way, way)
        safe = np.where(along > 0.0, along, 1.0)
        return np.where(along > 0.0, self.covariance(found, way) / safe, 0.0)
