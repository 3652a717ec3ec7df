"""What people in the tiny world want, and the reward that is linear on features."""

import itertools
import math

import numpy as np
import pytest
import torch

from llm_bridge.tiny.gold import ReaderGroups, gold_preference, gold_reward, reward_terms
from llm_bridge.tiny.grammar import AnswerLaw, questions, sample_answers
from llm_bridge.tiny.realisable import realisable_reward
from rlhf_theory.errors import ShapeError
from rlhf_theory.evaluation.intransitivity import intransitivity_index
from rlhf_theory.randomness import Key

BRIEF = "what color is oak ? answer briefly ."
FULL = "what color is oak ? answer in full ."


# --------------------------------------------------------------------------- gold reward


@pytest.mark.parametrize(
    ("prompt", "answer", "reward"),
    [
        (BRIEF, "oak is brown .", 2.0),
        (BRIEF, "oak is red .", -2.0),
        (BRIEF, "moss is green .", -2.0),
        (BRIEF, "oak is found in the forest .", -2.0),
        (BRIEF, "sure , oak is brown .", 3.0),
        (BRIEF, "obviously , oak is brown .", 0.5),
        (BRIEF, "oak is brown . i love it .", 2.8),
        (BRIEF, "oak is brown . how ugly .", 1.2),
        (BRIEF, "oak is brown . have a nice day .", 2.5),
        (BRIEF, "oak is brown . nothing new here .", 1.3),
        (FULL, "oak is brown . nothing new here .", 2.3),
        (BRIEF, "oak is brown ." + " nothing new here ." * 4, -0.8),
        (FULL, "oak is brown ." + " nothing new here ." * 3, 2.9),
        (FULL, "oak is brown ." + " nothing new here ." * 9, 2.9),
        (BRIEF, "sure , oak is brown . how lovely . hope this helps .", 4.3),
        (
            FULL,
            "of course , the color of oak is brown . nothing new here . many people say so . "
            "books tell more . i love it . have a nice day .",
            5.2,
        ),
        (BRIEF, "obviously , oak is red . this is well known . i hate it .", -5.0),
        (BRIEF, "oak oak oak", -4.0),
        (FULL, "", -4.0),
    ],
)
def test_gold_reward_by_hand(prompt, answer, reward):
    assert math.isclose(gold_reward(prompt, answer), reward, abs_tol=1e-12)
    assert math.isclose(sum(reward_terms(prompt, answer).values()), reward, abs_tol=1e-12)


def test_the_largest_rewards_are_the_stated_ones():
    # Over all laws of parts that the sampler can draw; a few thousand answers reach every term.
    best = {"brief": -math.inf, "full": -math.inf}
    answer_law = AnswerLaw(
        right=1.0, polite=0.8, rude=0.1, pleased=0.8, displeased=0.1, closing=0.8
    )
    prompts = [q.text for q in questions()] * 8
    for prompt, answer in zip(prompts, sample_answers(prompts, Key(0), answer_law), strict=True):
        style = "full" if "full" in prompt or "details" in prompt else "brief"
        best[style] = max(best[style], gold_reward(prompt, answer))
    assert math.isclose(best["brief"], 4.3)
    assert math.isclose(best["full"], 5.2)


def test_gold_functions_refuse_foreign_prompts():
    with pytest.raises(ValueError, match="one of the tiny world's"):
        gold_reward("hello", "oak is brown .")
    with pytest.raises(ValueError, match="one of the tiny world's"):
        gold_preference("hello", "oak is brown .", "oak is red .")


# --------------------------------------------------------------------------- gold preference

BEST = "oak is brown . i love it . have a nice day ."
CYCLE = (f"sure , {BEST}", BEST, f"obviously , {BEST}")


