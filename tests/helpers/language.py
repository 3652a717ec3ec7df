"""Small language models with random weights, over words that the test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from llm_bridge.language.models import LanguageModel
from rlhf_theory.randomness import Key

SPECIAL = ("<pad>", "<eos>", "<unk>")

# Roles are words of their own and the assistant's turn is opened: the shape of real templates.
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT_WORDS = ("<system>", "<user>", "<assistant>", "<end>", "hello", "why", "because", "so")


def word_tokenizer(
    words: Sequence[str], *, chat_template: str | None = None, **special: str | None
) -> PreTrainedTokenizerFast:
    """A tokenizer of words set apart by spaces; ``special`` overrides special tokens.

    Ids: ``<pad>`` 0, ``<eos>`` 1, ``<unk>`` 2, then the words.
    """
    inner = Tokenizer(WordLevel({w: i for i, w in enumerate((*SPECIAL, *words))}, "<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokens = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"} | special
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        chat_template=chat_template,
        **{name: token for name, token in tokens.items() if token is not None},
    )


def randomize(model: torch.nn.Module, seed: int, spread: float) -> None:
    """Draw every weight anew, wide enough that probabilities depend visibly on the context."""
    generator = torch.Generator().manual_seed(Key(seed).seed_int())
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.dim() > 1:
                weight.normal_(0.0, spread, generator=generator)
            elif name.endswith("bias"):
                weight.zero_()


def llama(
    tokenizer: Any,
    *,
    hidden: int = 32,
    layers: int = 2,
    context: int = 64,
    seed: int = 0,
    spread: float = 0.3,
    **config: Any,
) -> LanguageModel:
    """A Llama: relative positions."""
    settings = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": context,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        }
        | config
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(settings)
    randomize(model, seed, spread)
    return LanguageModel(model.eval(), tokenizer, "llama")


def gpt2(
    tokenizer: Any, *, hidden: int = 32, context: int = 64, seed: int = 0, spread: float = 0.3
) -> LanguageModel:
    """A GPT-2: learnt absolute positions, tied embeddings, so that a wrong position shows."""
    settings = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=hidden,
        n_layer=2,
        n_head=4,
        n_positions=context,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(settings)
    randomize(model, seed, spread)
    return LanguageModel(model.eval(), tokenizer, "gpt2")
