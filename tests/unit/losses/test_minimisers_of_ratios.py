"""Losses of single ratios, and of groups, against the minimisers of the theory sheet, section 7."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize, special

from rlhf_theory import losses
from rlhf_theory.planners.chi_squared import chi_squared_log_probs
from tests.helpers.losses import (
    BETA,
    GENERAL,
    MU,
    REF,
    R,
    Table,
    assert_close,
    bradley_terry,
    gibbs,
    minimise,
    normalised,
    root,
    tensor,
)


@pytest.fixture
def bt():
    return Table(MU, bradley_terry(R), REF)


@pytest.fixture
def general():
    return Table(MU, GENERAL, REF)


# --------------------------------------------------------------------------- divergences


def divergence_optimum(ratio, reward):
    """Return log-ratios of argmax E r - beta D_f, ``ratio(y)`` solving beta f'(t) = y."""
    ref = np.exp(REF)

    # The multiplier makes the ratios, which fall in it, average to one; infinite ratios are cut.
    def excess(lam):
        return min(np.sum(ref * ratio(reward - lam)) - 1.0, 1e6)

    return np.log(ratio(reward - optimize.brentq(excess, -20.0, 20.0, xtol=1e-14)))


def power(base, exponent):
    """Return ``base ** exponent``, infinite where the base is not positive."""
    return np.where(base > 0.0, np.abs(base) ** exponent, np.inf)


RATIOS = {
    # beta f'(t) = y solved for t, with f' as the docstring of FDPO has it.
    "reverse-kl": lambda y: np.exp(y / BETA),
    "forward-kl": lambda y: power(-y / BETA, -1.0),
    "js": lambda y: power(np.exp(-y / BETA) - 1.0, -1.0),
    "alpha": lambda y: power(-0.6 * y / BETA, -1.0 / 0.6),
    "chi2-kl": lambda y: special.wrightomega(y / BETA),
}


@pytest.mark.parametrize("divergence", losses.divergences.DIVERGENCES)
@pytest.mark.parametrize("gamma", [None, np.array([0.5, 0.1, 0.8, 0.2])])
def test_f_dpo_maximises_the_reward_minus_the_divergence(divergence, gamma):
    loss = losses.FDPO(BETA, divergence, alpha=0.4 if divergence == "alpha" else None)
    table = Table(MU, bradley_terry(R), REF, gamma=gamma)
    reward = R if gamma is None else R - gamma
    found = table.minimise(loss)
    assert_close(found - REF, divergence_optimum(RATIOS[divergence], reward))


def test_the_links_are_derivatives_of_divergences():
    """A second way to D_f: f written out, differentiated numerically."""
    f = {
        "reverse-kl": lambda t: t * np.log(t),
        "forward-kl": lambda t: -np.log(t),
        "js": lambda t: t * np.log(t) - (1.0 + t) * np.log1p(t),
        "alpha": lambda t: t**0.4 / (0.4 * -0.6),
        "chi2-kl": lambda t: 0.5 * (t - 1.0) ** 2 + t * np.log(t),
    }
    t = np.array([0.05, 0.5, 1.0, 3.0])
    step = 1e-5
    for name, function in f.items():
        loss = losses.FDPO(1.0, name, alpha=0.4 if name == "alpha" else None)
        slope = (function(t + step) - function(t - step)) / (2.0 * step)
        link = loss.link(np.log(t))
        np.testing.assert_allclose(link - link[2], slope - slope[2], rtol=1e-6, atol=1e-7)
        bend = (function(1.0 + 1e-3) - 2.0 * function(1.0) + function(1.0 - 1e-3)) / 1e-6
        np.testing.assert_allclose(loss.curvature, bend, rtol=1e-5)


def test_chi_po_is_the_chi_squared_planner(bt):
    expected, off = chi_squared_log_probs(R[None, None], REF[None, None], BETA)
    assert float(off.max()) < 1e-12
    # Differences of the reward go up to 2, so 2 R = 2.2 does not bind.
    assert_close(bt.minimise(losses.ChiPO(BETA, r_max=1.1)), expected[0, 0])
    assert_close(bt.minimise(losses.ChiPO(BETA, r_max=math.inf)), expected[0, 0])


