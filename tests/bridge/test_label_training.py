"""What losses learn from labels: responses against themselves, and labels of a known scale."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from llm_bridge.labels.people import LabelFile
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.planning.direct import DirectPreference, IterativeDirect
from llm_bridge.planning.examples import label_training
from llm_bridge.planning.examples.label_training import (
    _still_falling,
    labelled_examples,
    trained_on,
)
from llm_bridge.pools.data import Comparison
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.training.train import TrainingSettings, train
from rlhf_theory.algorithms.offline_pessimistic import LowerBound
from rlhf_theory.data import PairQuery
from rlhf_theory.estimators.confidence import Constant, Scaled
from rlhf_theory.losses import BCO, DPO, VPO, XPO, Comparisons, planning, soft
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.randomness import Key
from tests.helpers.losses import Table, bradley_terry, minimise, tensor
from tests.helpers.prompts import TokenFeatures, string_problem
from tests.helpers.rewarded import ETA, REWARD, TEXTS, labelled, rewarded_problem

QUICK = TrainingSettings(steps=2, batch_size=8, learning_rate=1e-3)
KEY = Key(3)


@pytest.fixture(scope="module")
def policy(tiny_model):
    return LanguageModelPolicy(tiny_model, BatchedSampler(max_new_tokens=4))


@pytest.fixture(scope="module")
def problem(policy):
    return rewarded_problem(policy)


@pytest.fixture
def calls(monkeypatch):
    """Examples and loss of every training."""
    seen: list[Any] = []

    def recorded(base: Any, examples: Any, loss: Any, settings: Any, **more: Any) -> Any:
        seen.append((examples, loss))
        return train(base, examples, loss, settings, **more)

    monkeypatch.setattr(label_training, "train", recorded)
    return seen


def empirical(examples: Any, loss: Any, row: Any, n: int) -> Any:
    """Return the loss of examples as a function of ``n`` log-probabilities, ``row`` naming them."""
    first, second = ([row[e.prompt, e.responses[k]] for e in examples] for k in (0, 1))
    log_ref, target = (tensor([getattr(e, f) for e in examples]) for f in ("log_ref", "target"))
    weight = tensor([e.weight for e in examples])
    given: dict[str, Any] = {}
    if any(e.gamma for e in examples):
        given["margin"] = tensor([e.gamma[0] - e.gamma[1] for e in examples])

    def f(log_pi: Any) -> Any:
        if examples[0].sample is not None:
            given["log_pi_sample"] = log_pi[second if examples[0].sample else first]
        c = Comparisons(log_pi[first], log_pi[second], log_ref[:, 0], log_ref[:, 1], **given)
        return (weight * soft(loss, c, target[:, 0])).sum() / weight.sum()

    assert n == 1 + max(row.values())
    return f


# ---------------------------------------------------------------- responses against themselves


def population_data(mu1: Any, mu2: Any, r: Any) -> tuple[Any, Any]:
    """Return all pairs of one prompt as often as ``mu1 x mu2`` has them, with soft labels."""
    k = len(r)
    problem = string_problem(n_prompts=1, n_strings=k, pool_size=400, spread=0.3)
    pool, log_pi0 = problem.pools.responses[0], problem.pools.log_pi0[0]
    assert len(pool) == k
    p = bradley_terry(r)
    made = [
        Comparison(
            problem.prompts[0],
            pool[a],
            pool[b],
            log_pi0[a],
            log_pi0[b],
            label=float(p[a, b]),
            weight=float(mu1[a] * mu2[b]),
        )
        for a, b in itertools.product(range(k), repeat=2)
    ]
    data = problem.data_of(made)
    differ = 1.0 - float(np.sum(np.asarray(mu1) * mu2))
    assert float(data.n_labels[0]) == pytest.approx(differ)
    return problem, data


@pytest.mark.parametrize("loss", [XPO(0.5, 0.01), VPO(0.5, 0.02, "offline")], ids=lambda x: x.name)
@pytest.mark.parametrize("moved", [0.0, 2.0])
def test_calibration_samples_are_draws_from_pi0_whatever_the_policy_repeats(loss, moved):
    """The minimiser is that of the population with all pairs ``pi_t x pi0``."""
    r = np.array([0.5, 1.0, 0.2])
    problem, _ = population_data(np.full(3, 1 / 3), np.full(3, 1 / 3), r)
    log_pi0 = problem.pools.log_pi0[0]
    pi0 = np.exp(log_pi0) / np.exp(log_pi0).sum()
    pi_t = pi0 * np.exp(moved * r)
    pi_t /= pi_t.sum()
    problem, data = population_data(pi_t, pi0, r)
    examples = labelled_examples(
        trained_on(data, loss),
        problem.policy,
        problem.policy,
        gamma=None,
        sample=1,
        mismatched=False,
    )
    row = {(problem.prompts[0].ids, a.ids): k for k, a in enumerate(problem.pools.responses[0])}
    f = empirical(examples, loss, row, 3)
    got = torch.softmax(minimise(lambda x: f(torch.log_softmax(x, -1)), tensor(log_pi0)), -1)

    # A second way, over the table of all pairs.
    p, weight = tensor(bradley_terry(r)), tensor(np.outer(pi_t, pi0))

    def whole(x: Any) -> Any:
        u = torch.log_softmax(x, -1)
        ref = tensor(log_pi0)
        rows = [v[:, None].expand(3, 3) for v in (u, ref)]
        columns = [v[None, :].expand(3, 3) for v in (u, ref)]
        c = Comparisons(rows[0], columns[0], rows[1], columns[1], log_pi_sample=columns[0])
        return (weight * soft(loss, c, p)).sum()

    expected = torch.softmax(minimise(whole, tensor(log_pi0)), -1)
    np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-7)


def test_losses_that_pin_log_ratios_get_the_full_law():
    """BCO on labels has its Borda scores with the own 1/2; DPO does without."""
    r, mu = np.array([0.5, 1.0, 0.2]), np.array([0.6, 0.3, 0.1])
    problem, data = population_data(mu, mu, r)
    assert trained_on(data, DPO(0.5)) == data.comparisons
    assert len(data.comparisons) == 6
    examples = labelled_examples(
        trained_on(data, BCO(0.5)),
        problem.policy,
        problem.policy,
        gamma=None,
        sample=None,
        mismatched=False,
    )
    row = {(problem.prompts[0].ids, a.ids): k for k, a in enumerate(problem.pools.responses[0])}
    log_pi0 = problem.pools.log_pi0[0]
    u = minimise(empirical(examples, BCO(0.5), row, 3), tensor(log_pi0)).numpy() - log_pi0
    q = Table(mu, bradley_terry(r)).borda
    np.testing.assert_allclose(0.5 * u, np.log(q / (1.0 - q)), atol=1e-7)


def only_equal(problem: Any, n: int = 6) -> Any:
    x = problem.sample_contexts(KEY, n)
    zero = torch.zeros((1, n), dtype=torch.int64)
    return x, zero, zero


def test_a_round_of_equal_pairs_trains_by_its_samples_and_asks_nobody(
    policy, problem, calls, tmp_path
):
    """The policy repeats one response: what XPO is there for."""

    class Repeating:
        sample = 1

        def __call__(self, problem, data, policy, feedback, batch_size, key):
            x, a1, a2 = only_equal(problem, batch_size)
            return data.add(feedback(PairQuery(x, a1, a2), key))

    people = LabelFile(tmp_path / "labels")
    for loss, trains in ((XPO(ETA, 0.1), True), (DPO(ETA), False)):
        learner = IterativeDirect.of(QUICK, loss=loss, batch_size=6, pairs=Repeating())
        state = learner.init(problem, problem.empty_data(), KEY)
        new, _ = learner.step(state, problem, people, KEY)
        assert float(new.data.n_labels[0]) == 0.0
        assert new.data.comparisons == []
        assert (new.plan.value is not policy) == trains
    assert not people.questions.exists()
    ((examples, _),) = calls
    assert len(examples) == 6
    for e in examples:
        assert e.responses[0] == e.responses[1]
        assert (e.sample, e.weight) == (1, 1.0)


def test_equal_pairs_count_beside_the_others(problem, calls):
    data = labelled(problem, 40)
    labels = int(data.n_labels[0])
    assert labels < 40
    for loss, n in ((XPO(ETA, 0.1), 40), (BCO(ETA), 40), ("ipo", labels), (DPO(ETA), labels)):
        sample = 1 if isinstance(loss, XPO) else None
        DirectPreference.of(QUICK, loss=loss, sample=sample)(problem, data, KEY)
        assert len(calls[-1][0]) == n
    # In the order of the draws; comparisons that were weighted away do not come back.
    everything = data.comparisons_of(0, equal=True)
    assert [c for c in everything if c.first.ids != c.second.ids] == data.comparisons
    none = data.reweighted(0.0 * data.count, 0.0 * data.wins)
    assert len(none.comparisons_of(0, equal=True)) == 40 - labels


# ---------------------------------------------------------------- the scale of the labels


def all_pairs(problem: Any, scale: float) -> Any:
    """Return every pair of the pools with its probability; the first two met 20 times as often."""
    pools = problem.pools
    r = REWARD.rewards(problem.table)[0].numpy()
    made = []
    for i, pool in enumerate(pools.responses):
        for a, b in itertools.combinations(range(len(pool)), 2):
            p = 1.0 / (1.0 + np.exp(-scale * (r[i, a] - r[i, b])))
            lp = pools.log_pi0[i]
            weight = 20.0 if b == 1 else 1.0
            made.append(
                Comparison(pools.prompts[i], pool[a], pool[b], lp[a], lp[b], float(p), 0, weight)
            )
    return problem.data_of(made)


@pytest.mark.parametrize("rule", [Constant, lambda **s: Scaled(Constant(**s), 1.0)])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_labels_of_another_scale_lead_to_the_same_optimum(policy, calls, scale, rule):
    """The exact minimiser is Option II, ``pi0 exp((r - Gamma) / eta)``, in units of the reward."""
    # The other texts have the same tokens twice, and so two pools and two means for one prompt.
    texts = [TEXTS[0], TEXTS[1], TEXTS[3]]
    problem = PromptProblem(texts, policy, features=TokenFeatures(3), pool_size=6, eta=ETA)
    data = all_pairs(problem, scale)
    radius = rule(beta=1.0, lam=1e-6, scale=scale)
    DirectPreference.of(QUICK, radius=radius)(problem, data, KEY)
    ((examples, loss),) = calls
    pools, x = problem.pools, problem.table
    confidence = radius.confidence_set(radius.fit(data), data, problem)
    target, plain = (
        (gibbs_log_probs(r, x.log_pi0, ETA) - x.log_pi0)[0].numpy()
        for r in (LowerBound(confidence).rewards(x), REWARD.rewards(x))
    )
    place = {
        (prompt.ids, response.ids): (i, k)
        for i, (prompt, pool) in enumerate(zip(pools.prompts, pools.responses, strict=True))
        for k, response in enumerate(pool)
    }
    apart = 0.0
    for e in examples:
        first, second = (place[e.prompt, ids] for ids in e.responses)
        # Of all logits the loss is least at that of the label, here of all pairs at once.
        logit = loss.beta * (target[first] - target[second]) + e.gamma[0] - e.gamma[1]
        assert logit == pytest.approx(np.log(e.target[0] / (1.0 - e.target[0])), abs=1e-4)
        apart = max(apart, abs(target[first] - target[second] - plain[first] + plain[second]))
    assert apart > 0.01  # the penalty shows


def test_a_name_stands_for_the_loss_at_the_scale_of_the_labels(problem, calls):
    data = labelled(problem, 10)
    DirectPreference.of(QUICK, scale=3.0)(problem, data, KEY)
    assert calls[-1][1] == DPO(3.0 * ETA)
    DirectPreference.of(QUICK, loss="ipo", scale=3.0)(problem, data, KEY)
    assert calls[-1][1] == planning("ipo", 3.0 * ETA)
    learner = IterativeDirect.of(QUICK, scale=3.0)
    learner.init(problem, data, KEY)
    assert calls[-1][1] == DPO(3.0 * ETA)
    # An object is taken as it is, the margin still scaled.
    radius, gamma = Constant(beta=1.0, scale=3.0), []
    for loss, scale in ((DPO(0.7), 3.0), ("dpo", None)):
        DirectPreference.of(QUICK, loss=loss, scale=scale, radius=radius)(problem, data, KEY)
        gamma.append([e.gamma for e in calls[-1][0]])
    assert calls[-2][1] == DPO(0.7)
    assert gamma[0] == gamma[1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scale": 2.0, "radius": Constant(beta=1.0)}, "contradicts the radius"),
        ({"scale": 1.0, "radius": Constant(beta=1.0, scale=2.0)}, "contradicts the radius"),
        ({"loss": DPO(0.5), "scale": 2.0}, "would change nothing"),
        ({"loss": DPO(0.5), "radius": Constant(beta=1.0, scale=2.0)}, "say scale=2.0"),
        ({"scale": 0.0}, "scale must be positive"),
    ],
)
def test_scales_that_contradict_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        DirectPreference(**settings)
    if "radius" not in settings:
        with pytest.raises(ValueError, match=says):
            IterativeDirect(**settings)


def test_the_residual_is_how_much_the_loss_fell_between_the_last_two_fifths():
    # 20 steps down by 1 each: fifths of 4 steps, 4 apart.
    assert _still_falling(np.arange(20.0)[::-1]) == 4.0
    assert _still_falling(np.arange(20.0)) == 0.0
    assert _still_falling(np.array([1.0])) == float("inf")
    assert _still_falling(np.array([3.0, 1.0])) == 2.0
