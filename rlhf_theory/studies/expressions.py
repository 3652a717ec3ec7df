"""Arithmetic in study files: bounds such as ``d / sqrt(labels)``, read and evaluated safely."""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_theory.studies.former import WORDS

SHORT_NAMES: dict[str, str] = {"d": "dim", "A": "actions", "X": "contexts", "m": "batch_size"}
"""Letters of the papers, and the settings that they stand for."""

_OPERATORS: dict[type, Callable[..., np.ndarray]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.true_divide,
    ast.Pow: np.power,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, tuple[Callable[..., np.ndarray], int | None]] = {
    "sqrt": (np.sqrt, 1),
    "log": (np.log, 1),
    "exp": (np.exp, 1),
    "min": (np.minimum, None),
    "max": (np.maximum, None),
}
_ALLOWED = "numbers, names, + - * / **, parentheses and sqrt, log, exp, min, max"
# Longer than any bound on one line; keeps the parser's recursion shallow.
_LONGEST = 300


class ExpressionError(ValueError):
    """An expression cannot be read, or lacks a name."""


@dataclass(frozen=True)
class Expression:
    """An arithmetic expression of named numbers.

    Attributes
    ----------
    text
        Numbers, names (with dots, such as ``world.dim``), ``+ - * / **``, parentheses, and the
        functions ``sqrt, log, exp, min, max``; nothing else is ever run.

    Raises
    ------
    ExpressionError
        Text that is anything else. The message quotes the place.

    Examples
    --------
    >>> bound = Expression("2 * d * log(round) / round")
    >>> sorted(bound.names)
    ['d', 'round']
    >>> bound.evaluate({"d": 4, "round": np.array([1.0, np.e])}).round(3).tolist()
    [0.0, 2.943]
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            message = f"An expression must be text such as 'd / sqrt(pairs)'; got {self.text!r}."
            raise ExpressionError(message)
        if len(self.text) > _LONGEST:
            message = f"An expression has at most {_LONGEST} characters; got {len(self.text)}."
            raise ExpressionError(message)
        _check(self._tree(), self.text)

    def _tree(self) -> ast.expr:
        try:
            return ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            where = getattr(error, "offset", None)
            place = f" near character {where}" if where else ""
            message = f"{self.text!r} cannot be read{place}; allowed are {_ALLOWED}."
            raise ExpressionError(message) from None

    @property
    def names(self) -> frozenset[str]:
        """Names that the expression needs."""
        return frozenset(_names(self._tree()))

    def evaluate(self, values: Mapping[str, object]) -> np.ndarray:
        """Return the value, an array of float64 of the shape to which the values broadcast.

        Parameters
        ----------
        values
            A number or an array for every name; more names than needed do no harm.

        Raises
        ------
        ExpressionError
            A name is missing, or its value is not a number; the message lists the names that exist.

        Where arithmetic has no finite value (``log(0)``, ``1 / 0``) the result is infinite or NaN.
        """
        tree = self._tree()
        numbers = {name: self._number(name, values) for name in sorted(_names(tree))}
        with np.errstate(all="ignore"):
            return np.asarray(_value(tree, numbers), dtype=np.float64)

    def _number(self, name: str, values: Mapping[str, object]) -> np.ndarray:
        if name not in values and name in WORDS:
            message = f"{self.text!r} uses {name!r}, a name in format 1; write {WORDS[name]}."
            raise ExpressionError(message)
        if name not in values:
            known = sorted(values, key=lambda word: ("." in word, word.lower()))
            message = (
                f"{self.text!r} uses {name!r}, which is no name here; "
                f"known are {', '.join(known) or 'none'}.{_nearest(name, known)}"
            )
            raise ExpressionError(message)
        value = values[name]
        if isinstance(value, Ambiguous):
            message = (
                f"{self.text!r} uses {name!r}, which could be {' or '.join(value.places)}; "
                "write the full name."
            )
            raise ExpressionError(message)
        try:
            return np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            message = f"{name!r} in {self.text!r} must be a number; got {value!r}."
            raise ExpressionError(message) from None


@dataclass(frozen=True)
class Ambiguous:
    """The value of a short name that several settings with different values share."""

    places: tuple[str, ...]


def setting_names(settings: Mapping[str, Any]) -> dict[str, object]:
    """Return the names under which an expression knows the settings of a cell.

    Parameters
    ----------
    settings
        Flat settings such as ``{"world.dim": 4, "learner.radius.multiplier": 0.1}``; those that are
        not finite numbers are passed over.

    Returns
    -------
    Every setting under its full name (``world.dim``), its last part (``dim``) and its letter
    (``d``; see ``SHORT_NAMES``). A last part that belongs to several different values is kept as
    `Ambiguous`, so that only its use is an error; one that counted rows in format 1, as the ``n``
    of best-of-n did, is left out, so that no bound means something else than it did.
    """
    numbers = {name: value for name, value in settings.items() if _is_number(value)}
    places: dict[str, list[str]] = {}
    for name in numbers:
        places.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    short: dict[str, object] = {}
    for last, full in places.items():
        if last in WORDS:
            continue
        same = len({float(numbers[name]) for name in full}) == 1
        short[last] = numbers[full[0]] if same else Ambiguous(tuple(full))
    letters = {letter: short[word] for letter, word in SHORT_NAMES.items() if word in short}
    return {**numbers, **letters, **short}


def _is_number(value: object) -> bool:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return False
    return math.isfinite(value)


# --------------------------------------------------------------------------- the syntax tree


def _check(node: ast.expr, text: str) -> None:
    """Raise ``ExpressionError`` for any part that is not allowed."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            if abs(value) > 1e300:
                _refuse(node, text, "numbers must be at most 1e300")
        case ast.Name(id=name):
            if name in _FUNCTIONS:
                _refuse(node, text, f"{name} is a function: write {name}(...)")
        case ast.Attribute():
            if _dotted(node) is None:
                _refuse(node, text, f"allowed are {_ALLOWED}")
        case ast.UnaryOp(op=op, operand=inner) if type(op) in _OPERATORS:
            _check(inner, text)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            _check(left, text)
            _check(right, text)
        case ast.BinOp(op=ast.BitXor()):
            _refuse(node, text, "write ** for a power")
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            _check_call(node, name, args, text)
        case _:
            _refuse(node, text, f"allowed are {_ALLOWED}")


