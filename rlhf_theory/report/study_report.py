"""From the results of a study to its figures, its tables and its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from rlhf_theory.plots.studies import study_figure
from rlhf_theory.report.sections import Sheet
from rlhf_theory.report.study import Failure, write_study_page
from rlhf_theory.report.tables import Table, table_of
from rlhf_theory.store import folder_study, read_json, write_atomic
from rlhf_theory.studies.findings import ALL_WORLDS
from rlhf_theory.studies.folder import MADE_BY
from rlhf_theory.studies.identities import adopted
from rlhf_theory.studies.plot_specs import PlotSpec, plot_facts
from rlhf_theory.studies.result import ResultTables

# Up to so many learners all pairs fit into a table that somebody reads.
_FEW = 5


def is_study(out: Path) -> bool:
    """Return whether a folder is one that a study has run in."""
    return (folder_study(out) or {}).get("made_by") == MADE_BY


def default_plots(result: ResultTables) -> list[PlotSpec]:
    """Return the figures of a study that asks for none: its metric, and paired differences."""
    kinds = ["suboptimality"]
    if len({cell.learner_label for cell in result.cells}) > 1:
        kinds.append("pairs")
    return [PlotSpec.of(kind) for kind in kinds]


def draw_figures(result: ResultTables) -> tuple[list[Sheet], list[str]]:
    """Write the figures of a study into ``OUT/figures``; return them, and what went wrong.

    A figure that cannot be drawn, such as a slope of a curve that reaches zero, must not cost the
    others.
    """
    folder = result.folder.path / "figures"
    sheets, remarks = [], []
    settings = {cell.key: cell.settings() for cell in result.cells}
    specs = list(result.study.plots) or default_plots(result)
    for number, spec in enumerate(specs, start=1):
        stem = f"{number:02d}-{spec.kind}"
        try:
            figure = study_figure(result.curves, spec, settings)
        except ValueError as error:
            remarks.append(f"The figure {stem} could not be drawn: {error}")
            continue
        figure.save(folder / stem)
        title = plot_facts(spec.kind).title
        if spec.notion is not None:
            title = f"{title}, {spec.notion}"
        tags = {"plot": spec.kind}
        sheets.append(
            Sheet(folder=folder, title=title, caption=figure.caption, stem=stem, tags=tags)
        )
    return sheets, remarks


def write_study_report(result: ResultTables, say: Callable[[str], None] | None = None) -> Path:
    """Write ``OUT/report.html``, ``OUT/figures`` and ``OUT/summary.csv``; return the page.

    Parameters
    ----------
    result
        What the study has found so far.
    say
        Called with each remark on the page: what could not be drawn or computed.

    Raises
    ------
    ValueError
        If no block is done.
    """
    folder = result.folder.path
    summary = result.summary()
    write_atomic(folder / "summary.csv", summary.to_csv(index=False).encode())
    sheets, remarks = draw_figures(result)
    remarks += [*_not_numbers(summary), *_adopted(result)]
    tables = dict(_tables(result, summary, remarks))
    if say is not None:
        for remark in remarks:
            say(remark)
    toml = folder / "study.toml"
    return write_study_page(
        folder / "report.html",
        name=result.study.name,
        title=result.study.title,
        lead=result.study.lead,
        facts=_facts(result),
        tables=tables,
        figures=sheets,
        remarks=remarks,
        cells=_cells(result),
        failures=list(_failures(result)),
        study_toml=toml.read_text(encoding="utf-8") if toml.is_file() else "",
        resolved=result.study.resolved(),
        provenance=_provenance(folder),
    )


def _not_numbers(summary: pd.DataFrame) -> list[str]:
    """Return a remark on cells whose metric is NaN at the end."""
    rows = summary[summary["mean"].isna()]
    names = [f"{row.learner} in {row.world}" for row in rows.itertuples()]
    if not names:
        return []
    return [f"The metric is not a number at the end of {', '.join(names)}."]


def _adopted(result: ResultTables) -> list[str]:
    """Return a remark per cell with results of older code that somebody has adopted."""
    found = adopted(result.folder.path, result.cells)
    remarks = []
    for cell in result.cells:
        entries = found.get(cell.key, [])
        if blocks := {name for entry in entries for name in entry["blocks"]}:
            changed = "; ".join(dict.fromkeys(c for entry in entries for c in entry["changed"]))
            remarks.append(
                f"{cell.learner_label} in {cell.world_label}: {len(blocks)} of "
                f"{len(cell.blocks())} blocks were computed by older code and adopted with "
                f"--keep-old; changed since: {changed}."
            )
    return remarks


def _facts(result: ResultTables) -> dict[str, object]:
    counts = result.counts()
    facts: dict[str, object] = {
        "Cells": len(result.cells),
        "Replicas": result.study.replicas,
        "Blocks done": f"{counts['done']} of {counts['blocks']}",
    }
    if counts["failed"]:
        facts["Blocks failed"] = counts["failed"]
    if result.study.rounds is not None:
        facts["Rounds"] = result.study.rounds
    return facts | {"Seed": str(result.study.seed), "Block size": str(result.study.block)}


def _tables(
    result: ResultTables, summary: pd.DataFrame, remarks: list[str]
) -> Iterator[tuple[str, Table]]:
    yield (
        "At the end",
        table_of(
            summary,
            {
                "World": "world",
                "Learner": "learner",
                "Metric": "metric",
                "Replicas": "replicas",
                "Labels": "labels",
                "Mean": "mean",
                "95 % interval": ("lower", "upper"),
                "5 to 95 % of replicas": ("q05", "q95"),
            },
            tags={"world": "world", "learner": "learner", "family": "family"},
            caption=(
                "The metric of each world, in nats, smaller is better, and the labels that "
                "policies were fitted on, mean over replicas. Interval: bootstrap over replicas "
                "for the mean; last column: quantiles over replicas."
            ),
        ),
    )
    rates = result.rates()
    if rates["slope"].notna().any():
        yield "Rates", _rate_table(rates)
    learners = list(dict.fromkeys(cell.learner_label for cell in result.cells))
    if len(learners) > 1:
        baseline = None if len(learners) <= _FEW else _baseline(result, learners)
        found = _or_remark(lambda: result.compare(baseline=baseline), "comparisons", remarks)
        if found is not None:
            remarks += [f"Not compared: {pair}." for pair in found.attrs["left_out"]]
            yield "Paired comparisons", _comparison_table(result, found, baseline)
    scores = _or_remark(result.scores, "scores", remarks)
    if scores is not None:
        yield "Scores", _score_table(scores)


def _baseline(result: ResultTables, learners: list[str]) -> str:
    """Return the learner that the study's own figure compares with, else the first."""
    named = [p.baseline for p in result.study.plots if p.kind == "pairs"]
    return next((name for name in named if name in learners), learners[0])


