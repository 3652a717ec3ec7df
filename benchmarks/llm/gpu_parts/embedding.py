"""Texts per second: ours against the plain unsorted loop, and against the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from texts import Texts, plain_causal, plain_encoder, random_lengths

from gpu_parts.measuring import Checks, alternate, free_memory
from gpu_parts.shapes import SHAPES, build, build_encoder, minilm, upcast
from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.language.models import Ids, LanguageModel
from rlhf_theory.randomness import Key

# Eight bits of mantissa give an error of 2^-9 per rounding; some hundred roundings in a row that
# are as often up as down leave a few times that. With the real shape of one billion weights it was
# 0.011.
ROW_ERROR = 0.03

# Measured with trained weights in bf16 and a softmax in float32: 0.11 nats on average for sums over
# 39 tokens. Errors of different tokens are independent, so that they grow like the root.
LOG_PROB_ERROR = 0.11 / math.sqrt(39)


def log_prob_tolerance(tokens: int) -> float:
    """Return the largest mean error of a sum over so many tokens: twice what was measured."""
    return 2.0 * LOG_PROB_ERROR * math.sqrt(tokens)


def random_ids(key: Key, n: int, length: int | Sequence[int], vocabulary: int) -> list[Ids]:
    """Draw texts of given lengths, without special tokens."""
    lengths = [length] * n if isinstance(length, int) else list(length)
    u = key.child("words").uniform_numpy(n, max(lengths))
    words = (3 + u * (vocabulary - 3)).astype(int)
    return [tuple(row[:m].tolist()) for row, m in zip(words, lengths, strict=True)]


Plain = Callable[[Any, Texts, int], np.ndarray]


def encoder(sizes: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Sentence embeddings of MiniLM's shape in bf16: mean over all tokens of the last layer."""
    config = minilm(toy=sizes["toy"])
    model = build_encoder(config, device, torch.bfloat16)
    key, n = Key(0).child("encoder"), sizes["texts"]
    lengths = random_lengths(key, n, *sizes["words"])
    texts = Texts(
        [""] * n,
        [
            " ".join(f"w{i}" for i in row)
            for row in random_ids(key, n, lengths.tolist(), config.vocab_size)
        ],
    )
    return _measure(model, texts, lengths, sizes, device, plain_encoder)


def causal(sizes: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Hidden states of a causal model in bf16: mean over the response, and its log-probability."""
    shape = SHAPES[sizes["shape"]]
    shape = shape.toy() if sizes["toy"] else shape
    model = build(shape, device, torch.bfloat16)
    key, n = Key(0).child("causal"), sizes["texts"]
    lengths = random_lengths(key, n, *sizes["words"])
    texts = Texts(
        random_ids(key.child("prompts"), n, sizes["prompt"], shape.vocabulary),
        random_ids(key, n, lengths.tolist(), shape.vocabulary),
    )
    return _measure(model, texts, lengths + sizes["prompt"], sizes, device, plain_causal)


def _measure(
    model: EncoderModel | LanguageModel,
    texts: Texts,
    lengths: np.ndarray,
    sizes: Mapping[str, Any],
    device: torch.device,
    plain: Plain,
) -> dict[str, Any]:
    """Compare with single precision, then time."""
    checks, batch = Checks(), sizes["batch"]
    some = texts.some(sizes["checked"])
    precise = upcast(model, device)
    reference = plain(precise, some, batch)
    kind = "the plain loop in float32"
    sides = {"ours": ours(model, some, batch), "the plain loop": plain(model, some, batch)}
    for name, rows in sides.items():
        _compare(checks, f"{name} in bf16", rows, reference, kind, model, lengths[: len(rows)])
    del precise
    free_memory(device)

    found = alternate(
        {
            "ours": lambda: ours(model, texts, batch),
            "plain": lambda: plain(model, texts, batch),
        },
        device,
        repeats=sizes["repeats"],
    )
    n = len(texts.responses)
    rates = {side: n / seconds for side, seconds in found["median"].items()}
    host = torch.device("cpu")
    on_cpu, few = upcast(model, host), texts.some(sizes["cpu_texts"])
    cpu = alternate({"cpu": lambda: ours(on_cpu, few, 32)}, host, repeats=1)["median"]["cpu"]
    rates["cpu_float32"] = len(few.responses) / cpu
    return {
        "verified": checks.made,
        "texts_per_second": rates,
        "tokens_per_second": {"ours": float(lengths.sum()) / found["median"]["ours"]},
        "ratio_to_plain": rates["ours"] / rates["plain"],
        "ratio_to_cpu": rates["ours"] / rates["cpu_float32"],
        "seconds": found["runs"],
        "mean_tokens": float(lengths.mean()),
    }


def _compare(
    checks: Checks,
    what: str,
    rows: np.ndarray,
    reference: np.ndarray,
    kind: str,
    model: Any,
    lengths: np.ndarray,
) -> None:
    if isinstance(model, LanguageModel):  # the last column is the log-probability
        tolerance = log_prob_tolerance(int(lengths.max()))
        error = np.abs(rows[:, -1] - reference[:, -1]).mean()
        checks.at_most(f"log-probabilities by {what}", error, tolerance, kind)
        rows, reference = rows[:, :-1], reference[:, :-1]
    error = np.linalg.norm(rows - reference, axis=1) / np.linalg.norm(reference, axis=1)
    checks.at_most(f"features by {what}, relative", error.max(), ROW_ERROR, kind)


def ours(model: EncoderModel | LanguageModel, texts: Texts, batch: int) -> np.ndarray:
    """Return rows by the toolkit: read by length, arrived on the device and fetched back."""
    features = TransformerFeatures(
        model,
        pooling="mean",
        layers=-1,
        log_prob=isinstance(model, LanguageModel),
        batch_size=batch,
        dtype="float32",
        progress=False,
    )
    return features.rows(texts.prompts, texts.responses)[0].cpu().numpy()
