"""The small tables of a study: what is recorded, how it runs, its quick form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, LiteralString

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError, core_schema

from rlhf_theory.register import found
from rlhf_theory.studies.grids import grid_hint
from rlhf_theory.studies.messages import shown
from rlhf_theory.studies.resolve import whole


class Table(BaseModel):
    """A table of a study: fixed once made, without unknown keys, and nothing is guessed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )


@dataclass(frozen=True)
class Named:
    """Marks a text as a name in the register, which is asked only when there is one to check.

    Attributes
    ----------
    role
        The role that it is a name in.
    """

    role: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        return {**handler(schema), "enum": list(found(self.role))}

    def _checked(self, value: str) -> str:
        known = found(self.role)
        if value not in known:
            expected = " or ".join(", ".join(map(repr, known)).rsplit(", ", 1))
            # What pydantic says of a text that is none of some literals.
            kind: LiteralString = "literal_error"
            raise PydanticCustomError(kind, "must be {expected}", {"expected": expected})
        return value


def as_tuple(value: object) -> object:
    """Return a list as a tuple, anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def _whole_from(low: int, value: object) -> int | tuple[int, ...]:
    """Return a whole number, or those of a grid as a tuple."""
    given = value
    if isinstance(value, Mapping) and set(value) == {"grid"}:
        given = value["grid"]
        if not isinstance(given, list | tuple) or not given:
            message = f"must have a list as its grid; got {shown(given)}."
            raise ValueError(message)
    if isinstance(given, list | tuple) and given:
        found = tuple(_whole_from(low, v) for v in given)
        if len(set(found)) < len(found):
            message = f"holds a value twice; got {shown(given)}."
            raise ValueError(message)
        return found  # type: ignore[return-value]
    number = whole(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < low:
        message = f"must be a whole number, at least {low}, or a grid of such; got {shown(value)}."
        raise ValueError(message + grid_hint(value))
    return number


def _increasing(value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if value is not None and list(value) != sorted(set(value)):
        message = f"must increase; got {shown(value)}."
        raise ValueError(message)
    return value


def _grid_schema(low: int) -> dict[str, object]:
    one = {"type": "integer", "minimum": low}
    grid = {"type": "array", "items": one, "minItems": 1}
    table = {"properties": {"grid": grid}, "required": ["grid"], "additionalProperties": False}
    return {"anyOf": [one, {"type": "object", **table}]}


Count = Annotated[int, Field(ge=1), BeforeValidator(whole)]
Rounds = Annotated[int, Field(ge=0), BeforeValidator(whole)]
Pairs = Annotated[
    Annotated[tuple[Rounds, ...], Field(min_length=1)] | None,
    BeforeValidator(as_tuple),
    AfterValidator(_increasing),
]
Swept = Annotated[Any, PlainValidator(lambda v: _whole_from(0, v)), WithJsonSchema(_grid_schema(0))]
SweptCount = Annotated[
    Any, PlainValidator(lambda v: _whole_from(1, v)), WithJsonSchema(_grid_schema(1))
]


class Record(Table):
    """What is kept of a run.

    Attributes
    ----------
    metrics
        Names of metrics of the worlds and of what learners report; None for all.
    grid
        Which rounds: ``"log"``, ``"linear"`` or ``"all"``.
    points
        Rounds per decade (``"log"``, 20 unless set), or every how many-th round (``"linear"``, 1
        unless set); None for ``"all"``.
    """

    metrics: Annotated[
        Annotated[tuple[str, ...], Field(min_length=1)] | None, BeforeValidator(as_tuple)
    ] = None
    grid: Literal["log", "linear", "all"] = "log"
    points: Count | None = None

    def model_post_init(self, context: object) -> None:  # noqa: ARG002
        """Fill in the default of ``points``, which depends on the grid."""
        if self.points is None and self.grid != "all":
            object.__setattr__(self, "points", 20 if self.grid == "log" else 1)


class RunOptions(Table):
    """How a study runs; results do not depend on it.

    Attributes
    ----------
    jobs
        Worker processes; None for one per core.
    backend
        Where they run.
    options
        Settings of the backend.
    """

    jobs: Count | None = None
    backend: Annotated[str, Named("backend")] = "local"
    options: dict[str, object] = Field(default_factory=dict)


class Quick(Table):
    """What the quick form of a study changes; as in `Study`, None for no change.

    Attributes
    ----------
    set
        Changes inside of entries, as after ``--set``: ``["world.replicas=1"]``.
    """

    seed: Swept | None = None
    replicas: Count | None = None
    block: SweptCount | None = None
    rounds: Rounds | None = None
    pairs: Pairs = None
    record: Record | None = None
    set: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