def _or_remark(
    compute: Callable[[], pd.DataFrame], what: str, remarks: list[str]
) -> pd.DataFrame | None:
    """Return a table, or None and a remark where there is nothing to make it of."""
    try:
        return compute()
    except ValueError as error:
        remarks.append(f"There are no {what}: {error}")
        return None


def _score_table(scores: pd.DataFrame) -> Table:
    """Return learners by families, best first."""
    families = list(dict.fromkeys(scores["family"]))
    families = [f for f in families if f != ALL_WORLDS]
    shown = [ALL_WORLDS, *(families if len(families) > 1 else [])]
    at = scores.set_index(["learner", "family"])
    learners = list(dict.fromkeys(scores["learner"]))

    def value(learner: str, family: str, column: str) -> float | None:
        found = at[column].get((learner, family))
        return None if found is None else round(float(found), 3)

    learners.sort(key=lambda name: -(value(name, ALL_WORLDS, "score") or 0.0))
    columns = ["Learner"]
    for family in shown:
        columns += [family, f"{family}, 95 % interval"]
    rows = []
    for learner in learners:
        row: list[object] = [learner]
        for family in shown:
            ends = (value(learner, family, "lower"), value(learner, family, "upper"))
            row += [value(learner, family, "score"), None if ends[0] is None else ends]
        rows.append(row)
    return Table(
        columns=columns,
        rows=rows,
        sortable=True,
        tags=[{"learner": learner} for learner in learners],
        caption=(
            "Share of the way from the reference policy (0) to the optimal or the Nash policy (1) "
            "at the end, cut to [0, 1]: mean over the replicas and the worlds of a family. "
            "Interval: bootstrap over replicas, the worlds taken as given. A dash: the learner did "
            "not run in all worlds of the family."
        ),
    )


