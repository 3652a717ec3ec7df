"""Causal language models with their tokenizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from llm_bridge.errors import ModelError
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import LanguageModel, evaluating
from tests.helpers.language import CHAT_TEMPLATE, gpt2, llama, word_tokenizer

WORDS = ["a", "b", "c"]


def test_no_end_of_sequence():
    tokenizer = word_tokenizer(WORDS)
    model = llama(tokenizer).model
    with pytest.raises(ModelError, match="must have an end of sequence"):
        LanguageModel(model, word_tokenizer(WORDS, eos_token=None))


def test_a_tokenizer_larger_than_the_embedding():
    model = llama(word_tokenizer(WORDS)).model
    with pytest.raises(ModelError, match=r"it has 10 tokens and the model embeds 6"):
        LanguageModel(model, word_tokenizer([*WORDS, "d", "e", "f", "g"]))


def test_facts(gpt2_model, chat_model):
    assert gpt2_model.context_length == chat_model.context_length == 64
    assert gpt2_model.n_tokens == 15
    assert (gpt2_model.pad_id, gpt2_model.eos_id) == (0, 1)
    assert gpt2_model.device == torch.device("cpu")
    assert gpt2_model.dtype == torch.float32


def test_a_plain_prompt(tiny_model):
    prompt = tiny_model.encode_prompt("what color is oak ? answer briefly .")
    assert prompt.text == "what color is oak ? answer briefly ."
    assert prompt.ids[0] == tiny_model.tokenizer.bos_token_id
    assert tiny_model.decode(prompt.ids) == prompt.text


def test_a_tokenizer_that_closes_texts_leaves_prompts_open():
    model = llama(word_tokenizer(WORDS))
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    assert model.tokenizer("a b")["input_ids"] == [3, 4, 1]
    assert model.encode_prompt("a b").ids == (3, 4)
    assert model.encode_response("a b") == (3, 4, 1)


def test_messages_go_through_the_template(chat_model):
    messages = [
        {"role": "system", "content": "so"},
        {"role": "user", "content": "hello why"},
    ]
    prompt = chat_model.encode_prompt(messages)
    # Written out by hand, with the assistant's turn opened.
    assert prompt.text == "<system> so <end> <user> hello why <end> <assistant>"
    words = prompt.text.split()
    assert prompt.ids == tuple(chat_model.tokenizer.convert_tokens_to_ids(words))
    assert chat_model.encode_prompt(tuple(messages)) == prompt
    assert prompt.messages == (("system", "so"), ("user", "hello why"))
    assert chat_model.encode_prompt("hello").messages == ()


def test_the_template_survives_saving(chat_model, tmp_path):
    chat_model.clone().save(tmp_path)
    messages = [{"role": "user", "content": "hello"}]
    again = LanguageModel.from_pretrained(tmp_path)
    assert again.encode_prompt(messages) == chat_model.encode_prompt(messages)


def test_messages_and_text_agree_in_the_tiny_world(tiny_model):
    text = "what color is oak ? answer briefly ."
    messages = [{"role": "user", "content": text}]
    assert tiny_model.encode_prompt(messages).ids == tiny_model.encode_prompt(text).ids


def test_messages_without_a_template(gpt2_model):
    with pytest.raises(ModelError, match=r"need a tokenizer with a chat template; gpt2 has none"):
        gpt2_model.encode_prompt([{"role": "user", "content": "w1"}])


def test_messages_that_the_template_refuses():
    strict = "{{ raise_exception('roles must alternate') }}"
    model = llama(word_tokenizer(WORDS, chat_template=strict))
    with pytest.raises(ModelError, match=r"refuses these messages: roles must alternate"):
        model.encode_prompt([{"role": "user", "content": "a"}])


def test_no_messages(chat_model):
    with pytest.raises(ValueError, match="at least one message"):
        chat_model.encode_prompt([])


@pytest.mark.parametrize(
    "bad", [{"role": "user"}, {"content": "why"}, {"role": "user", "content": 1}]
)
def test_a_message_without_its_parts(chat_model, bad):
    with pytest.raises(ValueError, match=r"must have role and content, both text; message 1 is"):
        chat_model.encode_prompt([{"role": "user", "content": "hello"}, bad])


def test_an_empty_prompt(gpt2_model, tiny_model):
    with pytest.raises(ValueError, match="at least one token"):
        gpt2_model.encode_prompt("")
    # A beginning of the sequence is something to go on from.
    assert tiny_model.encode_prompt("").ids == (tiny_model.tokenizer.bos_token_id,)


@pytest.mark.parametrize("n", [64, 65, 500])
def test_a_prompt_without_room_for_a_response(gpt2_model, n, caplog):
    with pytest.raises(
        ValueError, match=rf"shorter than the model's context of 64.*got {n} tokens"
    ):
        gpt2_model.encode_prompt(" ".join(["w1"] * n))
    assert not caplog.records
    assert len(gpt2_model.encode_prompt(" ".join(["w1"] * 63)).ids) == 63


def test_responses_end(gpt2_model):
    assert gpt2_model.encode_response("w0 w1") == (3, 4, 1)
    # Data of chats often carries the end in the text.
    assert gpt2_model.encode_response("w0 w1 <eos>") == (3, 4, 1)
    assert gpt2_model.decode((3, 4, 1)) == "w0 w1"
    assert gpt2_model.decode_many([(3, 4, 1), (4,), (1,)]) == ["w0 w1", "w1", ""]


@pytest.mark.parametrize("text", ["", "  ", "<eos>"])
def test_an_empty_response(gpt2_model, text):
    with pytest.raises(ValueError, match="at least one token"):
        gpt2_model.encode_response(text)


def test_a_response_that_goes_on_after_its_end(gpt2_model):
    with pytest.raises(ValueError, match=r"must not go on after its end '<eos>'"):
        gpt2_model.encode_response("w0 <eos> w1")


def test_a_clone_has_weights_of_its_own():
    model = llama(word_tokenizer(WORDS))
    copy = model.clone()
    with torch.no_grad():
        copy.model.lm_head.weight.zero_()
    assert float(model.model.lm_head.weight.detach().abs().sum()) > 0


def test_saving_twice_keeps_the_latest(tmp_path):
    first = llama(word_tokenizer(WORDS, chat_template=CHAT_TEMPLATE))
    second = llama(word_tokenizer(WORDS, chat_template=CHAT_TEMPLATE), seed=1)
    first.save(tmp_path)
    second.save(tmp_path)
    assert LanguageModel.from_pretrained(tmp_path).fingerprint == second.fingerprint
    assert not list(tmp_path.glob(".writing-*"))


def test_a_killed_save_leaves_no_model(tmp_path, monkeypatch):
    model = llama(word_tokenizer(WORDS))
    model.save(tmp_path)
    moved = []

    def stops(self, target):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(target)
        return self.rename(target)

    monkeypatch.setattr("pathlib.Path.replace", stops)
    with pytest.raises(KeyboardInterrupt):
        llama(word_tokenizer(WORDS), seed=1).save(tmp_path)
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        LanguageModel.from_pretrained(tmp_path)


# peft asks transformers for a name that will go.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_are_merged_on_saving(tmp_path):
    peft = pytest.importorskip("peft")
    model = llama(word_tokenizer(WORDS))
    inner = model.clone().model
    wrapped = peft.get_peft_model(
        inner, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).eval()
    tuned = LanguageModel(wrapped, model.tokenizer, "tuned")
    tuned.save(tmp_path)
    assert hasattr(tuned.model, "merge_and_unload")  # still adapters
    rows = [(3, 4)] * 3, [(5, 1), (4, 3, 1), (1,)]
    saved = sequence_log_probs(LanguageModel.from_pretrained(tmp_path), *rows)
    np.testing.assert_allclose(saved, sequence_log_probs(tuned, *rows), atol=1e-5)
    assert np.abs(saved - sequence_log_probs(model, *rows)).max() > 0.01


def test_evaluating_switches_dropout_off_and_back():
    model = gpt2(word_tokenizer(WORDS)).model
    for training in (True, False):
        model.train(training)
        with evaluating(model):
            assert not model.transformer.drop.training
        assert model.transformer.drop.training is training
