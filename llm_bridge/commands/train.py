"""``rlhf-theory lm train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.config import JobCommand
from llm_bridge.commands.guard import command
from llm_bridge.commands.setting_options import Names


class TrainCommand(JobCommand):
    """The options of ``lm train``; texts are read by twice the size of a batch of the training."""

    names: ClassVar[Names] = {**o.TOLD, "batch_size": None, "loss_settings": None}
    world: ClassVar[Names] = {"held_out": "test_share", "batch_size": None}

    def classes(self) -> list[tuple[str, type]]:
        """Return the settings of the job."""
        from llm_bridge.jobs.settings import TrainSettings

        return [("", TrainSettings)]


@command
def train(
    ctx: typer.Context,
    *,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="PREFERENCES",
            help="JSONL or Parquet: prompt, chosen, rejected; for kto also prompt, completion, "
            "label.",
        ),
    ],
    model: o.Model,
    out: o.Out,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the loss, such as beta=0.1."),
    ] = None,
    dry_run: o.DryRun = False,
) -> None:
    """Train a model on preferences, by a loss of the DPO family or by imitation.

    Writes OUT/model with its card, and OUT/metrics.json: how often the policy's own reward agrees
    with comparisons of held-out prompts. Rows with equal responses are used by the losses that
    learn from them. Stopped, it goes on from its newest checkpoint.
    """
    from llm_bridge.commands.setting_options import made
    from llm_bridge.jobs.job import carry_out
    from llm_bridge.jobs.train import TrainJob
    from llm_bridge.training.settings import TrainingSettings
    from rlhf_theory.studies.files import assignments

    training = made(TrainingSettings, ctx.obj.get("training", {}))
    job = made(
        TrainJob,
        ctx.obj,
        file=file,
        source={"name": model},
        loss_settings=assignments(settings or (), "--set"),
        training=training,
        batch_size=2 * training.batch_size,
    )
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
