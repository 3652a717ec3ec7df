from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from rlhf_theory import losses
from rlhf_theory.losses import make, planning
from rlhf_theory.register import found
from tests.helpers.losses import (
    EXAMPLES,
    REF,
    R,
    Table,
    bradley_terry,
    minimise,
    normalised,
    tensor,
)

ETA = 0.4


@pytest.mark.parametrize("name", found("loss"))
def test_names_are_those_of_the_classes(name):
    entry = found("loss")[name]
    kind = entry.target
    assert name == kind.name
    assert entry.line
    assert "Population minimiser" in kind.__doc__
    assert "Source: " in kind.__doc__


@pytest.mark.parametrize("name", EXAMPLES)
def test_losses_are_made_from_their_settings(name):
    loss = EXAMPLES[name]
    assert make(loss.name, **dataclasses.asdict(loss)) == loss


def test_unknown_names_and_settings_are_answered():
    with pytest.raises(ValueError, match="Did you mean 'robust-dpo'"):
        make("robust_dpo", beta=0.1)
    with pytest.raises(ValueError, match=r"'dpo' has no setting 'bets'; it has beta\. Did"):
        make("dpo", bets=0.1)
    with pytest.raises(ValueError, match="'hinge' has no setting 'smoothing'"):
        make("hinge", beta=0.1, smoothing=0.1)
    with pytest.raises(ValueError, match="'f-dpo' needs the settings beta, divergence"):
        make("f-dpo")


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("dpo", {"beta": 0.0}, "beta must be positive and finite; got 0.0"),
        ("dpo", {"beta": math.inf}, "beta must be positive"),
        ("ipo", {"tau": -1.0}, "tau must be positive"),
        ("cdpo", {"beta": 1.0, "smoothing": 0.5}, r"smoothing must lie in \[0, 1/2\); got 0.5"),
        ("robust-dpo", {"beta": 1.0, "smoothing": -0.1}, "smoothing must lie in"),
        ("exo", {"beta": 1.0, "smoothing": 0.0}, "strictly between 0 and 1/2"),
        ("r-dpo", {"beta": 1.0, "alpha": -1.0}, "alpha must be finite and at least 0"),
        ("xpo", {"beta": 1.0, "alpha": -1.0}, "alpha must be finite and at least 0"),
        ("vpo", {"beta": 1.0, "alpha": 1.0, "direction": "both"}, "direction must be one of"),
        ("inpo", {"tau": 0.5, "step": 3.0}, "step times tau must be at most 1; got 3.0 times 0.5"),
        ("f-dpo", {"beta": 1.0, "divergence": "kl"}, "divergence must be one of"),
        ("f-dpo", {"beta": 1.0, "divergence": "js", "alpha": 0.5}, "belongs to the divergence 'al"),
        ("f-dpo", {"beta": 1.0, "divergence": "alpha"}, "needs a finite alpha below 1; got None"),
        ("f-dpo", {"beta": 1.0, "divergence": "alpha", "alpha": 1.0}, "below 1; got 1.0"),
        ("chi-po", {"beta": 1.0, "r_max": 0.0}, "r_max must be positive"),
        ("chi-po", {"beta": 1.0, "r_max": math.nan}, "r_max must be positive"),
        ("kto", {"beta": 1.0, "desirable": 0.0}, "desirable must be positive"),
        ("cpo", {"beta": 1.0, "lam": -0.1}, "lam must be"),
        ("simpo", {"beta": 1.0, "gamma": -0.1}, "gamma must be"),
        ("slic-hf", {"delta": 0.0}, "delta must be positive"),
        ("infonca", {"beta": 1.0, "alpha": 0.0}, "alpha must be positive"),
        ("rrhf", {"lam": 0.0}, "lam must be positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, settings, words):
    with pytest.raises(ValueError, match=words):
        make(name, **settings)


def test_a_mixture_has_a_weight_between_0_and_1():
    with pytest.raises(ValueError, match=r"weight must lie in \[0, 1\]; got 1.5"):
        losses.mixed_reference(REF, REF, 1.5)


def minimiser(loss, reward):
    """Minimise over policies: pairs (or all actions as one group) from the reference."""
    ref = np.exp(REF)
    if loss.takes == "groups":
        g = (tensor(reward)[None], tensor(REF)[None])

        def population(x):
            return loss(losses.Groups(torch.log_softmax(x, -1)[None], *g)).sum()

        return torch.log_softmax(minimise(population, tensor(REF)), -1).numpy()
    p = bradley_terry(reward)
    lengths = np.array([1.0, 2.0, 3.0, 4.0])
    return Table(ref, p, REF, wins=p @ ref, lengths=lengths).minimise(loss)


@pytest.mark.parametrize(
    "name", ["dpo", "cdpo", "robust-dpo", "r-dpo", "exponential", "savage", "infonca"]
)
def test_exact_planning_losses_find_the_gibbs_policy(name):
    expected = normalised(REF + R / ETA)
    np.testing.assert_allclose(minimiser(planning(name, ETA), R), expected, atol=1e-7)


def test_planning_keeps_other_settings():
    expected = normalised(REF + R / ETA)
    assert planning("cdpo", ETA, smoothing=0.2) == losses.CDPO(ETA, 0.2)
    assert planning("f-dpo", ETA, divergence="reverse-kl") == losses.FDPO(ETA, "reverse-kl")
    infonca = planning("infonca", ETA, alpha=0.5)
    np.testing.assert_allclose(minimiser(infonca, R), expected, atol=1e-7)
    assert planning("xpo", ETA, alpha=0.1) == losses.XPO(ETA, 0.1)
    assert planning("vpo", ETA, alpha=0.1, direction="offline").beta == ETA
    assert planning("hinge", ETA).beta == ETA


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ipo", {}),
        ("squared-hinge", {}),
        ("exo", {}),
        ("exo", {"smoothing": 0.3}),
        ("bco", {}),
        ("nca-pair", {}),
        ("sppo", {}),
        ("sppo-hard", {}),
        ("chi-po", {"r_max": 1.0}),
        ("f-dpo", {"divergence": "forward-kl"}),
        ("f-dpo", {"divergence": "js"}),
        ("f-dpo", {"divergence": "alpha", "alpha": 0.3}),
        ("f-dpo", {"divergence": "chi2-kl"}),
    ],
)
def test_other_planning_losses_agree_to_first_order(name, settings):
    # The difference to the Gibbs policy is quadratic in the size of the reward.
    loss = planning(name, ETA, **settings)
    off = []
    for size in (0.02, 0.01):
        gibbs = normalised(REF + size * R / ETA)
        found = minimiser(loss, size * R)
        off.append(np.abs(found - gibbs).max())
        assert off[-1] < 0.1 * np.abs(gibbs - REF).max()
    assert off[1] < 0.3 * off[0]


