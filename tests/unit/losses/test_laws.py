"""What the minimiser of a loss takes from the law of the pairs, as the loss says it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_theory import losses
from rlhf_theory.losses import Groups, planning
from tests.helpers.losses import (
    EXAMPLES,
    GROUPS,
    MU,
    PAIRS,
    REF,
    R,
    Table,
    bradley_terry,
    comparisons,
    minimise,
    random_arrays,
    tensor,
)

LENGTHS = np.array([1.0, 2.0, 3.0, 4.0])


def test_every_loss_says_its_law():
    assert {loss.law for loss in EXAMPLES.values()} == {"any", "distinct", "full"}


@pytest.mark.parametrize("name", PAIRS)
def test_a_response_against_itself_is_a_constant_unless_the_law_is_full(name):
    loss, n = PAIRS[name], 7
    arrays = random_arrays(n)
    for what in ("log_pi", "log_ref", "length", "win"):
        arrays[f"{what}_l"] = arrays[f"{what}_w"]
    arrays["margin"], arrays["log_pi_sample"] = np.zeros(n), np.full(n, -1.0)
    spread = np.ptp(loss(comparisons(loss, arrays)))
    assert spread > 1e-3 if loss.law == "full" else spread < 1e-12


def found(loss, mu):
    """Return the minimiser over policies, for Bradley-Terry labels of pairs from ``mu x mu``."""
    return Table(mu, bradley_terry(R), REF, lengths=LENGTHS).minimise(loss)


def exact(name):
    loss = EXAMPLES[name]
    return loss.law == "any" and loss.takes == "pairs"


@pytest.mark.parametrize("name", [n for n in EXAMPLES if exact(n)] + ["robust-dpo", "cdpo"])
def test_any_law_has_the_same_minimiser(name):
    loss = EXAMPLES[name] if exact(name) else planning(name, 0.7)
    assert loss.law == "any"
    np.testing.assert_allclose(found(loss, MU), found(loss, MU[::-1]), atol=1e-7)


@pytest.mark.parametrize(
    "name", ["ipo", "squared-hinge", "exo", "cdpo", "robust-dpo", "bco", "nca-pair", "sppo-hard"]
)
def test_other_minimisers_move_with_the_law(name):
    loss = EXAMPLES[name]
    assert loss.law in ("distinct", "full")
    assert np.abs(found(loss, MU) - found(loss, MU[::-1])).max() > 1e-3


def test_groups_with_repeated_members():
    """InfoNCA has one minimiser however often a response is in the group, NCA has not."""
    for name, same in (("infonca", True), ("nca", False)):
        loss, ends = GROUPS[name], []
        assert (loss.law == "any") == same
        for members in ([0, 1, 2, 3], [0, 0, 0, 1, 2, 3]):
            rewards, ref = tensor(R[members])[None], tensor(REF[members])[None]

            def population(x, members=members, rewards=rewards, ref=ref, loss=loss):
                log_pi = torch.log_softmax(x, -1)[members]
                return loss(Groups(log_pi[None], rewards, ref)).sum()

            ends.append(torch.log_softmax(minimise(population, tensor(REF)), -1).numpy())
        assert (np.abs(ends[0] - ends[1]).max() < 1e-7) == same


def test_smoothing_decides_the_law():
    for kind in (losses.CDPO, losses.RobustDPO):
        assert kind(0.5, smoothing=0.0).law == "any"
        assert kind(0.5, smoothing=0.1).law == "distinct"
