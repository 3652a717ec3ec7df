"""Every world of the register: what it declares is true."""

import inspect
import json

import numpy as np
import pytest

from rlhf_theory.arrays import to_numpy
from rlhf_theory.core import PreferenceOracle, Problem, RewardModel
from rlhf_theory.features import feature_bound
from rlhf_theory.policies import ReferencePolicy, TablePolicy, uniform_log_probs
from rlhf_theory.randomness import Key
from rlhf_theory.worlds import Bandit
from tests.helpers.registered import built_in
from tests.helpers.small import log

VARIANTS = {
    "linear": [
        {},
        {"instances": "own", "reference": "dirichlet"},
        {"reference": "peaked", "decay": 1.5, "scale": 2.0},
        {"contexts": None},
        {"contexts": None, "reference": "peaked"},
        {"contexts": None, "instances": "own", "reference": "dirichlet"},
        {"theta_norm": 0.0},
        {"actions": 1},
    ],
    "misspecified": [
        {},
        {"gain": 0.0},
        {"gain": 0.1, "width": 1, "theta_norm": 0.0},
        {"instances": "own", "reference": "dirichlet", "concentration": 0.3, "decay": 1.0},
        {"reference": "peaked", "scale": 2.0},
        {"contexts": None},
        {"contexts": None, "reference": "peaked"},
        {"contexts": None, "instances": "own", "reference": "dirichlet"},
        {"actions": 1},
    ],
    "annotators": [
        {},
        {"heterogeneity": 0.0},
        {"types": 2, "weights": [0.9, 0.1], "theta_norm": 0.0, "game": "probability"},
        {"instances": "own", "reference": "peaked", "scale": 2.0},
        {"contexts": None},
        {"contexts": None, "instances": "own", "reference": "dirichlet"},
        {"actions": 1},
    ],
    "intransitive": [
        {},
        {"cycle": 0.0},
        {"cycle": 5.0, "instances": "own", "reference": "dirichlet", "game": "probability"},
    ],
}


def variants():
    for name, entry in built_in("world").items():
        for k, settings in enumerate(VARIANTS.get(name, [{}])):
            given = {**entry.facts.examples[0], **settings, "replicas": 4}
            yield pytest.param((entry.target, given), id=f"{name}-{k}")


@pytest.fixture(params=variants())
def recipe(request):
    return request.param


@pytest.fixture
def world(recipe):
    build, settings = recipe
    return build(**settings)


def policies(world, n=6):
    """Random policies, pi0 and the uniform one, on the population, with a row per replica."""
    x, _ = world.population
    log_pi0 = np.broadcast_to(x.log_pi0, (4, *x.shape[1:3]))
    rng = np.random.default_rng(0)
    yield log_pi0
    yield uniform_log_probs(log_pi0)
    for k in range(n):
        p = rng.dirichlet(np.full(x.shape[2], 10.0 ** (k % 3 - 1)), size=log_pi0.shape[:2])
        p = p * np.isfinite(log_pi0) + 1e-300
        p[~np.isfinite(log_pi0)] = 0.0
        yield log(p / p.sum(axis=-1, keepdims=True))


class Given:
    """A policy given by its values on the population."""

    def __init__(self, log_probs):
        self.values = log_probs

    def log_probs(self, contexts):
        return self.values


def test_a_world_is_a_problem_a_law_and_a_truth(world):
    assert isinstance(world, Bandit)
    assert isinstance(world.problem, Problem)
    assert isinstance(world.oracle, PreferenceOracle)
    assert world.reward is None or isinstance(world.reward, RewardModel)
    assert world.reward is not None or world.game is not None
    assert world.n_replicas == world.problem.n_replicas == 4
    _, w = world.population
    np.testing.assert_allclose(to_numpy(w).sum(axis=-1), 1.0, rtol=1e-12)


def test_the_declared_optimum_is_optimal(world):
    x, _ = world.population
    best = world.evaluate(Given(world.optimum.log_probs(x)))
    metric = "gap" if world.reward is not None else "exploitability"
    np.testing.assert_allclose(best[metric], 0.0, atol=1e-12)
    for log_pi in policies(world):
        other = world.evaluate(Given(log_pi))
        assert (other[metric] >= best[metric] - 1e-12).all()
        if world.reward is not None:
            assert (other["jeffreys"] >= other["gap"] - 1e-15).all()


def test_gaps_are_differences_of_the_objective(world):
    if world.reward is None:
        pytest.skip("no reward")
    x, w = world.population
    r, eta = world.reward.rewards(x), world.problem.eta
    star, lp0 = world.log_pi_star, x.log_pi0

    def value(log_pi):
        p = np.exp(log_pi)
        ratio = np.where(p > 0, log_pi - np.where(np.isfinite(lp0), lp0, 0.0), 0.0)
        with np.errstate(invalid="ignore"):
            term = np.where(p > 0, p * (r - eta * ratio), 0.0)
        return (w * term.sum(axis=-1)).sum(axis=-1)

    for log_pi in policies(world):
        gap = world.evaluate(Given(log_pi))["gap"]
        np.testing.assert_allclose(gap, value(star) - value(log_pi), rtol=1e-8, atol=1e-12)


