import math

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.oracles import AnnotatorMixture, BradleyTerry
from rlhf_theory.policies import MixturePolicy, ReferencePolicy, TablePolicy
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds import Bandit, annotator_cycle, intransitive, linear
from rlhf_theory.worlds.bandit import cut, each_array
from tests.helpers import reference
from tests.helpers.small import log
from tests.helpers.statistics import assert_frequencies, assert_same_law

SMALL = {"contexts": 3, "actions": 4, "dim": 2, "replicas": 4}


def absent_world(replicas=4):
    """A reward world with an absent action in every context."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=(1, 3))
    p[0, 0, 0] = p[0, 1, 3] = p[0, 2, 1] = 0.0
    p /= p.sum(axis=-1, keepdims=True)
    reward = LinearReward(rng.normal(size=(1, 2)))
    problem = FiniteProblem(
        rng.normal(size=(1, 3, 4, 2)), log(p), np.full((1, 3), 1 / 3), 0.3, replicas
    )
    return Bandit(
        name="absent", problem=problem, oracle=BradleyTerry(reward), reward=reward, game="logit"
    )


# ------------------------------------------------------------------ truth


def test_metrics_are_the_sums_of_their_definitions():
    world = linear(**SMALL, reference="dirichlet", eta=0.2)
    q = np.random.default_rng(1).dirichlet(np.ones(4), size=(4, 3))
    got = world.evaluate(TablePolicy(log(q)))
    r, p0 = world.reward.rewards(world.problem.table)[0], np.exp(world.problem.log_pi0[0])
    star = np.array([reference.gibbs(r[x], p0[x], 0.2) for x in range(3)])
    w = np.full(3, 1 / 3)
    best = reference.value(star, r, p0, w, 0.2)
    for k in range(4):
        gap = best - reference.value(q[k], r, p0, w, 0.2)
        np.testing.assert_allclose(got["gap"][k], gap, rtol=1e-10)
        forward = np.mean([reference.kl(star[x], q[k, x]) for x in range(3)])
        np.testing.assert_allclose(got["jeffreys"][k], gap + 0.2 * forward, rtol=1e-10)
        kl = np.mean([reference.kl(q[k, x], p0[x]) for x in range(3)])
        np.testing.assert_allclose(got["kl"][k], kl, rtol=1e-12)
    assert set(got) == {"gap", "jeffreys", "kl"}


def test_metrics_of_a_game_hold_its_exploitability():
    world = intransitive(**SMALL, cycle=1.0)
    got = world.evaluate(ReferencePolicy())
    assert set(got) == {"kl", "exploitability"}
    assert got["exploitability"].shape == (4,)
    assert (got["exploitability"] > 1e-4).all()
    assert (world.evaluate(world.optimum)["exploitability"] < 1e-12).all()
    both = intransitive(**SMALL, cycle=0.0).evaluate(ReferencePolicy())
    assert set(both) == {"gap", "jeffreys", "kl", "exploitability"}


def test_the_logit_payoff_stays_exact_where_probabilities_round():
    world = intransitive(**{**SMALL, "dim": 4}, cycle=40.0)
    assert np.abs(world.logits).max() > 40.0
    np.testing.assert_array_equal(world.payoff, -np.swapaxes(world.payoff, -1, -2))
    np.testing.assert_allclose(world.payoff, world.logits, rtol=1e-13)
    # Bradley-Terry with a huge reward, as a game: the equilibrium is still the Gibbs policy.
    steep = intransitive(**SMALL, cycle=0.0, theta_norm=60.0, eta=3.0)
    gibbs, nash = np.exp(steep.log_pi_star), np.exp(steep.nash.value)
    np.testing.assert_allclose(nash, gibbs, atol=1e-9)


def test_a_world_without_a_reward_has_no_optimal_policy():
    with pytest.raises(ValueError, match="has no reward, so no optimal policy"):
        _ = intransitive(**SMALL).log_pi_star
    problem = linear(**SMALL).problem
    with pytest.raises(ValueError, match="needs a reward or a game"):
        Bandit(name="x", problem=problem, oracle=BradleyTerry(LinearReward(np.zeros((1, 2)))))


def test_absent_actions_are_worth_nothing():
    world = absent_world()
    metrics = world.evaluate(ReferencePolicy())
    assert all(np.isfinite(v).all() for v in metrics.values())
    assert (metrics["gap"] > 0).all()
    assert world.evaluate(world.optimum)["gap"].tolist() == [0.0] * 4
    # A policy that plays an absent action is infinitely far away.
    uniform = TablePolicy(np.full((1, 3, 4), -math.log(4.0)))
    assert np.isinf(world.evaluate(uniform)["gap"]).all()
    data = world.offline_data(Key(0), 500)
    absent = ~np.isfinite(data.pairs.log_pi0).all(axis=-1)
    assert absent.any()
    assert (data.count[:, absent[0]] == 0).all()
    # Extreme pairs are counted among those that can be compared.
    present = np.isfinite(world.problem.log_pi0[0])
    p = world.preferences[0]
    seen = [
        p[c, i, j]
        for c in range(3)
        for i, j in reference.pairs_of(4)
        if present[c, i] and present[c, j]
    ]
    share = np.mean([q < 0.02 or q > 0.98 for q in seen])
    np.testing.assert_allclose(world.summary()["share_of_extreme_pairs"], share)


def test_behaviour_mixes_the_reference_and_the_optimum():
    world = linear(**SMALL, reference="dirichlet")
    x = world.problem.table
    np.testing.assert_array_equal(world.covering(0.0).log_probs(x), x.log_pi0)
    got = np.exp(world.covering(0.3).log_probs(x))
    want = 0.7 * np.exp(x.log_pi0) + 0.3 * np.exp(world.log_pi_star)
    np.testing.assert_allclose(got, want, rtol=1e-13)
    np.testing.assert_allclose(world.covering(1.0).log_probs(x), world.log_pi_star, rtol=1e-13)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"coverage must lie in \[0, 1\]"):
            world.covering(bad)


def test_behaviour_works_over_fresh_contexts():
    world = linear(contexts=None, actions=3, dim=2, replicas=2)
    x = world.problem.sample_contexts(Key(0), 5)
    got = np.exp(world.covering(0.5).log_probs(x))
    r = world.reward.rewards(x)
    for k in range(2):
        for b in range(5):
            star = reference.gibbs(r[k, b], np.exp(x.log_pi0[k, b]), world.problem.eta)
            np.testing.assert_allclose(got[k, b], 0.5 / 3 + 0.5 * star, rtol=1e-11)


# ------------------------------------------------------------------ data


def test_offline_data_are_nested_and_n_zero_changes_nothing():
    world = linear(**SMALL)
    empty = world.offline_data(Key(1), 0)
    assert empty.n_labels.tolist() == [0.0] * 4
    first = world.offline_data(Key(1).child("a"), 5)
    assert world.offline_data(Key(1), 0, onto=first) is first
    for more in (7, 500):  # pair by pair, and by counts
        both = world.offline_data(Key(1).child("b"), more, onto=first)
        assert (both.count >= first.count).all()
        assert (both.wins >= first.wins).all()
        assert (both.count - both.wins >= first.count - first.wins).all()
        alone = world.offline_data(Key(1).child("b"), more)
        np.testing.assert_array_equal(both.count, first.count + alone.count)


@pytest.mark.parametrize("contexts", [3, None])
@pytest.mark.parametrize("n", [10, 200])
def test_data_of_a_block_are_those_of_its_replicas(contexts, n):
    world = linear(**{**SMALL, "contexts": contexts})
    whole = world.offline_data(Key(2), n)
    part = world.block(1, 3).offline_data(Key(2).block(1), n)
    np.testing.assert_array_equal(part.count, whole.count[1:3])
    np.testing.assert_array_equal(part.wins, whole.wins[1:3])


def explicit(world, n, first, second):
    """Count n pairs drawn one at a time, whatever n."""
    total = None
    batch = world.problem.empty_data().count.shape[1]
    for k in range(n // batch):
        key = Key(5).child("batch", k)
        total = world.offline_data(key, batch, behaviour=first, second=second, onto=total)
    return total


@pytest.mark.statistical
@pytest.mark.parametrize("policies", ["reference", "two"])
def test_counts_and_pairs_have_one_law(policies):
    # Chi-squared at 1e-6 over 18 cells x 2 outcomes, 18 000 pairs each way: notices a cell whose
    # probability is off by about 15 %.
    world = linear(**SMALL, reference="dirichlet", theta_norm=2.0)
    first = second = None
    if policies == "two":
        first, second = world.covering(0.8), ReferencePolicy()
    n = 4500
    counted = world.offline_data(Key(4), n, behaviour=first, second=second)
    drawn = explicit(world, n, first, second)
    tables = []
    for data in (counted, drawn):
        won, lost = data.wins.sum(axis=0), (data.count - data.wins).sum(axis=0)
        tables.append(np.append(np.concatenate([won, lost]), 4 * n - data.count.sum()))
    assert_same_law(*tables)
    # Both against the law itself.
    x = world.problem.table
    p1 = np.exp((first or ReferencePolicy()).log_probs(x))[0]
    p2 = np.exp((second or ReferencePolicy()).log_probs(x))[0]
    cells = []
    for win in (True, False):
        for c in range(3):
            for i, j in reference.pairs_of(4):
                chance = world.preferences[0, c, i, j]
                both = p1[c, i] * p2[c, j] + p1[c, j] * p2[c, i]
                cells.append(both * (chance if win else 1 - chance) / 3)
    law = np.append(cells, 1 - np.sum(cells))
    for table in tables:
        assert_frequencies(table, law)


def test_counts_use_every_pair_exactly_once():
    world = linear(**SMALL)
    data = world.offline_data(Key(6), 1000)
    assert (data.n_labels <= 1000).all()
    assert (data.n_labels > 600).all()  # a1 = a2 takes a quarter
    assert (data.count == np.round(data.count)).all()
    one = linear(contexts=2, actions=1, dim=2, replicas=2)
    assert one.offline_data(Key(6), 10).n_labels.tolist() == [0.0, 0.0]


# ------------------------------------------------------------------ blocks and libraries


@pytest.mark.parametrize("instances", ["shared", "own"])
@pytest.mark.parametrize("build", [linear, intransitive])
def test_a_block_is_a_slice_of_its_world(build, instances):
    world = build(**SMALL, instances=instances, reference="dirichlet")
    part = world.block(1, 3)
    assert part.n_replicas == 2
    for name in ("preferences", "logits"):
        whole = np.broadcast_to(getattr(world, name), (4, 3, 4, 4))[1:3]
        np.testing.assert_allclose(
            np.broadcast_to(getattr(part, name), whole.shape), whole, rtol=1e-12, atol=1e-13
        )
    q = np.random.default_rng(1).dirichlet(np.ones(4), size=(4, 3))
    whole, half = world.evaluate(TablePolicy(log(q))), part.evaluate(TablePolicy(log(q[1:3])))
    for name, value in whole.items():
        np.testing.assert_allclose(half[name], value[1:3], rtol=1e-10, atol=1e-14)
    rows = 4 if instances == "own" else 1
    assert world.theta_star.shape[0] == rows
    assert part.theta_star.shape[0] == min(rows, 2)


def test_fresh_worlds_evaluate_a_replica_alike_in_every_block():
    world = linear(contexts=None, actions=3, dim=2, replicas=4)
    whole = world.evaluate(ReferencePolicy())
    for first in range(4):
        part = world.block(first, first + 1).evaluate(ReferencePolicy())
        for name, value in whole.items():
            np.testing.assert_allclose(part[name], value[first : first + 1], rtol=1e-10)


def test_worlds_move_between_libraries(xp_like):
    for world in (
        linear(**SMALL, instances="own"),
        linear(contexts=None, actions=3, dim=2, replicas=2),
        intransitive(**SMALL),
        annotator_cycle(replicas=2),
    ):
        there = world.to(xp_like)
        want, got = world.evaluate(ReferencePolicy()), there.evaluate(ReferencePolicy())
        for name, value in want.items():
            assert type(got[name]) is type(xp_like)
            np.testing.assert_allclose(to_numpy(got[name]), value, rtol=1e-9, atol=1e-13)
        data, host = there.offline_data(Key(3), 30), world.offline_data(Key(3), 30)
        assert type(data.count) is type(xp_like)
        np.testing.assert_array_equal(to_numpy(data.count), host.count)
        np.testing.assert_array_equal(to_numpy(data.wins), host.wins)


def test_models_are_cut_and_moved_through_all_their_fields(xp_like):
    theta = np.arange(8.0).reshape(4, 2)
    model = AnnotatorMixture(
        [BradleyTerry(LinearReward(theta), np.float64(2.0)), BradleyTerry(LinearReward(theta[:1]))],
        [0.5, 0.5],
    )
    part = cut(model, 1, 3)
    np.testing.assert_array_equal(part.annotators[0].reward.theta, theta[1:3])
    np.testing.assert_array_equal(part.annotators[1].reward.theta, theta[:1])
    assert part.annotators[0].scale == 2.0
    moved = each_array(model, lambda x: as_like(x, xp_like))
    assert type(moved.annotators[0].reward.theta) is type(xp_like)
    assert moved.weights == [0.5, 0.5]
    mix = MixturePolicy((TablePolicy(theta[:, None, :]), ReferencePolicy()), (0.5, 0.5))
    assert cut(mix, 2, 4).policies[0].table.shape == (2, 1, 2)
    assert cut(None, 0, 1) is None


# ------------------------------------------------------------------ summary


def test_the_summary_tells_sizes_spread_and_optimum():
    world = linear(**SMALL, reference="dirichlet")
    facts = world.summary()
    p = world.preferences[0]
    i, j = np.triu_indices(4, k=1)
    quantiles = np.quantile(p[:, i, j], [0.05, 0.5, 0.95])
    np.testing.assert_allclose(facts["win_probability_quantiles"], quantiles, rtol=1e-12)
    assert (facts["contexts"], facts["actions"], facts["dim"]) == (3, 4, 2)
    assert (facts["replicas"], facts["eta"], facts["name"]) == (4, 0.1, "linear")
    assert facts["intransitivity"] < 1e-12
    x = world.problem.table
    star, p0 = np.exp(world.log_pi_star[0]), np.exp(x.log_pi0[0])
    kl = np.mean([reference.kl(star[c], p0[c]) for c in range(3)])
    np.testing.assert_allclose(facts["optimum_kl"], kl, rtol=1e-10)
    assert "warning" not in facts


def test_the_summary_warns_where_labels_are_deterministic():
    facts = linear(**{**SMALL, "contexts": 20, "actions": 10}, theta_norm=500.0).summary()
    assert facts["share_of_extreme_pairs"] > 0.9
    assert "nearly deterministic" in facts["warning"]
    # Saturated probabilities must not make a reward look intransitive.
    assert facts["intransitivity"] < 1e-10
    milder = linear(**{**SMALL, "contexts": 20, "actions": 10}, theta_norm=50.0).summary()
    assert ("warning" in milder) == (milder["share_of_extreme_pairs"] > 0.9)
    assert milder["share_of_extreme_pairs"] > 0.5


def test_the_summary_of_a_game_uses_its_equilibrium():
    facts = annotator_cycle(replicas=2).summary()
    assert facts["intransitivity"] == pytest.approx(1.0)
    assert facts["optimum_kl"] == pytest.approx(0.0, abs=1e-12)
    one = linear(contexts=2, actions=1, dim=2, replicas=2).summary()
    assert one["share_of_extreme_pairs"] == 0.0
