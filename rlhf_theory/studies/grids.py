"""Grids in a study: ``{ grid = [...] }`` anywhere in an entry makes one entry per value."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from rlhf_theory.errors import suggestion
from rlhf_theory.studies.messages import Path, shown

LARGEST = 10_000
"""Entries that one entry may become."""


@dataclass(frozen=True)
class Variant:
    """An entry without grids.

    Attributes
    ----------
    value
        The entry.
    varied
        What the grids put in, by its path in the entry, in the order of the file.
    moved
        Path in the entry to path in the file, where the two differ.
    """

    value: Any
    varied: Mapping[Path, object] = field(default_factory=dict)
    moved: Mapping[Path, Path] = field(default_factory=dict)

    def place(self, path: Path) -> Path:
        """Return where in the file a path of the entry is."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.moved:
                return (*self.moved[path[:length]], *path[length:])
        return path


def is_grid(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a value is meant as a grid."""
    return isinstance(value, Mapping) and "grid" in value


def grid_hint(value: object) -> str:
    """Return how to write a grid, where a value that is refused may have been meant as one.

    Parameters
    ----------
    value
        What was refused.

    Examples
    --------
    >>> grid_hint([4, 8])
    ' For one entry per value write { grid = [4, 8] }.'
    >>> grid_hint({"gird": [4, 8]})
    " Did you mean 'grid'?"
    """
    if isinstance(value, list | tuple) and value:
        return f" For one entry per value write {{ grid = {shown(value)} }}."
    if isinstance(value, Mapping) and len(value) == 1:
        return suggestion(str(next(iter(value))), ["grid"])
    return ""


def check_grids(value: object, say: Callable[[Path, str], None], path: Path = ()) -> int:
    """Report grids that are none, and return how many entries the others make.

    A grid of more than `LARGEST` values is counted without a look at its values.
    """
    if is_grid(value):
        others, values = [k for k in value if k != "grid"], value["grid"]
        if others:
            say(path, f"a grid stands alone in its table; got also {', '.join(map(repr, others))}.")
        if not isinstance(values, list | tuple) or not values:
            say((*path, "grid"), f"must be a list of at least one value; got {shown(values)}.")
            return 1
        if len(values) > LARGEST:
            return len(values)  # too many, whatever they are
        seen: set[str] = set()
        for index, one in enumerate(values):
            text = json.dumps(one, sort_keys=True, default=repr)
            if text in seen:
                say((*path, "grid", index), f"{shown(one)} is in the grid twice.")
            seen.add(text)
        return sum(check_grids(v, say, (*path, "grid", i)) for i, v in enumerate(values))
    children: list[tuple[str | int, object]] = []
    if isinstance(value, Mapping):
        children = list(value.items())
    elif isinstance(value, list | tuple):
        children = list(enumerate(value))
    return math.prod(check_grids(v, say, (*path, k)) for k, v in children)


def expand(value: object) -> Iterator[Variant]:
    """Yield the entries that the grids of an entry make, the last grid varying fastest.

    Grids that `check_grids` refuses give nothing.
    """
    if is_grid(value):
        values = value["grid"]
        for index, one in enumerate(values if isinstance(values, list | tuple) else ()):
            for part in expand(one):
                here: Path = ("grid", index)
                moved = {path: (*here, *to) for path, to in part.moved.items()}
                yield Variant(part.value, {(): part.value}, {(): here, **moved})
        return
    if isinstance(value, Mapping):
        keys, parts = list(value), [list(expand(v)) for v in value.values()]
        for chosen in itertools.product(*parts):
            made = {k: part.value for k, part in zip(keys, chosen, strict=True)}
            yield Variant(made, *_joined(keys, chosen))
    elif isinstance(value, list | tuple):
        parts = [list(expand(v)) for v in value]
        for chosen in itertools.product(*parts):
            yield Variant([p.value for p in chosen], *_joined(range(len(parts)), chosen))
    else:
        yield Variant(value)


def _joined(
    keys: Sequence[str | int], parts: Sequence[Variant]
) -> tuple[dict[Path, object], dict[Path, Path]]:
    varied: dict[Path, object] = {}
    moved: dict[Path, Path] = {}
    for key, part in zip(keys, parts, strict=True):
        varied |= {(key, *path): value for path, value in part.varied.items()}
        moved |= {(key, *path): (key, *to) for path, to in part.moved.items()}
    return varied, moved


def label_of(base: str, varied: Mapping[Path, object]) -> str:
    """Return a label with the values that grids put in.

    Examples
    --------
    >>> label_of("linear", {("dim",): 4, ("reference",): "peaked"})
    'linear dim=4 reference=peaked'
    """
    words = [f"{_short(path, list(varied))}={_word(value)}" for path, value in varied.items()]
    return " ".join([base, *words])


def _short(path: Path, others: Sequence[Path]) -> str:
    """Return the end of a path that no other path shares."""
    for length in range(1, len(path)):
        if sum(other[-length:] == path[-length:] for other in others) == 1:
            return ".".join(map(str, path[-length:]))
    return ".".join(map(str, path))


def _word(value: object) -> str:
    if isinstance(value, Mapping):
        kind = str(value.get("kind", ""))
        rest = [f"{k}={_word(v)}" for k, v in value.items() if k != "kind"]
        return f"{kind}({', '.join(rest)})" if rest else kind
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_word, value)) + "]"
    return value if isinstance(value, str) else shown(value)
