import json

import numpy as np
import pytest
from scipy.optimize import minimize

import rlhf_theory as rt
from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.evaluation.misspecified import self_consistent_fit
from rlhf_theory.policies import ReferencePolicy, TablePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds import linear, misspecification, misspecified, tie_cycle
from rlhf_theory.worlds.misspecified_worlds import TanhReward
from tests.helpers.small import log

SMALL = {"contexts": 4, "actions": 5, "dim": 3, "replicas": 3}


def spread(world):
    """Root of the variance of the reward over uniform actions, in the mean over contexts."""
    x, _ = world.population
    r = to_numpy(world.reward.rewards(x))
    return np.sqrt(np.mean(np.var(r, axis=-1), axis=-1))


# ------------------------------------------------------------------ the reward


def test_the_network_is_the_sum_of_its_definition(xp_like):
    rng = np.random.default_rng(0)
    hidden, bias, output = rng.normal(size=(2, 4, 3)), *rng.normal(size=(2, 2, 4))
    phi = rng.normal(size=(1, 3, 2, 3))
    net = TanhReward(*(as_like(v, xp_like) for v in (hidden, bias, output)), 1.7)
    x = Contexts(as_like(phi, xp_like), as_like(np.full((1, 3, 2), -np.log(2.0)), xp_like))
    got = to_numpy(net.rewards(x))
    assert got.shape == (2, 3, 2)
    for r in range(2):
        for b in range(3):
            for a in range(2):
                want = 0.0
                for j in range(4):
                    z = hidden[r, j] @ phi[0, b, a]
                    unit = np.tanh(1.7 * (z + bias[r, j])) - np.tanh(1.7 * bias[r, j])
                    want += output[r, j] * unit / 1.7
                np.testing.assert_allclose(got[r, b, a], want, rtol=1e-12, atol=1e-14)