# --------------------------------------------------------------------------- single log-ratios


@pytest.mark.parametrize("p", [bradley_terry(R), GENERAL])
def test_losses_of_single_log_ratios_have_borda_scores(p):
    table = Table(MU, p, REF)
    q = table.borda
    assert_close(BETA * table.minimise_free(losses.NCAPair(BETA)), np.log(2.0 * q))
    assert_close(BETA * table.minimise_free(losses.BCO(BETA)), special.logit(q))
    assert_close(table.minimise_free(losses.SPPOHard(BETA)), (q - 0.5) / BETA)
    wins = Table(MU, p, REF, wins=q)
    assert_close(wins.minimise_free(losses.SPPO(BETA)), (q - 0.5) / BETA)
    # A normalised policy has another minimiser.
    log_pi = table.minimise(losses.BCO(BETA))
    assert np.abs(BETA * (log_pi - REF) - special.logit(q)).max() > 0.01


def test_nca_pair_is_exact_for_policies_where_it_is_normalised():
    table = Table(np.exp(REF), GENERAL, REF)
    log_pi = table.minimise(losses.NCAPair(1.0))
    assert_close(log_pi, np.log(2.0 * table.borda) + REF)


def test_sppo_over_policies_has_a_multiplier():
    ref = np.exp(REF)
    table = Table(ref, GENERAL, REF, wins=GENERAL @ ref)
    target = (table.borda - 0.5) / BETA

    def log_ratio(k):
        # u + k e^u = target; with w = k e^u: w + log w = target + log k for k > 0.
        return np.array([root(lambda u, t=t: u + k * np.exp(u) - t) for t in target])

    k = optimize.brentq(lambda k: np.sum(ref * np.exp(log_ratio(k))) - 1.0, 0.0, 5.0, xtol=1e-14)
    assert_close(table.minimise(losses.SPPO(BETA)) - REF, log_ratio(k), atol=1e-6)
    assert_close(table.minimise(losses.SPPOHard(BETA)) - REF, log_ratio(k), atol=1e-6)


def test_kto_is_linear_in_the_sigmoid_and_saturates(general):
    loss = losses.KTO(BETA, desirable=1.5, undesirable=1.0)
    general.arrays["z0"] = torch.full((4, 4), 0.3, dtype=torch.float64)
    # Winners have the law 2 mu q, losers 2 mu (1 - q).
    won, lost = 2.0 * MU * general.borda, 2.0 * MU * (1.0 - general.borda)
    slope = 1.0 * lost - 1.5 * won
    for u in np.random.default_rng(0).normal(0.0, 2.0, (5, 4)):
        s = special.expit(BETA * (u - 0.3))
        value = general.loss(loss, tensor(REF + u)).item()
        assert_close(value, 1.5 * won.sum() + slope @ s, atol=1e-12)
    # Both signs occur: some log-ratios run off to +inf, others to -inf.
    assert slope.min() < -0.01
    assert slope.max() > 0.01


# --------------------------------------------------------------------------- without a reference


def test_cpo_and_simpo_have_a_uniform_reference():
    table = Table(MU, bradley_terry(R), lengths=np.ones(4))
    assert_close(table.minimise(losses.CPO(BETA, lam=0.0)), normalised(R / BETA))
    assert_close(table.minimise(losses.SimPO(BETA)), normalised(R / BETA))


@pytest.mark.parametrize("p", [0.3, 0.9])
def test_losses_without_a_reference_on_two_actions(p):
    # Half of the pairs differ; in the others an action meets itself, and cloning sees those too.
    table = Table([0.5, 0.5], [[0.5, p], [1.0 - p, 0.5]], lengths=np.ones(2))
    won = 0.5 * p + 0.5 * 0.5

    def odds(loss):
        log_pi = table.minimise(loss)
        return log_pi[0] - log_pi[1]

    u = odds(losses.CPO(BETA, lam=0.7))
    slope = 0.5 * BETA * (special.expit(BETA * u) - p) + 0.7 * (special.expit(u) - won)
    assert_close(slope, 0.0)
    u = odds(losses.SimPO(BETA, gamma=0.5))
    assert_close(p * special.expit(0.5 - BETA * u), (1.0 - p) * special.expit(0.5 + BETA * u))
    u = odds(losses.ORPO(0.7))
    slope = 0.5 * 2.0 * 0.7 * (special.expit(2.0 * u) - p) + (special.expit(u) - won)
    assert_close(slope, 0.0)


