"""Losses of rewards, linear heads, ensembles, calibration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import binom

from llm_bridge.labels.oracles import RewardModelOracle, TextPreference, TextReward
from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.data import Comparison
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.rewards.calibration import calibration, calibration_of, win_logits
from llm_bridge.rewards.losses import comparison_loss, ranking_loss
from llm_bridge.rewards.models import (
    ModelEnsemble,
    OnFeatures,
    fit_ensemble,
    fit_head,
    with_features,
)
from rlhf_theory.arrays import as_like, int_like, sigmoid, to_numpy
from rlhf_theory.data import Contexts, PairQuery
from rlhf_theory.estimators.confidence import Adaptive, Constant, MarginalLikelihood, Scaled
from rlhf_theory.estimators.ensembles import RewardEnsemble, bootstrap_ensemble
from rlhf_theory.estimators.mle import bradley_terry_mle, neg_log_likelihood
from rlhf_theory.features import centred
from rlhf_theory.oracles import feedback_from
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from tests.helpers.assembled import compared
from tests.helpers.prompts import TokenFeatures, few_prompts, random_strings
from tests.helpers.text_pools import text_contexts

# --------------------------------------------------------------------------- losses


def by_enumeration(rewards):
    """The formula of the paper, pair by pair."""
    pairs = list(itertools.combinations(rewards, 2))
    return -math.fsum(math.log(1.0 / (1.0 + math.exp(b - a))) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_ranking_loss_is_the_mean_over_all_pairs(xp_like, k):
    r = 2.0 * Key(1).normal_numpy(7, k)
    got = to_numpy(ranking_loss(as_like(r, xp_like)))
    np.testing.assert_allclose(got, [by_enumeration(row) for row in r], rtol=1e-12)


def test_a_ranking_of_two_is_a_comparison(xp_like):
    r = as_like(3.0 * Key(2).normal_numpy(9, 2), xp_like)
    one = as_like(np.ones(9), xp_like)
    want = to_numpy(comparison_loss(r[:, 0], r[:, 1], one))
    np.testing.assert_allclose(to_numpy(ranking_loss(r)), want, rtol=1e-12)
    u = to_numpy(r[:, 0] - r[:, 1])
    np.testing.assert_allclose(want, -np.log(to_numpy(sigmoid(u))), rtol=1e-12)


def test_the_comparison_loss_is_the_likelihood_of_the_core():
    problem, data, _ = labelled_problem()
    theta = Key(3).normal_numpy(1, problem.dim)
    z, theta = data.differences, as_like(theta, data.count)
    u = z.margins(theta)[0]
    label = data.wins[0]
    got = torch.sum(comparison_loss(u, torch.zeros_like(u), label)[data.count[0] > 0])
    want = neg_log_likelihood(theta, z, data.count, data.wins)[0]
    assert float(got) == pytest.approx(float(want), rel=1e-12)


def test_absent_responses_do_not_count(xp_like):
    r = 2.0 * Key(1).normal_numpy(3, 4)
    present = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0]], dtype=bool)
    xp_present = as_like(present.astype(float), xp_like) > 0.5
    got = to_numpy(ranking_loss(as_like(r, xp_like), xp_present))
    want = [by_enumeration(r[0]), by_enumeration(r[1, [0, 2, 3]]), 0.0]
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0])
def test_gradients_are_central_differences(scale):
    r = scale * Key(4).normal_numpy(5, 4)
    x = torch.tensor(r, requires_grad=True)
    ranking_loss(x).sum().backward()
    h = 1e-6
    for i, j in itertools.product(range(5), range(4)):
        step = np.zeros_like(r)
        step[i, j] = h
        up, down = (float(ranking_loss(torch.tensor(r + s * step)).sum()) for s in (1, -1))
        assert float(x.grad[i, j]) == pytest.approx((up - down) / (2 * h), abs=1e-8)
    if scale == 0.0:  # where training starts: half of each pair, best first
        np.testing.assert_allclose(x.grad[0], -np.array([3, 1, -1, -3]) / 12.0, rtol=1e-12)


def test_shifting_all_rewards_of_a_prompt_changes_nothing():
    r = Key(4).normal_numpy(5, 4)
    np.testing.assert_allclose(ranking_loss(r), ranking_loss(r + 7.0), rtol=1e-12)


def test_losses_refuse_wrong_shapes():
    with pytest.raises(ValueError, match=r"rewards must have shape \(n, K\)"):
        ranking_loss(np.zeros(3))
    with pytest.raises(ValueError, match=r"present must have the shape \(2, 3\)"):
        ranking_loss(np.zeros((2, 3)), np.ones((2, 2), dtype=bool))


# --------------------------------------------------------------------------- linear heads


def labelled_problem(n=80, n_replicas=1, n_prompts=7, dim=3, scale=1.0):
    """A problem with labels of a linear reward; also the choices, to repeat them elsewhere."""
    problem = PromptProblem(
        few_prompts(n_prompts),
        random_strings(n_prompts, 9),
        features=TokenFeatures(dim),
        pool_size=6,
        n_replicas=n_replicas,
    )
    key = Key(11)
    x = problem.sample_contexts(key.child("x"), n)
    sizes = np.array([len(r) for r in problem.pools.responses])[to_numpy(x.ids)]
    u = key.child("a").uniform_numpy(2, n_replicas, n)
    a1, a2 = (int_like(np.floor(v * sizes).astype(int), x.like) for v in u)
    truth = LinearReward(as_like(np.array([[1.0, -2.0, 0.5]])[:, :dim], x.like))
    y = feedback_from(RewardModelOracle(truth, scale))(PairQuery(x, a1, a2), key.child("y")).y
    return problem, problem.empty_data().add(compared(x, a1, a2, y)), (x, a1, a2, y)


def test_the_head_is_the_estimate_of_the_core_on_the_counted_problem():
    problem, data, (x, a1, a2, y) = labelled_problem()
    finite = problem.finite()
    counted = finite.empty_data().add(compared(Contexts.rows(finite.table, x.ids), a1, a2, y))
    got = fit_head(data, rule=Constant(beta=2.0, lam=0.3))
    want = bradley_terry_mle(counted, ridge=0.3)
    np.testing.assert_allclose(got.reward.theta, want.value, rtol=1e-7)
    assert bool(got.solution.converged.all())
    # and the sets agree: the same widths in any direction
    v = as_like(Key(5).normal_numpy(1, 4, problem.dim), x.like)
    rule = Constant(beta=2.0, lam=0.3)
    other = rule.confidence_set(rule.fit(counted), counted)
    np.testing.assert_allclose(got.confidence.lower(v), other.lower(v), rtol=1e-6)


@pytest.mark.parametrize(
    ("rule", "scale"),
    [
        (Constant(beta=1.0, scale=2.0), 2.0),
        (Scaled(Adaptive(theta_bound=3.0, scale=2.0), 0.1), 2.0),
    ],
)
def test_labels_are_predicted_by_fits_to_other_prompts(rule, scale):
    _, data, _ = labelled_problem(scale=scale)
    comparisons = data.comparisons
    prompts = list(dict.fromkeys(c.prompt.ids for c in comparisons))
    # As many folds as prompts: each is left out once.
    got = fit_head(data, rule=rule, folds=len(prompts)).held_out
    seen = to_numpy(data.count)[0] > 0
    prompt = np.full(seen.size, -1)
    prompt[seen] = [prompts.index(c.prompt.ids) for c in comparisons]
    logits = np.zeros(seen.size)
    for p in range(len(prompts)):
        out = prompt == p
        keep = as_like((~out)[None, :].astype(float), data.count)
        theta = rule.fit(data.reweighted(data.count * keep, data.wins * keep)).value
        logits[out] = scale * to_numpy(data.differences.margins(theta))[0, out]
    labels = [c.label for c in comparisons]
    want = calibration(logits[seen], labels, prompts=prompt[seen])
    assert got.n_prompts == len(prompts)
    for name, value in want.summary().items():
        assert got.summary()[name] == pytest.approx(value, rel=1e-9), name
    assert got.accuracy.value > 0.6


def test_there_is_no_report_where_there_can_be_none():
    assert fit_head(labelled_problem(n_replicas=2)[1]).held_out is None
    assert fit_head(labelled_problem(n_prompts=1)[1]).held_out is None
    assert fit_head(labelled_problem()[1], folds=0).held_out is None
    empty = labelled_problem()[0].empty_data()
    assert fit_head(empty).held_out is None
    np.testing.assert_array_equal(fit_head(empty).reward.theta, 0.0)
    with pytest.raises(ValueError, match="folds must be at least 2"):
        fit_head(labelled_problem()[1], folds=1)


def test_the_lower_bound_without_radius_is_the_reward_measured_from_pi0():
    problem, data, _ = labelled_problem()
    x = problem.table
    fit = fit_head(data, rule=Constant(beta=0.0))
    nu = torch.sum(torch.exp(x.log_pi0)[..., None] * x.phi, dim=2, keepdim=True)
    want = (x.phi - nu) @ fit.reward.theta[0]
    np.testing.assert_allclose(fit.lower().rewards(x), want, rtol=1e-10, atol=1e-12)
    wide = fit_head(data, rule=Constant(beta=1.0)).lower().rewards(x)
    assert bool((wide <= want + 1e-12).all())


# --------------------------------------------------------------------------- other features


def test_comparisons_can_be_given_other_features():
    problem, data, _ = labelled_problem()
    other = TokenFeatures(5, seed=8)
    got = with_features(data, other)
    want = labelled_with(problem, other, data)
    np.testing.assert_allclose(got.pairs.phi, want, rtol=1e-12)
    np.testing.assert_array_equal(got.wins[0], data.wins[0][data.count[0] > 0])
    with pytest.raises(ValueError, match="no comparisons"):
        with_features(problem.empty_data(), other)


def labelled_with(problem, features, data):
    rows = [
        features.rows([c.prompt.ids] * 2, [c.first.ids, c.second.ids]) for c in data.comparisons
    ]
    return torch.stack(rows)[None]


def test_a_reward_on_its_own_features_is_that_of_a_problem_with_them():
    problem, data, _ = labelled_problem()
    other = TokenFeatures(4, seed=8)
    twin = PromptProblem(few_prompts(7), problem.policy, features=other, pool_size=6)
    assert twin.pools.content == problem.pools.content
    fit = fit_head(with_features(data, other))
    for model in (fit.reward, fit.lower()):
        mine = OnFeatures(other, model)
        want = model.rewards(twin.table)
        present = to_numpy(problem.table.log_pi0) > -math.inf
        got = to_numpy(mine.rewards(problem.table))
        np.testing.assert_allclose(got[present], to_numpy(want)[present], rtol=1e-10, atol=1e-12)
        ids = int_like([[3, 0, 3]], problem.table.like)
        rows = mine.rewards(Contexts.rows(problem.table, ids))
        np.testing.assert_array_equal(to_numpy(rows), got[:, [3, 0, 3]])
    other.rows = None  # the table is kept
    OnFeatures.rewards(mine, problem.table)


# --------------------------------------------------------------------------- ensembles


class Shifted:
    """A reward plus a constant per prompt."""

    def __init__(self, reward, shift):
        self.reward, self.shift = reward, shift

    def rewards(self, contexts):
        r = self.reward.rewards(contexts)
        return r + self.shift * as_like(to_numpy(contexts.ids) + 1.0, r)[..., None]


def test_an_ensemble_of_identical_members_is_the_member():
    problem, data, _ = labelled_problem()
    x = problem.table
    reward = fit_head(data).reward
    members = [Shifted(reward, s) for s in (0.0, 3.0, -1.0)]  # constants mean nothing
    ensemble = ModelEnsemble(members)
    want = to_numpy(centred(x) @ reward.theta[0])
    present = to_numpy(x.log_pi0) > -math.inf
    for model in (
        ensemble.mean(),
        ensemble.min_reward(),
        ensemble.uncertainty_weighted(2.0),
        ensemble.uncertainty_weighted(2.0, ddof=1),
        ModelEnsemble(members[1:2]).min_reward(),
    ):
        got = to_numpy(model.rewards(x))
        np.testing.assert_allclose(got[present], want[present], rtol=1e-9, atol=1e-10)


def test_linear_members_combine_as_the_ensemble_of_the_core():
    problem, data, _ = labelled_problem(n_replicas=2)
    x = problem.table
    thetas = bootstrap_ensemble(data, Key(1), n_members=4, ridge=1.0).value.thetas
    core = RewardEnsemble(thetas)
    ours = ModelEnsemble([LinearReward(thetas[:, k, :]) for k in range(4)])
    pairs = [
        (ours.mean(), core.mean()),
        (ours.min_reward(), core.min_reward()),
        (ours.uncertainty_weighted(0.7), core.uncertainty_weighted(0.7)),
        (ours.uncertainty_weighted(0.7, ddof=1), core.uncertainty_weighted(0.7, ddof=1)),
    ]
    present = np.broadcast_to(to_numpy(x.log_pi0) > -math.inf, (2, *x.shape[1:3]))
    for got, want in pairs:
        a, b = to_numpy(got.rewards(x)), to_numpy(want.rewards(x))
        np.testing.assert_allclose(a[present], b[present], rtol=1e-9, atol=1e-12)
        rows = Contexts.rows(x, int_like([[2, 0], [1, 1]], x.like))
        a, b = to_numpy(got.rewards(rows)), to_numpy(want.rewards(rows))
        there = to_numpy(rows.log_pi0) > -math.inf
        np.testing.assert_allclose(a[there], b[there], rtol=1e-9, atol=1e-12)


def test_members_are_fitted_by_the_estimator_of_the_rule():
    """For a ridge fit this is the core's ensemble; for others its members obey the rule's bound."""
    _, data, _ = labelled_problem(n_replicas=2)
    ours = fit_ensemble(data, rule=Constant(beta=1.0, lam=2.0, scale=0.5), n_members=3, key=Key(2))
    core = bootstrap_ensemble(data, Key(2), n_members=3, ridge=2.0, scale=0.5)
    np.testing.assert_allclose(ours.value.thetas, core.value.thetas, rtol=1e-8)
    assert np.all(np.asarray(ours.converged))
    bounded = fit_ensemble(
        data, rule=MarginalLikelihood(theta_bound=0.1, delta=0.1), n_members=3, key=Key(2)
    )
    assert float(np.linalg.norm(np.asarray(bounded.value.thetas), axis=-1).max()) <= 0.1 + 1e-6
    with pytest.raises(ValueError, match="n_members must be at least 2"):
        fit_ensemble(data, n_members=1, key=Key(2))


def test_ensembles_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="at least one member"):
        ModelEnsemble([])
    one = ModelEnsemble([TextReward(lambda *_: 0.0)])
    with pytest.raises(ValueError, match="ddof must be 0 or 1"):
        one.uncertainty_weighted(1.0, ddof=1)
    with pytest.raises(ValueError, match="weight must be"):
        one.uncertainty_weighted(-1.0)


def test_rewards_of_texts_make_ensembles_too():
    x = text_contexts({"why ?": ["a", "bb"], "who ?": ["ccc", "d", "ee"]})
    f, g = (lambda _, a: float(len(a))), (lambda _, a: -float(len(a)))
    got = ModelEnsemble([TextReward(f), TextReward(g)]).min_reward().rewards(x)
    centre = np.array([1.5, 2.0])[:, None]
    want = -np.abs(np.array([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0]]) - centre)
    np.testing.assert_allclose(got[0, 0, :2], want[0, :2], rtol=1e-12)
    np.testing.assert_allclose(got[0, 1], want[1], rtol=1e-12)
    assert np.isfinite(got).all()


# --------------------------------------------------------------------------- calibration


def simulated(n, sharpness=1.0, seed=0):
    """Labels drawn from ``sigma(u)`` and predictions ``sharpness * u``."""
    u = 1.5 * Key(seed).child("u").normal_numpy(1, n)[0]
    y = (Key(seed).child("y").uniform_numpy(1, n)[0] < expit(u)).astype(float)
    return sharpness * u, y


def test_the_numbers_are_the_formulas():
    u, y = np.array([2.0, -1.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.0, 1.0])
    p = expit(u)
    got = calibration(u, y, n_bins=2)
    assert got.accuracy.value == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    loss = -np.where(y == 1, np.log(p), np.log(1 - p))
    assert got.log_loss.value == pytest.approx(np.mean(loss), rel=1e-12)
    assert got.brier.value == pytest.approx(np.mean((p - y) ** 2), rel=1e-12)
    # Bins by confidence: {0, 1/2} and {1, 2} in size of the logit; the favoured one won 1, 0, 0, 1.
    q = expit(np.abs(u))
    low, high = (q[3] + q[2]) / 2, (q[1] + q[0]) / 2
    assert got.ece == pytest.approx(0.5 * abs(0.5 - low) + 0.5 * abs(0.5 - high), rel=1e-12)
    np.testing.assert_allclose(got.table["confidence"], [low, high], rtol=1e-12)
    np.testing.assert_allclose(got.table["won"], [0.5, 0.5])
    z = np.sum((y - p) * (1 - 2 * p)) / math.sqrt(np.sum((1 - 2 * p) ** 2 * p * (1 - p)))
    assert got.z == pytest.approx(z, rel=1e-12)
    assert "4 comparisons of 4 prompts: accuracy 0.375" in str(got)


def test_the_temperature_minimises_the_loss():
    u, y = simulated(300, sharpness=2.0)
    t = calibration(u, y).temperature

    def loss(s):
        return float(np.mean(comparison_loss(u / s, np.zeros_like(u), y)))

    assert loss(t) < min(loss(0.99 * t), loss(1.01 * t))
    assert loss(0.999 * t) == pytest.approx(loss(1.001 * t), abs=1e-6)


def test_swapping_responses_changes_nothing():
    u, y = simulated(200)
    flip = np.where(np.arange(200) % 3 == 0, -1.0, 1.0)
    a = calibration(u, y).summary()
    b = calibration(flip * u, np.where(flip < 0, 1 - y, y)).summary()
    assert a == pytest.approx(b, rel=1e-12)


def test_weights_are_repetitions_and_soft_labels_are_means():
    u, y = simulated(40)
    w = 1.0 + np.arange(40) % 3
    repeated = np.repeat(np.arange(40), w.astype(int))
    a = calibration(u, y, weights=w, n_bins=1).summary()
    b = calibration(u[repeated], y[repeated], prompts=repeated, n_bins=1).summary()
    for name in ("accuracy", "accuracy_lower", "log_loss", "brier_upper", "ece", "temperature"):
        assert a[name] == pytest.approx(b[name], rel=1e-9), name
    c = calibration(u, np.full(40, 0.3), n_bins=1)
    d = calibration(np.tile(u, 2), np.repeat([1.0, 0.0], 40), weights=np.repeat([0.3, 0.7], 40))
    for name in ("accuracy", "log_loss", "brier", "temperature"):
        assert c.summary()[name] == pytest.approx(d.summary()[name], rel=1e-9), name
    assert math.isnan(c.z)


@pytest.mark.statistical
def test_right_probabilities_are_found_calibrated():
    # False alarms: z and each of ten bins below 1e-7, together 1e-6. With n = 20000 the smallest
    # sharpness that z would notice half of the time is about 1.12.
    u, y = simulated(20_000)
    got = calibration(u, y)
    assert abs(got.z) < 5.33
    for row in got.table.itertuples():
        wins = round(row.won * row.n)
        # Probabilities differ within a bin; their mean has at least the binomial's tails.
        assert binom.ppf(5e-8, row.n, row.confidence) <= wins
        assert wins <= binom.ppf(1 - 5e-8, row.n, row.confidence)
    # The error is a mean of ten absolute normals: six times its expectation never happens.
    assert got.ece < 6.0 * got.ece_expected
    assert got.temperature == pytest.approx(1.0, abs=0.15)


@pytest.mark.statistical
@pytest.mark.parametrize("sharpness", [2.0, 0.5])
def test_wrong_probabilities_are_found_out(sharpness):
    # Misses: the true z is about +-20 here, with deviation about 1: below 1e-6.
    u, y = simulated(20_000, sharpness)
    got = calibration(u, y)
    assert math.copysign(1.0, math.log(sharpness)) * got.z > 5.33
    assert got.ece > 3.0 * got.ece_expected
    assert got.temperature == pytest.approx(sharpness, rel=0.15)
    right = calibration(u / got.temperature, y)
    assert abs(right.z) < 5.33
    assert right.log_loss.value < got.log_loss.value


def test_temperatures_at_the_edges():
    assert calibration([1.0, 2.0, -40.0], [1.0, 1.0, 0.0]).temperature == 0.0
    assert calibration([1.0, 2.0], [0.0, 0.0]).temperature == math.inf
    assert calibration([0.0, 0.0], [0.0, 1.0]).temperature == math.inf
    sure = calibration([800.0, 900.0, 1.0], [1.0, 0.0, 1.0])
    assert math.isfinite(sure.log_loss.value)
    assert sure.temperature > 100.0


def test_comparisons_of_one_prompt_are_resampled_together():
    u, y = simulated(50)
    apart = calibration(np.repeat(u, 8), np.repeat(y, 8)).accuracy
    together = calibration(
        np.repeat(u, 8), np.repeat(y, 8), prompts=np.repeat(np.arange(50), 8)
    ).accuracy
    ratio = (together.upper - together.lower) / (apart.upper - apart.lower)
    assert ratio == pytest.approx(math.sqrt(8.0), rel=0.15)
    plain = calibration(u, y).accuracy
    assert together.ends == pytest.approx(plain.ends, rel=1e-9)


def test_calibration_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="labels lie in"):
        calibration([1.0], [2.0])
    with pytest.raises(ValueError, match="finite"):
        calibration([math.nan], [1.0])
    with pytest.raises(ValueError, match="positive weight"):
        calibration([], [])
    with pytest.raises(ValueError, match="positive weight"):
        calibration([1.0], [1.0], weights=[0.0])
    with pytest.raises(ValueError, match="one shape"):
        calibration([1.0, 2.0], [1.0])


def test_models_of_texts_are_calibrated_on_comparisons():
    def pair(i):
        first, second = (Response((j, i), "x" * j, 0.0) for j in (1 + i % 4, 5))
        return Comparison(Prompt(f"p{i % 3}", (i % 3,)), first, second, 0.0, 0.0, float(i % 2))

    comparisons = [pair(i) for i in range(12)]
    f = TextReward(lambda _, a: 0.2 * len(a))
    u = np.array([0.2 * (len(c.first.text) - 5) for c in comparisons])
    np.testing.assert_allclose(win_logits(f, comparisons, 3.0), 3.0 * u, rtol=1e-12)
    got = calibration_of(f, comparisons, scale=3.0)
    labels = [c.label for c in comparisons]
    want = calibration(3.0 * u, labels, prompts=[i % 3 for i in range(12)])
    assert got.summary() == pytest.approx(want.summary(), rel=1e-9)
    assert got.n_prompts == 3
    g = TextPreference(lambda _, a, b: float(expit(0.6 * (len(a) - len(b)))))
    np.testing.assert_allclose(win_logits(g, comparisons), 3.0 * u, rtol=1e-9)
    with pytest.raises(TypeError, match="scores"):
        win_logits(LinearReward(np.zeros((1, 2))), comparisons)
