"""``rlhf-theory run``, ``extend`` and ``status``: studies on their way."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_theory.commands.tables import aligned, frame_text

if TYPE_CHECKING:
    import pandas as pd

    from rlhf_theory.studies.looks import Look
    from rlhf_theory.studies.running import OldResults, Plan
    from rlhf_theory.study import Study, StudyResult

Out = Annotated[Path, typer.Argument(metavar="OUT", help="Folder that `run` has written.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", help="Workers; one per core if not given.")
]
Backend = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Where work is done, of `rlhf-theory list backends`."),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="A setting of the backend; repeatable."),
]
MaxTime = Annotated[
    str | None, typer.Option(metavar="TIME", help="Start nothing after 90s, 10m or 2h.")
]
_FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")]
_Retry = Annotated[bool, typer.Option("--retry-failed", help="Compute failed blocks again.")]
_Verify = Annotated[
    bool, typer.Option("--verify", help="Read all that is there; make anew what is damaged.")
]
_Keep = Annotated[
    bool, typer.Option("--keep-old", help="Adopt results of older code as those of today's.")
]
_Drop = Annotated[bool, typer.Option("--drop-old", help="Remove results of older code.")]
_Only = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Only these worlds, learners or WORLD/LEARNER; repeatable."),
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]


def run(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study file, or a listed name.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; results/NAME if none.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The quick form of the study.")] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PLACE=VALUE", help="Change a setting; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and how long; write nothing.")
    ] = False,
    jobs: Jobs = None,
    backend: Backend = None,
    option: Options = None,
    only: _Only = None,
    max_time: MaxTime = None,
    fail_fast: _FailFast = False,
    retry_failed: _Retry = False,
    verify: _Verify = False,
    keep_old: _Keep = False,
    drop_old: _Drop = False,
    quiet: _Quiet = False,
) -> None:
    """Run a study, or go on where it was stopped; then draw its figures and its report.

    The exit code is 0 if all is done, 1 if blocks failed or are left, 2 for bad input, 3 if all
    that is left waits for labels by people, 130 after Ctrl-C; the same command goes on from what
    OUT holds.
    """
    from rlhf_theory.studies.bundled import study_path
    from rlhf_theory.studies.running import plan_study
    from rlhf_theory.study import Study

    limit = None if max_time is None else seconds_of(max_time)
    old = _old(keep_old, drop_old)
    path = study_path(study)
    chosen = Study.from_toml(path, sets or (), quick=quick)
    if dry_run:
        plan = plan_study(chosen, out, only=only or (), retry_failed=retry_failed, verify=verify)
        say_plan(chosen, plan, jobs, backend, backend_options(option))
        return
    _, code = carried_out(
        chosen,
        out,
        jobs=jobs,
        backend=backend,
        options=backend_options(option),
        only=only or (),
        max_time=limit,
        fail_fast=fail_fast,
        retry_failed=retry_failed,
        verify=verify,
        old=old,
        toml=path.read_text(encoding="utf-8"),
        quiet=quiet,
    )
    raise typer.Exit(code)


def extend(
    out: Out,
    replicas: Annotated[int | None, typer.Option(help="Number of replicas to reach.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds to reach.")] = None,
    jobs: Jobs = None,
    backend: Backend = None,
    option: Options = None,
    only: _Only = None,
    max_time: MaxTime = None,
    fail_fast: _FailFast = False,
    retry_failed: _Retry = False,
    keep_old: _Keep = False,
    drop_old: _Drop = False,
    quiet: _Quiet = False,
) -> None:
    """Add replicas or rounds to a study; what exists is kept.

    More rounds are played from round 0, since learners are not stored; what was stored is compared
    with the longer run and must be equal.
    """
    from rlhf_theory.studies.running import longer
    from rlhf_theory.study import StudyResult

    if replicas is None and rounds is None:
        message = "extend needs --replicas or --rounds, the numbers to reach; got neither."
        raise ValueError(message)
    old = _old(keep_old, drop_old)
    study = longer(StudyResult(out).study, replicas=replicas, rounds=rounds, old=old)
    _, code = carried_out(
        study,
        out,
        jobs=jobs,
        backend=backend,
        options=backend_options(option),
        only=only or (),
        fail_fast=fail_fast,
        retry_failed=retry_failed,
        max_time=None if max_time is None else seconds_of(max_time),
        old=old,
        quiet=quiet,
    )
    raise typer.Exit(code)


def status(
    out: Out,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all that is there; take away what is damaged.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how many blocks of a study are done, failed and missing, cell by cell.

    Files of the size and the time of change that a run has noted are trusted, without --verify.
    """
    from rlhf_theory.study import StudyResult

    result = StudyResult(out)
    damaged = result.folder.verify(result.cells) if verify else []
    look = result.look()
    for line in dict.fromkeys([*damaged, *look.damaged]):
        _say(f"Damaged: {line} The next run makes it anew.")
    table, counts = result.status(look), result.counts(look)
    if as_json:
        typer.echo(json.dumps({**counts, "cells": table.to_dict("records")}, indent=2))
        return
    typer.echo(frame_text(table))
    typer.echo(
        "\n" + ", ".join(f"{counts[k]} {k}" for k in ("blocks", "done", "failed", "missing"))
    )
    for line in (*_failed(result, look), *_older(result)):
        typer.echo(line)


