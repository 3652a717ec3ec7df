"""``rlhf-theory lm train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import configured


@configured(held_out="test_share", batch_size=None)
def train(
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
    loss: Annotated[
        str, typer.Option(help="A loss of `rlhf-theory list losses`, or sft (imitate the chosen).")
    ] = "dpo",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the loss, such as beta=0.1."),
    ] = None,
    training: o.Training,
    steps: o.Steps = None,
    batch_size: o.TrainingBatch = 16,
    accumulation: o.Accumulation = 1,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="chosen|rejected|second",
            help="The further response of XPO, VPO and SLiC; second: that of the run that asked.",
        ),
    ] = None,
    test_share: o.TestShare = 0.1,
    seed: o.Seed = 0,
    loading: o.Loading,
    dry_run: o.DryRun = False,
) -> None:
    """Train a model on preferences, by a loss of the DPO family or by imitation.

    Writes OUT/model with its card, and OUT/metrics.json: how often the policy's own reward agrees
    with comparisons of held-out prompts. Rows with equal responses are used by the losses that
    learn from them. Stopped, it goes on from its newest checkpoint.
    """
    from llm_bridge.jobs.job import carry_out
    from llm_bridge.jobs.train import TrainJob
    from rlhf_theory.errors import check_choice
    from rlhf_theory.studies.files import assignments

    which: Any = sample
    if sample is not None:
        check_choice("sample", sample, ("chosen", "rejected", "second"))
    job = TrainJob(
        file=file,
        source=loading.source(model),
        loss=loss,
        loss_settings=assignments(settings or (), "--set"),
        training=training.settings(batch_size, steps, accumulation),
        sample=which,
        test_share=test_share,
        seed=seed,
        batch_size=2 * batch_size,
    )
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
