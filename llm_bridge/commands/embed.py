"""``rlhf-theory lm embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.config import JobCommand
from llm_bridge.commands.guard import command
from llm_bridge.commands.setting_options import Names


class EmbedCommand(JobCommand):
    """The options of ``lm embed``."""

    names: ClassVar[Names] = o.TOLD
    world: ClassVar[Names] = {"prompts": "file", "samples": None}

    def classes(self) -> list[tuple[str, type]]:
        """Return the settings of the job."""
        from llm_bridge.jobs.settings import EmbedSettings

        return [("", EmbedSettings)]


@command
def embed(
    ctx: typer.Context,
    *,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="TEXTS", help="Preferences, or rows of prompt and response, or prompts alone."
        ),
    ],
    model: o.Model,
    out: o.Out,
    dry_run: o.DryRun = False,
) -> None:
    """Compute features of prompts with responses, and the responses' log-probabilities.

    Writes OUT/features.safetensors, OUT/rows.parquet (which row is which) and a cache that other
    commands can share; what is in the cache is not read again.
    """
    from llm_bridge.commands.setting_options import made
    from llm_bridge.jobs.embed import EmbedJob
    from llm_bridge.jobs.job import carry_out

    job = made(EmbedJob, ctx.obj, file=file, source={"name": model})
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
