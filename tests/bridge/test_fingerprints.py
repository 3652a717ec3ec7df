"""Names of models by content."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tokenizers.normalizers import Lowercase

from llm_bridge.language.models import LanguageModel
from tests.helpers.language import CHAT_TEMPLATE, gpt2, llama, word_tokenizer

WORDS = ["a", "b", "c", "d"]


def tied(tokenizer):
    return llama(tokenizer, tie_word_embeddings=True)


@pytest.mark.parametrize("build", [llama, tied, gpt2], ids=["llama", "tied", "gpt2"])
def test_a_saved_and_loaded_model_keeps_its_fingerprint(build, tmp_path):
    model = build(word_tokenizer(WORDS, chat_template=CHAT_TEMPLATE))
    before = model.fingerprint
    model.save(tmp_path / "one")
    assert model.clone().fingerprint == before  # saving writes into the configuration
    again = LanguageModel.from_pretrained(tmp_path / "one")
    assert again.fingerprint == before
    again.save(tmp_path / "two")
    assert LanguageModel.from_pretrained(tmp_path / "two").fingerprint == before


def test_the_tiny_worlds_model_keeps_its_fingerprint(tiny_model, tmp_path):
    tiny_model.clone().save(tmp_path / "model")
    assert LanguageModel.from_pretrained(tmp_path / "model").fingerprint == tiny_model.fingerprint


def test_equal_recipes_have_equal_fingerprints():
    assert llama(word_tokenizer(WORDS)).fingerprint == llama(word_tokenizer(WORDS)).fingerprint


def test_use_does_not_change_the_fingerprint(tmp_path):
    used = llama(word_tokenizer(WORDS, chat_template=CHAT_TEMPLATE))
    before = used.fingerprint
    used.tokenizer(["a b", "a"], padding=True, truncation=True, max_length=2)
    used.model.train()
    used.model.config.use_cache = False
    used.model.set_attn_implementation("eager")
    assert used.clone().fingerprint == before


def changed_weight(model):
    name = sorted(model.model.state_dict())[-1]
    with torch.no_grad():
        flat = model.model.state_dict()[name].view(-1)
        flat[-1] = torch.nextafter(flat[-1], torch.tensor(9.0))  # the last bit of one weight
    return model


def changed_config(model, **values):
    for name, value in values.items():
        setattr(model.model.config, name, value)
    return model


def changed_tokenizer(model, words=WORDS, **special):
    return dataclasses.replace(model, tokenizer=word_tokenizer(words, **special))


CHANGES = {
    "weight": changed_weight,
    "dtype": lambda m: dataclasses.replace(m, model=m.model.to(torch.bfloat16)),
    "heads": lambda m: changed_config(m, num_attention_heads=2),
    "epsilon": lambda m: changed_config(m, rms_norm_eps=1e-5),
    "rope": lambda m: changed_config(
        m, rope_parameters={"rope_theta": 5.0, "rope_type": "default"}
    ),
    "context": lambda m: changed_config(m, max_position_embeddings=32),
    "vocabulary": lambda m: changed_tokenizer(m, ["b", "a", "c", "d"]),
    "template": lambda m: changed_tokenizer(m, chat_template="{{ messages[0]['content'] }}"),
    "end": lambda m: changed_tokenizer(m, eos_token="d"),
    "padding": lambda m: changed_tokenizer(m, pad_token="<unk>"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_fingerprint_changes_with(change):
    model = llama(word_tokenizer(WORDS))
    assert change(model.clone()).fingerprint != model.fingerprint


def test_the_fingerprint_knows_how_texts_are_cut():
    model = llama(word_tokenizer(["the", "b", "c", "d"]))
    other = copy.deepcopy(model.tokenizer)
    other.backend_tokenizer.normalizer = Lowercase()
    assert other.get_vocab() == model.tokenizer.get_vocab()
    assert dataclasses.replace(model, tokenizer=other).fingerprint != model.fingerprint


def test_tied_and_equal_untied_embeddings_differ():
    both = tied(word_tokenizer(WORDS))
    apart = both.clone()
    apart.model.lm_head.weight = torch.nn.Parameter(apart.model.lm_head.weight.detach().clone())
    apart.model.config.tie_word_embeddings = False
    assert apart.fingerprint != both.fingerprint
