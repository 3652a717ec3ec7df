"""Write records of cases, read them, compare them with what is computed now."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Values = Mapping[str, np.ndarray]


def as_arrays(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the values of a case as arrays; lists and texts too."""
    arrays = {name: np.asarray(value) for name, value in found.items()}
    for name, value in arrays.items():
        if value.dtype == object:
            message = f"{name} must be numbers, truth values or texts; got objects."
            raise TypeError(message)
    return arrays


def path_of(folder: Path, case: str) -> Path:
    return folder / f"{case.replace(' ', '_')}.npz"


def save(folder: Path, case: str, values: Values) -> None:
    path = path_of(folder, case)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names may have slashes, which members of an archive of np.savez may not.
    names = list(values)
    np.savez_compressed(
        path, names=np.array(names), **{f"v{i}": values[name] for i, name in enumerate(names)}
    )


def load(folder: Path, case: str) -> dict[str, np.ndarray] | None:
    """Return a recorded case, None where there is none."""
    try:
        with np.load(path_of(folder, case)) as file:
            return {str(name): file[f"v{i}"] for i, name in enumerate(file["names"])}
    except (FileNotFoundError, zipfile.BadZipFile):
        return None


def to_text(values: Values) -> dict[str, Any]:
    """Return values as plain data; JSON writes floats by repr, which loses nothing."""
    return {name: value.tolist() for name, value in values.items()}


def write_text(path: Path, cases: Mapping[str, Values]) -> None:
    """Write a small record: a file of text, one line per recorded name."""
    lines = []
    for case, values in cases.items():
        rows = [
            f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
            for name, value in to_text(values).items()
        ]
        lines.append(f"{json.dumps(case, ensure_ascii=False)}: {{\n" + ",\n".join(rows) + "\n}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read_text(path: Path) -> dict[str, dict[str, np.ndarray]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {case: as_arrays(values) for case, values in content.items()}


@dataclass(frozen=True)
class Difference:
    """How a case differs from its record; largest differences are over all names.

    Attributes
    ----------
    missing, new
        Names that only the record has, and that only this tree has.
    changed
        Names whose values are not equal to the bit.
    odd
        Names whose difference is none of size: another shape or kind, another text, NaN or
        infinity in other places.
    absolute, relative
        Largest differences of the numbers.
    excess
        Largest ``|new - old| / max(1, |old|)``, what a tolerance is compared with.
    """

    missing: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    absolute: float = 0.0
    relative: float = 0.0
    excess: float = 0.0

    @property
    def none(self) -> bool:
        """Whether all names and bits are the same."""
        return not (self.missing or self.new or self.changed)

    def within(self, tolerance: float) -> bool:
        """Whether all names are the same, and the numbers up to a tolerance."""
        return not (self.missing or self.new or self.odd) and self.excess <= tolerance

    def __str__(self) -> str:
        if self.none:
            return "equal to the bit"
        parts = [
            f"{word}: {_few(names)}"
            for word, names in (
                ("missing", self.missing),
                ("new", self.new),
                ("shape, text, NaN or infinity", self.odd),
            )
            if names
        ]
        if self.changed:
            parts.append(
                f"absolute {self.absolute:.2g}, relative {self.relative:.2g}, "
                f"in {len(self.changed)} of the names: {_few(self.changed)}"
            )
        return "; ".join(parts)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def compare(old: Values, new: Values) -> Difference:
    """Compare two versions of a case."""
    changed, odd, sizes = [], [], [(0.0, 0.0, 0.0)]
    for name in old:
        if name not in new:
            continue
        a, b = old[name], new[name]
        if a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes():
            continue
        changed.append(name)
        size = _size(a, b)
        if size is None:
            odd.append(name)
        else:
            sizes.append(size)
    absolute, relative, excess = (max(column) for column in zip(*sizes, strict=True))
    return Difference(
        tuple(n for n in old if n not in new),
        tuple(n for n in new if n not in old),
        tuple(changed),
        tuple(odd),
        absolute,
        relative,
        excess,
    )


def _size(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float] | None:
    """Return the largest differences of two arrays of numbers; None where they have no size."""
    if a.shape != b.shape:
        return None
    if "U" in (a.dtype.kind, b.dtype.kind):
        return (0.0, 0.0, 0.0) if np.array_equal(a, b) else None
    x, y = a.astype(float), b.astype(float)
    finite = np.isfinite(x)
    if not (np.isfinite(y) == finite).all() or not np.array_equal(
        x[~finite], y[~finite], equal_nan=True
    ):
        return None
    x, y = x[finite], y[finite]
    if x.size == 0:
        return 0.0, 0.0, 0.0
    gap = np.abs(x - y)
    scale = np.maximum(np.abs(x), np.abs(y))
    relative = np.divide(gap, scale, out=np.zeros_like(gap), where=scale > 0)
    excess = gap / np.maximum(1.0, np.abs(x))
    return float(gap.max()), float(relative.max()), float(excess.max())
