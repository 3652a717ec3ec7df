"""One theorem study and its files: what it runs over, its verdict, its curves."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from rlhf_theory.engine.seals import describe, encode, read_table
from rlhf_theory.engine.sources import OtherCodeError, module_code
from rlhf_theory.experiments.trace import versions
from rlhf_theory.store import (
    DamagedError,
    DamageWarning,
    read_json,
    seal,
    unseal,
    write_atomic,
    write_json,
)
from rlhf_theory.theorems.card import Mode, Sweep, Theorem, Verdict, sweep_data

CURVES, VERDICT = "curves.parquet", "verdict.json"

FILES = (VERDICT, CURVES, "figure.svg", "figure.pdf", "figure.csv", "caption.txt")
"""What a study that ran to its end leaves in its folder."""

Found = dict[str, Any]
"""What a study has found so far: checks, constants, caption, seconds, or an error."""


@dataclass(frozen=True, kw_only=True)
class CardRun:
    """One theorem with what it runs over; goes to workers.

    Attributes
    ----------
    theorem
        The theorem.
    folder
        Where its files go; absolute, for a worker may be somewhere else.
    sweep
        The sweep of the mode, with overrides.
    mode
        Quick or full.
    seed
        Seed of all draws.
    variant
        What is other than in the card itself, in words; empty where nothing is.
    code
        Hash of the code of the theorem where the run is made, see `code_of_card`; workers must have
        the same.
    """

    theorem: Theorem
    folder: Path
    sweep: Sweep
    mode: Mode
    seed: int
    variant: str = ""
    code: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.folder.absolute())
        object.__setattr__(self, "code", code_of_card(self.theorem))

    @property
    def name(self) -> str:
        """Name of the theorem."""
        return self.theorem.name

    @property
    def called(self) -> str:
        """Name of the theorem, and the variant where there is one."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    @property
    def identity(self) -> dict[str, object]:
        """What the numbers depend on, plain data."""
        return {
            "theorem": self.name,
            "version": self.theorem.version,
            "code": self.code,
            "sweep": sweep_data(self.sweep),
            "seed": self.seed,
        }

    def check_code(self) -> None:
        """Raise `OtherCodeError` unless the code of the theorem in this process is the run's."""
        here = code_of_card(self.theorem)
        if here != self.code:
            message = f"The code of {self.name} is {here!r} here, and not {self.code!r}."
            raise OtherCodeError(message)

    def verdict(self, found: Found) -> Verdict:
        """Return the verdict with what was found."""
        t = self.theorem
        checks = tuple(found.get("checks", ()))
        error = found.get("error", "")
        return Verdict(
            name=t.name,
            title=t.title,
            claim=t.claim,
            source=t.source,
            version=t.version,
            code=self.code,
            # A study without a single check has shown nothing.
            passed=not error and bool(checks) and all(bool(c.passed) for c in checks),
            replicas=int(self.sweep["replicas"]),
            seed=self.seed,
            seconds=round(found.get("seconds", 0.0), 3),
            mode=self.mode,
            checks=checks,
            assumptions=t.assumptions,
            departures=t.departures,
            constants=found.get("constants", {}),
            sweep=self.sweep,
            caption=found.get("caption", ""),
            error=error,
            versions=versions(),
        )


def code_of_card(theorem: Theorem) -> str:
    """Return the hashes of the code of a theorem that is a user's; empty for our own.

    Raises
    ------
    ValueError
        Where it has no source, or its file is no longer what this process has imported.
    """
    functions = (theorem.parts, theorem.measure, theorem.gather, theorem.judge, theorem.draw)
    homes = {(f.__module__, f.__qualname__.partition(".")[0]) for f in functions}
    codes = {module_code(home, name, f"The theorem {theorem.name!r}") for home, name in homes}
    return "; ".join(sorted(code for code in codes if code is not None))


# ----------------------------------------------------------------------------- tables


def sealed(frame: pd.DataFrame, about: Found) -> bytes:
    """Return a frame as the bytes of a file, which says what it is and what was written.

    Categories are stored, and come back, as texts.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    texts = [f.name for f in table.schema if pa.types.is_dictionary(f.type)]
    plain = [f.with_type(f.type.value_type) if f.name in texts else f for f in table.schema]
    return encode(describe(table.cast(pa.schema(plain)), about), repeated=texts)


def read_sealed(path: Path, what: str) -> tuple[pd.DataFrame, Found]:
    """Return the frame in a file, and what it says of itself; raises as `seals.read_table`."""
    table, says, _ = read_table(path, what)
    return table.to_pandas(), says


def read_curves(folder: Path) -> pd.DataFrame:
    """Return the curves of a study; `DamagedError` where they are not what was written."""
    return read_sealed(folder / CURVES, "the curves of a theorem")[0]


# ----------------------------------------------------------------------------- verdicts


def write_verdict(folder: Path, verdict: Verdict) -> None:
    """Store a verdict, sealed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / VERDICT, seal(verdict.to_json()))


def write_curves(folder: Path, curves: pd.DataFrame) -> None:
    """Store the curves of a study, sealed."""
    write_atomic(folder / CURVES, sealed(curves, {}))


def read_verdict(folder: Path) -> Verdict | None:
    """Return the verdict in a folder, or None where there is none that can be read.

    One that is not what was written is told by a `DamageWarning`.
    """
    path = folder / VERDICT
    if not path.is_file():
        return None
    try:
        return Verdict.from_json(unseal(read_json(path) or {}))
    except ValueError as error:
        message = (
            f"{path} must be a verdict as this version writes it; {error}. It counts as none: "
            "`rlhf-theory reproduce` makes it anew."
        )
        warnings.warn(message, DamageWarning, stacklevel=2)
        return None


def stored_verdict(run: CardRun) -> Verdict | None:
    """Return the verdict of exactly this run if its files are complete, else None.

    A study that raised is no result: it is computed again. So is one whose curves are not what was
    written, which a `DamageWarning` tells.
    """
    if not all((run.folder / name).is_file() for name in FILES):
        return None
    found = read_verdict(run.folder)
    if found is None or found.error:
        return None
    says = (found.name, found.version, found.code, found.mode, found.seed, dict(found.sweep))
    wanted = (run.name, run.theorem.version, run.code, run.mode, run.seed, sweep_data(run.sweep))
    if says != wanted:
        return None
    try:
        read_curves(run.folder)
    except DamagedError as error:
        warnings.warn(f"{error} It is made anew.", DamageWarning, stacklevel=2)
        return None
    return found
