"""Rewards on pools as examples: their law, their labels, and what a loss learns from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.planning.examples.pool_examples import _group, pool_examples
from llm_bridge.pools.candidates import Pools
from llm_bridge.training.objective import Objective
from rlhf_theory.losses import BCO, DPO, SPPO, Comparisons, planning, soft
from rlhf_theory.randomness import Key
from tests.helpers.language import llama, word_tokenizer
from tests.helpers.losses import minimise, tensor

KEY = Key(3)


def _pools() -> Pools:
    model = llama(word_tokenizer(["a", "b", "c"]), seed=1)
    prompts = tuple(model.encode_prompt(t) for t in ("a", "b c", "c"))
    answers = [[(3, 1), (4, 1), (5, 1), (3, 3, 1)], [(3, 1), (4, 1)], [(3, 1)]]
    mass = np.array([[0.5, 0.25, 0.125, 0.125], [0.75, 0.25, 0, 0], [1, 0, 0, 0]])
    with np.errstate(divide="ignore"):
        log_mass = np.log(mass)
    responses = tuple(tuple(Response(a, "", math.nan) for a in row) for row in answers)
    log_pi0 = np.where(mass > 0, -1.0 - np.arange(4), 0.0)
    return Pools(prompts, responses, log_mass, log_pi0, np.full(3, 8.0))


REWARDS = np.array([[0.0, 1.0, 2.0, -1.0], [3.0, 1.0, 9.0, 9.0], [5.0, 9.0, 9.0, 9.0]])


def _made(loss: Any, pairs: Any = "all", size: int = 4) -> Any:
    pools, d0 = _pools(), np.array([0.5, 0.3, 0.2])
    return pool_examples(pools, np.arange(3), REWARDS, d0, pools.log_pi0, loss, pairs, size, KEY)


def test_pairs_have_the_law_of_two_draws_from_the_pool():
    first, second = _made(DPO(0.5))  # the third prompt has nothing to compare
    assert first.weight == pytest.approx(1.5)
    assert second.weight == pytest.approx(0.9)
    # Two draws differ with probability 1 - sum mass^2.
    assert math.fsum(first.share) == pytest.approx(1.0 - 0.25 - 0.0625 - 2 * 0.015625)
    table = dict(zip(first.pairs, zip(first.target, first.share, strict=True), strict=True))
    assert len(table) == 6
    # The worse comes first.
    assert table[0, 2] == pytest.approx((1.0 / (1.0 + math.exp(2.0)), 2 * 0.5 * 0.125))
    assert second.pairs == ((1, 0),)
    assert second.target == pytest.approx((1.0 / (1.0 + math.exp(2.0)),))
    assert first.log_ref == (-1.0, -2.0, -3.0, -4.0)


def test_sampled_pairs_have_the_same_mean():
    """Over 4000 draws every share is within five standard deviations of its mean."""
    exact, drawn = _made(DPO(0.5))[0], _made(DPO(0.5), pairs=4000)[0]
    total = math.fsum(exact.share)
    assert math.fsum(drawn.share) == pytest.approx(total)
    assert drawn.pairs == exact.pairs
    for mean, share in zip(exact.share, drawn.share, strict=True):
        p = mean / total
        assert abs(share / total - p) < 5 * math.sqrt(p * (1 - p) / 4000)
    one = _made(DPO(0.5), pairs=1)[0]
    assert len(one.pairs) == 1
    assert len(one.responses) == 2


def test_win_probabilities_are_against_the_pool():
    first = _made(SPPO(1.0))[0]
    mass = np.array([0.5, 0.25, 0.125, 0.125])
    win = 1.0 / (1.0 + np.exp(-(REWARDS[0][:, None] - REWARDS[0])))
    np.testing.assert_allclose(first.wins, win @ mass, rtol=1e-12)


@pytest.mark.parametrize("u", [0.0, 0.3, 0.999])
def test_a_group_has_each_response_as_often_as_it_was_drawn(u):
    mass = np.array([0.5, 0.25, 0.125, 0.125])
    places, given = _group(REWARDS[0], mass, 8, u)
    assert places == [0, 1, 2, 3]
    assert given["group"] == (0, 0, 0, 0, 1, 1, 2, 3)
    assert given["target"] == (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, -1.0)
    # What is too rare for the group is left out, and what is left of one response is no group.
    places, given = _group(REWARDS[0], mass, 2, u)
    assert places[0] == 0
    assert len(given["group"]) == 2
    assert _group(REWARDS[0][:2], np.array([0.99, 0.01]), 2, 0.5) == ([], {})


# ---------------------------------------------------------------- responses against themselves


def one_pool(mass: Any, rewards: Any, loss: Any, pairs: Any = "all", **given: Any) -> Any:
    """Return the example of one pool."""
    k = len(mass)
    responses = (tuple(Response((i + 2,), "", 0.0) for i in range(k)),)
    pools = Pools((Prompt("p", (1,)),), responses, np.log([mass]), np.zeros((1, k)), np.array([k]))
    rows, one = np.array([0]), np.ones(1)
    (made,) = pool_examples(
        pools, rows, np.array([rewards]), one, pools.log_pi0, loss, pairs, 8 * k, KEY, **given
    )
    return made


def population(e: Any, loss: Any) -> Any:
    """Return the loss of an example as a function of log-ratios that are free numbers."""
    at = {p: k for k, p in enumerate(sorted({ids[0] for ids in e.responses}))}
    rows = [at[ids[0]] for ids in e.responses]
    first, second = ([rows[p] for p in side] for side in zip(*e.pairs, strict=True))
    zero, p = torch.zeros(len(e.pairs), dtype=torch.float64), tensor(e.target)
    wins = {}
    if e.wins:
        w = tensor(e.wins)
        wins = {"win_w": w[[a for a, _ in e.pairs]], "win_l": w[[b for _, b in e.pairs]]}

    def f(u: Any) -> Any:
        c = Comparisons(u[first], u[second], zero, zero, **wins)
        return (tensor(e.share) * soft(loss, c, p)).sum()

    return f


@pytest.mark.parametrize(
    "mass", [(0.5, 0.5), (0.25,) * 4, (0.125,) * 8, (0.7, 0.1, 0.1, 0.1)], ids=str
)
@pytest.mark.parametrize("name", ["dpo", "ipo", "bco", "nca-pair", "sppo", "sppo-hard"])
def test_small_rewards_are_planned_for_at_eta(name, mass):
    """Log-ratios have the slope 1 on ``r / eta``; without such pairs that of bco would be 1.14."""
    eta, mu = 0.5, np.array(mass)
    r = 1e-4 * Key(1).normal_numpy(1, len(mass))[0]
    loss = planning(name, eta)
    u = minimise(population(one_pool(mass, r, loss), loss), tensor(np.zeros(len(mass))), tol=1e-10)
    u, g = (v - v @ mu for v in (u.numpy(), r / eta))
    assert (u * mu) @ g / ((g * mu) @ g) == pytest.approx(1.0, abs=1e-3)


def test_a_response_against_itself_wins_half_of_the_time():
    mass, rewards = (0.5, 0.25, 0.25), (0.0, 1.0, -1.0)
    e = one_pool(mass, rewards, BCO(0.5))
    table = dict(zip(e.pairs, zip(e.target, e.share, strict=True), strict=True))
    assert [table[a, a] for a in range(3)] == [(0.5, 0.25), (0.5, 0.0625), (0.5, 0.0625)]
    assert math.fsum(e.share) == pytest.approx(1.0)
    assert all(a != b for a, b in one_pool(mass, rewards, DPO(0.5)).pairs)
    # Draws have the same law, and one of them may be of a response with itself alone.
    drawn = one_pool(mass, rewards, BCO(0.5), pairs=4000)
    share = dict(zip(drawn.pairs, drawn.share, strict=True))
    for pair, (_, mean) in table.items():
        assert abs(share[pair] - mean) < 5 * math.sqrt(mean * (1 - mean) / 4000)
    alone = one_pool((1.0,), (3.0,), BCO(0.5))
    assert (alone.responses, alone.pairs, alone.target) == (((2,),), ((0, 0),), (0.5,))


def test_training_takes_them_where_they_are_no_constant(tiny_model):
    loss = BCO(0.5)
    made = [one_pool((0.5, 0.5), (0.0, 1.0), loss), one_pool((1.0,), (3.0,), loss)]
    objective = Objective(loss, made, tiny_model)
    with torch.no_grad():
        value = float(objective(tiny_model.model, objective.collate(made)))
    expected = 0.0
    for e in made:
        scores = sequence_log_probs(tiny_model, [e.prompt] * len(e.responses), e.responses)
        expected += float(population(e, loss)(tensor(scores)))
    assert value == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="pairs of two"):
        Objective(DPO(0.5), made[:1], tiny_model)


# ---------------------------------------------------------------- rewards far apart


@pytest.mark.parametrize("gap", [5.0, 20.0, 60.0])
@pytest.mark.parametrize("order", [1, -1])
def test_rewards_far_apart_have_a_finite_optimum_in_float32(gap, order):
    """A label of 1 in float32, from 17 on, would have none; the gradient changes sign at it."""
    e = one_pool((0.5, 0.5), (0.0, order * gap), DPO(1.0))
    ((a, b),) = e.pairs
    slopes = []
    for u in (0.99, 1.01):
        h = torch.tensor([0.0, order * u * gap], dtype=torch.float32, requires_grad=True)
        zero = torch.zeros(1)
        c = Comparisons(h[[a]], h[[b]], zero, zero)
        soft(DPO(1.0), c, torch.tensor(e.target, dtype=torch.float32)).sum().backward()
        slopes.append(order * float(h.grad[1]))
    assert slopes[0] < 0.0 < slopes[1]
