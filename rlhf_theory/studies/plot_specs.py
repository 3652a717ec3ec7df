"""The figures that a study asks for, as data; what can be drawn is in the register."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError

from rlhf_theory.register import found
from rlhf_theory.studies.former import WORDS
from rlhf_theory.studies.messages import StudyError, mistakes_of
from rlhf_theory.studies.parts import Named, Table, as_tuple


def _not_former(value: object) -> object:
    """Raise ``ValueError`` for what format 1 called it."""
    if isinstance(value, str) and value in WORDS:
        message = f'must be "round", "pairs" or "labels"; {value!r} was a name in format 1.'
        raise ValueError(message)
    return value


@dataclass(frozen=True, kw_only=True)
class PlotFacts:
    """What a kind of figure says about itself.

    Attributes
    ----------
    title
        The heading of such a figure in a report.
    options
        The settings of `PlotSpec` that it has and not every kind.
    needs
        Those of its settings that have to be given, and why.
    """

    title: str
    options: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)


class PlotSpec(Table):
    """A figure of a study.

    Attributes
    ----------
    kind
        What to draw, as ``rlhf-theory list plots`` has it.
    metric
        What on the vertical axis, a recorded column (also ``"regret"``); None for the metric of
        each world.
    facet, hue
        One panel, one colour per value of ``"world"``, ``"learner"``, ``"family"`` or a setting
        that varies, such as ``"world.dim"``. None: a panel per world, a series per learner;
        ``"none"`` as facet: one panel.
    venue
        Whose sizes and fonts to take, such as ``"neurips2024"``; in study files ``style``, too.
    band
        ``"interval"`` (pointwise bootstrap interval of the mean), ``"quantiles"`` (5 to 95 % of the
        replicas) or ``"simultaneous"`` (holds a whole mean curve).
    bound
        A bound to draw in: an expression of ``round`` or ``pairs`` (online or offline learners),
        ``labels`` (used so far) and settings, such as ``"d * log(labels) / labels"``.
    window
        First and last round (or number of pairs) of fitted slopes; None takes the upper half of
        the logarithmic range.
    x
        ``"round"``, ``"pairs"`` or ``"labels"``; None takes what learners count, and labels where
        learners are compared that have used different numbers of them, or where online and offline
        ones meet.
    notion
        Which regret; ``"cumulative"`` unless set.
    baseline
        The learner with which others are compared, or ``"all"`` for all pairs; None takes all pairs
        of up to three learners, else the first learner.
    relative
        Whether a frontier shows what was gained over pi0 instead of the gap.
    width
        ``"column"`` or ``"text"``; None takes a column for one panel, the text for several.
    level
        Coverage of intervals and simultaneous bands.
    """

    kind: Annotated[str, Named("plot")]
    metric: str | None = None
    facet: str | None = None
    hue: str | None = None
    venue: Annotated[str | None, Field(alias="style")] = None
    band: Literal["interval", "quantiles", "simultaneous"] = "interval"
    bound: str | None = None
    window: Annotated[tuple[float, float] | None, BeforeValidator(as_tuple)] = None
    x: Annotated[Literal["round", "pairs", "labels"] | None, BeforeValidator(_not_former)] = None
    notion: Literal["cumulative", "average", "simple", "best"] | None = None
    baseline: str | None = None
    relative: bool = False
    width: Literal["column", "text"] | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95

    @classmethod
    def of(cls, kind: str, **settings: Any) -> Self:
        """Return the figure of some settings; ``ValueError`` in words for those it cannot have."""
        try:
            return cls.model_validate({"kind": kind, **settings})
        except ValidationError as error:
            raise StudyError(mistakes_of(error.errors(), (), cls.model_fields)) from None


def plot_facts(kind: str) -> PlotFacts:
    """Return what a kind of figure says about itself."""
    facts = found("plot")[kind].facts.more
    return facts if isinstance(facts, PlotFacts) else PlotFacts(title=kind)


def useless(spec: PlotSpec) -> Iterator[tuple[str, list[str]]]:
    """Yield the settings that would change nothing, and the kinds of figures that have them."""
    having: dict[str, list[str]] = {}
    for kind in found("plot"):
        for name in plot_facts(kind).options:
            having.setdefault(name, []).append(kind)
    for name, kinds in having.items():
        if getattr(spec, name) != PlotSpec.model_fields[name].default and spec.kind not in kinds:
            yield name, kinds