def _check_call(node: ast.expr, name: str, args: list[ast.expr], text: str) -> None:
    if name not in _FUNCTIONS:
        words = ", ".join(_FUNCTIONS)
        _refuse(node, text, f"the functions are {words}{_nearest(name, list(_FUNCTIONS))}")
    wanted = _FUNCTIONS[name][1]
    if (wanted is None and len(args) < 2) or (wanted is not None and len(args) != wanted):
        numbers = "one number" if wanted == 1 else "two numbers or more"
        _refuse(node, text, f"{name} takes {numbers}")
    for inner in args:
        _check(inner, text)


def _refuse(node: ast.expr, text: str, reason: str) -> None:
    part = ast.get_source_segment(text.strip(), node) or text
    message = f"{part!r} in the expression {text!r} is not allowed: {reason}."
    raise ExpressionError(message)


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value)
        return None if owner is None else f"{owner}.{node.attr}"
    return None


def _names(node: ast.expr) -> set[str]:
    name = _dotted(node)
    if name is not None:
        return {name}
    match node:
        case ast.UnaryOp(operand=inner):
            return _names(inner)
        case ast.BinOp(left=left, right=right):
            return _names(left) | _names(right)
        case ast.Call(args=args):
            return set().union(*map(_names, args))
        case _:
            return set()


def _value(node: ast.expr, numbers: Mapping[str, np.ndarray]) -> np.ndarray | np.float64:
    name = _dotted(node)
    if name is not None:
        return numbers[name]
    match node:
        case ast.Constant(value=value):
            # Floats, so that towers of powers end at infinity instead of filling the memory.
            return np.float64(value)  # type: ignore[arg-type]
        case ast.UnaryOp(op=op, operand=inner):
            return _OPERATORS[type(op)](_value(inner, numbers))
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, numbers), _value(right, numbers))
        case ast.Call(func=ast.Name(id=word), args=args):
            parts = [_value(inner, numbers) for inner in args]
            result = parts[0] if len(parts) > 1 else _FUNCTIONS[word][0](parts[0])
            for part in parts[1:]:
                result = _FUNCTIONS[word][0](result, part)
            return result
    message = f"{ast.dump(node)} was not refused when the expression was read."
    raise ExpressionError(message)
