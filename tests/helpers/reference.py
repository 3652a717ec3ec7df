"""Slow obvious implementations: loops over replicas, contexts, actions and comparisons."""

import itertools
import math

import numpy as np


def sigmoid(u):
    """One number, both tails accurate."""
    return 1.0 / (1.0 + math.exp(-u)) if u >= 0 else math.exp(u) / (1.0 + math.exp(u))


def pairs_of(n_actions):
    return list(itertools.combinations(range(n_actions), 2))


def difference_rows(phi):
    """Rows ``phi(x, i) - phi(x, j)``, ``i < j``, shape ``(R, X A (A - 1) / 2, d)``."""
    return np.array(
        [
            [row[x, i] - row[x, j] for x in range(phi.shape[1]) for i, j in pairs_of(phi.shape[2])]
            for row in phi
        ]
    ).reshape(phi.shape[0], -1, phi.shape[3])


def margins(z, theta):
    r = max(len(z), len(theta))
    z, theta = np.broadcast_to(z, (r, *z.shape[1:])), np.broadcast_to(theta, (r, theta.shape[1]))
    return np.array(
        [[float(np.dot(row, t)) for row in rows] for rows, t in zip(z, theta, strict=True)]
    )


def adjoint(z, w):
    z = np.broadcast_to(z, (len(w), *z.shape[1:]))
    total = np.zeros((len(w), z.shape[2]))
    for r, i in itertools.product(range(len(w)), range(z.shape[1])):
        total[r] += w[r, i] * z[r, i]
    return total


def gram(z, w):
    z = np.broadcast_to(z, (len(w), *z.shape[1:]))
    total = np.zeros((len(w), z.shape[2], z.shape[2]))
    for r, i in itertools.product(range(len(w)), range(z.shape[1])):
        total[r] += w[r, i] * np.outer(z[r, i], z[r, i])
    return total


def loss(theta, z, count, wins, ridge=0.0, scale=1.0):
    """Penalised negative log-likelihood of one replica, one label at a time."""
    total = 0.5 * ridge * float(np.dot(theta, theta))
    for row, c, w in zip(z, count, wins, strict=True):
        u = scale * float(np.dot(row, theta))
        total -= w * math.log(sigmoid(u)) + (c - w) * math.log(sigmoid(-u))
    return total


def kl(p, q):
    """KL of two probability vectors; absent in both counts nothing."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += math.inf if b == 0 else a * math.log(a / b)
    return total


def gibbs(reward, pi0, eta):
    weights = [b * math.exp((r - max(reward)) / eta) for r, b in zip(reward, pi0, strict=True)]
    return np.array(weights) / sum(weights)


def value(pi, reward, pi0, weights, eta):
    """``J(pi)`` of one replica; ``pi``, ``reward``, ``pi0`` have shape ``(X, A)``."""
    total = 0.0
    for x, w in enumerate(weights):
        total += w * (float(np.dot(pi[x], reward[x])) - eta * kl(pi[x], pi0[x]))
    return total


def bilinear(w, first, second):
    """``f_a^T W f_b`` with ``f = (1, phi)``."""
    f, g = np.append(1.0, first), np.append(1.0, second)
    return sum(f[i] * w[i, j] * g[j] for i in range(len(f)) for j in range(len(g)))
