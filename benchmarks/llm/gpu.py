"""What a CUDA GPU does with this toolkit, each number checked before it is measured.

    PYTHONPATH=. python benchmarks/llm/gpu.py [--only NAME ...] [--toy] [--out FILE.json]

Models have the shapes of public ones and random weights, so that nothing is downloaded. Items:

* ``embeddings-minilm``, ``embeddings-1b``: texts per second against the plain unsorted loop, CPU;
* ``bonus-and-newton``: the theory package's estimators on 10^5 x 4096 features, against the CPU;
* ``dpo-0.5b``, ``dpo-1.5b``, ``dpo-3b``, ``lora-8b``: tokens per second of training and share of
  the device's peak, against a plain loop with a live reference;
* ``rollout-1b``: tokens per second of our sampler, of `generate`, and of a compiled static cache.

An item compares its results with a reference in higher precision first, by stated tolerances; if
that fails, nothing of it is timed. What an item cannot do (no memory, no time) is reported, and the
others go on. The file is written after every item; items that it has from the same device and
versions are kept. Less than ten minutes on one H200; ``--toy`` takes seconds on a CPU and shows
that everything runs. The exit code is 1 unless all items are done.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from gpu_parts.items import ITEMS, run_item
from gpu_parts.peaks import provenance

RESULTS = Path(__file__).parent / "results"


def chosen_device(*, toy: bool) -> torch.device:
    """Return the GPU, or the CPU for toy sizes; ``SystemExit`` where there is no GPU."""
    if toy:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        message = "This benchmark needs a CUDA GPU; torch sees none. Try --toy on the CPU."
        raise SystemExit(message)
    return torch.device("cuda", torch.cuda.current_device())


def earlier(file: Path | None, about: dict[str, Any]) -> dict[str, Any]:
    """Return the items of a file that were measured in the same place; none if there are none."""
    if file is None or not file.is_file():
        return {}
    report = json.loads(file.read_text())
    changing = ("date", "peak")
    same = all(report["provenance"].get(k) == v for k, v in about.items() if k not in changing)
    items: dict[str, Any] = report["items"] if same else {}
    return items


def lines(found: dict[str, Any]) -> list[str]:
    """Return what the screen shows of one item."""
    shown = [f"\n{found['item']}: {found['status']} in {found['wall_s']:.0f} s"]
    if "message" in found:
        shown.append(f"  {found['message']}")
    shown += [
        f"  ok {c['what']}: {c['error']:.1e} of {c['tolerance']:.1e}"
        for c in found.get("verified", ())
        if c["passed"]
    ]
    for name in ("texts_per_second", "tokens_per_second", "rows_per_second", "utilisation"):
        for side, value in found.get(name, {}).items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            text = ", ".join(f"{k} {v:.4g}".strip() for k, v in values if v is not None)
            shown.append(f"  {name} {side}: {text}")
    shown += [
        f"  {name} {value:.2f}"
        for name, value in found.items()
        if name.startswith("ratio") and isinstance(value, float)
    ]
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the items; return 1 unless all are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted(ITEMS), metavar="NAME", default=None)
    parser.add_argument("--toy", action="store_true", help="toy sizes on the CPU")
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="JSON file with everything that was found; results/gpu.json beside this file unless "
        "given, and none with --toy",
    )
    args = parser.parse_args(arguments)
    device = chosen_device(toy=args.toy)
    if args.toy:
        torch.set_num_threads(1)  # toy sizes gain nothing from more
    file = args.out or (None if args.toy else RESULTS / "gpu.json")
    about = provenance(device)
    print(json.dumps(about))
    known = earlier(file, about)
    names = [name for name in ITEMS if args.only is None or name in args.only]
    for name in names:
        known[name] = run_item(name, device, toy=args.toy)
        print("\n".join(lines(known[name])), flush=True)
        if file is not None:
            items = {n: known[n] for n in ITEMS if n in known}
            report = {"toy": args.toy, "provenance": about, "items": items}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    return 0 if all(known[name]["status"] == "done" for name in names) else 1


if __name__ == "__main__":
    sys.exit(main())
