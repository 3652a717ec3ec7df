"""One loss of every kind, inputs for them, and their population version over a table of actions."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import optimize

from rlhf_theory import losses
from rlhf_theory.losses import Comparisons, Groups
from rlhf_theory.losses.comparisons import FIELDS
from rlhf_theory.register import found


def _examples():
    """Return the examples of all losses by name; further ones also by what they choose."""
    made = {}
    for name, entry in found("loss").items():
        for k, loss in enumerate(entry.target(**given) for given in entry.facts.examples):
            choice = next((v for v in vars(loss).values() if isinstance(v, str)), k)
            made[f"{name}: {choice}" if k else name] = loss
    return made


EXAMPLES = _examples()

PAIRS = {k: v for k, v in EXAMPLES.items() if v.takes == "pairs"}
GROUPS = {k: v for k, v in EXAMPLES.items() if v.takes == "groups"}

R = np.array([0.9, -0.4, 0.3, -1.1])
REF = np.log(np.array([0.1, 0.4, 0.3, 0.2]))
MU = np.array([0.25, 0.15, 0.2, 0.4])
BETA = 0.6

GENERAL = np.array(
    [[0.5, 0.8, 0.3, 0.9], [0.2, 0.5, 0.7, 0.6], [0.7, 0.3, 0.5, 0.85], [0.1, 0.4, 0.15, 0.5]]
)
"""A preference that no reward explains: a beats b beats c beats a, and d loses to all."""


def comparisons(loss, arrays):
    """Return Comparisons with what the loss needs and accepts of the given arrays."""
    wanted = ["log_pi_w", "log_pi_l"]
    for what in loss.needs | loss.accepts:
        wanted += FIELDS["pairs"][what]
    return Comparisons(**{name: arrays[name] for name in wanted if name in arrays})


def groups(loss, arrays):
    """Return Groups with what the loss needs of the given arrays."""
    needed = {name: arrays[name] for what in loss.needs for name in FIELDS["groups"][what]}
    return Groups(arrays["log_pi"], arrays["rewards"], **needed)


def random_arrays(n, *, at_reference=False, seed=0):
    """Return everything a comparison can have, as NumPy arrays of shape (n,)."""
    draw = np.random.default_rng(seed)
    a = {f"length_{s}": draw.integers(1, 9, n).astype(float) for s in "wl"}
    for s in "wl":
        a[f"log_ref_{s}"] = -a[f"length_{s}"] * draw.uniform(0.2, 2.0, n)
        a[f"log_pi_{s}"] = a[f"log_ref_{s}"] * (1.0 if at_reference else draw.uniform(0.5, 1.5, n))
        a[f"win_{s}"] = draw.uniform(0.0, 1.0, n)
    a["margin"] = draw.normal(0.0, 0.5, n)
    a["z0"] = np.full(n, 0.1)
    a["log_pi_sample"] = -draw.uniform(0.5, 5.0, n)
    return a


def random_groups(n, k, *, at_reference=False, seed=0):
    """Return everything a group can have, as NumPy arrays of shape (n, K)."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 9, (n, k)).astype(float)
    log_ref = -lengths * draw.uniform(0.2, 2.0, (n, k))
    factor = 1.0 if at_reference else draw.uniform(0.5, 1.5, (n, k))
    return {
        "log_pi": log_ref * factor,
        "log_ref": log_ref,
        "lengths": lengths,
        "rewards": draw.normal(0.0, 1.0, (n, k)),
    }


def tensor(values):
    """Return a float64 tensor."""
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


