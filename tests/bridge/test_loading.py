"""Models and tokenizers from folders: what is right loads, what is wrong says what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

from llm_bridge.errors import ModelError
from llm_bridge.language.loading import WRITTEN, check_tokenizer, load_parts, quiet
from llm_bridge.language.models import LanguageModel
from tests.helpers.language import llama, randomize, word_tokenizer

WORDS = ["a", "b", "c"]
PLAIN = {"revision": None, "device": "cpu", "dtype": "float32", "offline": True}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "good"
    llama(word_tokenizer(WORDS)).save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy to be damaged, as if somebody else had written it: without our record."""
    copy = Path(shutil.copytree(saved, tmp_path / "model"))
    (copy / WRITTEN).unlink()
    return copy


def load(name, **settings) -> LanguageModel:
    return LanguageModel.from_pretrained(name, offline=True, **settings)


def edit(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_folder_loads_in_every_dtype(saved, kind, dtype):
    model = load(kind(saved), dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert not model.model.training
    assert model.name == str(saved)


def test_a_relative_folder_loads(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    assert load("good").fingerprint == load("./good").fingerprint == load(saved).fingerprint


def test_loading_and_saving_say_nothing(saved, tmp_path, capfd):
    load(saved).save(tmp_path / "copy")
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_quiet_puts_everything_back():
    level = logging.get_verbosity()
    logging.set_verbosity_info()
    try:
        with pytest.raises(KeyError), quiet():
            raise KeyError
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(level)


def test_a_missing_folder(tmp_path):
    with pytest.raises(
        ModelError, match=r"must be a folder written by save_pretrained.*nowhere is missing"
    ):
        load(tmp_path / "nowhere")


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"1")
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load(tmp_path)


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "model").write_text("1")
    with pytest.raises(ModelError, match="model is a file"):
        load(tmp_path / "model")


def test_weights_missing(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        load(folder)


def test_tokenizer_missing(folder):
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded: .*tokenizer's files"):
        load(folder)


def test_tokenizer_of_another_make(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="a file lacks the entry"):
        load(folder)


def head(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def tail(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def zeros(path: Path) -> None:
    path.write_bytes(b"\0" * 100)


@pytest.mark.parametrize("damage", [head, tail, zeros])
def test_damaged_weights(folder, damage):
    damage(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"cannot be loaded: .*undamaged"):
        load(folder)


def test_weights_that_are_not_numbers(tmp_path):
    model = llama(word_tokenizer(WORDS))
    with torch.no_grad():
        model.model.lm_head.weight[0, 0] = float("nan")
    model.save(tmp_path)
    with pytest.raises(ModelError, match=r"must be finite.*Train it anew"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not a valid JSON"), ('{"a": 1}', "model_type"), ('{"model_type": "zz"}', "zz")],
)
def test_a_configuration_of_something_else(folder, text, said):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=f"cannot be loaded: .*{said}"):
        load(folder)


def test_weights_of_another_size(folder):
    edit(folder, hidden_size=64)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_weights_of_fewer_layers(folder):
    # transformers would make up the third layer at random, with a note.
    edit(folder, num_hidden_layers=3)
    with pytest.raises(
        ModelError, match=r"must hold all weights.*9 are missing, such as model\.layers\.2"
    ):
        load(folder)


def test_an_encoder_is_no_causal_model(minilm_folder):
    with pytest.raises(ModelError, match=r"must hold all weights of a BertLMHeadModel.*BertModel"):
        load(minilm_folder)


def test_a_masked_language_model_is_no_causal_model(tmp_path):
    # All weights are there: only what it computes tells.
    tokenizer = word_tokenizer(WORDS)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
        )
    )
    randomize(model, 0, 0.3)
    with quiet():
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="depend on later tokens"):
        load(tmp_path)


def test_a_classifier_is_no_causal_model(tmp_path):
    # With tied embeddings no weight of the causal model is missing.
    base = llama(word_tokenizer(WORDS), tie_word_embeddings=True)
    model = LlamaForSequenceClassification(base.model.config)
    with quiet():
        model.save_pretrained(tmp_path)
        base.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="it is a LlamaForSequenceClassification"):
        load(tmp_path)


