"""``rlhf-theory lm select``."""

from __future__ import annotations

from typing import ClassVar

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.config import JobCommand
from llm_bridge.commands.guard import command
from llm_bridge.commands.setting_options import Names


class SelectCommand(JobCommand):
    """The options of ``lm select``, whose model writes and is no encoder."""

    names: ClassVar[Names] = {**o.TOLD, "features.encoder": None}
    world: ClassVar[Names] = {"prompts": "file"}

    def classes(self) -> list[tuple[str, type]]:
        """Return the settings of the job."""
        from llm_bridge.jobs.settings import SelectSettings

        return [("", SelectSettings)]


@command
def select(
    ctx: typer.Context,
    *,
    file: o.Prompts,
    model: o.Model,
    out: o.Out,
    dry_run: o.DryRun = False,
) -> None:
    """Choose which pairs of responses people should compare next.

    Writes them to OUT/labels/pending.jsonl, one question per line, and ends with exit code 3. When
    all labels are filled in there, the same command writes OUT/preferences.jsonl for fit and train.
    """
    from llm_bridge.commands.setting_options import made
    from llm_bridge.jobs.job import carry_out
    from llm_bridge.jobs.select import SelectJob

    job = made(SelectJob, ctx.obj, file=file, source={"name": model})
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
