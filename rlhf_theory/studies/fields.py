"""What a study consists of, for everything that checks, counts and stores one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from rlhf_theory.studies.items import LearnerItem, WorldItem
from rlhf_theory.studies.parts import (
    Count,
    Pairs,
    Quick,
    Record,
    Rounds,
    RunOptions,
    Swept,
    SweptCount,
    Table,
    as_tuple,
)
from rlhf_theory.studies.plot_specs import PlotSpec


def _listed(value: object) -> object:
    """Return one table as a list of one: somebody wrote ``[plot]`` for ``[[plot]]``."""
    return (value,) if isinstance(value, Mapping) else as_tuple(value)


class StudyFields(Table):
    """The values of a study, its entries one by one, and where each value comes from.

    Nothing is checked here but the kind of each value; see `schema.StudyData`.
    """

    format: Literal[2] = 2
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    lead: str = ""  # the paragraph below the title of the page: what the study asks
    seed: Swept = 0
    replicas: Count = 256
    block: SweptCount = 64
    rounds: Rounds | None = None
    pairs: Pairs = None
    quick: Quick | None = None
    record: Record = Record()
    worlds: tuple[object, ...] = Field(alias="world")
    learners: tuple[object, ...] = Field(alias="learner")
    plots: Annotated[tuple[PlotSpec, ...], BeforeValidator(_listed)] = Field((), alias="plot")
    run_options: RunOptions = Field(default=RunOptions(), alias="run")

    _worlds: tuple[WorldItem, ...] = PrivateAttr(default=())
    _learners: tuple[LearnerItem, ...] = PrivateAttr(default=())
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def world_items(self) -> tuple[WorldItem, ...]:
        """The worlds, one per value of every grid."""
        return self._worlds

    @property
    def learner_items(self) -> tuple[LearnerItem, ...]:
        """The learners, one per value of every grid."""
        return self._learners

    @property
    def origins(self) -> Mapping[str, str]:
        """Where every value comes from: place to "file", "--set", "python" or "default"."""
        return self._origins

    def resolved(self) -> dict[str, Any]:
        """Return the study with every setting named and no grids of entries, as plain data.

        ``Study(**study.resolved())`` has the same cells.
        """
        table: dict[str, Any] = self.model_dump(
            mode="json", exclude={"worlds", "learners", "quick"}, exclude_none=True
        )
        for name in ("seed", "block"):
            value = getattr(self, name)
            table[name] = {"grid": list(value)} if isinstance(value, tuple) else value
        table["run"] = table.pop("run_options")
        table["worlds"] = [w.written() for w in self._worlds]
        table["learners"] = [le.written() for le in self._learners]
        return table
