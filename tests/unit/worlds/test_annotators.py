import itertools
import json

import numpy as np
import pytest

import rlhf_theory as rt
from rlhf_theory.arrays import to_numpy
from rlhf_theory.data import PairQuery
from rlhf_theory.evaluation.intransitivity import intransitivity_index
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.worlds import (
    annotator_cycle,
    annotators,
    chi_squared,
    disagreement,
    linear,
    misspecification,
    tie_cycle,
)
from rlhf_theory.worlds.annotator_worlds import draw_deviations
from tests.helpers.statistics import assert_frequencies

SMALL = {"contexts": 4, "actions": 5, "dim": 3, "replicas": 3}


def parameters(world):
    """Parameters of the annotators, shape (R, K, d)."""
    return np.stack([one.reward.theta for one in world.oracle.annotators], axis=1)


# ------------------------------------------------------------------ the labels


def test_deviations_are_centred_and_of_size_one():
    w = np.array([0.5, 0.3, 0.2])
    dev = draw_deviations(Key(0), 6, 4, w)
    assert dev.shape == (6, 3, 4)
    np.testing.assert_allclose(np.einsum("k,rkd->rd", w, dev), 0.0, atol=1e-14)
    np.testing.assert_allclose(np.einsum("k,rkd->r", w, dev**2), 1.0, rtol=1e-13)
    np.testing.assert_array_equal(draw_deviations(Key(0), 2, 4, w), dev[:2])


@pytest.mark.parametrize("instances", ["shared", "own"])
def test_annotators_differ_by_the_dial_and_share_theta_star(instances):
    w = [0.6, 0.3, 0.1]
    settings = {**SMALL, "instances": instances, "theta_norm": 2.0}
    world = annotators(**settings, heterogeneity=0.7, weights=w)
    shared = linear(**settings)
    np.testing.assert_array_equal(world.problem.phi, shared.problem.phi)
    np.testing.assert_array_equal(world.reward.theta, shared.theta_star)
    theta = parameters(world)
    off = theta - shared.theta_star[:, None]
    np.testing.assert_allclose(np.einsum("k,rkd->rd", w, off), 0.0, atol=1e-13)
    np.testing.assert_allclose(np.einsum("k,rkd->r", w, off**2), 0.7**2, rtol=1e-12)
    # Twice the dial, twice the deviations, the same people.
    more = parameters(annotators(**settings, heterogeneity=1.4, weights=w))
    np.testing.assert_allclose(more - shared.theta_star[:, None], 2.0 * off, rtol=1e-10, atol=1e-13)


def test_preferences_are_the_mixture_of_the_annotators():
    w = [0.6, 0.4]
    world = annotators(**SMALL, heterogeneity=3.0, types=2, weights=w, scale=2.0, instances="own")
    theta = parameters(world)
    for r, x, a, b in itertools.product(range(3), range(4), range(5), range(5)):
        phi = world.problem.phi[r, x]
        u = 2.0 * theta[r] @ (phi[a] - phi[b])
        want = np.dot(w, 1 / (1 + np.exp(-u)))
        np.testing.assert_allclose(world.preferences[r, x, a, b], want, rtol=1e-12)
    assert world.theta_star is None


@pytest.mark.statistical
def test_labels_are_answers_of_annotators_drawn_afresh():
    # 30 000 comparisons of one pair: an annotator by its weight, then its answer. Chi-squared at
    # 1e-6 would notice a win probability that is off by .02.
    world = annotators(**{**SMALL, "replicas": 1}, heterogeneity=6.0, weights=[0.7, 0.2, 0.1])
    n = 30_000
    x = world.problem.sample_contexts(Key(5), n)
    a, b = np.zeros((1, n), dtype=int), np.ones((1, n), dtype=int)
    y = world.feedback(PairQuery(x, a, b), Key(6)).y
    theta, phi = parameters(world)[0], world.problem.phi[0]
    for c in range(4):
        p = np.dot([0.7, 0.2, 0.1], 1 / (1 + np.exp(-theta @ (phi[c, 0] - phi[c, 1]))))
        here = y[x.ids == c]
        assert_frequencies([here.sum(), here.size - here.sum()], [p, 1 - p])


@pytest.mark.parametrize(
    "changes",
    [{}, {"instances": "own", "reference": "peaked", "scale": 2.0}, {"contexts": None}],
)
def test_annotators_who_agree_are_the_linear_world(changes):
    settings = {**SMALL, **changes}
    world, same = annotators(**settings, heterogeneity=0.0, types=1), linear(**settings)
    assert isinstance(world.oracle, BradleyTerry)
    np.testing.assert_array_equal(world.theta_star, same.theta_star)
    np.testing.assert_array_equal(world.preferences, same.preferences)
    np.testing.assert_array_equal(world.log_pi_star, same.log_pi_star)
    key = Key(3)
    mine, theirs = (w.offline_data(key, 50) for w in (world, same))
    np.testing.assert_array_equal(mine.wins, theirs.wins)
    # The same labels and metrics in a run; and the equilibrium of a reward game is its Gibbs policy
    # where the labels have scale 1 (section 12.12 of the theory sheet: for the logit payoff).
    one, two = (rt.run(rt.OnlineIterative(batch_size=8), w, rounds=3) for w in (world, same))
    np.testing.assert_array_equal(one["gap"], two["gap"])
    if "scale" not in changes:
        np.testing.assert_allclose(world.nash.value, world.log_pi_star, atol=1e-8)


