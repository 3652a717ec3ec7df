"""Reward models whose trunk is trained: what they learn, how they are kept."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import BertConfig, BertModel

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.errors import ModelError
from llm_bridge.labels.preference_rows import PreferenceRanking
from llm_bridge.language.sampler import Response
from llm_bridge.pools.data import Comparison
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.rewards.calibration import calibration_of
from llm_bridge.rewards.examples import RewardObjective
from llm_bridge.rewards.losses import ranking_loss
from llm_bridge.rewards.models import fit_head, with_features
from llm_bridge.rewards.modules import RewardModule, trunk_of
from llm_bridge.rewards.training import (
    HeadSpec,
    RewardExample,
    TrainedReward,
    bootstrapped,
    comparison_examples,
    ranking_examples,
    train_ensemble,
    train_reward,
)
from llm_bridge.training.settings import LoRA, TrainingSettings
from rlhf_theory.arrays import to_numpy
from rlhf_theory.errors import ConvergenceError
from rlhf_theory.planners.gibbs import Gibbs
from rlhf_theory.randomness import Key
from rlhf_theory.store import seal, unseal
from tests.helpers.language import llama, randomize, word_tokenizer

WORDS = ("why", "who", "good", "bad", "plain", "so", "and")
SETTINGS = TrainingSettings(
    steps=4, batch_size=4, learning_rate=3e-3, schedule="constant", progress=False
)


@pytest.fixture(scope="module")
def base():
    return llama(word_tokenizer(WORDS), hidden=16, seed=2)


def value(text: str) -> float:
    return 1.5 * text.split().count("good") - 1.5 * text.split().count("bad")


def comparisons_of(model, n, seed=0):
    """Random answers, labelled by the better count of good words; ties are drawn."""
    u = Key(seed).uniform_numpy(1, n, 2, 4)[0]
    labels = Key(seed).child("labels").uniform_numpy(1, n)[0]
    found = []
    for i in range(n):
        prompt = model.encode_prompt(("why", "who", "why so", "who so")[i % 4])
        texts = [" ".join(WORDS[2 + int(5 * v)] for v in row) for row in u[i]]
        a, b = (Response(model.encode_response(t), t, 0.0) for t in texts)
        win = 1.0 / (1.0 + math.exp(value(texts[1]) - value(texts[0])))
        found.append(Comparison(prompt, a, b, 0.0, 0.0, float(labels[i] < win)))
    return found


@pytest.fixture(scope="module")
def examples(base):
    return comparison_examples(comparisons_of(base, 24))


def rewards_of(reward, examples):
    pairs = [(e.prompt, r) for e in examples for r in e.responses]
    return reward.scores([p for p, _ in pairs], [r for _, r in pairs])


# --------------------------------------------------------------------------- what it computes


@pytest.mark.parametrize("pooling", ["last", "mean", "sum"])
@pytest.mark.parametrize("over", ["response", "text"])
def test_a_reward_is_the_head_on_the_pooled_last_layer(base, examples, pooling, over):
    w = torch.from_numpy(Key(1).normal_numpy(1, 16)[0]).float()
    reward = TrainedReward(trunk_of(base), w, HeadSpec(pooling=pooling, over=over), offset=0.5)
    got = rewards_of(reward, examples)
    alone = rewards_of(replace(reward, batch_size=1), examples)
    np.testing.assert_allclose(got, alone, atol=1e-5)
    e = examples[0]
    for k, r in enumerate(e.responses):
        ids = torch.tensor([[*e.prompt.ids, *r.ids]])
        with torch.inference_mode():
            hidden = base.model.model(input_ids=ids).last_hidden_state[0]
        start = len(e.prompt.ids) if over == "response" else 0
        part = hidden[start:]
        h = {"last": part[-1], "mean": part.mean(dim=0), "sum": part.sum(dim=0)}[pooling]
        assert got[k] == pytest.approx(float(h @ w) + 0.5, abs=1e-5)
        features = reward.rows([e.prompt.ids], [r.ids])
        np.testing.assert_allclose(features[0], h, atol=1e-5)
    np.testing.assert_allclose(rewards_of(reward.rescaled(3.0), examples), 3.0 * got, rtol=1e-5)


def test_the_loss_of_a_ranking_is_the_k_wise_loss(base):
    rankings = [
        PreferenceRanking("why", ("good", "bad so", "plain"), (0, 2, 1)),
        PreferenceRanking("who so", ("so", "good good", "and", "bad"), (1, 2, 0, 3)),
        PreferenceRanking("who", ("so", "so"), (0, 1)),  # tells nothing
    ]
    found = ranking_examples(rankings, base)
    assert [len(e.responses) for e in found] == [3, 4]
    assert [r.text for r in found[1].responses] == ["good good", "and", "so", "bad"]
    objective = RewardObjective(base, HeadSpec(), found, None)
    w = torch.from_numpy(Key(1).normal_numpy(1, 16)[0]).float()
    module = RewardModule(trunk_of(base).model, w, "last")
    got = objective(module, objective.collate(objective.examples))
    reward = TrainedReward(trunk_of(base), w)
    want = sum(float(ranking_loss(rewards_of(reward, [e])[None, :])[0]) for e in found)
    assert float(got.detach()) == pytest.approx(want, rel=1e-5)
    assert objective.mean_weight == pytest.approx(1.0)


def test_pools_get_rewards_and_features(tiny_policy):
    model = tiny_policy.model
    w = torch.from_numpy(Key(1).normal_numpy(1, 32)[0]).float()
    reward = TrainedReward(trunk_of(model), w, HeadSpec(pooling="mean"))
    texts = ["what color is the oak ?", "what size is the fox ?"]
    problem = PromptProblem(texts, tiny_policy, features=reward, pool_size=4)
    x = problem.table
    present = to_numpy(x.log_pi0) > -math.inf
    got = to_numpy(reward.rewards(x))
    # The reward is linear on its own features, so that the learners of the theory contain it.
    np.testing.assert_allclose(
        got[present], to_numpy(x.phi @ w.double())[present], rtol=1e-4, atol=1e-5
    )
    plan = Gibbs()(reward, problem, Key(0), None)
    total = torch.logsumexp(plan.value.log_probs(x), dim=-1)
    np.testing.assert_allclose(total, 0.0, atol=1e-9)


# --------------------------------------------------------------------------- training


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_training_finds_what_decides_the_labels(base, pooling):
    train, test = (comparisons_of(base, n, seed) for n, seed in ((160, 1), (120, 2)))
    settings = replace(SETTINGS, steps=60, batch_size=16)
    head = HeadSpec(pooling=pooling)
    before = {k: v.clone() for k, v in base.model.state_dict().items()}
    result = train_reward(base, comparison_examples(train), settings, key=Key(1), head=head)
    assert result.history[-10:].mean() < result.history[:5].mean() - 0.1
    # Labels of the gold reward, without noise. By chance 75 % of 93 would be right with probability
    # below 1e-6.
    differ = [c for c in test if value(c.first.text) != value(c.second.text)]
    gold = [replace(c, label=float(value(c.first.text) > value(c.second.text))) for c in differ]
    assert calibration_of(result.reward, gold).accuracy.value > 0.75
    mean = np.mean(rewards_of(result.reward, comparison_examples(train)))
    assert mean == pytest.approx(0.0, abs=1e-5)
    for name, weight in base.model.state_dict().items():
        assert torch.equal(weight, before[name])
    assert base.name == "llama"


def test_an_early_step_is_the_gradient_of_the_formula(base, examples):
    # One step of AdamW moves every weight by the learning rate against the sign of its gradient.
    settings = replace(SETTINGS, steps=1, batch_size=24, max_grad_norm=0.0)
    result = train_reward(base, examples, settings, key=Key(1))
    w0 = torch.from_numpy(Key(1).child("head").normal_numpy(1, 16)[0] / math.sqrt(17.0)).float()
    start = TrainedReward(trunk_of(base), w0)
    r = rewards_of(start, examples).reshape(-1, 2)
    u, p = r[:, 0] - r[:, 1], np.array([e.target[0] for e in examples])
    assert result.history[0] == pytest.approx(
        float(np.mean(p * np.logaddexp(0, -u) + (1 - p) * np.logaddexp(0, u))), rel=1e-5
    )
    prompts = [e.prompt.ids for e in examples for _ in range(2)]
    h = start.rows(prompts, [s.ids for e in examples for s in e.responses]).reshape(-1, 2, 16)
    slope = torch.from_numpy(1 / (1 + np.exp(-u)) - p)
    gradient = torch.mean(slope[:, None] * (h[:, 0] - h[:, 1]), dim=0)
    step = result.reward.weight - w0
    large = gradient.abs() > 1e-4
    want = -settings.learning_rate * torch.sign(gradient)
    np.testing.assert_allclose(step[large], want[large], rtol=1e-3)


def test_gradient_accumulation_changes_nothing(base, examples):
    whole = replace(SETTINGS, batch_size=8, steps=3)
    parts = replace(SETTINGS, batch_size=2, gradient_accumulation=4, steps=3)
    weighted = [replace(e, weight=0.5 + (i % 3)) for i, e in enumerate(examples)]
    a, b = (train_reward(base, weighted, s, key=Key(3)) for s in (whole, parts))
    np.testing.assert_allclose(a.history, b.history, rtol=1e-5)
    # AdamW divides by the size of the gradient, which enlarges rounding where that is tiny.
    np.testing.assert_allclose(
        rewards_of(a.reward, examples), rewards_of(b.reward, examples), atol=2e-3
    )


def test_adapters_are_trained_and_merged(base, examples):
    settings = replace(SETTINGS, lora=LoRA(rank=2), gradient_checkpointing=True)
    result = train_reward(base, examples, settings, key=Key(3))
    names = {n for n, _ in result.reward.reader.model.named_parameters()}
    assert names == {n for n, _ in base.model.model.named_parameters()}
    weight = result.reward.reader.model.layers[0].self_attn.q_proj.weight
    assert not torch.equal(weight, base.model.model.layers[0].self_attn.q_proj.weight)
    assert torch.equal(  # norms have no adapters
        result.reward.reader.model.norm.weight, base.model.model.norm.weight
    )


def test_a_stopped_training_goes_on_exactly(base, examples, tmp_path, monkeypatch):
    settings = replace(SETTINGS, steps=8, checkpoint_every=2)
    straight = train_reward(base, examples, settings, key=Key(3))
    calls, call = [], RewardObjective.__call__

    def dies(self, *args):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return call(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RewardObjective, "__call__", dies)
        with pytest.raises(KeyboardInterrupt):
            train_reward(base, examples, settings, key=Key(3), folder=tmp_path)
    resumed = train_reward(base, examples, settings, key=Key(3), folder=tmp_path)
    assert resumed.resumed_at == 4
    assert torch.equal(resumed.reward.weight, straight.reward.weight)
    for name, weight in straight.reward.reader.model.state_dict().items():
        assert torch.equal(resumed.reward.reader.model.state_dict()[name], weight)
    np.testing.assert_array_equal(resumed.history, straight.history)
    stored = train_reward(base, examples, settings, key=Key(3), folder=tmp_path)
    assert stored.stored
    np.testing.assert_array_equal(
        rewards_of(stored.reward, examples), rewards_of(resumed.reward, examples)
    )
    assert not list(tmp_path.rglob("checkpoint-*"))
    # Another head, or another label, is another training.
    other = [replace(examples[0], target=(0.5,)), *examples[1:]]
    again = train_reward(base, other, replace(settings, steps=1), key=Key(3), folder=tmp_path)
    assert not again.stored


def test_a_training_that_runs_away_is_an_error(base, examples):
    model = base.clone()
    with torch.no_grad():
        model.model.model.norm.weight.fill_(math.inf)
    with pytest.raises(ConvergenceError, match="The loss must stay finite; it was nan at step 0"):
        train_reward(model, examples, SETTINGS, key=Key(3))


def test_encoders_are_trained_on_texts(base, examples, tmp_path):
    tokenizer = word_tokenizer(("[CLS]", "[SEP]", *WORDS), cls_token="[CLS]", sep_token="[SEP]")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(devices=[]):
        model = BertModel(config, add_pooling_layer=False)
    randomize(model, 1, 0.3)
    encoder = EncoderModel(model.eval(), tokenizer, "bert")
    head = HeadSpec(pooling="mean", over="text")
    result = train_reward(
        encoder, examples, replace(SETTINGS, steps=2), key=Key(1), head=head, tokens_of=base
    )
    e = examples[0]
    by_object = rewards_of(result.reward, [e])
    by_tokens = result.reward.rows([e.prompt.ids] * 2, [r.ids for r in e.responses])
    offset = result.reward.offset
    np.testing.assert_allclose(
        by_tokens @ result.reward.weight.double() + offset, by_object, rtol=1e-5, atol=1e-6
    )
    result.reward.save(tmp_path / "bert")
    again = TrainedReward.from_pretrained(tmp_path / "bert")
    np.testing.assert_allclose(rewards_of(again, [e]), by_object, atol=1e-6)
    with pytest.raises(ValueError, match="tokens_of"):
        again.rows([e.prompt.ids], [e.responses[0].ids])


def test_members_of_an_ensemble_differ_and_combine(tiny_policy):
    texts = ["what color is the oak ?", "what size is the fox ?"]
    words = tiny_policy.model
    problem = PromptProblem(texts, tiny_policy, features=_Constant(), pool_size=4)
    pool = problem.pools.responses[0]
    examples = [RewardExample(problem.prompts[0], (pool[0], pool[k])) for k in range(1, len(pool))]
    ensemble = train_ensemble(words, examples, SETTINGS, key=Key(1), n_members=2)
    first, second = (m.rewards(problem.table) for m in ensemble.members)
    assert not torch.allclose(first, second, atol=1e-3)
    x = problem.table
    mean = 0.5 * sum(
        r - torch.sum(torch.exp(x.log_pi0) * r, dim=-1, keepdim=True) for r in (first, second)
    )
    present = to_numpy(x.log_pi0) > -math.inf
    got = to_numpy(ensemble.mean().rewards(x))
    np.testing.assert_allclose(got[present], to_numpy(mean)[present], rtol=1e-9, atol=1e-12)
    low = to_numpy(ensemble.min_reward().rewards(x))
    assert (low[present] <= got[present] + 1e-12).all()
    with pytest.raises(ValueError, match="n_members"):
        train_ensemble(words, examples, SETTINGS, key=Key(1), n_members=0)


class _Constant:
    def rows(self, prompts, responses):
        return torch.ones(len(responses), 1, dtype=torch.float64)


def test_bootstrap_weights_are_exponential(examples):
    many = examples * 400
    w = np.array([e.weight for e in bootstrapped(many, Key(5))])
    # Mean and variance of 9600 exponential variables: five deviations each.
    assert abs(w.mean() - 1.0) < 5.0 / math.sqrt(w.size)
    assert abs(w.var() - 1.0) < 5.0 * math.sqrt(8.0 / w.size)
    assert bootstrapped(examples, Key(5)) == bootstrapped(examples, Key(5))


def test_a_head_can_be_refitted_on_the_trained_features(base, examples):
    result = train_reward(base, examples, SETTINGS, key=Key(1), head=HeadSpec(pooling="mean"))
    comparisons = comparisons_of(base, 24)

    class Labelled:
        pass

    data = Labelled()
    data.comparisons = comparisons
    fit = fit_head(with_features(data, result.reward))
    assert fit.reward.theta.shape == (1, 16)
    assert fit.held_out.n_prompts == 4


# --------------------------------------------------------------------------- on disk


def test_a_reward_comes_back_without_pickle(base, examples, tmp_path):
    reward = train_reward(
        base, examples, SETTINGS, key=Key(1), head=HeadSpec(pooling="mean")
    ).reward
    reward.save(tmp_path / "r")
    again = TrainedReward.from_pretrained(tmp_path / "r")
    np.testing.assert_array_equal(rewards_of(again, examples), rewards_of(reward, examples))
    assert again.fingerprint == reward.fingerprint
    assert again.rescaled(2.0).fingerprint != reward.fingerprint
    names = {p.name for p in (tmp_path / "r").iterdir()}
    assert {"model.safetensors", "reward_head.safetensors", "reward_model.json"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl", ".pth"))]


def test_foreign_and_damaged_folders_are_refused(base, examples, tmp_path):
    with pytest.raises(ModelError, match="must be a reward model written by"):
        TrainedReward.from_pretrained(tmp_path / "nowhere")
    base.save(tmp_path / "lm")
    with pytest.raises(ModelError, match=r"TrainedReward\.save.*TransformerReward"):
        TrainedReward.from_pretrained(tmp_path / "lm")
    w = torch.zeros(16)
    TrainedReward(trunk_of(base), w).save(tmp_path / "r")
    facts = tmp_path / "r" / "reward_model.json"
    said = unseal(json.loads(facts.read_text()))
    for change in ({"pooling": "first"}, {"offset": None}, {"kind": "other"}):
        facts.write_text(json.dumps(seal({**said, **change})))
        with pytest.raises(ModelError, match=r"must be a reward model written by"):
            TrainedReward.from_pretrained(tmp_path / "r")
    facts.write_text(json.dumps({**said, "format": 1}))
    with pytest.raises(ModelError, match="it is of format 1"):
        TrainedReward.from_pretrained(tmp_path / "r")
    facts.write_text(json.dumps(seal(said)))
    head = tmp_path / "r" / "reward_head.safetensors"
    head.write_bytes(head.read_bytes()[:20])
    with pytest.raises(ModelError, match=r"head.safetensors is damaged.*Start again the run"):
        TrainedReward.from_pretrained(tmp_path / "r")


# --------------------------------------------------------------------------- bad input


def test_examples_that_mean_nothing_are_refused(base):
    prompt = base.encode_prompt("why")
    a, b = (Response(base.encode_response(t), t, 0.0) for t in ("good", "bad"))
    with pytest.raises(ValueError, match="places of the 2 responses"):
        RewardExample(prompt, (a, b), pairs=((0, 2),))
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\]"):
        RewardExample(prompt, (a, b), target=(math.nan,))
    with pytest.raises(ValueError, match="a target and a share each"):
        RewardExample(prompt, (a, b), target=())
    with pytest.raises(ValueError, match="Weights must be finite"):
        RewardExample(prompt, (a, b), weight=-1.0)
    with pytest.raises(ValueError, match="at least one example"):
        train_reward(base, [], SETTINGS, key=Key(0))
    with pytest.raises(ValueError, match="positive weight"):
        train_reward(base, [RewardExample(prompt, (a, b), weight=0.0)], SETTINGS, key=Key(0))
    same = Comparison(prompt, a, a, 0.0, 0.0, 1.0)
    assert comparison_examples([same]) == []
    long = Response((5,) * 80, "x", 0.0)
    with pytest.raises(ValueError, match="context of 64 tokens"):
        train_reward(base, [RewardExample(prompt, (a, long))], SETTINGS, key=Key(0))
    with pytest.raises(ModelError, match=r"shape \(H,\) with H=16"):
        TrainedReward(trunk_of(base), torch.zeros(3))
    with pytest.raises(ModelError, match="must be finite"):
        TrainedReward(trunk_of(base), torch.full((16,), math.nan))
    with pytest.raises(ValueError, match="pooling must be one of"):
        HeadSpec(pooling="max")
