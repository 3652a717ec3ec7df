"""Features of prompts and responses: the right numbers, whatever the company."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.embeddings.pooling import pool
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import LanguageModel, Prompt
from llm_bridge.language.sampler import Response
from rlhf_theory.contexts import Contexts
from rlhf_theory.features import reference_feature
from tests.helpers.readings import lengths_read, random_texts, raw, slow_features

# Sums over tokens are some tens: the tolerance is relative there.
SINGLE = {"rtol": 1e-5, "atol": 1e-5}

POOLINGS = ("last", "mean", "sum", "first")


@pytest.fixture(scope="module", params=["tiny_model", "gpt2_model"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """Relative and absolute positions."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("over", ["response", "text"])
def test_features_equal_a_loop_over_tokens(model: LanguageModel, over: str) -> None:
    texts = random_texts(model, 7)
    phi, log_probs = raw(model, texts, pooling=POOLINGS, layers=(0, 2, 1), over=over)
    assert phi.shape == (7, 32 * 3 * 4 + 1)
    for i, (prompt, response) in enumerate(zip(*texts, strict=True)):
        want, log_prob = slow_features(
            model, prompt, response, poolings=POOLINGS, layers=(0, 2, 1), over=over
        )
        np.testing.assert_allclose(phi[i, :-1], want, **SINGLE)
        assert phi[i, -1] == pytest.approx(log_prob, rel=1e-5, abs=1e-5)
        assert log_probs[i] == pytest.approx(log_prob, rel=1e-5, abs=1e-5)


def test_features_of_a_double_model_are_exact(tiny_model: LanguageModel) -> None:
    double = LanguageModel(copy.deepcopy(tiny_model.model).double(), tiny_model.tokenizer)
    texts = random_texts(double, 5)
    phi, log_probs = raw(double, texts, pooling="mean", layers="all")
    for i, (prompt, response) in enumerate(zip(*texts, strict=True)):
        want, log_prob = slow_features(
            double, prompt, response, poolings=["mean"], layers=(0, 1, 2)
        )
        np.testing.assert_allclose(phi[i], [*want, log_prob], rtol=1e-11, atol=1e-12)
        assert log_probs[i] == pytest.approx(log_prob, rel=1e-12)


def test_log_probs_are_those_of_the_policy(model: LanguageModel) -> None:
    texts = random_texts(model, 20)
    _, log_probs = raw(model, texts)
    np.testing.assert_allclose(log_probs, sequence_log_probs(model, *texts), **SINGLE)


def test_layers_and_poolings_are_concatenated_in_the_order_given(tiny_model) -> None:
    texts = random_texts(tiny_model, 4)
    parts = [
        raw(tiny_model, texts, pooling=p, layers=layer, log_prob=False)[0]
        for layer in (2, 0)
        for p in ("sum", "last")
    ]
    whole, log_probs = raw(tiny_model, texts, pooling=["sum", "last"], layers=[-1, 0])
    np.testing.assert_array_equal(whole, np.hstack([*parts, log_probs[:, None]]))


def test_log_probability_may_be_the_only_feature(tiny_model) -> None:
    texts = random_texts(tiny_model, 4)
    phi, log_probs = raw(tiny_model, texts, pooling=(), log_prob=True)
    np.testing.assert_allclose(phi[:, 0], log_probs, rtol=1e-6)  # it passes single precision
    assert phi.shape == (4, 1)


def test_defaults_are_all_layers_and_poolings_of_the_response(tiny_model) -> None:
    features = TransformerFeatures(tiny_model)
    assert features.width == 3 * 3 * 32 + 1
    assert features.configuration == {
        "model": tiny_model.fingerprint,
        "weights": "float32",
        "pooling": ["last", "mean", "sum"],
        "layers": [0, 1, 2],
        "over": "response",
        "log_prob": True,
    }


def test_prompt_and_response_come_in_any_form(tiny_policy) -> None:
    model = tiny_policy.model
    prompt, response = model.encode_prompt("what color is oak ?"), model.encode_response("brown .")
    want, _ = raw(model, ([prompt.ids], [response]))
    for first, second in [
        (prompt, Response(response, "brown .", -1.0)),
        ("what color is oak ?", "brown ."),
        (list(prompt.ids), np.array(response)),
        ([{"role": "user", "content": "what color is oak ?"}], response),
    ]:
        np.testing.assert_array_equal(raw(tiny_policy, ([first], [second]))[0], want)


def test_another_language_model_reads_the_text(tiny_model, gpt2_model) -> None:
    tokens = [gpt2_model.encode_prompt("w1 w2").ids] * 2, [gpt2_model.encode_response("w3"), (1,)]
    got, _ = raw(tiny_model, tokens, tokens_of=gpt2_model)
    # The second answer is the end of the sequence alone.
    bare = [tiny_model.encode_prompt("w1 w2").ids] * 2
    want, _ = raw(tiny_model, (bare, [tiny_model.encode_response("w3"), (tiny_model.eos_id,)]))
    np.testing.assert_array_equal(got, want)


