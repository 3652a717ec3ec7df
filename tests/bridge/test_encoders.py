"""Encoders: loading, reading texts, and a real one against its plain use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from llm_bridge.embeddings.encoders import EncoderModel, load_encoder
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.errors import ModelError
from llm_bridge.language.sampler import Response

PROMPTS = [
    "What color is an oak leaf?",
    "Name a river.",
    "Why is the sky blue, and is it blue everywhere?",
    "Name a river.",
    "x",
]
RESPONSES = [
    "Green.",
    "The Danube, which runs through ten countries and four capitals before it meets the sea.",
    "Because short waves are scattered more.",
    "Don't know; perhaps the naïve answer: 東京?",
    "y",
]


@pytest.fixture(scope="module")
def encoder(minilm_folder: Path) -> EncoderModel:
    return load_encoder(minilm_folder)


@pytest.fixture(scope="module")
def plain(minilm_folder: Path):
    """Model and tokenizer, loaded as anybody would."""
    return (
        AutoModel.from_pretrained(minilm_folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(minilm_folder),
    )


def mean_of_all_tokens(plain, text: str) -> np.ndarray:
    model, tokenizer = plain
    with torch.no_grad():
        out = model(**tokenizer(text, return_tensors="pt"))
    return out.last_hidden_state[0].mean(dim=0).numpy()


def test_mean_pooling_equals_one_text_at_a_time(encoder, plain) -> None:
    want = [mean_of_all_tokens(plain, f"{p} {r}") for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    for batch_size in (1, 2, 32):
        phi, log_probs = TransformerFeatures(encoder, batch_size=batch_size).rows(
            PROMPTS, RESPONSES
        )
        assert log_probs is None
        assert phi.shape == (5, 384)
        np.testing.assert_allclose(phi, want, atol=1e-5)


def test_response_pooling_takes_the_tokens_of_the_response(encoder, plain) -> None:
    model, tokenizer = plain
    phi, _ = TransformerFeatures(encoder, over="response", layers=(-1, 2)).rows(PROMPTS, RESPONSES)
    for row, prompt, response in zip(phi.numpy(), PROMPTS, RESPONSES, strict=True):
        n = len(tokenizer(response, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            out = model(
                **tokenizer(f"{prompt} {response}", return_tensors="pt"), output_hidden_states=True
            )
        # BERT cuts words at spaces, so the response has the last n tokens before the closing one.
        want = [out.hidden_states[layer][0, -1 - n : -1].mean(dim=0) for layer in (6, 2)]
        np.testing.assert_allclose(row, torch.cat(want), atol=1e-5)


def test_similar_sentences_are_near(encoder) -> None:
    texts = ["A cat sits on the mat.", "A kitten is sitting on a rug.", "Interest rates rose."]
    phi, _ = TransformerFeatures(encoder).rows([""] * 3, texts)
    unit = phi / phi.norm(dim=1, keepdim=True)
    assert float(unit[0] @ unit[1]) > 0.5 > 0.2 > float(unit[0] @ unit[2])


def test_encoder_reads_the_text_of_prompts_and_responses(encoder, tiny_model) -> None:
    want, _ = TransformerFeatures(encoder).rows(["what color is oak ?"], ["brown ."])
    prompt = tiny_model.encode_prompt("what color is oak ?")
    ids = tiny_model.encode_response("brown .")
    got, _ = TransformerFeatures(encoder).rows([prompt], [Response(ids, "brown .", -1.0)])
    torch.testing.assert_close(got, want)
    decoded, _ = TransformerFeatures(encoder, tokens_of=tiny_model).rows([prompt.ids], [ids])
    torch.testing.assert_close(decoded, want)
    messages = [{"role": "user", "content": "what color"}, {"role": "user", "content": "is oak ?"}]
    got, _ = TransformerFeatures(encoder).rows([messages], ["brown ."])
    torch.testing.assert_close(got, want)  # a line break is a space to BERT


def test_encoder_refuses_tokens_of_another_model(encoder) -> None:
    with pytest.raises(ValueError, match="say tokens_of=policy so that tokens can be decoded"):
        TransformerFeatures(encoder).rows([(5, 6)], [(7,)])


def test_answer_that_ended_at_once_is_still_a_text(encoder, tiny_model) -> None:
    ids = tiny_model.encode_prompt("what color is oak ?").ids
    features = TransformerFeatures(encoder, tokens_of=tiny_model)
    phi, _ = features.rows([ids], [(tiny_model.eos_id,)])
    want, _ = features.rows([""], ["what color is oak ?"])
    torch.testing.assert_close(phi, want)
    strict = TransformerFeatures(encoder, tokens_of=tiny_model, over="response")
    with pytest.raises(ValueError, match="Nothing of response 0 is left to pool"):
        strict.rows([ids], [(tiny_model.eos_id,)])
    with pytest.raises(ValueError, match="response 0 is empty"):
        features.rows(["what ?"], [""])


def test_encoder_refuses_texts_that_are_too_long(encoder) -> None:
    with pytest.raises(ValueError, match=r"fit the 512 tokens that .*; text 1 has 603\. Shorten"):
        TransformerFeatures(encoder).rows(["a", "a"], ["b", "word " * 600])


def test_cache_keeps_embeddings(encoder, tmp_path, monkeypatch) -> None:
    want, _ = TransformerFeatures(encoder, cache=tmp_path).rows(PROMPTS, RESPONSES)
    monkeypatch.setattr("llm_bridge.embeddings.extraction.forward", None)
    got, _ = TransformerFeatures(encoder, cache=tmp_path).rows(PROMPTS[::-1], RESPONSES[::-1])
    torch.testing.assert_close(got.flip(0), want, rtol=0, atol=0)


def test_half_precision_is_near(encoder, minilm_folder) -> None:
    half = load_encoder(minilm_folder, dtype="bfloat16")
    got, _ = TransformerFeatures(half).rows(PROMPTS, RESPONSES)
    want, _ = TransformerFeatures(encoder).rows(PROMPTS, RESPONSES)
    cosine = torch.nn.functional.cosine_similarity(got, want)
    assert float(cosine.min()) > 0.999
    assert half.fingerprint != encoder.fingerprint


def test_equal_folders_have_equal_fingerprints(encoder, tmp_path) -> None:
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    assert load_encoder(tmp_path).fingerprint == encoder.fingerprint


def test_language_model_without_its_head_is_an_encoder(tiny_model, tmp_path) -> None:
    tiny_model.save(tmp_path)
    encoder = load_encoder(tmp_path)
    assert encoder.context_length == 128
    phi, _ = TransformerFeatures(encoder, pooling="last").rows(["what color"], ["brown ."])
    ids = torch.tensor([tiny_model.tokenizer("what color brown .")["input_ids"]])
    with torch.no_grad():
        want = tiny_model.model.model(input_ids=ids).last_hidden_state[0, -1]
    np.testing.assert_allclose(phi[0], want, atol=1e-5)


def test_refuses_folders_without_a_model(tmp_path) -> None:
    with pytest.raises(ModelError, match="is missing"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_encoder(tmp_path)
    with pytest.raises(ModelError, match="some-id"):
        load_encoder("some-id")


def test_tokenizer_without_pad_is_refused(tiny_model, tmp_path) -> None:
    tiny_model.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "written.json").unlink()  # it is not what was written
    with pytest.raises(ModelError, match="must have a pad token"):
        load_encoder(tmp_path)
    assert load_encoder(tmp_path, pad_token="<unk>").pad_id == tokenizer.unk_token_id
