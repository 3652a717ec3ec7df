"""The items of the GPU benchmark, their sizes, and how they are run."""

from __future__ import annotations

import datetime as dt
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu_parts import dpo, embedding, learner, rollout
from gpu_parts.measuring import (
    OutOfTime,
    VerificationError,
    free_memory,
    limited,
    single_precision_exact,
    told,
)

Measure = Callable[[Mapping[str, Any], torch.device], dict[str, Any]]


@dataclass(frozen=True)
class Item:
    """One thing to measure.

    Attributes
    ----------
    measure
        From sizes and device to results that JSON can hold.
    sizes, toy
        On a GPU, and in the tests.
    limit_s
        Seconds after which it is given up.
    """

    measure: Measure
    sizes: Mapping[str, Any]
    toy: Mapping[str, Any]
    limit_s: float


def _item(
    measure: Measure,
    limit_s: float,
    sizes: dict[str, Any],
    toy: dict[str, Any],
) -> Item:
    """Return an item; ``toy`` are the sizes that are others in the tests."""
    return Item(measure, sizes | {"toy": False}, sizes | toy | {"toy": True}, limit_s)


def _dpo(shape: str, pairs: int, parts: int, limit_s: float, rank: int = 0) -> Item:
    """``pairs`` comparisons per step in ``parts`` passes; ``rank`` of the adapters, 0 for none."""
    sizes = {
        "shape": shape,
        "pairs": pairs,
        "parts": parts,
        "rank": rank,
        "prompt": 128,
        "response": 384,
        "steps": 8,
        "plain_steps": 4,
        "checked": 4,
        "checked_response": 64,
    }
    toy = {"pairs": 2 * parts, "prompt": 3, "response": 5, "steps": 2, "plain_steps": 2}
    return _item(dpo.dpo, limit_s, sizes, toy | {"checked_response": 5})


TOY_TEXTS = {
    "texts": 24,
    "words": (2, 8),
    "batch": 8,
    "checked": 8,
    "repeats": 1,
    "cpu_texts": 4,
}

# What compiles comes last: a broken device would spoil what follows.
ITEMS = {
    "embeddings-minilm": _item(
        embedding.encoder,
        45,
        {
            "texts": 16384,
            "words": (4, 100),
            "batch": 256,
            "checked": 256,
            "repeats": 3,
            "cpu_texts": 512,
        },
        TOY_TEXTS,
    ),
    "embeddings-1b": _item(
        embedding.causal,
        60,
        {
            "shape": "Llama-3.2-1B",
            "texts": 2048,
            "prompt": 32,
            "words": (16, 400),
            "batch": 64,
            "checked": 32,
            "repeats": 2,
            "cpu_texts": 8,
        },
        TOY_TEXTS | {"prompt": 3},
    ),
    "bonus-and-newton": _item(
        learner.bonus_and_newton,
        75,
        {"rows": 100_000, "dim": 4096, "checked": 256, "repeats": 3, "cpu_limit_s": 45},
        {"rows": 2000, "dim": 16},
    ),
    "dpo-0.5b": _dpo("Qwen2.5-0.5B", 16, 1, 45),
    "dpo-1.5b": _dpo("Qwen2.5-1.5B", 16, 2, 60),
    "dpo-3b": _dpo("Llama-3.2-3B", 16, 4, 80),
    "lora-8b": _dpo("Llama-3.1-8B", 16, 4, 85, rank=16),
    "rollout-1b": _item(
        rollout.rollout,
        130,
        {
            "shape": "Llama-3.2-1B",
            "prompts": 64,
            "copies": 4,
            "prompt": 128,
            "new": 256,
            "checked": 64,
            "repeats": 2,
            "static_limit_s": 60,
        },
        {"prompts": 8, "copies": 2, "prompt": 3, "new": 6, "checked": 16, "repeats": 1},
    ),
}


def run_item(name: str, device: torch.device, *, toy: bool) -> dict[str, Any]:
    """Run an item; whatever goes wrong is reported, and the device is left empty for the next."""
    item = ITEMS[name]
    sizes = dict(item.toy if toy else item.sizes)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    found: dict[str, Any] = {"item": name, "date": now, "sizes": sizes}
    free_memory(device)
    start = time.perf_counter()
    try:
        with limited(item.limit_s), single_precision_exact():
            found |= {"status": "done"} | item.measure(sizes, device)
    except VerificationError as error:
        found |= {
            "status": "failed verification",
            "message": str(error),
            "verified": error.made,
        }
    except (MemoryError, torch.OutOfMemoryError) as error:
        found |= {"status": "out of memory", "message": _forget(error)}
    except OutOfTime:
        found |= {"status": "out of time", "message": f"Given up after {item.limit_s} s."}
    except Exception as error:  # one item must not stop the others
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        where = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
        found |= {"status": "error", "message": _forget(error), "where": where}
    found["wall_s"] = time.perf_counter() - start
    free_memory(device)
    return found


def _forget(error: BaseException) -> str:
    """Return the message of an error, and let go of the tensors that its frames hold."""
    text = told(error)
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    return text
