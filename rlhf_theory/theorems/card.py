"""Theorem cards: the statement, the sweep as data, and how a verdict is computed from curves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from rlhf_theory.register import register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from rlhf_theory.randomness import Key

Sweep = Mapping[str, Any]
"""Plain data (numbers, texts, lists): what a study runs over."""

Mode = Literal["quick", "full"]

_NOT_FINITE = ("inf", "-inf", "nan")
"""What JSON has instead of these numbers."""


@dataclass(frozen=True)
class Part:
    """A part of a sweep that is computed by itself, in any process and in any order.

    Attributes
    ----------
    settings
        What it computes of its sweep, plain JSON data: values of grids and, where it is a block of
        replicas, the numbers ``first`` and ``stop`` (excluded) of these. Empty: all of the sweep.
    """

    settings: Sweep = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The part in a few words, unlike those of the other parts of its sweep."""
        named = [f"{k} {v}" for k, v in self.settings.items() if k not in ("first", "stop")]
        grid = [words.strip() for words in named]
        if "first" in self.settings:
            grid.append(f"replicas {self.settings['first']}-{self.settings['stop'] - 1}")
        return ", ".join(grid) or "all"


def whole(sweep: Sweep) -> Sequence[Part]:
    """Return one part: all of the sweep."""
    return [Part()]


def in_order(tables: Sequence[pd.DataFrame], sweep: Sweep) -> pd.DataFrame:
    """Return the tables of all parts one below the other."""
    import pandas as pd  # noqa: PLC0415  (most of the time to import, and lists of cards need none)

    return pd.concat(tables, ignore_index=True)


def every_part(part: Part) -> bool:
    """Return True: what a sabotage changes by default."""
    return True


