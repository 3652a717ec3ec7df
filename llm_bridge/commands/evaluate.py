"""``rlhf-theory lm evaluate``."""

from __future__ import annotations

from typing import Annotated, ClassVar

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.config import JobCommand
from llm_bridge.commands.guard import command
from llm_bridge.commands.setting_options import Names


class EvaluateCommand(JobCommand):
    """The options of ``lm evaluate``."""

    names: ClassVar[Names] = o.TOLD
    world: ClassVar[Names] = {"prompts": "file", "model": "reference", "labels": "gold"}

    def classes(self) -> list[tuple[str, type]]:
        """Return the settings of the job."""
        from llm_bridge.jobs.settings import EvaluateSettings

        return [("", EvaluateSettings)]


@command
def evaluate(
    ctx: typer.Context,
    *,
    file: o.Prompts,
    reference: Annotated[
        str, typer.Option(metavar="MODEL", help="The reference pi0: KL and win rates are against.")
    ],
    out: o.Out,
    dry_run: o.DryRun = False,
) -> None:
    """Evaluate models on held-out prompts: rewards, KL, J, win rates, length, entropy.

    Writes OUT/results.parquet, OUT/policies (per prompt and answer), figures and OUT/report.html.
    Numbers are exact on pools of the reference's responses, and estimated from fresh responses.
    """
    from llm_bridge.commands.setting_options import made
    from llm_bridge.jobs.evaluate import EvaluateJob
    from llm_bridge.jobs.job import carry_out

    job = made(EvaluateJob, ctx.obj, file=file, source={"name": reference})
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
