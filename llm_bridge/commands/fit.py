"""``rlhf-theory lm fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import configured


@configured(held_out="test_share")
def fit(
    *,
    file: Annotated[
        Path,
        typer.Argument(metavar="PREFERENCES", help="JSONL or Parquet: prompt, chosen, rejected."),
    ],
    model: o.Model,
    out: o.Out,
    rule: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Confidence set, of `rlhf-theory list radii`: a given radius (constant), or one "
            "that covers with probability 1 - delta (adaptive, marginal-likelihood ...).",
        ),
    ] = "constant",
    beta: Annotated[
        float, typer.Option(help="Radius; a multiplier of it where the rule says one.")
    ] = 1.0,
    lam: Annotated[float, typer.Option(help="Ridge lambda.")] = 1.0,
    norm: Annotated[float, typer.Option(help="Bound on |theta*|; not for constant.")] = 1.0,
    delta: Annotated[float, typer.Option(help="Miss probability; not for constant.")] = 0.05,
    trunk: Annotated[
        bool,
        typer.Option("--trunk", help="Train the whole model as a reward model; no confidence set."),
    ] = False,
    ensemble: Annotated[
        int,
        typer.Option(
            metavar="N", help="Fit N members to bootstraps too, for NAME#min; 0 for none."
        ),
    ] = 0,
    training: o.Training,
    encoder: o.Encoder = False,
    features: o.Features,
    test_share: o.TestShare = 0.2,
    cache: o.Cache = None,
    batch_size: o.BatchSize = 32,
    seed: o.Seed = 0,
    loading: o.Loading,
    dry_run: o.DryRun = False,
) -> None:
    """Fit a reward to preferences: linear on frozen features, or (--trunk) the whole model.

    The linear one comes with a confidence set, for selection and pessimism. Reports accuracy and
    calibration on held-out prompts. OUT can be given wherever a command asks for a reward.
    OUT#lower is its lower bound; of an ensemble OUT#min is the worst member, OUT#uncertainty=0.5
    the mean minus half the variance, OUT#mean the mean.
    """
    from llm_bridge.jobs.fit import FitJob
    from llm_bridge.jobs.fit_trunk import TrunkJob
    from llm_bridge.jobs.job import carry_out

    read = loading.source(model)
    if trunk:
        whole = TrunkJob(
            file=file,
            source=read,
            encoder=encoder,
            training=training.settings(batch_size),
            ensemble=ensemble,
            test_share=test_share,
            seed=seed,
            batch_size=batch_size,
        )
        carry_out(whole, out, dry_run=dry_run, say=typer.echo)
        return
    job = FitJob(
        file=file,
        source=read,
        features=features.options(encoder=encoder),
        rule=rule,
        beta=beta,
        lam=lam,
        norm=norm,
        delta=delta,
        ensemble=ensemble,
        test_share=test_share,
        seed=seed,
        batch_size=batch_size,
        cache=cache,
    )
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