def test_no_gain_is_the_linear_world():
    for changes in ({}, {"instances": "own", "reference": "peaked", "scale": 2.0}):
        none, same = misspecified(**SMALL, **changes, gain=0.0), linear(**SMALL, **changes)
        assert isinstance(none.reward, LinearReward)
        for a, b in (
            (none.theta_star, same.theta_star),
            (none.problem.phi, same.problem.phi),
            (none.problem.log_pi0, same.problem.log_pi0),
            (none.preferences, same.preferences),
            (none.log_pi_star, same.log_pi_star),
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("instances", ["shared", "own"])
@pytest.mark.parametrize("reference", ["uniform", "peaked"])
def test_small_gains_tend_to_the_linear_world(instances, reference):
    # tanh(g (z + b)) - tanh(g b) = g z - O(g^3): rewards differ from linear ones by O(g^2), which
    # a tenth of the gain divides by a hundred.
    settings = {**SMALL, "instances": instances, "reference": reference}
    limit = linear(**settings)
    want = limit.reward.rewards(limit.problem.table)

    def error(gain):
        world = misspecified(**settings, gain=gain)
        np.testing.assert_array_equal(world.problem.phi, limit.problem.phi)
        return np.abs(world.reward.rewards(world.problem.table) - want).max()

    coarse, fine, finest = error(1e-2), error(1e-3), error(1e-6)
    assert 1e-6 < coarse < 1e-2
    np.testing.assert_allclose(coarse / fine, 100.0, rtol=0.05)
    assert finest < 1e-10
    near = misspecified(**settings, gain=1e-6)
    np.testing.assert_allclose(near.problem.log_pi0, limit.problem.log_pi0, atol=1e-8)


@pytest.mark.parametrize("theta_norm", [0.5, 1.0, 4.0])
def test_rewards_spread_as_the_linear_ones(theta_norm):
    for gain in (0.5, 3.0, 50.0):
        for changes in ({"instances": "shared"}, {"instances": "own", "decay": 1.0}):
            settings = {**SMALL, **changes, "theta_norm": theta_norm}
            got = spread(misspecified(**settings, gain=gain))
            np.testing.assert_allclose(got, spread(linear(**settings)), rtol=1e-12)


def test_fresh_rewards_spread_as_the_linear_ones_up_to_the_draw():
    # Set on 512 contexts, measured on 512 others: each spread has a relative error of about
    # 1 / sqrt(2 * 512 * 9) = .01 for independent normal rewards; .06 is four of their difference.
    world = misspecified(contexts=None, replicas=2, gain=3.0, theta_norm=2.0)
    np.testing.assert_allclose(
        spread(world), spread(linear(contexts=None, replicas=2, theta_norm=2.0)), rtol=0.06
    )


def test_the_spread_follows_the_norm_only():
    one, four = (misspecified(**SMALL, theta_norm=s) for s in (1.0, 4.0))
    x = one.problem.table
    np.testing.assert_allclose(4.0 * one.reward.rewards(x), four.reward.rewards(x), rtol=1e-12)
    flat = misspecified(**SMALL, theta_norm=0.0)
    np.testing.assert_array_equal(flat.reward.rewards(x), 0.0)
    np.testing.assert_array_equal(flat.preferences, 0.5)


def test_hidden_weights_keep_their_law():
    # The reflection towards theta* leaves lengths; a column of normal weights has variance 1, and
    # the mean square of 4000 x 6 of them a relative deviation of sqrt(2 / 24000) = .009.
    world = misspecified(**{**SMALL, "dim": 6}, width=4000)
    hidden = world.reward.hidden[0]
    np.testing.assert_allclose(np.mean(hidden**2), 1.0, atol=5 * 0.0092)
    drawn = Key(0).child("misspecified").child("hidden").normal_numpy(1, 4000, 6)[0]
    np.testing.assert_allclose(hidden @ hidden[0], drawn @ drawn[0], rtol=1e-8, atol=1e-10)


def test_labels_are_bradley_terry_in_the_network():
    world = misspecified(**SMALL, scale=3.0, instances="own")
    r = world.reward.rewards(world.problem.table)
    want = 1 / (1 + np.exp(-3.0 * (r[..., :, None] - r[..., None, :])))
    np.testing.assert_allclose(world.preferences, want, rtol=1e-12)
    assert world.theta_star is None


def test_a_peaked_reference_avoids_the_good_actions_of_this_reward():
    for contexts in (4, None):
        world = misspecified(**{**SMALL, "contexts": contexts}, gain=20.0, reference="peaked")
        x = world.problem.sample_contexts(Key(1), 30)
        r = world.reward.rewards(x)
        centred = (r - r.mean(-1, keepdims=True)) / r.std(-1, keepdims=True)
        logits = x.log_pi0 - x.log_pi0.mean(-1, keepdims=True)
        np.testing.assert_allclose(logits, -2.0 * centred, rtol=1e-9, atol=1e-11)


def test_settings_are_plain_data_and_all_of_the_arguments():
    world = misspecified(**SMALL, gain=0.5)
    again = json.loads(json.dumps(world.settings))
    assert set(again) == set(misspecified.__kwdefaults__) - {"replicas"}
    assert again["gain"] == 0.5
    fresh = json.loads(json.dumps(misspecified(**{**SMALL, "contexts": None}).settings))
    assert fresh["contexts"] is None


# ------------------------------------------------------------------ how far off


def test_the_linear_fit_is_least_squares_of_all_pairs():
    # Second way: every ordered pair as a row of a weighted regression.
    world = misspecified(**SMALL, reference="dirichlet", instances="own", gain=4.0)
    got = misspecification(world)
    r = world.reward.rewards(world.problem.table)
    p = np.exp(world.problem.log_pi0)
    for k in range(3):
        z = (world.problem.phi[k][:, :, None] - world.problem.phi[k][:, None]).reshape(-1, 3)
        u = (r[k][:, :, None] - r[k][:, None]).ravel()
        w = (p[k][:, :, None] * p[k][:, None] / 4.0).ravel()
        root = np.sqrt(w)
        theta = np.linalg.lstsq(z * root[:, None], u * root, rcond=None)[0]
        np.testing.assert_allclose(got.theta[k], theta, rtol=1e-9)
        left = np.sum(w * (u - z @ theta) ** 2)
        np.testing.assert_allclose(got.residual[k], np.sqrt(left), rtol=1e-9)
        np.testing.assert_allclose(got.share[k], left / np.sum(w * u**2), rtol=1e-9)
    assert (got.share > 0.01).all()


def test_the_pseudo_true_parameters_minimise_the_expected_log_loss():
    # With a scale that the fit knows, and a behaviour policy other than pi0.
    world = misspecified(**SMALL, gain=4.0, scale=2.0)
    law = np.random.default_rng(1).dirichlet(np.ones(5), size=(1, 4))
    got = misspecification(world, TablePolicy(log(law)))
    phi, prob = world.problem.phi[0], world.preferences[0]

    def loss(t):
        r = phi @ t
        u = 2.0 * (r[:, :, None] - r[:, None])
        nll = prob * np.logaddexp(0.0, -u) + (1.0 - prob) * np.logaddexp(0.0, u)
        return np.sum(law[0][:, :, None] * law[0][:, None] * nll) / 4.0

    best = minimize(loss, np.zeros(3), options={"gtol": 1e-10})
    np.testing.assert_allclose(got.pseudo_true[0], best.x, atol=1e-5)
    r = phi @ got.pseudo_true[0]
    policy = np.exp(world.problem.log_pi0[0] + r / world.problem.eta)
    policy /= policy.sum(axis=-1, keepdims=True)
    kl = np.sum(policy * (np.log(policy) - world.log_pi_star[0]), axis=-1).mean()
    np.testing.assert_allclose(got.floor, world.problem.eta * kl, rtol=1e-8)


def test_a_linear_world_is_not_misspecified(xp_like):
    for changes in ({"scale": 2.0}, {"contexts": None, "instances": "own"}):
        settings = {**SMALL, "reference": "dirichlet", **changes}
        world = linear(**settings).to(xp_like)
        got = misspecification(world)
        theta = np.broadcast_to(to_numpy(world.theta_star), (3, 3))
        np.testing.assert_allclose(to_numpy(got.theta), theta, atol=1e-10)
        np.testing.assert_allclose(to_numpy(got.pseudo_true), theta, atol=1e-7)
        np.testing.assert_allclose(to_numpy(got.share), 0.0, atol=1e-20)
        np.testing.assert_allclose(to_numpy(got.floor), 0.0, atol=1e-12)


def test_thin_references_have_a_fit():
    # Almost all mass on one action: pairs of small probability still decide the directions that
    # nothing else shows. Stationary: sum w z (P - sigma(z theta)) = 0 over all pairs.
    world = misspecified(**SMALL, reference="dirichlet", concentration=0.1, gain=4.0)
    got = misspecification(world)
    phi, prob, p = world.problem.phi[0], world.preferences[0], np.exp(world.problem.log_pi0[0])
    z = phi[:, :, None] - phi[:, None]
    off = prob - 1 / (1 + np.exp(-z @ got.pseudo_true[0]))
    gradient = np.einsum("xa,xb,xab,xabd->d", p, p, off, z)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-10)
    assert (got.floor > 0).all()