def test_small_disagreement_tends_to_the_linear_world():
    # sum_k w_k dev_k = 0, so the first order vanishes: P moves by O(h^2).
    limit = linear(**SMALL).preferences

    def error(h):
        return np.abs(annotators(**SMALL, heterogeneity=h).preferences - limit).max()

    np.testing.assert_allclose(error(1e-2) / error(1e-3), 100.0, rtol=0.05)
    assert error(1e-6) < 1e-11


def test_the_mean_utility_is_the_weighted_sum_of_all_rewards():
    w = [0.5, 0.25, 0.25]
    world = annotators(**SMALL, heterogeneity=4.0, weights=w)
    x = world.problem.table
    rewards = [one.reward.rewards(x) for one in world.oracle.annotators]
    total = sum(k * r for k, r in zip(w, rewards, strict=True))
    np.testing.assert_allclose(world.reward.rewards(x), total, rtol=1e-9, atol=1e-13)
    # The best policy for it does not know of the disagreement.
    np.testing.assert_array_equal(world.log_pi_star, linear(**SMALL).log_pi_star)


# ------------------------------------------------------------------ what labels tell


@pytest.mark.parametrize("reference", ["uniform", "dirichlet"])
def test_bradley_terry_orders_by_borda_where_features_can_tell_all_actions_apart(reference):
    # One context, five actions, six features: the fit is that of free rewards, whose score is
    # sum_b mu_b sigma(r_a - r_b) = sum_b mu_b P(a > b) (theory sheet 9.3).
    world = annotators(
        heterogeneity=8.0, contexts=1, actions=5, dim=6, replicas=20, instances="own", seed=2,
        reference=reference,
    )  # fmt: skip
    got = misspecification(world)
    phi, mu = world.problem.phi[:, 0], np.exp(world.problem.log_pi0[:, 0])
    mu = np.broadcast_to(mu, (20, 5))
    r = np.einsum("rad,rd->ra", phi, got.pseudo_true)
    fitted = np.einsum("rb,rab->ra", mu, 1 / (1 + np.exp(r[:, None, :] - r[:, :, None])))
    borda = np.einsum("rb,rab->ra", mu, world.preferences[:, 0])
    np.testing.assert_allclose(fitted, borda, rtol=1e-7)
    np.testing.assert_array_equal(np.argsort(r, axis=-1), np.argsort(borda, axis=-1))
    # Yet the mean utility is linear, and orders some instances otherwise.
    np.testing.assert_allclose(got.share, 0.0, atol=1e-12)
    mean = np.einsum("rad,rd->ra", phi, world.reward.theta)
    swapped = (np.argmax(mean, axis=-1) != np.argmax(borda, axis=-1)).mean()
    assert swapped > 0.1
    np.testing.assert_allclose(disagreement(world)["borda_misses_best"], swapped, rtol=1e-12)


def test_the_floor_grows_with_the_disagreement():
    # In the mean over instances; the gap of pi0 stays that of the mean utility.
    def world(h):
        return annotators(heterogeneity=h, replicas=16, instances="own")

    floors = [misspecification(world(h)).floor.mean() for h in (0.0, 1.0, 3.0, 10.0)]
    assert floors[0] < 1e-12
    assert (np.diff(floors) > 1e-4).all()
    start = [world(h).evaluate(ReferencePolicy())["gap"] for h in (0.0, 10.0)]
    np.testing.assert_allclose(start[0], start[1], rtol=1e-12)


@pytest.mark.statistical
def test_greedy_learning_ends_at_the_floor_and_not_at_the_mean_utility():
    # A million pairs put the estimate within about .01 of the pseudo-true parameters, and the gap
    # within some 1e-3 of a floor above .05; a consistent learner would be below 1e-4.
    world = annotators(**{**SMALL, "replicas": 8}, heterogeneity=10.0, seed=1)
    floor = misspecification(world).floor
    assert floor[0] > 0.05
    trace = rt.run(rt.OfflineGreedy(), world, pairs=[1_000_000], seed=3)
    np.testing.assert_allclose(trace["gap"][:, 0], floor, rtol=0.2)