@dataclass(frozen=True, kw_only=True)
class Sabotage:
    """A wrong algorithm or constant that a card is tried with: its verdict has to fail.

    Attributes
    ----------
    name
        What is wrong, in words: ``"sign of the bonus flipped"``.
    settings
        The settings of the sweep that make it wrong, plain JSON data; each is one that the sweeps
        of the card have, with the right value.
    touches
        Whether a part of the sweep is another one by it; the others are not computed again. By
        default all are.
    loose
        Empty where a check has to notice. Otherwise why none can, with the measured looseness of
        the bound; allowed where no sentence of the claim is contradicted.
    """

    name: str
    settings: Sweep
    touches: Callable[[Part], bool] = every_part
    loose: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One computed part of a verdict.

    Attributes
    ----------
    name
        What is checked, in words.
    measured
        The number.
    interval
        Its interval over replicas; None for exact numbers.
    required
        The rule, in words and numbers, such as ``"at least 0.95"``.
    passed
        Whether the rule holds.
    """

    name: str
    measured: float
    interval: tuple[float, float] | None
    required: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Theorem:
    """A result of the theory that runs.

    Attributes
    ----------
    name
        As on the command line, such as ``"offline-pessimism"``.
    title
        One line for people.
    claim
        The statement, plain text with Unicode mathematics.
    source
        Paper, result, version.
    assumptions
        What the result assumes and the worlds of the study fulfil.
    departures
        Where the code departs from the paper.
    quick, full
        Sweeps of the two modes; both have ``replicas``.
    version
        Raised when results change; stored results of another version are computed again.
    cost
        Run time relative to the other studies; long ones are started first.
    devices
        Where ``measure`` can compute. For a device other than the CPU the sweep has ``device``.
    parts
        Cut the sweep into parts. How it is cut decides the last bits of the numbers.
    measure
        Compute one part, from sweep, part and the key of the study alone; return a table with a row
        per replica where there are replicas.
    gather
        From the tables of all parts, in their order, to the curves: tidy and in long form, per
        replica where that is small. Where nothing needs all replicas, one table below the other.
    judge
        Compute the checks from the curves alone.
    draw
        Draw the figure from the curves alone.
    caption
        Caption of the figure; says what every band is.
    constants
        Numbers shown on the card.
    sabotages
        Wrong algorithms and constants that the verdict is tried with.
    order
        Its place in lists and in the report; the last unless it has one.
    """

    name: str
    title: str
    claim: str
    source: str
    assumptions: tuple[str, ...]
    departures: tuple[str, ...]
    quick: Sweep
    full: Sweep
    version: int = 1
    cost: float = 1.0
    devices: tuple[str, ...] = ("cpu",)
    parts: Callable[[Sweep], Sequence[Part]] = whole
    measure: Callable[[Sweep, Part, Key], pd.DataFrame]
    gather: Callable[[Sequence[pd.DataFrame], Sweep], pd.DataFrame] = in_order
    judge: Callable[[pd.DataFrame, Sweep], list[Check]]
    draw: Callable[[pd.DataFrame, Sweep], Figure]
    caption: Callable[[pd.DataFrame, Sweep], str]
    constants: Callable[[pd.DataFrame, Sweep], dict[str, float | str]]
    sabotages: tuple[Sabotage, ...] = ()
    order: int = 1000

    def __post_init__(self) -> None:
        names = [sabotage.name for sabotage in self.sabotages]
        if len(set(names)) < len(names):
            message = f"A sabotage must have a name of its own; {self.name} has {names}."
            raise ValueError(message)
        for sabotage in self.sabotages:
            for name, value in sabotage.settings.items():
                if name not in self.quick or self.quick[name] == value:
                    message = (
                        f"A sabotage must change settings of the sweep; {sabotage.name!r} of "
                        f"{self.name} sets {name} = {value!r}, where the quick sweep has "
                        f"{self.quick.get(name)!r}."
                    )
                    raise ValueError(message)
        text = f"{self.title}\n\n{self.claim}\n\nSource: {self.source}"
        register("theorem", self.name, order=self.order, text=text)(self)

    def sweep(self, mode: Mode, replicas: int | None = None) -> dict[str, Any]:
        """Return the sweep of a mode, with another number of replicas if given."""
        sweep = dict(self.quick if mode == "quick" else self.full)
        return sweep if replicas is None else {**sweep, "replicas": replicas}

    def curves(self, sweep: Sweep, key: Key) -> pd.DataFrame:
        """Compute all parts of a sweep here, one after the other, and gather them."""
        tables = [self.measure(sweep, part, key) for part in self.parts(sweep)]
        return self.gather(tables, sweep)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a study of a theorem found, as it is stored and shown.

    Attributes
    ----------
    name, title, claim, source, assumptions, departures, version
        Of the theorem.
    code
        Hash of its code, where that is a user's; empty for our own, which ``version`` tells.
    mode, replicas, seed, sweep
        What was run.
    passed
        Whether it ran to its end and every check passed; never true without a check.
    checks
        The parts of the verdict.
    constants
        Numbers shown on the card.
    caption
        Caption of the figure.
    seconds
        Time it took.
    error
        Traceback where the study raised; empty otherwise.
    versions
        Of Python and of the libraries that compute.
    """

    name: str
    title: str
    claim: str
    source: str
    version: int
    passed: bool
    replicas: int
    seed: int
    seconds: float
    mode: str
    checks: tuple[Check, ...] = ()
    assumptions: tuple[str, ...] = ()
    departures: tuple[str, ...] = ()
    constants: Mapping[str, float | str] = field(default_factory=dict)
    sweep: Sweep = field(default_factory=dict)
    caption: str = ""
    error: str = ""
    code: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return plain data for JSON; infinite numbers and NaN become texts."""
        plain: dict[str, object] = _json_data(asdict(self))
        return plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Verdict:
        """Return the verdict that ``to_json`` wrote; ``ValueError`` where parts are missing."""
        known = {f.name for f in fields(cls)}
        try:
            values = {name: content[name] for name in content if name in known}
            checks = tuple(_check(check) for check in content.get("checks", ()))
            values["constants"] = {
                name: float(value) if value in _NOT_FINITE else value
                for name, value in content.get("constants", {}).items()
            }
            for name in ("assumptions", "departures"):
                values[name] = tuple(content.get(name, ()))
            return cls(**{**values, "checks": checks})
        except (KeyError, TypeError, AttributeError) as error:
            message = f"A verdict must have the parts that this version writes; {error}."
            raise ValueError(message) from error


def _check(content: Mapping[str, Any]) -> Check:
    interval = content["interval"]
    return Check(
        name=content["name"],
        measured=float(content["measured"]),
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        required=content["required"],
        passed=bool(content["passed"]),
    )


def sweep_data(sweep: Sweep) -> dict[str, object]:
    """Return a sweep as it comes back from JSON, to compare it with a stored one."""
    plain: dict[str, object] = json.loads(json.dumps(_json_data(sweep)))
    return plain


def _json_data(value: object) -> Any:
    """Return ``value`` as JSON data: NumPy scalars as Python's, no numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(k): _json_data(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_data(v) for v in value]
    if hasattr(value, "tolist"):
        return _json_data(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
