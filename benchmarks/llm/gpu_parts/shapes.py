"""Models of public shapes with random weights, and the floating-point operations they take.

Built on the device, in their precision: nothing is loaded, nothing is copied. The toy form of a
shape keeps its family (heads that share keys, tied embeddings, biases) at a few thousand weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.language.models import LanguageModel
from rlhf_theory.randomness import Key

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


@dataclass(frozen=True)
class Shape:
    """A causal model: the sizes that are published with it.

    Attributes
    ----------
    family
        Class of the configuration.
    hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary
        Sizes.
    tied
        Whether the output layer shares the embedding's weights.
    theta
        Base of the rotary positions.
    spread
        Standard deviation of the random weights.
    """

    family: type
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    theta: float
    spread: float = 0.02

    def toy(self) -> Shape:
        """Return the same family at toy size; its weights are spread so that the context shows."""
        return replace(
            self,
            hidden=32,
            intermediate=64,
            layers=2,
            heads=4,
            kv_heads=2,
            head_dim=8,
            vocabulary=64,
            spread=0.15,
        )

    @property
    def n_body(self) -> int:
        """Weights of the matrix products of all layers."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def n_head(self) -> int:
        """Weights of the output layer."""
        return self.hidden * self.vocabulary

    def config(self) -> Any:
        """Return the configuration for transformers."""
        return self.family(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=32768,
            tie_word_embeddings=self.tied,
            rope_parameters={"rope_type": "default", "rope_theta": self.theta},
            initializer_range=self.spread,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )


SHAPES = {
    "Qwen2.5-0.5B": Shape(Qwen2Config, 896, 4864, 24, 14, 2, 64, 151936, True, 1e6),
    "Qwen2.5-1.5B": Shape(Qwen2Config, 1536, 8960, 28, 12, 2, 128, 151936, True, 1e6),
    "Llama-3.2-1B": Shape(LlamaConfig, 2048, 8192, 16, 32, 8, 64, 128256, True, 5e5),
    "Llama-3.2-3B": Shape(LlamaConfig, 3072, 8192, 28, 24, 8, 128, 128256, True, 5e5),
    "Llama-3.1-8B": Shape(LlamaConfig, 4096, 14336, 32, 32, 8, 128, 128256, False, 5e5),
    "Qwen3-8B": Shape(Qwen3Config, 4096, 12288, 36, 32, 8, 128, 151936, False, 1e6),
}


def minilm(*, toy: bool) -> BertConfig:
    """Return the configuration of MiniLM, a sentence encoder of BERT's kind."""
    full, small = (384, 1536, 6, 12, 30522, 0.02), (32, 64, 2, 4, 64, 0.15)
    hidden, intermediate, layers, heads, vocabulary, spread = small if toy else full
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512,
        initializer_range=spread,
    )


@dataclass(frozen=True)
class Work:
    """Floating-point operations that one training step cannot do without.

    A matrix product of ``n`` weights costs ``2 n`` per token; the output layer is needed at the
    tokens of responses only, ``m`` per row. Attention over ``L`` tokens costs ``2 L^2 d`` per row
    and layer with ``d = heads * head_dim``: scores and values, half of each behind the diagonal.
    The backward pass costs twice the forward pass; with frozen weights (adapters) it costs once,
    but for attention, which has no weights. What is recomputed to save memory is not counted.

    Source of the counting: Chowdhery et al. (2022), PaLM, appendix B.
    """

    shape: Shape
    rows: int
    prompt: int
    response: int

    FORMULA = (
        "rows * (k * 2 * (n_body * L + n_head * m) + 3 * layers * 2 * L^2 * heads * head_dim), "
        "L = prompt + response, m = response, k = 3 (all weights) or 2 (adapters); recomputation "
        "and adapters not counted"
    )

    @property
    def tokens(self) -> int:
        """Tokens that go through the layers."""
        return self.rows * (self.prompt + self.response)

    def flops(self, *, frozen: bool) -> float:
        """Return the operations of forward and backward pass."""
        s, length = self.shape, self.prompt + self.response
        products = 2.0 * (s.n_body * length + s.n_head * self.response)
        attention = 2.0 * s.layers * length**2 * s.heads * s.head_dim
        return self.rows * ((2.0 if frozen else 3.0) * products + 3.0 * attention)


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Return words ``w3, w4, ...`` set apart by spaces, as many as the model embeds."""
    words = {word: i for i, word in enumerate((PAD, EOS, UNKNOWN))}
    words |= {f"w{i}": i for i in range(3, size)}
    inner = Tokenizer(WordLevel(words, unk_token=UNKNOWN))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN
    )


@contextmanager
def _drawn(device: torch.device, seed: int) -> Iterator[None]:
    """Draw weights on the device; transformers takes the global generators, put back here."""
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.device(device),
    ):
        torch.manual_seed(Key(seed).child("weights").seed_int())  # noqa: TID251
        yield


def build(shape: Shape, device: torch.device, dtype: torch.dtype, seed: int = 0) -> LanguageModel:
    """Return a language model with random weights, made on the device."""
    with _drawn(device, seed):
        model = AutoModelForCausalLM.from_config(
            shape.config(), dtype=dtype, attn_implementation="sdpa"
        )
    return LanguageModel(model.eval(), _tokenizer(shape.vocabulary), "random weights")


def build_encoder(
    config: BertConfig, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> EncoderModel:
    """Return an encoder with random weights, made on the device."""
    with _drawn(device, seed):
        model = AutoModel.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return EncoderModel(model.eval(), _tokenizer(config.vocab_size), "random weights")


def upcast(model: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """Return a copy of a model elsewhere, in a finer precision: the same weights to the bit."""
    return replace(model, model=copy.deepcopy(model.model).to(device, dtype))
