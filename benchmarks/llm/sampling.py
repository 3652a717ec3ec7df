"""Responses of mixed length: our sampler against `generate` of transformers, on one thread.

The model is the trained Llama of the tiny world (89 thousand weights; trained in half a minute if
no cache has it), 256 responses in a batch, at most 64 tokens. Two tasks: pools, which is what
prompt problems draw (eight responses to each prompt), and one response to each prompt. Both sides
get the same batches of prompts of similar length; `generate` is asked for eight responses by
`num_return_sequences`. It gives tokens; ours gives tokens, texts and log-probabilities. For
comparison, `generate` followed by the scoring pass and the texts, which is the same service.

    python benchmarks/llm/sampling.py [--repeats 5] [--batches 3] [--cache FOLDER] [--out FILE.json]

First both sides must sample the same policy: their own log-probabilities are those of the scoring
pass, and log-probabilities, lengths and first words agree in law. Then they run in turn, and
medians are compared. About a minute. The exit code is 1 if the target is missed: 1.5 times the
tokens per second of `generate` on pools (the other task is shown beside it: prompts of 12 tokens
are read once per response there, by either side).
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from drawn import Drawn, drawn_by, ended, generate
from scipy.stats import chi2_contingency

from benchmarks.timing import command_line, finish
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import Ids, LanguageModel
from llm_bridge.language.responses import left_padded
from llm_bridge.language.sampler import BatchedSampler, GenerateSampler
from llm_bridge.tiny import build
from rlhf_theory.randomness import Key

RESULTS = Path(__file__).parent / "results"
TARGET = 1.5
BATCH = 256
LONGEST = 64
FALSE_ALARM = 1e-6


@dataclass(frozen=True)
class Task:
    """Prompts, and how many responses to draw to each."""

    name: str
    model: LanguageModel
    prompts: list[Ids]
    copies: int


def by(sampler: Any) -> Callable[[Task, Key], Drawn]:
    """Return one of the toolkit's samplers as a side."""
    return lambda task, key: drawn_by(sampler, task.model, task.prompts, task.copies, key)


ours = by(BatchedSampler(max_new_tokens=LONGEST, batch_size=BATCH))
scored = by(GenerateSampler(max_new_tokens=LONGEST, batch_size=BATCH))


