"""The tiny world's tokenizer and Llama, built from nothing."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llm_bridge.language.models import LanguageModel
from llm_bridge.tiny.words import SPECIAL, vocabulary
from rlhf_theory.errors import check_positive
from rlhf_theory.randomness import Key

CONTEXT = 128
"""Longest text in tokens; prompts have at most 15, sampled answers at most about 35."""

# Messages are rendered to the very words of the plain text, so that a prompt has the same tokens
# in both forms; an answer of the assistant is closed by the end of the sequence.
_CHAT_TEMPLATE = (
    "<bos>{% for m in messages %} {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %} <eos>{% endif %}{% endfor %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer of the tiny world.

    A text begins with ``<bos>``; ``<pad>``, ``<eos>`` and ``<unk>`` are three other tokens. Words
    are set apart by spaces, and decoding gives them back as they were.
    """
    words = {word: i for i, word in enumerate(vocabulary())}
    pad, bos, eos, unknown = SPECIAL
    inner = Tokenizer(WordLevel(words, unk_token=unknown))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, words[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unknown,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
        chat_template=_CHAT_TEMPLATE,
    )


def untrained(
    hidden: int = 32, layers: int = 2, *, heads: int = 4, seed: int = 0, spread: float = 0.02
) -> LanguageModel:
    """Return a Llama with random weights and the tokenizer of the tiny world.

    Parameters
    ----------
    hidden, layers, heads
        Width, depth and attention heads; the width is a multiple of twice the heads.
    seed
        Of the weights: equal seeds give equal weights. No global generator is touched.
    spread
        Standard deviation of the weights. With 0.02 all words are nearly equally likely; with
        0.2 or more the distribution depends visibly on the prompt.

    Raises
    ------
    ValueError
        If the width does not fit the heads, or a size is not positive.
    """
    for name, size in (("hidden", hidden), ("layers", layers), ("heads", heads)):
        check_positive(name, size)
    check_positive("spread", spread)
    if hidden % (2 * heads):
        message = f"hidden must be a multiple of 2 * heads = {2 * heads}; got {hidden}."
        raise ValueError(message)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    # The constructor draws from torch's global generator, whose state is put back; the weights
    # that stay come from a generator of their own.
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(Key(seed).child("tiny", "weights").seed_int())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:  # the scales of the norms stay 1
                weight.normal_(0.0, spread, generator=generator)
    return LanguageModel(model.eval(), tokenizer, f"untrained-h{hidden}-l{layers}")