class Table:
    """One context with A actions: all ordered pairs, weighted by mu x mu, as one population.

    ``p`` holds P(a > b), with 1/2 on the diagonal.
    """

    def __init__(self, mu, p, log_ref=None, *, lengths=None, gamma=None, wins=None, sample=None):
        mu, p = np.asarray(mu, dtype=float), np.asarray(p, dtype=float)
        self.mu, self.p, self.size = mu, p, mu.size
        self.weight, self.targets = tensor(np.outer(mu, mu)), tensor(p)
        self.log_ref = np.full(mu.size, -math.log(mu.size)) if log_ref is None else log_ref
        rows = {"log_ref": self.log_ref, "length": lengths, "win": wins}
        self.arrays = {}
        for name, row in rows.items():
            if row is not None:
                self.arrays[f"{name}_w"], self.arrays[f"{name}_l"] = self._both(tensor(row))
        if gamma is not None:
            first, second = self._both(tensor(gamma))
            self.arrays["margin"] = first - second
        self.sample = None if sample is None else tensor(sample)

    def _both(self, row):
        shape = (self.size, self.size)
        return row[:, None].expand(shape), row[None, :].expand(shape)

    @property
    def borda(self):
        """q(a) = E_{b ~ mu} P(a > b)."""
        return self.p @ self.mu

    def loss(self, loss, log_pi):
        """Return the population loss of the log-probabilities ``log_pi`` (normalised or not)."""
        given = dict(self.arrays)
        given["log_pi_w"], given["log_pi_l"] = self._both(log_pi)
        if self.sample is not None:
            given["log_pi_sample"] = (self.sample @ log_pi).expand(self.size, self.size)
        c = comparisons(loss, given)
        return (self.weight * losses.soft(loss, c, self.targets)).sum()

    def minimise(self, loss):
        """Return the log-probabilities of the minimiser over normalised softmax policies."""
        start = tensor(self.log_ref)
        found = minimise(lambda x: self.loss(loss, torch.log_softmax(x, -1)), start)
        return torch.log_softmax(found, -1).numpy()

    def minimise_free(self, loss):
        """Return the log-ratios of the minimiser where log-ratios are free numbers."""
        start = tensor(self.log_ref)
        return minimise(lambda x: self.loss(loss, x), start).numpy() - self.log_ref


def minimise(f, start, *, tol=1e-12):
    """Minimise a smooth function of a few float64 numbers to a stationary point: LBFGS, Newton."""
    x = start.clone().requires_grad_(True)
    solver = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-9, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure():
        solver.zero_grad()
        value = f(x)
        value.backward()
        return value

    solver.step(closure)
    y = x.detach()
    for _ in range(30):
        gradient, hessian = derivatives(f, y)
        if float(gradient.abs().max()) < tol:
            break
        # A softmax does not see a common shift: the pseudo-inverse leaves it alone.
        y = y - torch.linalg.pinv(hessian, rtol=1e-9) @ gradient
    gradient, hessian = derivatives(f, y)
    assert float(gradient.abs().max()) < 10 * tol
    assert float(torch.linalg.eigvalsh(hessian).min()) > -1e-9
    return y


def derivatives(f, x):
    """Return gradient and Hessian of a scalar function."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(f(x), x, create_graph=True)
    rows = [torch.autograd.grad(g, x, retain_graph=True)[0] for g in gradient]
    return gradient.detach(), torch.stack(rows)


def bradley_terry(r):
    """Return P(a > b) of rewards."""
    return 1.0 / (1.0 + np.exp(np.asarray(r)[None, :] - np.asarray(r)[:, None]))


def normalised(x):
    """Return x - log sum exp x."""
    x = np.asarray(x)
    return x - x.max() - np.log(np.sum(np.exp(x - x.max())))


def two_actions(p, **given):
    """Return a table of two actions, the first winning with probability ``p``."""
    return Table([0.3, 0.7], [[0.5, p], [1.0 - p, 0.5]], np.log([0.4, 0.6]), **given)


def gibbs(reward, eta, log_ref=REF):
    """Return the log-probabilities of the Gibbs policy."""
    return normalised(log_ref + np.asarray(reward) / eta)


def margins(log_pi, log_ref):
    """Return ``h`` of every ordered pair of actions."""
    u = log_pi - log_ref
    return u[:, None] - u[None, :]


def root(f):
    """Return the root of a monotone function."""
    return optimize.brentq(f, -60.0, 60.0, xtol=1e-13)


def assert_close(found, expected, atol=1e-7):
    """Compare to an absolute tolerance."""
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=atol)