def test_the_nash_policy_is_an_equilibrium(world):
    if world.game is None:
        pytest.skip("no game")
    nash = world.nash
    assert np.all(nash.converged)
    log_pi = np.broadcast_to(nash.value, (4, *nash.value.shape[1:]))
    gap = world.evaluate(Given(log_pi))["exploitability"]
    np.testing.assert_allclose(gap, 0.0, atol=1e-12)
    np.testing.assert_array_equal(world.payoff, -np.swapaxes(world.payoff, -1, -2))


def test_win_probabilities_of_both_orders_add_to_one(world):
    p = world.preferences
    np.testing.assert_allclose(p + np.swapaxes(p, -1, -2), 1.0, rtol=1e-12)
    assert (p >= 0).all()
    assert (p <= 1).all()
    np.testing.assert_allclose(np.diagonal(p, axis1=-2, axis2=-1), 0.5, rtol=1e-12)
    with np.errstate(divide="ignore", over="ignore"):
        np.testing.assert_allclose(1 / (1 + np.exp(-world.logits)), p, rtol=1e-9, atol=1e-12)


def test_features_are_bounded(world):
    # Differences of features of norm at most 1 are at most 2; the hard instances declare their own.
    x, _ = world.population
    norm = np.linalg.norm(x.phi, axis=-1)
    spheres = ("linear", "misspecified", "annotators", "intransitive")
    limit = 1.0 if world.name in spheres else np.sqrt(2.0)
    assert (norm <= limit + 1e-12).all()
    assert (feature_bound(x) <= 2.0 * limit + 1e-9).all()


def test_the_true_parameters_explain_the_labels(world):
    if world.theta_star is None or world.problem.empty_data().count.shape[1] == 0:
        pytest.skip("no parameters, or no table of pairs")
    data = world.problem.empty_data()
    i, j = np.triu_indices(world.preferences.shape[-1], k=1)
    logits = world.logits[..., i, j]
    logits = np.broadcast_to(logits.reshape(logits.shape[0], -1), data.count.shape)
    design = data.differences if world.reward is not None else data.skew
    if design.n_params != world.theta_star.shape[-1]:
        design = data.skew  # the intransitive world without a cycle keeps bilinear parameters
    scale = world.settings.get("scale", 1.0)
    margins = np.broadcast_to(scale * design.margins(world.theta_star), logits.shape)
    np.testing.assert_allclose(margins, logits, rtol=1e-9, atol=1e-11)


def test_a_block_is_the_world_of_its_replicas(world):
    part = world.block(1, 3)
    for log_pi in policies(world, 2):
        whole, half = world.evaluate(Given(log_pi)), part.evaluate(Given(log_pi[1:3]))
        assert set(whole) == set(half)
        for name, value in whole.items():
            np.testing.assert_allclose(half[name], value[1:3], rtol=1e-9, atol=1e-13)
    data, some = world.offline_data(Key(1), 20), part.offline_data(Key(1).block(1), 20)
    np.testing.assert_array_equal(some.count, data.count[1:3])
    np.testing.assert_array_equal(some.wins, data.wins[1:3])


def test_more_replicas_are_the_same_replicas(recipe):
    build, settings = recipe
    few, many = build(**settings), build(**{**settings, "replicas": 6})
    for log_pi in policies(few, 1):
        want = few.evaluate(Given(log_pi))
        wide = np.concatenate([log_pi, log_pi[:2]])
        got = many.evaluate(Given(wide))
        for name, value in want.items():
            np.testing.assert_allclose(got[name][:4], value, rtol=1e-9, atol=1e-13)


def test_the_world_is_the_same_in_every_library(world, xp_like):
    there = world.to(xp_like)
    assert type(there.problem.empty_data().count) is type(xp_like)
    want, got = world.evaluate(ReferencePolicy()), there.evaluate(ReferencePolicy())
    for name, value in want.items():
        np.testing.assert_allclose(to_numpy(got[name]), value, rtol=1e-8, atol=1e-12)


def test_the_summary_reports_what_a_reader_needs(world):
    facts = world.summary()
    assert {"contexts", "actions", "dim", "eta", "replicas", "optimum_kl"} <= set(facts)
    assert 0.0 <= facts["share_of_extreme_pairs"] <= 1.0
    assert 0.0 <= facts["intransitivity"] <= 1.0 + 1e-12
    assert len(facts["win_probability_quantiles"]) == 3


def test_settings_rebuild_the_world(recipe, world):
    build, settings = recipe
    known = inspect.signature(build).parameters
    kept = {k: v for k, v in world.settings.items() if k in known}
    again = build(**{**settings, **kept})
    np.testing.assert_array_equal(again.preferences, world.preferences)


def test_settings_are_plain_data_and_every_argument_is_kept(recipe, world):
    # A study file holds what a world was made from; `replicas` belongs to the study, `name` is kept
    # by the world itself.
    build, settings = recipe
    known = set(inspect.signature(build).parameters) - {"replicas", "name"}
    assert known <= set(world.settings)
    assert json.loads(json.dumps(dict(world.settings))) == dict(world.settings)
    again = build(**{**json.loads(json.dumps(settings)), "replicas": 4})
    np.testing.assert_array_equal(again.preferences, world.preferences)


def test_evaluation_needs_no_table(world):
    x, _ = world.population
    if x.ids is None:
        pytest.skip("fresh contexts")
    log_pi = np.broadcast_to(x.log_pi0, (4, *x.shape[1:3]))
    one, two = world.evaluate(TablePolicy(log_pi)), world.evaluate(Given(log_pi))
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
