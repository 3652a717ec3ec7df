"""``rlhf-theory lm fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import command, work_offline


@command
def fit(
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
    epochs: o.Epochs = 1.0,
    learning_rate: o.LearningRate = 5e-5,
    lora_rank: o.LoRARank = None,
    checkpoint_every: o.CheckpointEvery = 100,
    encoder: o.Encoder = False,
    pooling: o.Pooling = None,
    layers: o.Layers = None,
    dim: o.Dim = None,
    whiten: o.Whiten = False,
    test_share: o.TestShare = 0.2,
    cache: o.Cache = None,
    batch_size: o.BatchSize = 32,
    seed: o.Seed = 0,
    device: o.Device = "cpu",
    dtype: o.Dtype = "float32",
    revision: o.Revision = None,
    offline: o.Offline = False,
    pad_token: o.PadToken = None,
    dry_run: o.DryRun = False,
) -> None:
    """Fit a reward to preferences: linear on frozen features, or (--trunk) the whole model.

    The linear one comes with a confidence set, for selection and pessimism. Reports accuracy and
    calibration on held-out prompts. OUT can be given wherever a command asks for a reward.
    OUT#lower is its lower bound; of an ensemble OUT#min is the worst member, OUT#uncertainty=0.5
    the mean minus half the variance, OUT#mean the mean.
    """
    if offline:
        work_offline()
    from llm_bridge.commands.make import feature_options, source, training_settings
    from llm_bridge.jobs.fit import FitJob
    from llm_bridge.jobs.fit_trunk import TrunkJob
    from llm_bridge.jobs.job import carry_out

    read = source(model, revision, device, dtype, offline, pad_token)
    if trunk:
        training = training_settings(
            epochs, None, learning_rate, batch_size, 1, lora_rank, checkpoint_every
        )
        whole = TrunkJob(
            file=file,
            source=read,
            encoder=encoder,
            training=training,
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
        features=feature_options(encoder, pooling, layers, dim, whiten),
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