def test_prompt_is_read_by_its_tokens(tiny_model) -> None:
    """The text of a rendered chat is not encoded again."""
    want, _ = raw(tiny_model, ([(5, 6)], [(7,)]))
    got, _ = raw(tiny_model, ([Prompt("anything", (5, 6))], [(7,)]))
    np.testing.assert_array_equal(got, want)


def test_features_do_not_depend_on_batch_order_or_padding_side(model: LanguageModel) -> None:
    prompts, responses = random_texts(model, 25)
    want, want_log = raw(model, (prompts, responses), batch_size=1)
    side = model.tokenizer.padding_side
    try:
        for batch_size, padding_side in [(4, "right"), (7, "left"), (64, "left")]:
            model.tokenizer.padding_side = padding_side
            phi, log_probs = raw(model, (prompts[::-1], responses[::-1]), batch_size=batch_size)
            np.testing.assert_allclose(phi[::-1], want, **SINGLE)
            np.testing.assert_allclose(log_probs[::-1], want_log, **SINGLE)
    finally:
        model.tokenizer.padding_side = side


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_knows_its_tokens_wherever_the_padding_is(pooling: str) -> None:
    states = torch.arange(12.0).reshape(3, 4)
    want = {"last": states[2], "first": states[0], "sum": states.sum(0), "mean": states.mean(0)}
    for before, after in [(0, 0), (0, 3), (2, 0), (2, 1)]:
        blank = [torch.full((n, 4), 99.0) for n in (before, after)]
        hidden = torch.cat([blank[0], states, blank[1]])[None]
        mask = torch.tensor([[False] * before + [True] * 3 + [False] * after])
        torch.testing.assert_close(pool(hidden, mask, pooling)[0], want[pooling])


def test_repeated_texts_are_read_once(tiny_model, monkeypatch) -> None:
    passes = lengths_read(monkeypatch)
    (p, q), (r, s) = random_texts(tiny_model, 2)
    phi, log_probs = raw(tiny_model, ([p, q, p, p], [r, s, r, s]))
    assert sum(map(len, passes)) == 3
    np.testing.assert_array_equal(phi[0], phi[2])
    assert log_probs[0] == log_probs[2]
    assert not np.array_equal(phi[0], phi[3])


def test_longest_texts_are_read_first(tiny_model, monkeypatch) -> None:
    passes = lengths_read(monkeypatch)
    raw(tiny_model, random_texts(tiny_model, 30), batch_size=4)
    flat = [n for lengths in passes for n in lengths]
    assert flat == sorted(flat, reverse=True)
    assert len(passes) == 8


def test_no_texts_give_no_rows(tiny_model, tmp_path) -> None:
    phi, log_probs = TransformerFeatures(tiny_model, cache=tmp_path).rows([], [])
    assert phi.shape == (0, 289)
    assert log_probs.shape == (0,)


def test_dropout_is_off_and_the_mode_comes_back(tiny_model) -> None:
    texts = random_texts(tiny_model, 5)
    want, _ = raw(tiny_model, texts)
    model = tiny_model.clone()
    for part in model.model.modules():
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0.5
    model.model.train()
    np.testing.assert_array_equal(raw(model, texts)[0], want)
    assert model.model.training


def test_half_precision_weights_give_single_precision_numbers(tiny_model) -> None:
    half = LanguageModel(copy.deepcopy(tiny_model.model).bfloat16(), tiny_model.tokenizer)
    texts = random_texts(half, 10)
    phi, log_probs = raw(half, texts)
    want, want_log = raw(tiny_model, texts)
    # Eight bits: what is lost by weights and activations, about a percent.
    assert np.abs(phi - want).max() < 0.05 * np.abs(want).max()
    np.testing.assert_allclose(log_probs, want_log, atol=0.05 * np.abs(want_log).max())
    # Sums over tokens have more digits than half precision holds.
    sums = torch.from_numpy(phi).float()
    assert not torch.equal(sums, sums.bfloat16().float())
    assert half.fingerprint != tiny_model.fingerprint


def test_features_can_be_used_under_autograd(tiny_model) -> None:
    phi, _ = TransformerFeatures(tiny_model, dtype="float32").rows(*random_texts(tiny_model, 3))
    assert phi.dtype == torch.float32
    assert not phi.requires_grad
    theta = torch.ones(phi.shape[1], requires_grad=True)
    (phi @ theta).sum().backward()
    torch.testing.assert_close(theta.grad, phi.sum(dim=0))


def test_theory_runs_on_the_features(tiny_model) -> None:
    texts = random_texts(tiny_model, 6)
    fitted = TransformerFeatures(tiny_model, dim=3, whiten=True).fit(*texts)
    phi = fitted.rows(*texts).reshape(1, 2, 3, 3)
    log_pi0 = torch.full((1, 2, 3), -math.log(3.0), dtype=phi.dtype)
    nu = reference_feature(Contexts(phi, log_pi0))
    torch.testing.assert_close(nu, phi.mean(dim=2))
