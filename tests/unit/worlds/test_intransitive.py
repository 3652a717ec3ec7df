import numpy as np
import pytest

from rlhf_theory.evaluation.intransitivity import cyclic_part, intransitivity_index
from rlhf_theory.rewards import SkewBilinear
from rlhf_theory.worlds import annotator_cycle, intransitive, tie_cycle

SMALL = {"contexts": 4, "actions": 5, "dim": 3, "replicas": 3}


def test_logits_are_the_reward_difference_plus_the_cycle():
    # logit P = r(a) - r(b) + c phi(a)^T W phi(b), |W|_F = sqrt(2) d, with W made by hand.
    world = intransitive(**SMALL, cycle=0.7, theta_norm=2.0)
    theta, upper = -world.theta_star[0, :3], world.theta_star[0, 3:]
    np.testing.assert_allclose(np.linalg.norm(theta), 2.0, rtol=1e-13)
    w = np.zeros((3, 3))
    w[np.triu_indices(3, k=1)] = upper / 0.7
    w -= w.T
    np.testing.assert_allclose(np.linalg.norm(w), np.sqrt(2.0) * 3, rtol=1e-12)
    phi = world.problem.phi[0]
    r = phi @ theta
    want = r[:, :, None] - r[:, None, :] + 0.7 * np.einsum("xai,ij,xbj->xab", phi, w, phi)
    np.testing.assert_allclose(world.logits[0], want, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(world.preferences[0], 1 / (1 + np.exp(-want)), rtol=1e-11)


def test_the_cyclic_part_is_proportional_to_the_dial():
    def norm(c, theta_norm):
        logit = intransitive(**SMALL, cycle=c, theta_norm=theta_norm).logits
        return np.linalg.norm(cyclic_part(logit), axis=(-2, -1))

    one = norm(1.0, 1.0)
    assert (one > 0).all()
    for c in (0.1, 3.0):
        for theta_norm in (0.0, 1.0, 5.0):
            np.testing.assert_allclose(norm(c, theta_norm), c * one, rtol=1e-9)


def test_no_cycle_is_bradley_terry_and_has_a_reward():
    world = intransitive(**SMALL, cycle=0.0)
    assert intransitivity_index(world.logits).max() < 1e-12
    r = world.reward.rewards(world.problem.table)
    np.testing.assert_allclose(world.logits, r[..., :, None] - r[..., None, :], atol=1e-13)
    assert intransitive(**SMALL, cycle=0.5).reward is None


def test_the_true_parameters_are_those_of_the_bilinear_model():
    for instances in ("shared", "own"):
        world = intransitive(**SMALL, cycle=2.0, instances=instances)
        got = SkewBilinear(world.theta_star).payoff(world.problem.table)
        np.testing.assert_allclose(got, world.logits, rtol=1e-12, atol=1e-13)
    assert world.theta_star.shape == (3, 6)


def test_one_feature_has_no_cycle():
    world = intransitive(**{**SMALL, "dim": 1}, cycle=1.0)
    assert world.theta_star.shape == (1, 1)
    assert intransitivity_index(world.logits).max() < 1e-12


@pytest.mark.parametrize(("scale", "edge"), [(1.0, 0.5271), (2.0, 0.5932), (4.0, 0.6548)])
def test_three_annotators_make_a_condorcet_cycle(scale, edge):
    # The numbers of theory 9.3, and the formula (sigma(s) + sigma(s) + sigma(-2 s)) / 3.
    p = annotator_cycle(scale=scale, replicas=2).preferences[0, 0]
    for a, b in ((0, 1), (1, 2), (2, 0)):
        assert abs(p[a, b] - edge) < 5e-5
        exact = (2 / (1 + np.exp(-scale)) + 1 / (1 + np.exp(2 * scale))) / 3
        np.testing.assert_allclose(p[a, b], exact, rtol=1e-13)
    far = annotator_cycle(scale=200.0, replicas=2).preferences[0, 0]
    np.testing.assert_allclose(far[0, 1], 2 / 3, rtol=1e-13)


def test_the_equilibrium_of_the_annotator_cycle_is_uniform():
    world = annotator_cycle(scale=2.0, replicas=2, eta=0.05)
    np.testing.assert_allclose(np.exp(world.nash.value), 1 / 3, atol=1e-10)
    np.testing.assert_allclose(intransitivity_index(world.logits), 1.0, rtol=1e-12)


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.2])
def test_tied_annotators_each_decide_one_pair(shift):
    # P(2 > 1) = 1/2 + w1 / 2 and so on, straight from the three types.
    w = np.array([1 / 3 - shift, 1 / 3 + shift / 2, 1 / 3 + shift / 2])
    says = np.full((3, 3, 3), 0.5)
    for kind, (winner, loser) in enumerate(((1, 0), (0, 2), (2, 1))):
        says[kind, winner, loser], says[kind, loser, winner] = 1.0, 0.0
    want = np.einsum("k,kab->ab", w, says)
    world = tie_cycle(shift=shift, replicas=2)
    np.testing.assert_allclose(world.preferences[0, 0], want, rtol=1e-13)
    np.testing.assert_allclose(world.payoff[0, 0], want - 0.5, atol=1e-15)


def test_the_equilibrium_moves_continuously_where_the_argmax_jumps():
    # T6b: the sum of win probabilities (Borda) ties at shift 0 and its argmax jumps.
    left, right = tie_cycle(shift=-1e-4, replicas=1), tie_cycle(shift=1e-4, replicas=1)
    moved = np.exp(left.nash.value) - np.exp(right.nash.value)
    assert np.abs(moved).max() < 1e-2
    borda = [w.preferences[0, 0].mean(axis=1) for w in (left, right)]
    assert np.argmax(borda[0]) != np.argmax(borda[1])


@pytest.mark.parametrize(
    ("build", "settings", "match"),
    [
        (intransitive, {"cycle": -1.0}, "cycle must be finite and at least 0"),
        (intransitive, {"game": "logits"}, "Did you mean 'logit'"),
        (intransitive, {"reference": "flat"}, "reference must be one of"),
        (annotator_cycle, {"scale": -1.0}, "scale must be finite and at least 0"),
        (annotator_cycle, {"eta": 0.0}, "eta must be positive"),
        (tie_cycle, {"shift": 0.4}, r"shift must lie in \(-2/3, 1/3\)"),
        (tie_cycle, {"game": "x"}, "game must be one of"),
    ],
)
def test_bad_settings_raise(build, settings, match):
    with pytest.raises(ValueError, match=match):
        build(**settings)