@pytest.mark.parametrize(
    ("scale", "edge"), [(0.0, 0.5), (1.0, 0.5271), (2.0, 0.5932), (3.0, 0.6359), (4.0, 0.6548)]
)
def test_tones_beat_each_other_in_a_circle(scale, edge):
    # 1, 2 and 4 are the numbers of theory sheet 9.3.
    groups = ReaderGroups(scale=scale)
    for a, b in zip(CYCLE, (*CYCLE[1:], CYCLE[0]), strict=True):
        assert math.isclose(groups(BRIEF, a, b), edge, abs_tol=5e-5)


def test_the_cycle_is_one_of_condorcet_and_at_the_best_answers():
    for a, b in zip(CYCLE, (*CYCLE[1:], CYCLE[0]), strict=True):
        assert gold_preference(BRIEF, a, b) > 0.6


def test_the_even_mixture_of_the_best_beats_every_other_answer():
    # So it is the equilibrium of the unregularised game, and no single answer is one.
    answers = {*sample_answers([BRIEF] * 400, Key(8)), "oak is", ""} - set(CYCLE)
    for answer in answers:
        same_quality = math.isclose(shared(answer), shared(BEST))
        chance = np.mean([gold_preference(BRIEF, a, answer) for a in CYCLE])
        assert math.isclose(chance, 0.5) if same_quality else chance > 0.5


def shared(answer):
    return sum(v for name, v in reward_terms(BRIEF, answer).items() if name != "tone")


def test_preference_is_a_mixture_computed_by_hand():
    # Polite and right against rude and wrong: shared gap 4, tones (2 - 0, 0 - 1, 1 - 2) times 3.
    want = np.mean(1 / (1 + np.exp(-(4 + 3 * np.array([2.0, -1.0, -1.0])))))
    got = gold_preference(BRIEF, "sure , oak is brown .", "obviously , oak is red .")
    assert math.isclose(got, want, rel_tol=1e-12)


def test_probabilities_of_both_orders_add_to_one():
    prompts = [FULL] * 60
    answers = [*sample_answers(prompts, Key(2)), "oak is", ""]
    for a, b in itertools.product(answers, repeat=2):
        p = gold_preference(FULL, a, b)
        assert 0.0 <= p <= 1.0
        assert math.isclose(p + gold_preference(FULL, b, a), 1.0, rel_tol=1e-15)
        if a == b:
            assert p == 0.5


def logits(scale, answers):
    groups = ReaderGroups(scale=scale)
    p = np.array([[groups(BRIEF, a, b) for b in answers] for a in answers])
    return np.log(p / (1 - p))[None, None]


def test_intransitivity_of_pools_grows_with_the_scale():
    answers = sample_answers([BRIEF] * 16, Key(3))
    index = [intransitivity_index(logits(s, answers))[0, 0] for s in (0.0, 1.0, 3.0)]
    assert index[0] < 1e-7  # Bradley-Terry: some reward explains it all
    assert index[0] < index[1] < index[2]
    assert index[2] > 0.15


def test_tones_alone_are_purely_cyclic():
    assert math.isclose(intransitivity_index(logits(3.0, CYCLE))[0, 0], 1.0, rel_tol=1e-12)


def test_an_even_mixture_of_tones_is_not_beaten():
    mixed = [np.mean([gold_preference(BRIEF, a, b) for b in CYCLE]) for a in CYCLE]
    np.testing.assert_allclose(mixed, 0.5, rtol=1e-12)


def test_scale_must_not_be_negative():
    with pytest.raises(ValueError, match="scale"):
        ReaderGroups(scale=-1.0)


# --------------------------------------------------------------------------- realisable reward


@pytest.fixture
def features():
    """Sixteen responses to each of 40 prompts; the prompts differ far more than the responses."""
    rows = Key(1).child("features").normal_numpy(40, 16, 6)
    rows = rows + 50.0 * Key(1).child("prompts").normal_numpy(40, 1, 6)
    return rows.reshape(-1, 6), np.repeat(np.arange(40), 16)


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
def test_rewards_have_the_stated_spread_within_prompts(features, spread):
    rows, prompts = features
    gold = realisable_reward(rows, Key(0), spread=spread, prompts=prompts)
    within = gold.rewards(rows).reshape(40, 16).var(axis=1, ddof=1).mean()
    assert math.isclose(math.sqrt(within), spread, rel_tol=1e-9)
    assert gold.spread == spread
    assert math.isclose(gold.theta_norm, np.linalg.norm(gold.theta))


