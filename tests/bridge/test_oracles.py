"""Rewards and preferences over texts."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from transformers import BertConfig, BertForSequenceClassification, LlamaForSequenceClassification

from llm_bridge.errors import ModelError
from llm_bridge.labels.oracles import (
    PairwisePreferenceModel,
    RewardModelOracle,
    TextPreference,
    TextReward,
    TransformerReward,
    label_spread,
)
from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from rlhf_theory.arrays import to_numpy
from rlhf_theory.data import Contexts, PairQuery
from rlhf_theory.oracles import (
    BradleyTerry,
    GeneralPreference,
    feedback_from,
    preference_logits,
    preference_matrix,
)
from rlhf_theory.randomness import Key
from tests.helpers.language import CHAT_TEMPLATE, CHAT_WORDS, llama, randomize, word_tokenizer
from tests.helpers.text_pools import text_contexts

TEXTS = {
    "what is it ?": ["a cat", "a very large dog", "no idea {x}"],
    "why ?": ["because", "do not ask"],
    "where ?": ["here", "there", "nowhere at all"],
}


def length(prompt: str, response: str) -> float:
    return 0.3 * len(response) - 0.1 * len(prompt)


@pytest.fixture
def table() -> Contexts:
    return text_contexts(TEXTS)


def by_hand(f, table):
    pools = table.source
    r = np.zeros(pools.log_mass.shape)
    for i, pool in enumerate(pools.responses):
        for k, a in enumerate(pool):
            r[i, k] = f(pools.prompts[i].text, a.text)
    return r[None]


# --------------------------------------------------------------------------- TextReward


def test_a_text_reward_is_the_function_on_every_text(table):
    np.testing.assert_array_equal(TextReward(length).rewards(table), by_hand(length, table))


def test_rows_of_a_table_get_the_rewards_of_their_prompts(table):
    ids = np.array([[2, 0, 2, 1], [1, 1, 0, 2]])
    got = TextReward(length).rewards(Contexts.rows(table, ids))
    np.testing.assert_array_equal(got, by_hand(length, table)[0][ids])


def test_a_text_reward_calls_its_function_once_per_text(table):
    calls = []

    def f(prompt, response):
        calls.append((prompt, response))
        return length(prompt, response)

    reward = TextReward(f)
    reward.rewards(Contexts.rows(table, np.array([[1]])))
    assert sorted(calls) == [("why ?", "because"), ("why ?", "do not ask")]
    for _ in range(3):
        reward.rewards(table)
    assert len(calls) == len(set(calls)) == 8


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_names_the_text(table, bad):
    reward = TextReward(lambda _, a: bad if a == "nowhere at all" else 0.0)
    with pytest.raises(ValueError, match=r"finite; got .*'where \?'.*'nowhere at all'"):
        reward.rewards(table)
    with pytest.raises(ValueError, match="nowhere"):  # and was not kept
        reward.rewards(table)


def test_contexts_without_texts_are_refused(table):
    bare = Contexts(table.phi, table.log_pi0)
    with pytest.raises(ValueError, match="PromptProblem"):
        TextReward(length).rewards(bare)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rewards_follow_the_features(dtype):
    x = text_contexts(TEXTS, like=torch.zeros(1, dtype=dtype))
    got = TextReward(length).rewards(x)
    assert got.dtype == dtype
    np.testing.assert_allclose(to_numpy(got), by_hand(length, x), rtol=1e-6)


# --------------------------------------------------------------------------- labels of a reward


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_labels_of_a_text_reward_follow_the_formula(table, scale):
    oracle = RewardModelOracle(TextReward(length), scale)
    ids, a1, a2 = np.array([[0, 2, 1]]), np.array([[0, 2, 1]]), np.array([[2, 1, 0]])
    x = Contexts.rows(table, ids)
    r = by_hand(length, table)[0]
    want = 1.0 / (1.0 + np.exp(-scale * (r[ids, a1] - r[ids, a2])))
    np.testing.assert_allclose(oracle.prob(x, a1, a2), want, rtol=1e-12)
    reference = BradleyTerry(TextReward(length), scale)
    np.testing.assert_array_equal(oracle.prob(x, a1, a2), reference.prob(x, a1, a2))
    np.testing.assert_array_equal(oracle.logits(table), reference.logits(table))


def test_labels_of_many_replicas_share_the_pools(table):
    oracle = RewardModelOracle(TextReward(length), 0.5)
    ids = np.array([[0, 2], [1, 0], [2, 2]])
    a1, a2 = np.array([[0, 1], [1, 0], [2, 0]]), np.array([[1, 1], [0, 2], [0, 2]])
    x = Contexts.rows(table, ids)
    want = BradleyTerry(TextReward(length), 0.5).prob(x, a1, a2)
    np.testing.assert_array_equal(oracle.prob(x, a1, a2), want)
    y = feedback_from(oracle)(PairQuery(x, a1, a2), Key(1)).y
    assert y.shape == (3, 2)
    assert set(np.unique(y)) <= {0.0, 1.0}


def test_labels_ask_for_the_compared_responses_only(table):
    calls = []

    def f(prompt, response):
        calls.append(response)
        return 0.0

    RewardModelOracle(TextReward(f)).prob(
        Contexts.rows(table, np.array([[0]])), np.array([[0]]), np.array([[2]])
    )
    assert sorted(calls) == ["a cat", "no idea {x}"]


def test_labels_of_an_action_that_the_pool_lacks_are_refused(table):
    oracle = RewardModelOracle(TextReward(length))
    with pytest.raises(ValueError, match="prompt 1 has 2 responses"):
        oracle.prob(Contexts.rows(table, np.array([[1]])), np.array([[2]]), np.array([[0]]))


def test_any_reward_model_can_be_the_truth(table):
    class Fixed:
        def rewards(self, contexts):
            return contexts.from_table(by_hand(length, table))

    a1, a2 = np.array([[0, 1, 2]]), np.array([[1, 0, 0]])
    got = RewardModelOracle(Fixed(), 2.0).prob(table, a1, a2)
    want = RewardModelOracle(TextReward(length), 2.0).prob(table, a1, a2)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_the_spread_of_labels_counts_present_pairs(table):
    r = by_hand(length, table)[0]
    p = [
        expit(0.5 * abs(r[i, a] - r[i, b]))
        for i, n in enumerate((3, 2, 3))
        for a in range(n)
        for b in range(a)
    ]
    got = RewardModelOracle(TextReward(length), 0.5).spread(table)
    np.testing.assert_allclose(got.quantiles, np.quantile(p, [0.05, 0.5, 0.95]), rtol=1e-12)
    np.testing.assert_allclose(got.agreement, np.mean(p), rtol=1e-12)
    assert got.warning == ""
    assert f"{np.mean(p):.2f} in the mean" in str(got)


def test_nearly_deterministic_labels_are_warned_of(table):
    got = RewardModelOracle(TextReward(length), 1000.0).spread(table)
    assert got.share_extreme == 1.0
    assert "nearly deterministic. Lower the scale" in str(got)
    assert "coin tosses" in RewardModelOracle(TextReward(length), 1e-3).spread(table).warning


def test_the_scale_can_be_chosen_by_agreement(table):
    oracle = RewardModelOracle.with_agreement(TextReward(length), table, 0.8)
    assert oracle.spread(table).agreement == pytest.approx(0.8, rel=1e-9)


def test_an_agreement_that_ties_forbid_is_refused(table):
    halved = TextReward(lambda _, a: float(len(a) > 5))
    r = by_hand(lambda _, a: float(len(a) > 5), table)[0]
    pairs = [
        r[i, a] != r[i, b] for i, n in ((0, 3), (1, 2), (2, 3)) for a in range(n) for b in range(a)
    ]
    ceiling = 0.5 + 0.5 * np.mean(pairs)
    with pytest.raises(ValueError, match=f"below {ceiling:.3f}"):
        RewardModelOracle.with_agreement(halved, table, 0.99)
    with pytest.raises(ValueError, match="agreement"):
        RewardModelOracle.with_agreement(TextReward(lambda *_: 1.0), table, 0.7)


def test_pools_of_single_responses_have_no_labels():
    x = text_contexts({"why ?": ["so"]})
    with pytest.raises(ValueError, match="at least two"):
        label_spread(TextReward(length), x)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="scale must be positive"):
        RewardModelOracle(TextReward(length), scale)


# --------------------------------------------------------------------------- TextPreference


def biased(prompt: str, a: str, b: str) -> float:
    """Likes the first place, and cycles through lengths modulo 3."""
    turn = (len(a) - len(b)) % 3
    return min(1.0, 0.5 + (0.2, 0.37, -0.31)[turn] + 0.1)


@pytest.mark.parametrize("kind", ["probability", "logit"])
def test_a_preference_is_skew_to_the_bit_and_has_no_position_bias(table, kind):
    preference = TextPreference(biased, kind)
    payoff = preference.payoff(table)
    np.testing.assert_array_equal(payoff, -np.swapaxes(payoff, -1, -2))
    texts = [a.text for a in table.source.responses[2]]
    for a in range(3):
        for b in range(3):
            p = 0.5
            if a != b:
                p += 0.5 * (biased("", texts[a], texts[b]) - biased("", texts[b], texts[a]))
            want = p - 0.5 if kind == "probability" else logit(p)
            assert payoff[0, 2, a, b] == pytest.approx(want, rel=1e-12)
    np.testing.assert_array_equal(payoff[0, 1, 2], 0.0)  # absent


@pytest.mark.parametrize("kind", ["probability", "logit"])
def test_a_text_preference_agrees_with_the_general_preference_of_the_core(table, kind):
    preference = TextPreference(biased, kind)
    core = GeneralPreference(TextPreference(biased, kind), kind)
    ids = np.array([[0, 1, 2, 2]])
    x, a1, a2 = Contexts.rows(table, ids), np.array([[0, 1, 2, 1]]), np.array([[2, 0, 0, 1]])
    np.testing.assert_allclose(preference.prob(x, a1, a2), core.prob(x, a1, a2), rtol=1e-12)
    pair = TextPreference(biased).prob(x, a1, a2) + TextPreference(biased).prob(x, a2, a1)
    np.testing.assert_allclose(pair, 1.0, rtol=1e-12)
    present = text_contexts({"why ?": ["a", "bb", "cccc"]})
    np.testing.assert_allclose(
        preference_logits(preference, present),
        logit(preference_matrix(core, present)),
        rtol=1e-10,
        atol=1e-12,
    )


def test_a_preference_is_asked_about_compared_pairs_in_both_orders_once(table):
    calls = []

    def f(prompt, a, b):
        calls.append((prompt, a, b))
        return 1.0

    preference = TextPreference(f)
    x = Contexts.rows(table, np.array([[1, 1, 1]]))
    a1, a2 = np.array([[0, 1, 0]]), np.array([[1, 0, 0]])
    for _ in range(2):
        preference.prob(x, a1, a2)
    assert sorted(calls) == [
        ("why ?", "because", "do not ask"),
        ("why ?", "do not ask", "because"),
    ]


@pytest.mark.parametrize("bad", [-0.01, 1.01, math.nan])
def test_a_preference_outside_the_unit_interval_is_refused(table, bad):
    with pytest.raises(ValueError, match=r"probability in \[0, 1\]; got .*'what is it \?'"):
        TextPreference(lambda *_: bad).payoff(table)


def test_certain_wins_have_large_finite_logits(table):
    sure = TextPreference(lambda _, a, b: float(len(a) > len(b)), "logit")
    payoff = sure.payoff(table)
    assert np.isfinite(payoff).all()
    assert payoff[0, 0, 1, 0] == pytest.approx(math.log(2.0**54), abs=1e-6)
    assert sure.prob(table, np.array([[1, 0, 0]]), np.array([[0, 1, 1]]))[0, 0] == 1.0


def test_equal_responses_tie_unasked():
    x = text_contexts({"why ?": ["so", "so"]})
    never = TextPreference(lambda *_: math.nan)
    np.testing.assert_array_equal(never.payoff(x), 0.0)


def test_a_preference_of_a_reward_is_bradley_terry(table):
    def f(prompt, a, b):
        return float(expit(length(prompt, a) - length(prompt, b)))

    a1, a2 = np.array([[0, 1, 2]]), np.array([[1, 0, 0]])
    want = RewardModelOracle(TextReward(length)).prob(table, a1, a2)
    np.testing.assert_allclose(TextPreference(f).prob(table, a1, a2), want, rtol=1e-12)


# --------------------------------------------------------------------------- classifiers


WORDS = ("hello", "why", "because", "so", "not", "A", "B", "first", "second", "ask")


def classifier(tokenizer, *, labels=1, seed=3):
    config = llama(tokenizer).model.config
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        model = LlamaForSequenceClassification(config)
    randomize(model, seed, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory):
    tokenizer = word_tokenizer(WORDS)
    folder = tmp_path_factory.mktemp("reward")
    classifier(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PAIRS = [("why", "because so"), ("hello", "not"), ("why not", "because because because ask so")]


def asked(pairs=PAIRS):
    return [Prompt(p, (1,)) for p, _ in pairs], [Response((1,), r, 0.0) for _, r in pairs]


def test_a_classifier_gives_its_logit_whatever_the_batch(reward_folder):
    reward = TransformerReward.from_pretrained(reward_folder)
    got = reward.scores(*asked())
    one = TransformerReward.from_pretrained(reward_folder, batch_size=1).scores(*asked())
    np.testing.assert_allclose(got, one, atol=1e-5)
    for value, (p, r) in zip(got, PAIRS, strict=True):
        ids = torch.tensor([[*reward.tokenizer(f"{p} {r}")["input_ids"], 1]])
        with torch.inference_mode():
            want = float(reward.model(input_ids=ids).logits[0, 0])
        assert value == pytest.approx(want, abs=1e-5)
    assert np.ptp(got) > 0.01


def test_a_classifier_is_a_reward_model_over_pools(reward_folder):
    reward = TransformerReward.from_pretrained(reward_folder)
    x = text_contexts({"why": ["because", "so"], "hello": ["not", "ask so", "so"]})
    got = reward.rewards(x)
    want = reward.scores(*asked([("hello", "ask so")]))
    assert got[0, 1, 1] == pytest.approx(want[0], abs=1e-5)
    assert got[0, 0, 2] == 0.0
    reward.model.forward = None  # everything is remembered
    np.testing.assert_array_equal(reward.rewards(x), got)


def test_a_chat_classifier_renders_with_its_own_template():
    tokenizer = word_tokenizer(CHAT_WORDS, chat_template=CHAT_TEMPLATE)
    reward = TransformerReward(classifier(tokenizer), tokenizer)
    plain = reward.encode(Prompt("why", (1,)), Response((1,), "because", 0.0))
    same = reward.encode(Prompt("...", (1,), (("user", "why"),)), Response((1,), "because", 0.0))
    want = tokenizer("<user> why <end> <assistant> because <end>")["input_ids"]
    assert plain == same == (tuple(want), (0,) * len(want))


def test_an_encoder_reads_two_segments(tmp_path):
    tokenizer = word_tokenizer(("[CLS]", "[SEP]", *WORDS), cls_token="[CLS]", sep_token="[SEP]")
    from tokenizers.processors import TemplateProcessing  # noqa: PLC0415

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 3), ("[SEP]", 4)],
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=1,
    )
    with torch.random.fork_rng(devices=[]):
        model = BertForSequenceClassification(config)
    randomize(model, 1, 0.5)
    reward = TransformerReward(model.eval(), tokenizer)
    got = reward.scores(*asked())
    for value, (p, r) in zip(got, PAIRS, strict=True):
        with torch.inference_mode():
            want = model(**tokenizer(p, r, return_tensors="pt", return_token_type_ids=True)).logits
        assert value == pytest.approx(float(want[0, 0]), abs=1e-5)


def test_long_texts_are_refused_not_cut(reward_folder):
    reward = TransformerReward.from_pretrained(reward_folder)
    with pytest.raises(ValueError, match=r"context of 64 tokens; .* have 72"):
        reward.scores(*asked([("why", " ".join(["so"] * 70))]))


def test_a_classifier_that_answers_nan_is_refused(reward_folder):
    reward = TransformerReward.from_pretrained(reward_folder)
    with torch.no_grad():
        reward.model.score.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="finite rewards; got nan for 'because so'"):
        reward.scores(*asked())


def test_a_model_without_a_reward_head_is_refused(tmp_path):
    policy = llama(word_tokenizer(WORDS))
    policy.save(tmp_path)
    with pytest.raises(ModelError, match=r"missing, such as score\.weight"):
        TransformerReward.from_pretrained(tmp_path)


def test_a_classifier_with_two_outputs_is_refused():
    tokenizer = word_tokenizer(WORDS)
    with pytest.raises(ModelError, match="num_labels = 1"):
        TransformerReward(classifier(tokenizer, labels=2), tokenizer)


def test_a_chat_form_needs_a_template(reward_folder):
    with pytest.raises(ModelError, match="chat template"):
        TransformerReward.from_pretrained(reward_folder, form="chat")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="is missing"):
        TransformerReward.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        TransformerReward.from_pretrained(tmp_path)


def test_a_folder_with_half_of_its_weights_is_refused(reward_folder, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(reward_folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="half cannot be loaded"):
        TransformerReward.from_pretrained(folder)


# --------------------------------------------------------------------------- a model that is asked


QUESTION = "why {prompt} first {first} second {second} so"


@pytest.fixture(scope="module")
def judge():
    return PairwisePreferenceModel(llama(word_tokenizer(WORDS)), QUESTION)


def test_a_judge_answers_with_the_probability_of_its_tokens(judge):
    x, a = asked()
    b = [Response((2,), "not so", 0.0)] * 3
    got = judge.first_shown_wins(x, a, b)
    tokenizer, model = judge.model.tokenizer, judge.model.model
    ids = tokenizer.convert_tokens_to_ids(["A", "B"])
    for value, (p, r) in zip(got, PAIRS, strict=True):
        text = f"why {p} first {r} second not so so"
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]]))
        probs = torch.softmax(out.logits[0, -1].double(), dim=0)
        assert value == pytest.approx(float(probs[ids[0]] / probs[ids].sum()), abs=1e-6)
    assert np.ptp(got) > 0.01


def test_a_judge_is_symmetric_over_both_orders(judge):
    x = text_contexts({"why": ["because", "so", "not"], "hello": ["ask", "so so"]})
    payoff = judge.payoff(x)
    np.testing.assert_array_equal(payoff, -np.swapaxes(payoff, -1, -2))
    prompt, (a, b, _) = x.source.prompts[0], x.source.responses[0]
    forth, back = judge.first_shown_wins([prompt] * 2, [a, b], [b, a])
    # Probabilities in single precision, here from batches of other widths: their differences are
    # good to some units in the last place of 1/2, whatever the processor.
    assert payoff[0, 0, 0, 1] == pytest.approx(0.5 * (forth - back), abs=1e-6)
    prob = judge.prob(x, np.array([[0, 1]]), np.array([[1, 0]]))
    np.testing.assert_allclose(prob[0], 0.5 + payoff[0, [0, 1], [0, 1], [1, 0]], rtol=1e-12)
    np.testing.assert_allclose(judge.logits(x), logit(0.5 + payoff), atol=1e-9)


def test_a_judge_with_a_chat_template_is_asked_by_message():
    words = (*CHAT_WORDS, *(w for w in WORDS if w not in CHAT_WORDS))
    model = llama(word_tokenizer(words, chat_template=CHAT_TEMPLATE))
    judge = PairwisePreferenceModel(model, QUESTION)
    ids = judge._encode("hello", "so", "not {second}")
    want = "<user> why hello first so second not {second} so <end> <assistant>"
    assert list(ids) == model.tokenizer(want)["input_ids"]


def test_a_judge_needs_two_answer_tokens():
    model = llama(word_tokenizer(WORDS))
    for answers in (("A", "A"), ("A", "A B"), ("A", "unknown")):
        with pytest.raises(ModelError, match="two different tokens"):
            PairwisePreferenceModel(model, QUESTION, answers)
    with pytest.raises(ValueError, match=r"\{second\}"):
        PairwisePreferenceModel(model, "why {prompt} {first}")


def test_a_question_that_does_not_fit_is_refused(judge):
    x = text_contexts({"why": ["so " * 60, "not"]})
    with pytest.raises(ValueError, match="context of 64"):
        judge.payoff(x)
