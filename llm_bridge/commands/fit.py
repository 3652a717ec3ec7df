"""``rlhf-theory lm fit``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.config import JobCommand
from llm_bridge.commands.guard import command
from llm_bridge.commands.setting_options import Like, Names


class FitCommand(JobCommand):
    """The options of ``lm fit``, with ``--trunk`` or without."""

    names: ClassVar[Names] = {**o.TOLD, "training.batch_size": "minibatch"}
    # One number says what fits into memory, until somebody says another for the training.
    chosen: ClassVar[Mapping[str, Any]] = {
        **JobCommand.chosen,
        "training.batch_size": Like("batch_size"),
    }
    world: ClassVar[Names] = {"held_out": "test_share"}

    def classes(self) -> list[tuple[str, type]]:
        """Return the settings of both jobs."""
        from llm_bridge.jobs.settings import FitSettings, TrunkSettings

        return [("", FitSettings), ("", TrunkSettings)]


@command
def fit(
    ctx: typer.Context,
    *,
    file: Annotated[
        Path,
        typer.Argument(metavar="PREFERENCES", help="JSONL or Parquet: prompt, chosen, rejected."),
    ],
    model: o.Model,
    out: o.Out,
    trunk: Annotated[
        bool,
        typer.Option("--trunk", help="Train the whole model as a reward model; no confidence set."),
    ] = False,
    dry_run: o.DryRun = False,
) -> None:
    """Fit a reward to preferences: linear on frozen features, or (--trunk) the whole model.

    The linear one comes with a confidence set, for selection and pessimism. Reports accuracy and
    calibration on held-out prompts. OUT can be given wherever a command asks for a reward.
    OUT#lower is its lower bound; of an ensemble OUT#min is the worst member, OUT#uncertainty=0.5
    the mean minus half the variance, OUT#mean the mean.
    """
    from llm_bridge.commands.setting_options import made
    from llm_bridge.jobs.fit import FitJob
    from llm_bridge.jobs.fit_trunk import TrunkJob
    from llm_bridge.jobs.job import Job, carry_out

    own = {"file": file, "source": {"name": model}}
    job: Job = made(TrunkJob, ctx.obj, **own) if trunk else made(FitJob, ctx.obj, **own)
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
