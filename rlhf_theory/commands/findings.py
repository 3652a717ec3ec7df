"""``rlhf-theory compare``, ``plot`` and ``export``: looking at the results of studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rlhf_theory.commands.studies import Out
from rlhf_theory.commands.tables import frame_text

if TYPE_CHECKING:
    from rlhf_theory.studies.pairing import By


def compare(
    out: Out,
    first: Annotated[str | None, typer.Argument(metavar="A", help="Label of a learner.")] = None,
    second: Annotated[str | None, typer.Argument(metavar="B", help="Label of another.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="A learner that all others are compared with.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Metric; the world's if not given.")] = None,
    by: Annotated[
        str, typer.Option(metavar="labels|rounds|pairs", help="What is equal for both.")
    ] = "labels",
    at: Annotated[
        float | None, typer.Option(help="Number of that; else the last that both have.")
    ] = None,
    level: Annotated[float, typer.Option(help="Coverage of the intervals.")] = 0.95,
    anytime: Annotated[
        bool, typer.Option("--anytime", help="Intervals that hold while replicas are added.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Compare learners in pairs: A with B, all with a baseline, or all pairs.

    Both have the same number of labels, unless --by says otherwise. Replicas are paired by common
    random numbers: bootstrap intervals over replicas, the sign-flip test, Holm's correction over
    all rows.
    """
    from rlhf_theory.study import StudyResult

    table = StudyResult(out).compare(
        first,
        second,
        baseline=baseline,
        metric=metric,
        by=cast("By", by),  # checked there
        at=at,
        level=level,
        anytime=anytime,
    )
    if as_json:
        typer.echo(table.to_json(orient="records", indent=2))
        return
    columns = "world first second at difference difference_lower difference_upper better"
    tests = [] if anytime else ["p_value", "adjusted"]
    names = {"difference_lower": "lower", "difference_upper": "upper", "adjusted": "Holm p"}
    names["at"] = by
    shown = table[[*columns.split(), *tests, "winner"]].rename(columns=names)
    typer.echo(frame_text(shown.fillna({"winner": "-"})))
    interval = (
        f"{level:.0%} confidence sequence for all rows at once"
        if anytime
        else f"{level:.0%} bootstrap interval"
    )
    if left := table.attrs["left_out"]:
        typer.echo(f"\nleft out: {'; '.join(left)}")
    where = "labels of both, mean over replicas" if by == "labels" else f"{by} of both"
    typer.echo(
        f"\n{by}: {where}; difference: mean over replicas of first minus second, {interval}; "
        "better: share of replicas in which the first is better."
    )


def plot(
    ctx: typer.Context,
    out: Out,
    to: Annotated[
        Path | None, typer.Option(help="Files without suffix; OUT/figures/KIND if none.")
    ] = None,
) -> None:
    """Draw one figure: PDF, SVG, the plotted numbers as CSV, and a caption."""
    from rlhf_theory.studies.plot_specs import PlotSpec
    from rlhf_theory.study import StudyResult

    spec = PlotSpec.of(**ctx.obj)
    figure = StudyResult(out).plot(spec)
    target = to or out / "figures" / spec.kind
    if target.is_dir():
        target = target / spec.kind
    for path in figure.save(target):
        typer.echo(str(path))


def export(
    out: Out,
    to: Annotated[Path, typer.Option(help="File that ends in .csv or .parquet.")],
    level: Annotated[str, typer.Option(metavar="curves|final", help="All rows, or the end.")] = (
        "curves"
    ),
) -> None:
    """Write the tidy table of a study: one row per cell, replica and recorded round."""
    from rlhf_theory.errors import check_choice
    from rlhf_theory.study import StudyResult

    check_choice("level", level, ("curves", "final"))
    path = StudyResult(out).export(to, "final" if level == "final" else "curves")
    typer.echo(str(path))
