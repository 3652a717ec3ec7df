"""Tokens per second of rollouts: our sampler, `generate`, and `generate` with a static cache.

With random weights the end of the sequence hardly ever comes: all responses have full length, and
what is compared is the loop alone, without the gain from rows that finish early.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from drawn import Drawn, drawn_by, ended, generate

from gpu_parts.embedding import log_prob_tolerance, random_ids
from gpu_parts.measuring import Checks, OutOfTime, alternate, free_memory, limited, told
from gpu_parts.shapes import SHAPES, build, upcast
from llm_bridge.language.log_probs import pad_rows, sequence_log_probs
from llm_bridge.language.models import Ids, LanguageModel
from llm_bridge.language.sampler import BatchedSampler
from rlhf_theory.randomness import Key

# Of the martingale below; a right sampler exceeds it once in 500 million runs.
Z_BOUND = 6.0


Side = Callable[[Key], Drawn]


def rollout(sizes: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Draw ``copies`` responses of fixed length to every prompt, in one batch."""
    shape = SHAPES[sizes["shape"]]
    shape = shape.toy() if sizes["toy"] else shape
    model = build(shape, device, torch.bfloat16)
    key = Key(0).child("rollout")
    prompts = random_ids(key, sizes["prompts"], sizes["prompt"], shape.vocabulary)
    copies, new = sizes["copies"], sizes["new"]
    sides: dict[str, Side] = {
        "ours": lambda k: ours(model, prompts, copies, new, k),
        "generate": lambda k: generated(model, prompts, copies, new, k),
    }
    compiled: dict[str, Side] = {
        "static": lambda k: generated(model, prompts, copies, new, k, cache_implementation="static")
    }
    # Copied before anything is compiled.
    checks, precise = Checks(), upcast(model, device)
    asked = [p for p in prompts for _ in range(copies)]
    for name, side in sides.items():
        drawn = side(key.child("check", name))
        check_law(checks, name, precise, asked, drawn, sizes["checked"])
    free_memory(device)
    found = _timed(sides, key, device, sizes["repeats"])

    # Last and apart: it compiles, and a compiler may fail in more ways than can be foreseen.
    try:
        with limited(sizes["static_limit_s"]):
            drawn = compiled["static"](key.child("check", "static"))
            check_law(checks, "static", precise, asked, drawn, sizes["checked"])
            static = _timed(compiled, key, device, sizes["repeats"])
            found["tokens_per_second"] |= static["tokens_per_second"]
            found["seconds"] |= static["seconds"]
            outcome = "done"
    except OutOfTime:
        outcome = f"out of time ({sizes['static_limit_s']} s)"
    except Exception as error:  # it is reported, and the other sides count
        outcome = told(error)
    rates = found["tokens_per_second"]
    return {
        "verified": checks.made,
        **found,
        "static": outcome,
        "ratio_to_generate": rates["ours"] / rates["generate"],
        "ratio_to_static": rates["ours"] / rates["static"] if "static" in rates else None,
        "batch": sizes["prompts"] * copies,
    }


def _timed(
    sides: Mapping[str, Side], key: Key, device: torch.device, repeats: int
) -> dict[str, Any]:
    tokens: dict[str, list[int]] = {name: [] for name in sides}

    def run(name: str) -> None:
        number = len(tokens[name])
        tokens[name].append(sides[name](key.child("run", number)).tokens)

    found = alternate({name: partial(run, name) for name in sides}, device, repeats=repeats)
    # The first run is the warm-up.
    rates = {
        name: float(np.median([n / s for n, s in zip(tokens[name][1:], times, strict=True)]))
        for name, times in found["runs"].items()
    }
    return {"tokens_per_second": rates, "seconds": found["runs"]}


def ours(model: LanguageModel, prompts: Sequence[Ids], copies: int, new: int, key: Key) -> Drawn:
    """Tokens, texts and log-probabilities."""
    sampler = BatchedSampler(max_new_tokens=new, batch_size=len(prompts) * copies)
    return drawn_by(sampler, model, prompts, copies, key)


def generated(
    model: LanguageModel, prompts: Sequence[Ids], copies: int, new: int, key: Key, **more: Any
) -> Drawn:
    """Tokens by ``generate``; on CUDA a static cache makes it compile its step."""
    ids = torch.tensor([p for p in prompts for _ in range(copies)], device=model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(key.seed_int())  # noqa: TID251  `generate` takes no generator
        out = generate(model, ids, torch.ones_like(ids), new, **more)
    return Drawn(ended(model, out[:, ids.shape[1] :]))


def check_law(
    checks: Checks,
    name: str,
    precise: LanguageModel,
    prompts: Sequence[Ids],
    drawn: Drawn,
    n: int,
) -> None:
    """Compare ``n`` draws, one per prompt, with the model in single precision.

    Given what came before, the log-probability of a token has minus the entropy as its mean: their
    sum over all tokens is a martingale, whose size is known. A wrong temperature, position or mask
    shifts it. The sampler's own log-probabilities are compared as well.
    """
    # Rows from all over the batch.
    rows = np.linspace(0, len(prompts) - 1, min(n, len(prompts))).astype(int)
    total, variance = 0.0, 0.0
    for start in range(0, len(rows), 8):
        some = rows[start : start + 8]
        deviation, square = _martingale(
            precise, [prompts[i] for i in some], [drawn.responses[i] for i in some]
        )
        total, variance = total + deviation, variance + square
    kind = "the model in float32"
    checks.at_most(f"tokens by {name}, |z|", abs(total) / variance**0.5, Z_BOUND, kind)
    if drawn.log_probs is not None:
        scores = sequence_log_probs(
            precise, [prompts[i] for i in rows], [drawn.responses[i] for i in rows], batch_size=8
        )
        error = np.abs(drawn.log_probs[rows] - scores).mean()
        longest = max(map(len, drawn.responses))
        checks.at_most(f"log-probabilities by {name}", error, log_prob_tolerance(longest), kind)


def _martingale(
    model: LanguageModel, prompts: Sequence[Ids], responses: Sequence[Ids]
) -> tuple[float, float]:
    """Return the sum of ``log p(token) + entropy`` and of its variances."""
    ids, attention, answer = pad_rows(prompts, responses, model.pad_id, model.device)
    with torch.no_grad():
        out = model.model(input_ids=ids, attention_mask=attention, use_cache=False)
        log_p = torch.log_softmax(out.logits[:, :-1].double(), dim=-1)
        p = log_p.exp()
        mean = (p * log_p).sum(dim=-1)
        spread = (p * log_p**2).sum(dim=-1) - mean**2
        chosen = torch.gather(log_p, 2, ids[:, 1:, None])[:, :, 0]
        mask = answer[:, 1:].double()
    return float(((chosen - mean) * mask).sum()), float((spread * mask).sum())
