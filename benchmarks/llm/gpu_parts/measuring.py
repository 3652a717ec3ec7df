"""Clocks, limits and checks: what every item of the GPU benchmark measures with."""

from __future__ import annotations

import gc
import math
import re
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from types import FrameType
from typing import Any

import torch


class VerificationError(RuntimeError):
    """A result differs from its reference by more than rounding explains.

    Attributes
    ----------
    made
        The comparisons up to the one that failed.
    """

    def __init__(self, message: str, made: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.made = made


# Not an `Exception`: libraries that try several ways catch those, and would swallow the alarm.
class OutOfTime(BaseException):
    """An item has used up its time."""


@dataclass
class Checks:
    """Comparisons with a reference, in the order in which they were made.

    Attributes
    ----------
    made
        What was compared with what, the error, and what was allowed.
    """

    made: list[dict[str, Any]] = field(default_factory=list)

    def at_most(self, what: str, error: float, tolerance: float, reference: str) -> None:
        """Note an error; ``VerificationError`` unless it is at most the tolerance (NaN is not)."""
        error = float(error)
        passed = error <= tolerance
        self.made.append(
            {
                "what": what,
                "reference": reference,
                "error": error if math.isfinite(error) else str(error),
                "tolerance": tolerance,
                "passed": passed,
            }
        )
        if not passed:
            message = (
                f"{what} must agree with {reference} up to {tolerance:.3g}; the error is "
                f"{error:.3g}. Nothing of this item was timed after that."
            )
            raise VerificationError(message, self.made)


def told(error: BaseException) -> str:
    """Return kind and message of an error, short and without the folders of this machine."""
    text = re.sub(r"/[^\s:'\"]+/", "", str(error).strip())
    return f"{type(error).__name__}: {text[:300]}"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> None:
    """Give back what nobody holds any more, so that the next model finds the GPU empty."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


@contextmanager
def single_precision_exact() -> Iterator[None]:
    """Keep float32 products in float32: a reference in TF32 would have ten bits."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def alternate(
    sides: Mapping[str, Callable[[], Any]],
    device: torch.device,
    *,
    repeats: int,
    warmup: int = 1,
) -> dict[str, Any]:
    """Run the sides in turn; return the seconds of every run and their medians, per side.

    The clock is the host's, read when the device has nothing left to do.
    """
    for _ in range(warmup):
        for run in sides.values():
            run()
    runs: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            runs[name].append(time.perf_counter() - start)
    return {"runs": runs, "median": {name: statistics.median(t) for name, t in runs.items()}}


def mark(device: torch.device) -> Any:
    """Note the present moment on the device's own clock, without waiting for it."""
    if device.type != "cuda":
        return time.perf_counter()
    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def intervals(marks: list[Any], device: torch.device) -> list[float]:
    """Return the seconds between neighbouring marks."""
    synchronize(device)
    pairs = pairwise(marks)
    if device.type != "cuda":
        return [after - before for before, after in pairs]
    return [before.elapsed_time(after) / 1e3 for before, after in pairs]


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block after so many seconds.

    Within another such block the earlier alarm counts. Works in the main thread of systems with
    alarms, between two steps of Python: a long call of a library is let finish. Elsewhere there is
    no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise OutOfTime

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    outer = signal.setitimer(signal.ITIMER_REAL, seconds)[0]
    if 0.0 < outer < seconds:
        signal.setitimer(signal.ITIMER_REAL, outer)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        if outer > 0.0:
            left = outer - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))
