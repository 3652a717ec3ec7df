import numpy as np
import pytest
from scipy import stats

from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds import linear
from rlhf_theory.worlds.linear_worlds import draw_features, draw_reference, draw_theta
from tests.helpers.statistics import ALARM

SMALL = {"contexts": 4, "actions": 3, "dim": 2, "replicas": 3}


def test_features_have_norm_one_and_follow_the_spectrum():
    phi = draw_features(Key(0), 2, 500, 4, 6, 0.0)
    np.testing.assert_allclose(np.linalg.norm(phi, axis=-1), 1.0, rtol=1e-13)
    flat = (phi**2).reshape(-1, 6).mean(axis=0)
    np.testing.assert_allclose(flat, 1 / 6, atol=5 * np.sqrt(2 / 36 / 4000))
    steep = (draw_features(Key(0), 2, 500, 4, 6, 3.0) ** 2).reshape(-1, 6).mean(axis=0)
    assert (np.diff(steep) < 0).all()
    assert steep[0] / steep[-1] > 20


def test_theta_has_the_norm_of_the_dial():
    for norm in (0.0, 0.3, 7.0):
        theta = draw_theta(Key(1), 5, 4, norm)
        np.testing.assert_allclose(np.linalg.norm(theta, axis=-1), norm, rtol=1e-13)
    world = linear(**SMALL, theta_norm=2.5)
    np.testing.assert_allclose(np.linalg.norm(world.theta_star), 2.5, rtol=1e-13)


def test_reference_policies_are_what_their_names_say():
    rewards = np.random.default_rng(0).normal(size=(2, 50, 4))
    uniform = draw_reference(Key(2), "uniform", rewards, 2.0)
    np.testing.assert_allclose(np.exp(uniform), 0.25, rtol=1e-14)
    dirichlet = np.exp(draw_reference(Key(2), "dirichlet", rewards, 2.0))
    np.testing.assert_allclose(dirichlet.sum(axis=-1), 1.0, rtol=1e-13)
    peaked = draw_reference(Key(2), "peaked", rewards, 1.5)
    np.testing.assert_allclose(np.exp(peaked).sum(axis=-1), 1.0, rtol=1e-13)
    # 1.5 logits per standard deviation of the reward, against the reward.
    scaled = (rewards - rewards.mean(-1, keepdims=True)) / rewards.std(-1, keepdims=True)
    centred = peaked - peaked.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(centred, -1.5 * scaled, rtol=1e-10)
    worst = np.argmin(rewards, axis=-1)
    np.testing.assert_array_equal(np.argmax(peaked, axis=-1), worst)


@pytest.mark.statistical
@pytest.mark.parametrize("c", [1.0, 0.2, 3.0])
def test_dirichlet_references_are_symmetric_dirichlet(c):
    # A coordinate of a Dirichlet(c, c, c, c) has the law Beta(c, 3 c); Kolmogorov-Smirnov at 1e-6
    # on 20 000 draws notices a distribution function that is off by 0.02.
    p = np.exp(draw_reference(Key(3), "dirichlet", np.zeros((1, 20_000, 4)), 0.0, c))
    assert stats.kstest(p[0, :, 2], stats.beta(c, 3 * c).cdf).pvalue > ALARM


def test_small_concentrations_leave_a_proper_policy():
    log_p = draw_reference(Key(3), "dirichlet", np.zeros((1, 2000, 10)), 0.0, 0.05)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=-1), 1.0, rtol=1e-12)
    assert np.isfinite(log_p).all()
    with pytest.raises(ValueError, match=r"concentration must be at least 0.05 and finite; got 0"):
        linear(**SMALL, reference="dirichlet", concentration=0.01)


def test_one_action_has_any_reference():
    for reference in ("uniform", "dirichlet", "peaked"):
        world = linear(contexts=3, actions=1, dim=2, replicas=2, reference=reference)
        np.testing.assert_allclose(world.problem.log_pi0, 0.0, atol=1e-15)
        assert world.evaluate(world.optimum)["gap"].tolist() == [0.0, 0.0]


