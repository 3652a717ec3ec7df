"""The command ``rlhf-theory``: parses arguments and calls the layers below.

Heavy imports wait inside the commands, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rlhf_theory.commands import findings, listing, studies, study_files
from rlhf_theory.commands.spec_options import PlotCommand
from rlhf_theory.commands.tables import aligned
from rlhf_theory.errors import check_choice
from rlhf_theory.register import found
from rlhf_theory.store import DamageWarning

if TYPE_CHECKING:
    from rlhf_theory.theorems.card import Verdict

PLUGINS = "rlhf_theory.commands"
"""Entry-point group of further commands; each entry is a ``typer.Typer`` or a function."""


def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME ... | all]", help="Theorems to run; all if none is named."),
    ] = None,
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
    known = found("theorem")
    wanted = list(dict.fromkeys(names or ["all"]))
    for name in wanted:
        check_choice("theorem", name, (*known, "all"))
    chosen = list(known) if "all" in wanted else wanted
    mode: Literal["quick", "full"] = "full" if full else "quick"
    folder = out or Path("results") / mode

    from rlhf_theory.report import write_report
    from rlhf_theory.theorems.reproduce import reproduce as run_studies

    limit = None if max_time is None else studies.seconds_of(max_time)
    with studies.ending(folder):
        verdicts = run_studies(
            [known[name].thing for name in chosen],
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


def doctor() -> None:
    """Show versions, linear algebra and its threads, processors and accelerators."""
    from rlhf_theory.experiments.doctor import findings

    typer.echo(aligned([("what", "found"), *findings()]))


def report(
    out: Annotated[Path, typer.Argument(help="Folder that `reproduce` or `run` has written.")],
) -> None:
    """Write the page again from what OUT holds: verdicts and figures, or the results of a study."""
    from rlhf_theory.report import write_report
    from rlhf_theory.report.study_report import is_study, write_study_report

    if is_study(out):
        from rlhf_theory.study import StudyResult

        typer.echo(f"Report: {write_study_report(StudyResult(out))}")
        return
    typer.echo(f"Report: {write_report(out)}")


def application() -> typer.Typer:
    """Return the command with all its parts, plugins included."""
    app = typer.Typer(
        name="rlhf-theory",
        help="The theory of reinforcement learning from human feedback, as experiments.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    commands: dict[str, Callable[..., None]] = {
        "reproduce": reproduce,
        "list": listing.list_known,
        "new": study_files.new,
        "run": studies.run,
        "status": studies.status,
        "extend": studies.extend,
        "compare": findings.compare,
        "plot": findings.plot,
        "report": report,
        "export": findings.export,
        "schema": study_files.schema,
        "doctor": doctor,
    }
    for name, command in commands.items():
        app.command(name, cls=PlotCommand if command is findings.plot else None)(command)
    for entry in entry_points(group=PLUGINS):
        try:
            part: Any = entry.load()
        except ImportError as error:
            typer.echo(f"The command {entry.name!r} cannot be loaded: {error}", err=True)
            continue
        if isinstance(part, typer.Typer):
            app.add_typer(part, name=entry.name)
        else:
            app.command(entry.name)(part)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input ends with one line on the error output and exit code 2."""
    with warnings.catch_warnings():
        warnings.showwarning = _in_one_line(warnings.showwarning)
        warnings.simplefilter("always", DamageWarning)
        try:
            application()(args=arguments, prog_name="rlhf-theory")
        except (ValueError, OSError) as error:
            typer.echo(f"Error: {error}", err=True)
            sys.exit(2)


def _in_one_line(others: Callable[..., None]) -> Callable[..., None]:
    """Return how warnings are shown: of damage without a place in the code, as it is nobody's."""

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, DamageWarning):
            typer.echo(f"Damaged: {message}", err=True)
        else:
            others(message, category, *rest)

    return show
