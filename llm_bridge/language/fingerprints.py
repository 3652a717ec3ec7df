"""Names of models by content: what is computed from equal models may be shared between runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from transformers import PreTrainedTokenizerBase

# What says where a model came from, how it is stored or run, but not what it computes. Saving and
# loading adds or changes these. (The weights' dtype is hashed with the weights.)
_VOLATILE = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_internal",
        "_commit_hash",
        "_experts_implementation",
        "_experts_implementation_internal",
        "_name_or_path",
        "_output_attentions",
        "architectures",
        "dtype",
        "initializer_range",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)

# Vocabularies may agree where the cutting into tokens does not: cases, spaces, accents, digits.
_PROBE = "The Quick  brown fox's 1234.5 naïve café — 東京\n\tjumps, doesn't it? #x_y"


def _without_volatile(value: object) -> object:
    """Return a configuration without what is volatile or not set, ready for JSON."""
    if isinstance(value, Mapping):
        kept = {str(k): _without_volatile(v) for k, v in value.items() if str(k) not in _VOLATILE}
        return {k: v for k, v in kept.items() if v is not None}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_without_volatile(v) for v in value]
        return sorted(items, key=str) if isinstance(value, (set, frozenset)) else items
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    return {
        "vocabulary": tokenizer.get_vocab(),
        "template": tokenizer.chat_template,
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "probe": tokenizer(_PROBE, verbose=False)["input_ids"],
    }


def weights_hash(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of all weights, the configuration and the tokenizer, 32 hex digits.

    A model in memory and its saved and loaded copy have the same hash, as far as the installed
    version of transformers reads back what it wrote. Where two names share a tensor, both count:
    a model with tied embeddings differs from one with equal, untied ones by its configuration.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
        digest.update(flat.numpy())
    config = model.config.to_dict()  # type: ignore[union-attr, operator]
    facts = {"config": _without_volatile(config), "tokenizer": _tokenizer_facts(tokenizer)}
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()