def test_nca_agrees_up_to_one_minus_one_over_k():
    # Groups of K = 2 draws from the reference, rewards small.
    ref, size = np.exp(REF), 1e-3
    loss = planning("nca", ETA)
    pairs = [(a, b) for a in range(4) for b in range(4)]
    weight = tensor([ref[a] * ref[b] for a, b in pairs])
    members = torch.tensor(pairs)
    rewards, log_ref = tensor(size * R)[members], tensor(REF)[members]

    def population(x):
        log_pi = torch.log_softmax(x, -1)
        return (weight * loss(losses.Groups(log_pi[members], rewards, log_ref))).sum()

    found = torch.log_softmax(minimise(population, tensor(REF)), -1).numpy()
    expected = normalised(REF + (1.0 - 1.0 / 2.0) * size * R / ETA)
    np.testing.assert_allclose(found, expected, atol=1e-2 * size)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kto", "no finite minimiser"),
        ("ipo-per-token", "tau counts per token"),
        ("inpo", "steps of a game"),
        ("simpo", "knows no reference"),
        ("cpo", "knows no reference"),
        ("orpo", "knows no reference"),
        ("slic-hf", "knows no reference"),
        ("rrhf", "knows no reference"),
    ],
)
def test_losses_that_cannot_plan_say_why(name, words):
    with pytest.raises(ValueError, match=f"'{name}' does not plan .*{words}"):
        planning(name, ETA)


def test_planning_checks_its_arguments():
    with pytest.raises(ValueError, match="eta must be positive"):
        planning("dpo", 0.0)
    with pytest.raises(ValueError, match="Did you mean 'ipo'"):
        planning("ippo", 0.1)
    with pytest.raises(ValueError, match="eta decides beta of the loss 'dpo'"):
        planning("dpo", 0.1, beta=0.2)
    with pytest.raises(ValueError, match="needs the settings divergence"):
        planning("f-dpo", 0.1)