def test_a_translation_model_is_no_causal_model(tmp_path):
    config = T5Config(vocab_size=6, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4)
    with quiet():
        T5ForConditionalGeneration(config).save_pretrained(tmp_path)
        word_tokenizer(WORDS).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="T5Config"):
        load(tmp_path)


def test_an_encoder_loads_as_a_feature_model(minilm_folder):
    model, tokenizer = load_parts(AutoModel, minilm_folder, **PLAIN)
    assert model.config.hidden_size == 384
    assert tokenizer.pad_token_id == 0


def test_a_causal_model_is_no_classifier(saved):
    # transformers would make up the head at random, with a note.
    with pytest.raises(ModelError, match=r"score\.weight.*another kind of model"):
        load_parts(AutoModelForSequenceClassification, saved, **PLAIN)


def test_an_unknown_id_offline():
    with pytest.raises(ModelError, match="no folder here and was not fetched before"):
        load("someone/something")


def test_an_unknown_id_where_the_hub_cannot_be_reached(monkeypatch):
    def fails(*args, **kwargs):
        raise OSError("We couldn't connect to the hub.\nSecond line")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fails)
    monkeypatch.setattr("llm_bridge.language.loading.hub.HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=r"couldn't connect to the hub\. It is no folder here"):
        LanguageModel.from_pretrained("someone/something")


@pytest.mark.parametrize("offline", [True, False])
def test_revision_and_offline_reach_both_loaders(saved, monkeypatch, offline):
    asked = []
    for auto in (AutoTokenizer, AutoModelForCausalLM):
        real = auto.from_pretrained

        def answer(name, *, revision, local_files_only, real=real, **rest):
            asked.append((name, revision, local_files_only))
            return real(saved, local_files_only=True, **rest)

        monkeypatch.setattr(auto, "from_pretrained", answer)
    model = LanguageModel.from_pretrained("someone/something", revision="v2", offline=offline)
    assert asked == [("someone/something", "v2", offline)] * 2
    assert model.name == "someone/something"


def test_a_revision_of_a_folder_is_refused(saved):
    with pytest.raises(ModelError, match=r"revision=v2 is of a model on a hub"):
        load(saved, revision="v2")


def test_an_unknown_dtype_is_refused(saved):
    with pytest.raises(ValueError, match="Did you mean 'float32'"):
        load(saved, dtype="float23")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_missing_device_is_named(saved):
    with pytest.raises(ModelError, match="needs a CUDA device"):
        load(saved, device="cuda")


def test_too_large_a_model_says_what_to_do(saved, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(MemoryError, match="dtype='bfloat16'"):
        load(saved)


def test_no_pad_token():
    with pytest.raises(ModelError, match=r"must have a pad token; it has none.*Pass pad_token"):
        check_tokenizer(word_tokenizer(WORDS, pad_token=None))


def test_padding_that_ends_sequences():
    with pytest.raises(ModelError, match=r"must differ from its end of sequence; both are '<eos>'"):
        check_tokenizer(word_tokenizer(WORDS, pad_token="<eos>"))


def test_a_pad_token_given_by_name():
    tokenizer = word_tokenizer(WORDS, pad_token=None)
    with pytest.raises(ModelError, match="token of the vocabulary; got '<fill>'"):
        check_tokenizer(tokenizer, "<fill>")
    check_tokenizer(tokenizer, "<unk>")
    assert tokenizer.pad_token_id == 2


def test_a_saved_tokenizer_without_padding_is_helped(tmp_path):
    # The usual case: GPT-2 and Llama come without a pad token.
    model = llama(word_tokenizer(WORDS))
    model.save(tmp_path)
    word_tokenizer(WORDS, pad_token=None).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer.*is damaged.*purpose, remove written"):
        load(tmp_path)
    (tmp_path / WRITTEN).unlink()
    with pytest.raises(ModelError, match="Pass pad_token"):
        load(tmp_path)
    helped = load(tmp_path, pad_token="<unk>")
    assert helped.pad_id == 2
    helped.save(tmp_path / "again")
    assert load(tmp_path / "again").pad_id == 2