def test_the_seed_makes_the_instance():
    a, b, other = linear(**SMALL, seed=1), linear(**SMALL, seed=1), linear(**SMALL, seed=2)
    np.testing.assert_array_equal(a.problem.phi, b.problem.phi)
    np.testing.assert_array_equal(a.theta_star, b.theta_star)
    assert not np.array_equal(a.problem.phi, other.problem.phi)
    assert not np.array_equal(a.theta_star, other.theta_star)


def test_shared_instances_have_one_row_and_own_ones_have_a_row_each():
    shared, own = linear(**SMALL), linear(**SMALL, instances="own")
    assert shared.problem.phi.shape == (1, 4, 3, 2)
    assert shared.theta_star.shape == (1, 2)
    assert own.problem.phi.shape == (3, 4, 3, 2)
    assert own.theta_star.shape == (3, 2)
    assert len({row.tobytes() for row in own.problem.phi}) == 3
    # The first replicas of more replicas are the same instances.
    more = linear(**{**SMALL, "replicas": 5}, instances="own", reference="dirichlet")
    some = linear(**SMALL, instances="own", reference="dirichlet")
    np.testing.assert_array_equal(more.problem.phi[:3], some.problem.phi)
    np.testing.assert_array_equal(more.problem.log_pi0[:3], some.problem.log_pi0)
    np.testing.assert_array_equal(more.theta_star[:3], some.theta_star)


def test_the_reward_is_linear_in_the_features_and_labels_know_the_scale():
    world = linear(**SMALL, scale=3.0)
    assert isinstance(world.reward, LinearReward)
    r = world.problem.phi[0] @ world.theta_star[0]
    np.testing.assert_allclose(world.reward.rewards(world.problem.table)[0], r, rtol=1e-12)
    p = world.preferences[0]
    want = 1 / (1 + np.exp(-3.0 * (r[:, :, None] - r[:, None, :])))
    np.testing.assert_allclose(p, want, rtol=1e-12)


@pytest.mark.parametrize("reference", ["uniform", "dirichlet", "peaked"])
def test_fresh_contexts_have_the_law_of_the_finite_ones(reference):
    fresh = linear(contexts=None, actions=3, dim=2, replicas=4, reference=reference)
    x = fresh.problem.sample_contexts(Key(1), 6)
    assert x.shape == (4, 6, 3, 2)
    np.testing.assert_allclose(np.linalg.norm(x.phi, axis=-1), 1.0, rtol=1e-13)
    np.testing.assert_allclose(np.exp(x.log_pi0).sum(axis=-1), 1.0, rtol=1e-13)
    if reference == "peaked":
        best = np.argmax(fresh.reward.rewards(x), axis=-1)
        least = np.argmin(x.log_pi0, axis=-1)
        np.testing.assert_array_equal(best, least)


@pytest.mark.parametrize("reference", ["uniform", "dirichlet"])
def test_blocks_of_fresh_worlds_with_own_instances_work(reference):
    world = linear(
        contexts=None, actions=3, dim=2, replicas=4, instances="own", reference=reference
    )
    part = world.block(1, 3)
    x = part.problem.sample_contexts(Key(0).block(1), 5)
    np.testing.assert_array_equal(x.phi, world.problem.sample_contexts(Key(0), 5).phi[1:3])
    whole, half = world.evaluate(world.optimum), part.evaluate(part.covering(0.0))
    assert whole["gap"].tolist() == [0.0] * 4
    np.testing.assert_allclose(
        half["gap"], world.evaluate(world.covering(0.0))["gap"][1:3], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"actions": 0}, "actions must be at least 1; got 0"),
        ({"dim": -1}, "dim must be at least 1"),
        ({"replicas": 0}, "replicas must be at least 1"),
        ({"contexts": 0}, "contexts must be at least 1, or None"),
        ({"eta": 0.0}, "eta must be positive"),
        ({"eta": float("nan")}, "eta must be positive"),
        ({"theta_norm": -1.0}, "theta_norm must be finite and at least 0"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"decay": float("inf")}, "decay must be finite"),
        ({"reference": "unifrom"}, "Did you mean 'uniform'"),
        ({"instances": "shard"}, "Did you mean 'shared'"),
        ({"contexts": None, "instances": "own", "reference": "peaked"}, "Use instances='shared'"),
    ],
)
def test_bad_settings_raise(changes, match):
    with pytest.raises(ValueError, match=match):
        linear(**{**SMALL, **changes})