def generated(task: Task, key: Key, scores: bool = False) -> Drawn:
    """Tokens by `generate`; with ``scores`` the log-probabilities of its own logits as well."""
    model, copies, prompts = task.model, task.copies, task.prompts
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    responses: list[Any] = [()] * (len(prompts) * copies)
    log_probs = np.zeros(len(responses))
    torch.manual_seed(key.seed_int())  # noqa: TID251  `generate` takes no generator
    for start in range(0, len(order), BATCH // copies):
        rows = order[start : start + BATCH // copies]
        ids, mask = left_padded([prompts[i] for i in rows], model.pad_id, model.device)
        with torch.inference_mode():
            out = generate(
                model,
                ids,
                mask,
                LONGEST,
                num_return_sequences=copies,
                return_dict_in_generate=scores,
                output_scores=scores,
            )
        new = (out.sequences if scores else out)[:, ids.shape[1] :]
        places = [i * copies + k for i in rows for k in range(copies)]
        for place, response in zip(places, ended(model, new), strict=True):
            responses[place] = response
        if scores:
            each = torch.log_softmax(torch.stack(out.scores, dim=1).double(), dim=-1)
            chosen = torch.gather(each, 2, new[:, :, None])[:, :, 0].numpy()
            for place, values in zip(places, chosen, strict=True):
                log_probs[place] = values[: len(responses[place])].sum()
    return Drawn(responses, log_probs if scores else None)


def p_equal_means(a: np.ndarray, b: np.ndarray, copies: int) -> float:
    """Compare means, paired by prompt, which has its part in every value; two-sided p-value."""
    difference = (a - b).reshape(-1, copies).mean(axis=1)
    z = difference.mean() / (difference.std(ddof=1) / math.sqrt(len(difference)))
    return math.erfc(abs(float(z)) / math.sqrt(2.0))


def same_law(task: Task) -> dict[str, float]:
    """Check that both sides sample the model; raise ``RuntimeError`` if not.

    The tests of equal laws raise a false alarm once in a million each.
    """
    a, b = ours(task, Key(1)), generated(task, Key(2), scores=True)
    found = {}
    asked = [p for p in task.prompts for _ in range(task.copies)]
    for name, side in (("ours", a), ("generate", b)):
        scores = sequence_log_probs(task.model, asked, side.responses)
        found[f"log_prob_error_{name}"] = float(np.abs(side.log_probs - scores).max())
    lengths = [np.array([len(r) for r in side.responses]) for side in (a, b)]
    found["p_log_prob"] = p_equal_means(a.log_probs, b.log_probs, task.copies)
    found["p_length"] = p_equal_means(*lengths, task.copies)
    first = [Counter(r[0] for r in side.responses) for side in (a, b)]
    common = [t for t in first[0] | first[1] if first[0][t] + first[1][t] >= 10]
    table = [[c[t] for t in common] for c in first]
    found["p_first_word"] = float(chi2_contingency(table).pvalue)
    wrong = [k for k, v in found.items() if (v < FALSE_ALARM if k.startswith("p_") else v > 1e-4)]
    if wrong:
        message = f"Both sides must sample the model; they do not: {found}."
        raise RuntimeError(message)
    return found


def measure(task: Task, repeats: int) -> dict[str, Any]:
    """Check, then time all sides in turn."""
    law = same_law(task)  # the first run of each side, too
    sides = {"ours": ours, "generate": generated, "generate, scored": scored}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    lengths: list[int] = []
    for k in range(repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            drawn = side(task, Key(3).child(k))
            runs[name].append({"seconds": time.perf_counter() - start, "tokens": drawn.tokens})
            lengths += map(len, drawn.responses)
    speed = {
        name: statistics.median(r["tokens"] / r["seconds"] for r in rows)
        for name, rows in runs.items()
    }
    ratio = speed["ours"] / speed["generate"]
    print(
        f"\n{task.name}: {len(task.prompts)} prompts, {task.copies} responses each, of "
        f"{np.mean(lengths):.1f} tokens ({min(lengths)} to {max(lengths)})"
    )
    print("  same law: " + ", ".join(f"{k} {v:.1e}" for k, v in law.items()))
    for name, rows in runs.items():
        times = ", ".join(f"{r['seconds']:.2f}" for r in rows)
        print(f"  {name:<17}{speed[name]:8.0f} tokens/s   ({times} s)")
    print(f"  ratio {ratio:.2f}; {speed['ours'] / speed['generate, scored']:.2f} with scoring")
    return {
        "task": task.name,
        "prompts": len(task.prompts),
        "responses_each": task.copies,
        "mean_length": float(np.mean(lengths)),
        "longest": max(lengths),
        "law": law,
        "runs": runs,
        "tokens_per_second": speed,
        "ratio": ratio,
        "ratio_scored": speed["ours"] / speed["generate, scored"],
    }


def main() -> int:
    """Run both tasks, write; return 1 if the target is missed."""
    parser = command_line(__doc__, RESULTS / "sampling.json")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side, in turn")
    parser.add_argument("--batches", type=int, default=3, help="batches of 256 in a run")
    parser.add_argument("--cache", type=Path, help="where tiny worlds are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = build(folder=args.cache)
    model = world.model()
    prompts = [model.encode_prompt(text).ids for text in (*world.prompts, *world.held_out)]
    found = []
    for name, copies in (("pools", 8), ("one each", 1)):
        count = args.batches * BATCH // copies
        chosen = [prompts[i % len(prompts)] for i in range(count)]
        found.append(measure(Task(name, model, chosen, copies), args.repeats))
    met = found[0]["ratio"] >= TARGET
    print(f"\ntarget {TARGET} on pools {'met' if met else 'MISSED'}")
    report = {
        "met": met,
        "target": TARGET,
        "threads": 1,
        "batch": BATCH,
        "max_new_tokens": LONGEST,
        "weights": sum(p.numel() for p in model.model.parameters()),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
        "tasks": found,
    }
    return finish(report, args.out)


if __name__ == "__main__":
    sys.exit(main())
