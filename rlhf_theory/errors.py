"""Exceptions, and checks of arguments that raise them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Protocol


class Shaped(Protocol):
    """An array of any library."""

    @property
    def shape(self) -> Sequence[int]:
        """Its axes."""
        ...


class ShapeError(ValueError):
    """An array has the wrong shape."""


class Waiting(RuntimeError):  # noqa: N818  nothing is wrong: it is somebody's turn
    """A run cannot go on before somebody has answered; it says what to do, and goes on then."""


class ConvergenceError(RuntimeError):
    """A solver that was asked to raise did not converge."""


def check_positive(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is a positive finite number."""
    if not (math.isfinite(value) and value > 0):
        message = f"{name} must be positive and finite; got {value}."
        raise ValueError(message)


def check_nonnegative(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number that is not negative."""
    if not (math.isfinite(value) and value >= 0):
        message = f"{name} must be finite and at least 0; got {value}."
        raise ValueError(message)


def check_count(name: str, value: int) -> None:
    """Raise ``ValueError`` unless ``value`` is at least 1."""
    if value < 1:
        message = f"{name} must be at least 1; got {value}."
        raise ValueError(message)


def check_probability(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` lies strictly between 0 and 1."""
    if not 0.0 < value < 1.0:
        message = f"{name} must lie strictly between 0 and 1; got {value}."
        raise ValueError(message)


def check_weights(weights: Sequence[float], n: int, one: str, many: str) -> None:
    """Raise ``ValueError`` unless weights are a probability for each of ``n`` things, with sum 1.

    ``one`` and ``many`` say what the things are, for the message.
    """
    for w in weights:
        check_nonnegative("weights", w)
    total = math.fsum(weights)
    if len(weights) != n or abs(total - 1.0) > 1e-9:
        message = (
            f"weights must be one probability per {one}; got {n} {many} and {len(weights)} weights "
            f"that sum to {total}."
        )
        raise ValueError(message)


def check_shape(name: str, array: Shaped, expected: Sequence[int | None], letters: str) -> None:
    """Raise ``ShapeError`` unless ``array`` has the expected shape.

    Parameters
    ----------
    name
        Name of the argument, for the message.
    array
        Anything with a ``shape``.
    expected
        One entry per axis; ``None`` admits any length.
    letters
        The expected shape in letters, such as ``"(R, n)"``.
    """
    shape = tuple(array.shape)
    fits = len(shape) == len(expected) and all(
        want is None or want == have for want, have in zip(expected, shape, strict=True)
    )
    if not fits:
        want = ", ".join("any" if e is None else str(e) for e in expected)
        message = f"{name} must have shape {letters} = ({want}); got {shape}."
        raise ShapeError(message)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of the known words; suggest the nearest."""
    words = list(known)
    if value not in words:
        message = f"{name} must be one of {', '.join(words)}; got {value!r}."
        raise ValueError(message + suggestion(value, words))
