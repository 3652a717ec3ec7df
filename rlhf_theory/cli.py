"""The command ``rlhf-theory``: parses arguments and calls the layers below.

Heavy imports wait inside the commands, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_theory.commands import cards, findings, listing, studies, study_files
from rlhf_theory.commands.spec_options import PlotCommand
from rlhf_theory.commands.tables import aligned
from rlhf_theory.store import DamageWarning

if TYPE_CHECKING:
    pass

PLUGINS = "rlhf_theory.commands"
"""Entry-point group of further commands; each entry is a ``typer.Typer`` or a function."""


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
        "reproduce": cards.reproduce,
        "list": listing.list_known,
        "new": study_files.new,
        "run": studies.run,
        "status": studies.status,
        "extend": studies.extend,
        "compare": findings.compare,
        "plot": findings.plot,
        "report": report,
        "sabotage": cards.sabotage,
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