def test_rewards_are_linear_and_the_key_decides(features):
    rows, prompts = features
    gold = realisable_reward(rows, Key(0), prompts=prompts)
    np.testing.assert_allclose(gold.rewards(rows), [r @ gold.theta for r in rows], rtol=1e-12)
    again = realisable_reward(rows, Key(0), prompts=prompts)
    other = realisable_reward(rows, Key(1), prompts=prompts)
    np.testing.assert_array_equal(gold.theta, again.theta)
    cosine = gold.theta @ other.theta / (gold.theta_norm * other.theta_norm)
    assert abs(cosine) < 0.999


def test_prompts_may_come_in_any_order(features):
    rows, prompts = features
    order = np.argsort(Key(4).uniform_numpy(1, len(rows))[0])
    gold = realisable_reward(rows, Key(0), prompts=prompts)
    mixed = realisable_reward(rows[order], Key(0), prompts=prompts[order])
    np.testing.assert_allclose(mixed.theta, gold.theta, rtol=1e-9)


@pytest.mark.statistical
def test_win_probabilities_of_normal_rewards():
    # 16 000 rows, 8 pairs each; the median's standard error is below 0.002, so the tolerance is
    # more than five of them (false alarm below 1e-6).
    rows = Key(2).normal_numpy(4000, 4, 3).reshape(-1, 3)
    gold = realisable_reward(rows, Key(0))
    assert abs(gold.win_probability[0.5] - 0.72) < 0.012
    # The gap of two is normal with standard deviation sqrt(2): P(|gap| > logit(0.99)) = 0.0012.
    assert abs(gold.decided - 0.00116) < 0.002
    loud = realisable_reward(rows, Key(0), spread=20.0)
    assert loud.decided > 0.8
    np.testing.assert_allclose(loud.theta, 20.0 * gold.theta)


def test_quantiles_by_enumeration():
    rows = np.array([[0.0], [1.0], [3.0], [10.0], [10.5]])
    gold = realisable_reward(rows, Key(0), prompts=[0, 0, 0, 1, 1])
    r = gold.rewards(rows)
    gaps = [abs(r[i] - r[j]) for i, j in ((0, 1), (0, 2), (1, 2), (3, 4))]
    better = 1 / (1 + np.exp(-np.array(gaps)))
    for level, value in gold.win_probability.items():
        assert math.isclose(value, np.quantile(better, level), rel_tol=1e-12)
    assert gold.decided == np.mean(better > 0.99)


def test_theta_follows_the_features(features):
    rows, prompts = features
    gold = realisable_reward(rows, Key(0), prompts=prompts)
    single = torch.tensor(rows, dtype=torch.float32)
    in_torch = realisable_reward(single, Key(0), prompts=prompts)
    assert in_torch.theta.dtype == torch.float32
    np.testing.assert_allclose(in_torch.theta.numpy(), gold.theta, rtol=1e-4)
    assert in_torch.rewards(single).shape == (len(rows),)


def test_features_that_cannot_tell_responses_apart_are_refused(features):
    rows, prompts = features
    with pytest.raises(ValueError, match="must vary among the responses"):
        realisable_reward(np.ones((5, 3)), Key(0))
    with pytest.raises(ValueError, match="must vary among the responses"):
        realisable_reward(rows, Key(0), prompts=np.arange(len(rows)))
    with pytest.raises(ShapeError, match="features"):
        realisable_reward(rows[0], Key(0))
    with pytest.raises(ShapeError, match="prompts"):
        realisable_reward(rows, Key(0), prompts=prompts[:-1])
    with pytest.raises(ValueError, match="features"):
        realisable_reward(np.where(rows == rows[3], np.nan, rows), Key(0))
    with pytest.raises(ValueError, match="spread"):
        realisable_reward(rows, Key(0), spread=0.0)
