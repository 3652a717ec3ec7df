"""What benchmarks about time share: command line, clock, the file with what was found."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def command_line(doc: str | None, out: Path | None = None) -> argparse.ArgumentParser:
    """Return a parser that knows ``--out``, a file; described by the first line of ``doc``."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=out, help="JSON file for all that is measured")
    return parser


def fastest(task: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the shortest wall time and the last result."""
    times, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = task()
        times.append(time.perf_counter() - start)
    return min(times), result


def show(name: str, values: Mapping[str, float]) -> None:
    """Print numbers, one per line."""
    print(name)
    for label, value in values.items():
        print(f"  {label:36s} {value:.4g}")


def finish(found: Mapping[str, Any], out: Path | None) -> int:
    """Write what was found where a file is named; return 1 if it says that a target is missed."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found.get("met", True) else 1