def _comparison_table(result: ResultTables, found: pd.DataFrame, baseline: str | None) -> Table:
    families = {cell.world_label: cell.family for cell in result.cells}
    found = found.assign(family=found["world"].map(families))
    against = "" if baseline is None else f" Every learner against {baseline!r}."
    return table_of(
        found,
        {
            "World": "world",
            "First": "first",
            "Second": "second",
            "Labels": "at",
            "Difference": "difference",
            "95 % interval": ("difference_lower", "difference_upper"),
            "First better": "better",
            "p": "p_value",
            "Holm p": "adjusted",
            "Winner": "winner",
        },
        tags={"world": "world", "learner": ["first", "second"], "family": "family"},
        caption=(
            "Mean over replicas of first minus second, both at the last number of labels that both "
            "have (per replica; the mean is shown); replicas are paired by common random numbers, "
            "negative means that the first is better." + against + " Interval: "
            "bootstrap over replicas, for one row alone. p: sign-flip test; Holm p: corrected for "
            "all rows; a winner needs Holm p of at most .05."
        ),
    )


def _rate_table(rates: pd.DataFrame) -> Table:
    return table_of(
        rates[rates["slope"].notna()],
        {
            "World": "world",
            "Learner": "learner",
            "Metric": "metric",
            "Slope": "slope",
            "95 % interval": ("lower", "upper"),
            "From": "from",
            "To": "to",
        },
        tags={"world": "world", "learner": "learner"},
        caption=(
            "Slope of the logarithm of the mean curve against the logarithm of labels (mean over "
            "replicas), between the two last columns. Interval: bootstrap over replicas. It is the "
            "slope of this window, not the exponent of the limit."
        ),
    )


def _cells(result: ResultTables) -> Table:
    status = result.status()
    return table_of(
        status,
        {
            "World": "world",
            "Learner": "learner",
            "Done": "done",
            "Failed": "failed",
            "Blocks": "blocks",
            "Seconds": "seconds",
            "Key": "cell",
        },
        tags={"world": "world", "learner": "learner", "family": "family"},
        caption="Blocks of replicas per cell; seconds of computing, where this folder knows them.",
    )


def _failures(result: ResultTables) -> Iterator[Failure]:
    by_key = {cell.key: cell for cell in result.cells}
    for name, record in result.folder.failed(result.cells).items():
        key, _, replicas = name.partition("/")
        cell = by_key[key]
        yield Failure(
            block=f"{cell.world_label}, {cell.learner_label}, {replicas}",
            error=str(record.get("error", "")),
            traceback=str(record.get("traceback", "")),
            attempts=int(record.get("attempts", 1)),
            tags={"world": cell.world_label, "learner": cell.learner_label, "family": cell.family},
        )


def _provenance(folder: Path) -> list[Mapping[str, object]]:
    """Return the records of all runs, without the study, which the page shows once."""
    found: list[Mapping[str, object]] = []
    for path in sorted((folder / "provenance").glob("*.json")):
        content = read_json(path)
        if content is not None:
            found.append({k: v for k, v in content.items() if k not in ("study", "origins")})
    return found