@pytest.mark.parametrize(
    "changes",
    [{"dim": 1}, {"contexts": 1, "dim": 4, "actions": 5}, {"actions": 1}, {"theta_norm": 0.0}],
)
def test_some_worlds_are_linear_at_any_gain(changes):
    # One feature of norm 1 has two values; five actions in one context and four features fit all.
    got = misspecification(misspecified(**{**SMALL, **changes}, gain=5.0))
    np.testing.assert_allclose(got.residual, 0.0, atol=1e-10)
    np.testing.assert_allclose(got.share, 0.0, atol=1e-12)
    np.testing.assert_allclose(got.floor, 0.0, atol=1e-12)


def test_the_share_of_a_large_world_grows_with_the_gain_to_that_of_a_step():
    # In the mean over many instances. In the limit of steep units, many features and free phi the
    # reward is a sum of v sign(z + b) with standard normal z, b: a unit has E (2 f(b))^2 =
    # 2 / (pi sqrt 3) of explained variance and 2 / 3 in all (F(b) is uniform), so a share of
    # 1 - sqrt 3 / pi = .449 is not linear. The instances scatter by .15 around it.
    def share(gain):
        world = misspecified(
            gain=gain, contexts=40, dim=12, width=16, replicas=100, instances="own"
        )
        return misspecification(world).share

    shares = [share(g).mean() for g in (0.3, 1.0, 3.0, 300.0)]
    assert (np.diff(shares) > 0.02).all()
    assert abs(shares[-1] - (1.0 - np.sqrt(3.0) / np.pi)) < 0.06


@pytest.mark.statistical
def test_greedy_learning_ends_at_the_floor():
    # At a million pairs the estimate is within about sqrt(tr F^-1 / n) = .01 of the pseudo-true
    # parameters. The floor is stationary only for the log-loss, not for the gap, so the gap moves
    # by some 1e-3 either way; half or twice the floor would be noticed.
    world = misspecified(**{**SMALL, "replicas": 8}, gain=4.0)
    floor = misspecification(world).floor
    trace = rt.run(rt.OfflineGreedy(), world, pairs=[1_000_000], seed=3)
    assert floor[0] > 0.01
    np.testing.assert_allclose(trace["gap"][:, 0], floor, rtol=0.25)


def test_a_fit_that_asks_for_its_own_pairs_may_settle_elsewhere():
    world = misspecified(**SMALL, gain=4.0)
    both = [
        self_consistent_fit(world.problem, world.preferences, second).require()
        for second in (None, ReferencePolicy())
    ]
    first = misspecification(world).pseudo_true
    assert np.abs(both[1] - first).max() > 1e-3
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_worlds_without_a_reward_are_refused():
    with pytest.raises(ValueError, match="has no reward to be misspecified about"):
        misspecification(tie_cycle(replicas=2))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"gain": -1.0}, "gain must be finite and at least 0"),
        ({"gain": float("nan")}, "gain must be finite"),
        ({"width": 0}, "width must be at least 1; got 0"),
        ({"actions": 0}, "actions must be at least 1"),
        ({"theta_norm": -1.0}, "theta_norm must be finite"),
        ({"reference": "unifrom"}, "Did you mean 'uniform'"),
        ({"contexts": None, "instances": "own", "reference": "peaked"}, "Use instances='shared'"),
    ],
)
def test_bad_settings_raise(changes, match):
    with pytest.raises(ValueError, match=match):
        misspecified(**{**SMALL, **changes})
