"""Exceptions of the bridge, and advice where memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rlhf_theory.errors import Waiting


class ModelError(ValueError):
    """A model or tokenizer cannot be loaded, or not be used as asked."""


class LabelsPending(Waiting):
    """People have to label the selected pairs before the run can go on."""


# CUDA and MPS raise OutOfMemoryError, a RuntimeError; the CPU's allocator a plain RuntimeError.
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc")
_START = "Not enough memory."


@contextmanager
def memory_advice(knob: str, *, advice: str | None = None) -> Iterator[None]:
    """Turn a failed allocation into a ``MemoryError`` that names what to make smaller.

    Where such blocks are nested, the innermost one speaks.

    Parameters
    ----------
    knob
        The setting to make smaller, such as ``"batch_size=32"``.
    advice
        What to do, as a sentence, where making something smaller is not it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        failed = isinstance(error, MemoryError) or any(s in text.lower() for s in _SIGNS)
        if not failed or text.startswith(_START):
            raise
        detail = f" ({text.strip().splitlines()[0]})" if text.strip() else ""
        message = f"{_START} {advice or f'Make {knob} smaller.'}{detail}"
        raise MemoryError(message) from error
