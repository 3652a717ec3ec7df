"""The commands of theorem cards: run them, and try what their verdicts notice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlhf_theory.commands import studies
from rlhf_theory.commands.tables import aligned
from rlhf_theory.errors import check_choice
from rlhf_theory.register import found

if TYPE_CHECKING:
    from rlhf_theory.theorems.card import Theorem, Verdict
    from rlhf_theory.theorems.trials import Tried

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME ... | all]", help="Theorems; all if none is named."),
]


def reproduce(
    names: Names = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few replicas and points, same rules (the default).")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="At least 1000 replicas behind every interval.")
    ] = False,
    replicas: Annotated[
        int | None, typer.Option(help="Replicas, instead of the number of the mode.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all draws.")] = 0,
    jobs: studies.Jobs = None,
    backend: studies.Backend = None,
    option: studies.Options = None,
    max_time: studies.MaxTime = None,
    device: Annotated[
        str, typer.Option(metavar="cpu|cuda", help="Where studies that support it compute.")
    ] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; results/quick or results/full if none.")
    ] = None,
) -> None:
    """Run theorem studies: verdicts, figures and one page for all of them.

    A study is cut into parts for all workers. What OUT holds already is not computed again, so an
    interrupted run can go on. The exit code is 0 if every theorem holds, 1 if one fails or has not
    come to its end, 2 for bad input.
    """
    if quick and full:
        message = "Give --quick or --full, not both."
        raise ValueError(message)
    chosen = _chosen(names)
    mode: Literal["quick", "full"] = "full" if full else "quick"
    folder = out or Path("results") / mode

    from rlhf_theory.report import write_report
    from rlhf_theory.theorems.reproduce import reproduce as run_studies

    limit = None if max_time is None else studies.seconds_of(max_time)
    with studies.ending(folder):
        verdicts = run_studies(
            chosen,
            folder,
            mode=mode,
            seed=seed,
            replicas=replicas,
            jobs=jobs,
            backend=backend,
            options=studies.backend_options(option),
            max_time=limit,
            device=device,
            say=typer.echo,
        )
    if verdicts:
        page = write_report(folder)
        typer.echo("\n" + _verdict_table(verdicts) + f"\n\nReport: {page}")
    complete = len(verdicts) == len(chosen)
    raise typer.Exit(0 if complete and all(v.passed for v in verdicts) else 1)


def _verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows = [("theorem", "verdict", "checks", "replicas", "seconds")]
    for v in verdicts:
        result = "raised" if v.error else "holds" if v.passed else "FAILS"
        passed = f"{sum(c.passed for c in v.checks)}/{len(v.checks)}"
        rows.append((v.name, result, passed, str(v.replicas), f"{v.seconds:.1f}"))
    return aligned(rows)


def sabotage(
    names: Names = None,
    jobs: studies.Jobs = None,
    backend: studies.Backend = None,
    option: studies.Options = None,
    max_time: studies.MaxTime = None,
    out: Annotated[Path, typer.Option(help="Folder for what is computed.")] = Path(
        "results/sabotages"
    ),
    table: Annotated[
        Path | None, typer.Option(help="Also put what was found into this table (JSON).")
    ] = None,
) -> None:
    """Try theorem cards with wrong algorithms: each verdict has to fail.

    Every card is judged with each of its sabotages, and with the right algorithm at three further
    seeds, all in quick form. The exit code is 0 if all verdicts are as they should be, 1 if a
    sabotage goes unnoticed, a right algorithm fails or a trial has not come to its end.
    """
    chosen = _chosen(names)

    from rlhf_theory.theorems.trials import read_trials, try_cards, write_trials

    if table is not None:
        read_trials(table)  # one that cannot be read is told before anything runs
    with studies.ending(out):
        tried = try_cards(
            chosen,
            out,
            jobs=jobs,
            backend=backend,
            options=studies.backend_options(option),
            max_time=None if max_time is None else studies.seconds_of(max_time),
            say=typer.echo,
        )
    ended = [theorem for theorem in chosen if theorem.name in tried]
    typer.echo("\n" + _table(ended, tried))
    problems = [f"{t.name}: {p}" for t in ended for p in tried[t.name].problems(t)]
    for problem in problems:
        typer.echo(problem)
    if table is not None:
        write_trials(tried, table)
        typer.echo(f"Table: {table}")
    raise typer.Exit(1 if problems or len(ended) < len(chosen) else 0)


def _table(theorems: Sequence[Theorem], tried: dict[str, Tried]) -> str:
    rows = [("theorem", "tried with", "checks that fail")]
    for theorem in theorems:
        found = tried[theorem.name]
        rows += [(theorem.name, f"right, seed {s}", str(len(of))) for s, of in found.right.items()]
        rows += [(theorem.name, n, str(len(failed))) for n, failed in found.noticed.items()]
    return aligned(rows)


def _chosen(names: list[str] | None) -> list[Theorem]:
    """Return the theorems of some names; ``ValueError`` for one that is not known."""
    known = found("theorem")
    wanted = list(dict.fromkeys(names or ["all"]))
    for name in wanted:
        check_choice("theorem", name, (*known, "all"))
    return [known[name].thing for name in (known if "all" in wanted else wanted)]