def test_the_equilibrium_is_not_the_best_policy_of_the_mean_utility():
    for game in ("logit", "probability"):
        world = annotators(**SMALL, heterogeneity=10.0, game=game, seed=1)
        best = world.evaluate(world.optimum)
        assert best["gap"].max() <= 1e-12
        assert best["exploitability"].min() > 1e-3


# ------------------------------------------------------------------ the majority


def test_facts_of_known_cycles():
    # Three actions that beat each other in turn: no winner, and the only triple is a cycle.
    facts = disagreement(annotator_cycle(scale=2.0, replicas=2))
    assert facts == {"no_condorcet_winner": 1.0, "cyclic_triples": 1.0}
    assert disagreement(tie_cycle(replicas=2))["cyclic_triples"] == 1.0
    # A reward has no cycles, and its Borda winner against any opponents is its best action.
    assert disagreement(linear(**SMALL)) == pytest.approx(
        {"no_condorcet_winner": 0.0, "cyclic_triples": 0.0, "borda_misses_best": 0.0}, abs=1e-12
    )
    assert disagreement(chi_squared(replicas=2))["borda_misses_best"] == 0.0
    # Everybody indifferent: nobody wins, nothing is cyclic, and every action is best.
    flat = disagreement(linear(**SMALL, theta_norm=0.0))
    assert flat == pytest.approx(
        {"no_condorcet_winner": 1.0, "cyclic_triples": 0.0, "borda_misses_best": 0.0}, abs=1e-12
    )


def test_one_or_two_actions_have_no_cycle():
    for actions in (1, 2):
        facts = disagreement(annotators(**{**SMALL, "actions": actions}, heterogeneity=9.0))
        assert facts["cyclic_triples"] == 0.0
        assert facts["no_condorcet_winner"] == pytest.approx(0.0, abs=1e-12)


def test_the_facts_are_counts_over_actions(xp_like):
    world = annotators(**SMALL, heterogeneity=5.0, theta_norm=0.0, instances="own", seed=4)
    p = world.preferences
    winnerless = cyclic = 0
    for r, x in itertools.product(range(3), range(4)):
        wins = p[r, x] > 0.5
        winnerless += not any(wins[a].sum() == 4 for a in range(5))
        for a, b, c in itertools.combinations(range(5), 3):
            forward = wins[a, b] and wins[b, c] and wins[c, a]
            cyclic += forward or (wins[b, a] and wins[c, b] and wins[a, c])
    facts = disagreement(world.to(xp_like))
    assert facts["no_condorcet_winner"] == pytest.approx(winnerless / 12, rel=1e-12)
    assert facts["cyclic_triples"] == pytest.approx(cyclic / 120, rel=1e-12)
    assert cyclic > 0


def test_disagreement_makes_the_preference_intransitive():
    def index(h):
        world = annotators(**{**SMALL, "replicas": 30}, heterogeneity=h, instances="own")
        found = world.summary()["intransitivity"]
        np.testing.assert_allclose(found, np.mean(intransitivity_index(world.logits)), rtol=1e-12)
        return found

    values = [index(h) for h in (0.0, 1.0, 5.0, 25.0)]
    assert values[0] < 1e-12
    assert (np.diff(values) > 1e-3).all()


# ------------------------------------------------------------------ form


def test_settings_are_plain_data_and_all_of_the_arguments():
    world = annotators(**SMALL, weights=np.array([0.5, 0.25, 0.25]))
    again = json.loads(json.dumps(world.settings))
    assert set(again) == set(annotators.__kwdefaults__) - {"replicas"}
    assert again["weights"] == [0.5, 0.25, 0.25]
    rebuilt = annotators(**again, replicas=3)
    np.testing.assert_array_equal(rebuilt.preferences, world.preferences)
    assert annotators(**SMALL).settings["weights"] is None


def test_equal_weights_are_the_default():
    same = annotators(**SMALL, weights=[1 / 3] * 3)
    np.testing.assert_array_equal(to_numpy(same.preferences), annotators(**SMALL).preferences)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"heterogeneity": -1.0}, "heterogeneity must be finite and at least 0"),
        ({"types": 0}, "types must be at least 1; got 0"),
        ({"types": 1}, "needs at least 2 types of annotators"),
        ({"weights": [0.5, 0.5]}, "one probability for each of types=3"),
        ({"weights": [0.5, 0.3, 0.3]}, "with sum 1"),
        ({"weights": [1.5, -0.2, -0.3]}, "weights must be positive"),
        ({"weights": [0.5, 0.5, 0.0]}, "weights must be positive"),
        ({"game": "logits"}, "Did you mean 'logit'"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"reference": "flat"}, "reference must be one of"),
        ({"contexts": None, "instances": "own", "reference": "peaked"}, "Use instances='shared'"),
    ],
)
def test_bad_settings_raise(changes, match):
    with pytest.raises(ValueError, match=match):
        annotators(**{**SMALL, **changes})