def test_slic_without_targets_is_a_hinge_with_a_uniform_reference():
    table = Table(MU, GENERAL, sample=[0.1, 0.2, 0.3, 0.4])
    log_pi = tensor(normalised([0.3, -2.0, 1.0, 0.2]))
    slic = table.loss(losses.SLiC(2.0, lam=0.0), log_pi)
    assert_close(slic.item(), 2.0 * table.loss(losses.Hinge(0.5), log_pi).item())
    # Targets alone are maximum likelihood.
    cloned = table.loss(losses.SLiC(2.0, lam=3.0), log_pi) - slic
    assert_close(cloned.item(), -3.0 * np.dot([0.1, 0.2, 0.3, 0.4], log_pi.numpy()))


# --------------------------------------------------------------------------- groups


def group_population(loss, members, weights, reward, lengths=None):
    """Return the population loss of groups, given as tuples of actions with weights."""
    members, weights = np.array(members), tensor(weights)

    def population(log_pi):
        rows = {"log_ref": tensor(REF[members])} if "reference" in loss.needs else {}
        if lengths is not None:
            rows["lengths"] = tensor(lengths[members])
        g = losses.Groups(log_pi[members], tensor(reward[members]), **rows)
        return (weights * loss(g)).sum()

    return population


TRIPLES = list(itertools.product(range(4), repeat=3))
TRIPLE_WEIGHTS = np.array([MU[list(t)].prod() for t in TRIPLES])


def test_infonca_finds_the_gibbs_policy():
    loss = losses.InfoNCA(BETA, alpha=0.5)
    population = group_population(loss, TRIPLES, TRIPLE_WEIGHTS, R)
    found = minimise(lambda x: population(torch.log_softmax(x, -1)), tensor(REF))
    assert_close(torch.log_softmax(found, -1).numpy(), gibbs(R, BETA * 0.5))


def test_nca_pins_each_log_ratio():
    loss = losses.NCA(BETA, alpha=0.5)
    # All actions in one group: A e^{r/alpha} / sum e^{r/alpha}.
    population = group_population(loss, [(0, 1, 2, 3)], [1.0], R)
    found = minimise(population, tensor(REF)).numpy() - REF
    assert_close(BETA * found, math.log(4.0) + normalised(R / 0.5))
    # Independent draws: K E[softmax(r / alpha)_1 | the first is a], the others from mu.
    population = group_population(loss, TRIPLES, TRIPLE_WEIGHTS, R)
    found = minimise(population, tensor(REF)).numpy() - REF
    share = np.zeros(4)
    for a, b, c in TRIPLES:
        weight = np.exp(R[[a, b, c]] / 0.5)
        share[a] += MU[b] * MU[c] * weight[0] / weight.sum()
    assert_close(BETA * found, np.log(3.0 * share))
    # Far from the limit of many responses.
    limit = R / 0.5 - np.log(MU @ np.exp(R / 0.5))
    assert np.abs(BETA * found - limit).max() > 0.3


def test_rrhf_is_a_sum_over_pairs_out_of_order():
    draw = np.random.default_rng(2)
    log_pi, reward = -draw.uniform(1.0, 9.0, (6, 4)), draw.integers(0, 3, (6, 4)).astype(float)
    lengths = draw.integers(1, 5, (6, 4)).astype(float)
    found = losses.RRHF(0.4)(losses.Groups(log_pi, reward, lengths=lengths))
    for n in range(6):
        score = log_pi[n] / lengths[n]
        value = sum(
            max(0.0, score[i] - score[j])
            for i in range(4)
            for j in range(4)
            if reward[n, i] < reward[n, j]
        )
        best = reward[n] == reward[n].max()
        assert_close(found[n], value - 0.4 * log_pi[n][best].mean(), atol=1e-12)