def _old(keep: bool, drop: bool) -> OldResults | None:
    if keep and drop:
        message = "--keep-old adopts results of older code, --drop-old removes them; give one."
        raise ValueError(message)
    return "keep" if keep else "drop" if drop else None


@contextmanager
def ending(folder: Path) -> Iterator[None]:
    """Answer Ctrl-C, and a backend that does not work, with a line and the exit code of a run."""
    from rlhf_theory.engine.backends import BackendError

    try:
        yield
    except BackendError as reason:
        typer.echo(f"Error: {reason}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. The same command goes on from what {folder} holds.", err=True)
        raise typer.Exit(130) from None


def carried_out(
    study: Study, out: Path | None, *, quiet: bool = False, **options: Any
) -> tuple[StudyResult, int]:
    """Run a study, write its page, say what is in it; return results and exit code.

    Parameters
    ----------
    study
        The study.
    out
        Folder of the results; None for its own.
    quiet
        No progress and no summary.
    options
        Those of `studies.running.run_study`.
    """
    from rlhf_theory.studies.running import default_folder

    folder = default_folder(study) if out is None else out
    before = _stored(folder)
    for line in _hidden(before or {}, study):
        _say(line)
    command = ["rlhf-theory", *sys.argv[1:]]
    with ending(folder):
        result = study.run(folder, quiet=quiet, say=_say, command=command, **options)
    look = result.look()
    unchanged = before == study.resolved() and options.get("old") is None
    _show(result, look, quiet=quiet, unchanged=unchanged)
    complete = _complete(result, look, options.get("only", ()))
    return result, 0 if complete else _unfinished(result, look)


def _unfinished(result: StudyResult, look: Look) -> int:
    """Return the exit code of a run that is not complete, and say who has to answer."""
    tally = result.tally
    for request in dict.fromkeys(() if tally is None else tally.waiting):
        typer.echo(request)
    waits = tally is not None and bool(tally.waiting) and tally.left == len(tally.waiting)
    return 3 if waits and not result.counts(look)["failed"] else 1


def _stored(folder: Path) -> dict[str, object] | None:
    """Return the resolved study in a folder, if it has one."""
    from rlhf_theory.studies.folder import StudyFolder

    try:
        return StudyFolder(folder).resolved()
    except ValueError:
        return None


def _hidden(before: Mapping[str, object], study: Study) -> list[str]:
    """Return what a folder holds beyond a study, which was extended there, say."""
    lines = []
    for name, wanted in (("replicas", study.replicas), ("rounds", study.rounds)):
        there = before.get(name)
        if isinstance(there, int) and wanted is not None and there > wanted:
            lines.append(
                f"The folder has {there} {name}, this study {wanted}: the others are kept, and "
                "not shown."
            )
    return lines


def _show(result: StudyResult, look: Look, *, quiet: bool, unchanged: bool) -> None:
    """Write figures and page, and say what is in them; what failed goes to the error output."""
    from rlhf_theory.report.study_report import write_study_report

    tally, page = result.tally, result.folder.path / "report.html"
    news = tally is None or tally.done + tally.skipped > 0 or not unchanged or not page.is_file()
    if not news:
        typer.echo(f"Nothing was left to compute. Report: {page}")
    elif look.done:
        write_study_report(result, _say)
        if not quiet:
            typer.echo("\n" + frame_text(_short(result)) + f"\n\nReport: {page}")
    for line in (*_failed(result, look), *_older(result)):
        _say(line)
    if tally is not None and tally.stopped:
        typer.echo(tally.stopped, err=True)


