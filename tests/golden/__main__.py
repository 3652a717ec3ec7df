"""Record what the package computes, and compare it with what it computes later.

::

    python -m tests.golden record OUT [--only PATTERN]
    python -m tests.golden compare OUT [--only PATTERN] [--tolerance 1e-8]
    python -m tests.golden record-small
    python -m tests.golden list

``record`` writes every case in full precision, ``compare`` computes them again and ends with exit
code 1 unless all are equal to the bit (or up to the tolerance); the bits hold on the machine that
recorded. ``record-small`` writes anew what `test_golden.py` compares with. All of this makes
changes visible; it does not say which of two numbers is right.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import time
import traceback
from collections import defaultdict
from pathlib import Path

# Before NumPy is imported: the last bits of a product depend on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

from tests.golden import store
from tests.golden.cases import (
    SMALL_RECORD,
    Case,
    all_cases,
    one_thread,
    small_cases,
    small_language,
)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def chosen(patterns: list[str]) -> dict[str, Case]:
    cases = all_cases()
    if not patterns:
        return cases
    kept = {
        name: case
        for name, case in cases.items()
        if any(fnmatch.fnmatch(name, f"*{pattern}*") for pattern in patterns)
    }
    if not kept:
        message = f"no case has a name like {' or '.join(patterns)}; see `list`"
        raise SystemExit(message)
    return kept


def record(out: Path, patterns: list[str]) -> int:
    seconds, failed = {}, []
    for name, case in chosen(patterns).items():
        start = time.perf_counter()
        try:
            store.save(out, name, store.as_arrays(case()))
        except Exception:  # the others are recorded all the same
            traceback.print_exc()
            failed.append(name)
        seconds[name] = time.perf_counter() - start
    path = out / "seconds.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **seconds}, indent=1))
    say_times(seconds)
    for name in failed:
        say(f"RAISED {name}")
    return bool(failed)


def compare(out: Path, patterns: list[str], tolerance: float | None) -> int:
    seconds, bad, equal, near = {}, 0, 0, 0
    for name, case in chosen(patterns).items():
        old = store.load(out, name)
        start = time.perf_counter()
        try:
            new = store.as_arrays(case())
        except Exception:  # what raises is a difference; the others are compared all the same
            say(f"RAISED  {name}\n{traceback.format_exc()}")
            bad += 1
            continue
        finally:
            seconds[name] = time.perf_counter() - start
        if old is None:
            say(f"NEW     {name}: not in the record")
            bad += 1
            continue
        found = store.compare(old, new)
        if found.none:
            equal += 1
            continue
        fine = tolerance is not None and found.within(tolerance)
        near += fine
        bad += not fine
        say(f"{'near   ' if fine else 'DIFFERS'} {name}: {found}")
    if not patterns:
        known = {store.path_of(out, name) for name in all_cases()}
        for path in sorted(set(out.rglob("*.npz")) - known):
            say(f"MISSING {path.relative_to(out).with_suffix('')}: only in the record")
            bad += 1
    say_times(seconds)
    say(f"{equal} equal to the bit, {near} within the tolerance, {bad} differ")
    return bool(bad)


def record_small() -> int:
    values = {}
    for name, case in {**small_cases(), **small_language()}.items():
        values[name] = store.as_arrays(case())
    store.write_text(SMALL_RECORD, values)
    say(f"{SMALL_RECORD}: {len(values)} cases, {SMALL_RECORD.stat().st_size / 1000:.0f} kB")
    return 0


def say_times(seconds: dict[str, float]) -> None:
    parts: dict[str, float] = defaultdict(float)
    for name, value in seconds.items():
        parts[name.split("/")[0]] += value
    for part, value in parts.items():
        count = sum(name.split("/")[0] == part for name in seconds)
        say(f"{part}: {count} cases, {value:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("record", "compare"):
        command = commands.add_parser(name)
        command.add_argument("out", type=Path)
        command.add_argument("--only", action="append", default=[], metavar="PATTERN")
        if name == "compare":
            command.add_argument("--tolerance", type=float)
    commands.add_parser("record-small")
    commands.add_parser("list").add_argument("--only", action="append", default=[])
    given = parser.parse_args()
    one_thread()
    if given.command == "record":
        return record(given.out, given.only)
    if given.command == "compare":
        return compare(given.out, given.only, given.tolerance)
    if given.command == "record-small":
        return record_small()
    say("\n".join(chosen(given.only)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
