"""Features with a frozen transform, and everything that can be wrong with settings and texts."""

from __future__ import annotations

import dataclasses
import io
import math
import sys

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, T5Config, T5Model

from llm_bridge.embeddings import extraction
from llm_bridge.embeddings.encoders import EncoderModel, load_encoder
from llm_bridge.embeddings.features import FittedFeatures, TransformerFeatures
from llm_bridge.errors import ModelError
from llm_bridge.pools.problem import PromptProblem
from tests.helpers.readings import lengths_read, random_texts, raw

# Sums over tokens are some tens: the tolerance is relative there.
SINGLE = {"rtol": 1e-5, "atol": 1e-5}


def test_fitted_features_are_the_transformed_raw_ones(tiny_model) -> None:
    texts, others = random_texts(tiny_model, 50), random_texts(tiny_model, 9, seed=1)
    features = TransformerFeatures(tiny_model, whiten=True, dim=6)
    fitted = features.fit(*texts)
    phi = fitted.rows(*texts)
    assert phi.shape == (50, 6)
    np.testing.assert_allclose(phi.T @ phi / 50, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(phi.mean(dim=0), 0, atol=1e-10)
    before = fitted.fingerprint
    new, log_probs = fitted.with_log_probs(*others)
    torch.testing.assert_close(new, fitted.transform(features.rows(*others)[0]))
    np.testing.assert_array_equal(log_probs, features.rows(*others)[1])
    torch.testing.assert_close(fitted.rows(*texts), phi, rtol=0, atol=0)
    assert fitted.fingerprint == before


def test_transform_is_applied_in_chunks(tiny_model, monkeypatch) -> None:
    texts = random_texts(tiny_model, 20)
    fitted = TransformerFeatures(tiny_model, dim=4, scale="ball").fit(*texts)
    want = fitted.rows(*texts)
    monkeypatch.setattr("llm_bridge.embeddings.features.CHUNK", 7)
    torch.testing.assert_close(fitted.rows(*texts), want, rtol=1e-12, atol=1e-12)


def test_fitted_features_cannot_be_fitted_again(tiny_model) -> None:
    fitted = TransformerFeatures(tiny_model, dim=2).fit(*random_texts(tiny_model, 5))
    assert not hasattr(fitted, "fit")
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted.transform = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted.transform.mean = None


def test_fitted_features_are_saved_and_loaded(tiny_model, gpt2_model, tmp_path) -> None:
    texts = random_texts(gpt2_model, 30)
    features = TransformerFeatures(tiny_model, dim=3, scale="ball")
    fitted, file = features.fit(*texts), tmp_path / "new" / "phi.safetensors"
    fitted.save(file)
    fitted.save(file)  # the same again is no change
    loaded = FittedFeatures.load(file, TransformerFeatures(tiny_model, dim=3, scale="ball"))
    torch.testing.assert_close(loaded.rows(*texts), fitted.rows(*texts), rtol=0, atol=0)
    assert loaded.fingerprint == fitted.fingerprint
    with pytest.raises(ValueError, match="frozen features never change"):
        features.fit(texts[0][:20], texts[1][:20]).save(file)
    with pytest.raises(ValueError, match=r"other features: these have layers=\[1\]"):
        FittedFeatures.load(file, TransformerFeatures(tiny_model, layers=1, dim=3, scale="ball"))
    with pytest.raises(ValueError, match=r"transform=.*'dim': 4"):
        FittedFeatures.load(file, TransformerFeatures(tiny_model, dim=4, scale="ball"))
    with pytest.raises(ValueError, match="these have model="):
        FittedFeatures.load(file, TransformerFeatures(gpt2_model, dim=3, scale="ball"))
    (tmp_path / "notes.txt").write_text("hello")
    for name in ("notes.txt", "missing"):
        with pytest.raises(ValueError, match="must be a file of frozen features"):
            FittedFeatures.load(tmp_path / name, features)


def test_prompt_problem_takes_them(tiny_policy, minilm_folder, tmp_path, monkeypatch) -> None:
    prompts = ["what color is oak ?", "what use is iron ?", "what size is oak ?"]
    encoder = load_encoder(minilm_folder)
    for model, width in ((tiny_policy, 289), (encoder, 384)):
        features = TransformerFeatures(
            model, tokens_of=tiny_policy, cache=tmp_path, dim=4, scale="ball"
        )
        assert features.width == width
        problem = PromptProblem(prompts, tiny_policy, features=features, pool_size=5)
        assert problem.dim == 4
        phi = problem.table.phi
        assert float(phi.norm(dim=-1).max()) == pytest.approx(1.0)
        with monkeypatch.context() as patch:
            passes = lengths_read(patch)
            again = PromptProblem(prompts, tiny_policy, features=features, pool_size=5)
            assert passes == []
        torch.testing.assert_close(again.table.phi, phi, rtol=0, atol=0)
        other = problem.held_out(prompts[:1])
        assert other.features is problem.features
        assert float(other.table.phi.norm(dim=-1).max()) <= 1.0 + 1e-12


def test_bound_holds_for_texts_never_seen(tiny_model) -> None:
    texts, others = random_texts(tiny_model, 20), random_texts(tiny_model, 60, seed=2)
    for scale in ("unit", "ball"):
        fitted = TransformerFeatures(tiny_model, dim=5, scale=scale).fit(*texts)
        assert fitted.bound == 1.0
        assert float(fitted.rows(*others).norm(dim=1).max()) <= 1.0 + 1e-12
    assert TransformerFeatures(tiny_model, dim=5).fit(*texts).bound == math.inf


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "men"}, "pooling must be one of .*Did you mean 'mean'"),
        ({"layers": 3}, "layers must lie between -3 and 2"),
        ({"layers": "al"}, "layers must be one of all"),
        ({"over": "prompt"}, "over must be one of response, text"),
        ({"pooling": (), "log_prob": False}, "need a pooling of a layer, or log_prob=True"),
        ({"layers": (), "log_prob": False}, "need a pooling of a layer"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"dtype": "float16"}, "dtype must be one of float64, float32"),
        ({"cache_dtype": "float64"}, "cache_dtype must be one of float32, float16"),
        ({"scale": "max"}, "scale must be one of none, unit, ball"),
        ({"dim": 0}, "dim must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(tiny_model, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerFeatures(tiny_model, **settings)


@pytest.mark.parametrize(
    ("prompt", "response", "message"),
    [
        ((5,), (), "response 0 is empty"),
        ((5,), "", "response 0 is empty"),
        ((), (5,), "Prompts must have at least one token; row 0 is empty"),
        ((5,) * 100, (5,) * 29, "fit the model's context of 128 tokens; row 0 has 100"),
        ((10**6,), (5,), "ids from 0 to"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(tiny_model, prompt, response, message) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerFeatures(tiny_model).rows([prompt], [response])


def test_refuses_unequal_numbers(tiny_model) -> None:
    with pytest.raises(ValueError, match="one prompt per response; got 2 and 1"):
        TransformerFeatures(tiny_model).rows([(5,), (6,)], [(7,)])


def test_refuses_what_is_no_model(tiny_model) -> None:
    with pytest.raises(ModelError, match=r"need a LanguageModel.*got str"):
        TransformerFeatures("tiny")
    with pytest.raises(ModelError, match="got float"):
        TransformerFeatures(tiny_model, tokens_of=1.0).rows([(5,)], [(5,)])


def test_damaged_weights_are_named(tiny_model, tmp_path) -> None:
    model = tiny_model.clone()
    with torch.no_grad():
        next(model.model.parameters())[7] = math.nan
    features = TransformerFeatures(model, cache=tmp_path)
    with pytest.raises(ModelError, match=r"not finite.*dtype='float32'"):
        features.rows([(5,)], [(7,)])
    assert len(features.store) == 0


def test_too_large_for_half_precision_says_so(tiny_model, tmp_path) -> None:
    model = tiny_model.clone()
    with torch.no_grad():
        next(model.model.parameters()).mul_(1e6)
    features = TransformerFeatures(model, cache=tmp_path, cache_dtype="float16", layers=0)
    with pytest.raises(ValueError, match="too large: use float32"):
        features.rows([(5,)], [(7,)])


def test_lack_of_memory_names_the_knob(tiny_model, monkeypatch) -> None:
    def exploding(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(extraction, "forward", exploding)
    with pytest.raises(MemoryError, match="batch_size=3 smaller"):
        raw(tiny_model, random_texts(tiny_model, 9), batch_size=3)


def test_encoders_have_no_probabilities_and_read_one_text(tiny_model) -> None:
    config = BertConfig(
        vocab_size=len(tiny_model.tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    encoder = EncoderModel(BertModel(config).eval(), tiny_model.tokenizer)
    with pytest.raises(ValueError, match="log_prob needs a language model"):
        TransformerFeatures(encoder, log_prob=True)
    with pytest.raises(ModelError, match="tokens_of must be a language model"):
        TransformerFeatures(encoder, tokens_of=encoder).rows(["a"], ["b"])
    shape = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    with pytest.raises(ModelError, match="is an encoder-decoder model"):
        EncoderModel(T5Model(T5Config(vocab_size=9, **shape)), tiny_model.tokenizer, "t5")


def test_layers_of_another_width_are_refused(tiny_model, monkeypatch) -> None:
    real = extraction.forward

    def narrow(*arguments, **options):
        phi, log_probs = real(*arguments, **options)
        return phi[:, 1:], log_probs

    monkeypatch.setattr(extraction, "forward", narrow)
    with pytest.raises(ModelError, match="gave 287 features where its configuration promises 288"):
        raw(tiny_model, random_texts(tiny_model, 2))


@pytest.mark.parametrize(
    ("terminal", "progress", "shown"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_progress_is_shown_on_terminals_only(
    tiny_model, monkeypatch, terminal: bool, progress: bool, shown: bool
) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    raw(tiny_model, random_texts(tiny_model, 5), progress=progress)
    assert ("features" in stream.getvalue()) == shown