def _failed(result: StudyResult, look: Look) -> list[str]:
    """Return a line per cell with its first error, and what to do about them."""
    table = result.failures(look)
    lines = []
    for (world, learner), part in table.groupby(["world", "learner"], sort=False):
        error, others = part["error"].iloc[0], part["error"].nunique() - 1
        blocks = "1 block" if len(part) == 1 else f"{len(part)} blocks"
        place = part["where"].iloc[0]
        where = f" ({place})" if place else ""
        more = f", and {others} other errors" if others else ""
        lines.append(f"failed: {world}/{learner}, {blocks}: {error}{where}{more}")
    if lines:
        lines.append(
            f"Tracebacks are in the report and in {result.folder.path}/cells/*/*.failed.json. "
            "Failed blocks are left alone until `run --retry-failed`."
        )
    return lines


def _older(result: StudyResult) -> list[str]:
    """Return a line per cell with results of older code, and what can be done about them."""
    lines = []
    for cell, results in result.older():
        if results:
            blocks = sum(len(one.blocks) for one in results)
            count = "1 block" if blocks == 1 else f"{blocks} blocks"
            changed = "; ".join(dict.fromkeys(c for one in results for c in one.changed))
            name = f"{cell.world_label}/{cell.learner_label}"
            lines.append(f"of older code: {name}, {count}; changed since: {changed}")
    if lines:
        lines.append(
            "Results of older code are never mixed with others: `run` computes anew beside them, "
            "`run --keep-old` adopts them as they are, `run --drop-old` removes them."
        )
    return lines


def _complete(result: StudyResult, look: Look, only: Sequence[str]) -> bool:
    """Return whether all blocks that were asked for are done."""
    from rlhf_theory.studies.running import chosen_cells

    keys = {cell.key for cell in chosen_cells(result.study, only)}
    return all(task.name in look.done for task in look.tasks if task.cell.key in keys)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _short(result: StudyResult) -> pd.DataFrame:
    table = result.summary()
    return table[["world", "learner", "metric", "replicas", "mean", "lower", "upper"]]


def say_plan(
    study: Study,
    plan: Plan,
    jobs: int | None = None,
    backend: str | None = None,
    options: Mapping[str, object] | None = None,
) -> None:
    """Say what a run would do and how long it would take."""
    from rlhf_theory.engine.backends import make_backend
    from rlhf_theory.studies.pilot import estimate
    from rlhf_theory.studies.running import n_workers

    for line in plan.damaged:
        _say(f"Damaged: {line} A run makes it anew.")
    workers = n_workers(study, jobs)
    kind = backend or study.run_options.backend
    make_backend(kind, options or {})
    guess = estimate(plan.todo, 1 if kind == "serial" else workers)
    typer.echo(aligned(_plan_rows(plan, guess.seconds)))
    blocks = plan.done + plan.failed + len(plan.todo)
    typer.echo(
        f"\n{len(plan.cells)} cells, {blocks} blocks: {plan.done} done, {plan.failed} failed "
        f"(left alone without --retry-failed), {len(plan.todo)} to do.\n"
        f"{guess}\n{_older_in(plan)}Folder: {plan.folder}. Nothing was written."
    )
    if guess.errors:
        raise typer.Exit(1)


def _older_in(plan: Plan) -> str:
    blocks = sum(len(one.blocks) for results in plan.older.values() for one in results)
    return f"{blocks} blocks of older code, for --keep-old or --drop-old.\n" if blocks else ""


def _plan_rows(plan: Plan, seconds: Mapping[str, float]) -> list[tuple[str, ...]]:
    from rlhf_theory.engine.progress import duration

    todo: dict[str, int] = {}
    for task in plan.todo:
        todo[task.cell.key] = todo.get(task.cell.key, 0) + 1
    rows: list[tuple[str, ...]] = [
        ("world", "learner", "replicas", "length", "blocks to do", "time, one worker")
    ]
    for cell in plan.cells:
        length = f"{cell.rounds} rounds" if cell.online else f"pairs to {(cell.pairs or (0,))[-1]}"
        missing, total = todo.get(cell.key, 0), len(cell.blocks())
        time = duration(seconds[cell.key]) if cell.key in seconds else "-"
        rows.append(
            (
                cell.world_label,
                cell.learner_label,
                str(cell.replicas),
                length,
                f"{missing} of {total}",
                time,
            )
        )
    return rows


def backend_options(words: Sequence[str] | None) -> dict[str, Any]:
    """Return the settings of a backend from words ``KEY=VALUE``; ``ValueError`` for others."""
    from rlhf_theory.studies.files import assignments

    return assignments(words or (), "--option")


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """Return ``90``, ``90s``, ``10m`` or ``2h`` in seconds.

    Examples
    --------
    >>> seconds_of("1.5m")
    90.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match.group(1)) == 0.0:
        message = f"--max-time must be a positive time such as 90s, 10m or 2h; got {text!r}."
        raise ValueError(message)
    return float(match.group(1)) * _UNITS[match.group(2)]
