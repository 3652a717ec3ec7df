"""Responses drawn from a causal model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from transformers import GenerationConfig

from llm_bridge.errors import ModelError
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import LanguageModel
from llm_bridge.language.sampler import BatchedSampler, GenerateSampler, Sampler, _choose
from rlhf_theory.randomness import Key
from tests.helpers.language import gpt2, llama, word_tokenizer
from tests.helpers.strings import all_responses, probabilities, token_loop

KEY = Key(5)
PROMPTS = [(3, 4, 5), (6,), (7, 8, 9, 10, 3, 4, 5), (4,), (5, 5)]
SAMPLERS = [BatchedSampler, GenerateSampler]


@pytest.fixture(params=["llama", "gpt2"])
def model(request, chat_model, gpt2_model) -> LanguageModel:
    return {"llama": chat_model, "gpt2": gpt2_model}[request.param]


def flat(prompts, drawn):
    return [p for p, row in zip(prompts, drawn, strict=True) for _ in row], [
        r for row in drawn for r in row
    ]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_responses_are_what_they_say(model, kind):
    sampler = kind(max_new_tokens=6, batch_size=16)
    assert isinstance(sampler, Sampler)
    assert sampler.temperature == 1.0
    drawn = sampler(model, PROMPTS, 8, KEY)
    assert [len(row) for row in drawn] == [8] * len(PROMPTS)
    _, responses = flat(PROMPTS, drawn)
    for r in responses:
        assert 1 <= len(r.ids) <= 6
        assert model.eos_id not in r.ids[:-1]
        assert r.finished == (r.ids[-1] == model.eos_id)
        assert r.finished or len(r.ids) == 6
        assert r.text == model.decode(r.ids)
    # Both kinds occur, and several lengths: otherwise this shows nothing.
    assert {r.finished for r in responses} == {True, False}
    assert len({len(r.ids) for r in responses}) > 3


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_log_probs_are_those_of_the_scoring_pass(model, kind, batch_size):
    # Prompts of different lengths in one batch: with absolute positions a wrong place would show.
    drawn = kind(max_new_tokens=9, batch_size=batch_size)(model, PROMPTS, 6, KEY)
    prompts, responses = flat(PROMPTS, drawn)
    want = sequence_log_probs(model, prompts, [r.ids for r in responses])
    np.testing.assert_allclose([r.log_prob for r in responses], want, atol=1e-5)


def test_log_probs_are_those_of_the_sampled_temperature(model):
    drawn = BatchedSampler(max_new_tokens=5, temperature=1.7)(model, PROMPTS, 3, KEY)
    prompts, responses = flat(PROMPTS, drawn)
    want = [sum(token_loop(model, p, r.ids, 1.7)) for p, r in zip(prompts, responses, strict=True)]
    np.testing.assert_allclose([r.log_prob for r in responses], want, atol=1e-5)


def test_a_low_temperature_takes_the_likeliest_token(model):
    drawn = BatchedSampler(max_new_tokens=4, temperature=1e-5)(model, PROMPTS, 2, KEY)
    for prompt, (first, second) in zip(PROMPTS, drawn, strict=True):
        assert first == second
        for t, token in enumerate(first.ids):
            with torch.no_grad():
                logits = model.model(torch.tensor([(*prompt, *first.ids[:t])])).logits[0, -1]
            assert token == int(logits.argmax())
        assert first.log_prob == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 1000])
def test_draws_do_not_depend_on_batches(model, batch_size):
    wide = LanguageModel(model.clone().model.double(), model.tokenizer)
    want = BatchedSampler(max_new_tokens=7, batch_size=10)(wide, PROMPTS, 5, KEY)
    got = BatchedSampler(max_new_tokens=7, batch_size=batch_size)(wide, PROMPTS, 5, KEY)
    for a, b in zip(flat(PROMPTS, want)[1], flat(PROMPTS, got)[1], strict=True):
        assert a.ids == b.ids
        assert a.log_prob == pytest.approx(b.log_prob, abs=1e-5)


def test_more_responses_begin_with_the_same(model):
    sampler = BatchedSampler(max_new_tokens=4)
    few, many = (sampler(model, PROMPTS, n, KEY) for n in (3, 8))
    assert [[r.ids for r in row] for row in few] == [[r.ids for r in row[:3]] for row in many]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_draws_are_a_function_of_the_key(model, kind):
    sampler = kind(max_new_tokens=8)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = sampler(model, PROMPTS, 4, KEY)
    torch.rand(3, generator=torch.Generator().manual_seed(1))
    assert sampler(model, PROMPTS, 4, KEY) == first
    assert sampler(model, PROMPTS, 4, KEY.child("other")) != first
    # Nobody else's random numbers are moved.
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("kind", SAMPLERS)
def test_equal_prompts_get_independent_responses(model, kind):
    drawn = kind(max_new_tokens=8)(model, [PROMPTS[0]] * 3, 4, KEY)
    assert len({tuple(r.ids for r in row) for row in drawn}) == 3


def p_value(counts: Counter, responses, expected: np.ndarray) -> float:
    """Of Pearson's chi-squared test; responses expected less than 5 times are pooled."""
    seen = np.array([counts[r] for r in responses], dtype=float)
    assert seen.sum() == sum(counts.values())  # nothing else was drawn
    rare = expected < 5.0
    if rare.any():
        seen = np.append(seen[~rare], seen[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    return float(chi2.sf(((seen - expected) ** 2 / expected).sum(), len(expected) - 1))


# Hypothesis: responses follow the product of the model's conditional probabilities. False-alarm
# rate 1e-6 per test, 12 tests. With 6000 draws per prompt and about 20 cells it notices, with
# probability 0.99, a total variation of about 0.04: a top-k, a temperature of 1.2, a shifted
# position or an end of sequence that is missed move it by 0.1 and more.
N = 6000
SAMPLED = [
    (BatchedSampler(max_new_tokens=3, batch_size=2000), 1.0),
    (BatchedSampler(max_new_tokens=3, batch_size=2000, temperature=0.6), 0.6),
    (GenerateSampler(max_new_tokens=3, batch_size=2000), 1.0),
]


@pytest.mark.statistical
@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize(("sampler", "temperature"), SAMPLED, ids=["own", "cool", "generate"])
def test_short_strings_have_their_exact_probabilities(build, sampler, temperature):
    model = build(word_tokenizer(["a"]))
    prompts = [(3, 2, 3, 3), (2,)]  # of different lengths, drawn in one batch
    responses = all_responses(model, 3)
    for prompt, row in zip(prompts, sampler(model, prompts, N, KEY), strict=True):
        exact = np.array(probabilities(model, prompt, responses, temperature))
        assert exact.sum() == pytest.approx(1.0, abs=1e-6)
        counts = Counter(r.ids for r in row)
        assert p_value(counts, responses, N * exact) > 1e-6
        # The test has power: it refuses the law of another temperature.
        other = np.array(probabilities(model, prompt, responses, 1.3 * temperature))
        assert p_value(counts, responses, N * other) < 1e-6


@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_tokens_without_probability_are_never_drawn(wide):
    logits = torch.tensor([[-torch.inf, 0.1, -torch.inf, 0.3, -torch.inf]]).repeat(4, 1)
    split = 1.0 / (1.0 + np.exp(0.2))
    u = torch.tensor([0.0, split - 1e-3, split + 1e-3, 1.0 - torch.finfo(wide).eps / 2], dtype=wide)
    tokens, log_p = _choose(logits, u[:, None])
    assert tokens.tolist() == [1, 1, 3, 3]
    np.testing.assert_allclose(log_p, np.log([split, split, 1 - split, 1 - split]), rtol=1e-6)


def test_settings_that_come_with_a_model_do_not_bend_its_law(model):
    sampler = GenerateSampler(max_new_tokens=6)
    want = sampler(model, PROMPTS, 4, KEY)
    bent = model.clone()
    bent.model.generation_config = GenerationConfig(
        do_sample=True, top_k=1, min_p=0.5, repetition_penalty=5.0, bad_words_ids=[[5]], num_beams=2
    )
    saved = bent.model.generation_config
    assert sampler(bent, PROMPTS, 4, KEY) == want
    assert bent.model.generation_config is saved


@pytest.mark.parametrize("kind", SAMPLERS)
def test_dropout_is_off(gpt2_model, kind):
    training = gpt2_model.clone()
    training.model.train()
    sampler = kind(max_new_tokens=6)
    assert sampler(training, PROMPTS, 4, KEY) == sampler(gpt2_model, PROMPTS, 4, KEY)
    assert training.model.training


# peft asks transformers for a name that will go.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", SAMPLERS)
def test_models_with_adapters(gpt2_model, kind):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(
        r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    wrapped = peft.get_peft_model(gpt2_model.clone().model, settings).eval()
    tuned = LanguageModel(wrapped, gpt2_model.tokenizer, "tuned")
    drawn = kind(max_new_tokens=6)(tuned, PROMPTS, 6, KEY)
    prompts, responses = flat(PROMPTS, drawn)
    got, ids = [r.log_prob for r in responses], [r.ids for r in responses]
    np.testing.assert_allclose(got, sequence_log_probs(tuned, prompts, ids), atol=1e-5)
    assert np.abs(got - sequence_log_probs(gpt2_model, prompts, ids)).max() > 0.1


@pytest.mark.parametrize("kind", SAMPLERS)
def test_edges(gpt2_model, kind):
    assert kind()(gpt2_model, [], 3, KEY) == []
    ((one,),) = kind(max_new_tokens=1)(gpt2_model, [(3,)], 1, KEY)
    assert len(one.ids) == 1
    # The context of 64 may be filled to the last place.
    ((full,),) = kind(max_new_tokens=4)(gpt2_model, [(3,) * 60], 1, KEY)
    assert len(full.ids) <= 4


@pytest.mark.parametrize("kind", SAMPLERS)
def test_bad_input_is_named(gpt2_model, kind):
    with pytest.raises(ValueError, match=r"Prompts must have at least one token; row 1 is empty"):
        kind()(gpt2_model, [(3,), ()], 1, KEY)
    with pytest.raises(ValueError, match="ids from 0 to 14; row 0 has 99"):
        kind()(gpt2_model, [(99,)], 1, KEY)
    with pytest.raises(ValueError, match="n must be positive"):
        kind()(gpt2_model, [(3,)], 0, KEY)
    said = r"max_new_tokens=5 must fit the model's context of 64 tokens; the longest prompt has 60"
    with pytest.raises(ValueError, match=said):
        kind(max_new_tokens=5)(gpt2_model, [(3,) * 60], 1, KEY)
    with pytest.raises(ValueError, match="max_new_tokens must be positive"):
        kind(max_new_tokens=0)
    with pytest.raises(ValueError, match="batch_size must be positive"):
        kind(batch_size=0)


def test_a_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature must be positive"):
        BatchedSampler(temperature=0.0)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_broken_weights_are_named(kind):
    model = llama(word_tokenizer(["a", "b"]))
    with torch.no_grad():
        model.model.lm_head.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"must give probabilities.*lower the learning rate"):
        kind(max_new_tokens=2)(model, [(3,)], 2, KEY)
    assert model.model.generation_config is not None


@pytest.mark.parametrize("kind", SAMPLERS)
def test_too_large_a_batch_names_the_knobs(kind, monkeypatch):
    model = llama(word_tokenizer(["a", "b"]))

    def fails(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(type(model.model.model), "forward", fails)
    with pytest.raises(MemoryError, match="Make batch_size=9 or max_new_tokens smaller"):
        kind(max_new_tokens=2, batch_size=9)(model, [(3,)], 2, KEY)
