"""``rlhf-theory lm embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import command, work_offline


@command
def embed(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="TEXTS", help="Preferences, or rows of prompt and response, or prompts alone."
        ),
    ],
    model: o.Model,
    out: o.Out,
    encoder: o.Encoder = False,
    pooling: o.Pooling = None,
    layers: o.Layers = None,
    log_prob: Annotated[
        bool | None,
        typer.Option("--log-prob/--no-log-prob", help="The response's log-probability as feature."),
    ] = None,
    transform: Annotated[
        bool, typer.Option("--transform", help="Centre and standardise, fitted to these rows.")
    ] = False,
    dim: o.Dim = None,
    whiten: o.Whiten = False,
    samples: Annotated[
        int, typer.Option(help="Responses that MODEL writes to each prompt of a file of prompts.")
    ] = 0,
    max_new_tokens: o.MaxNewTokens = 64,
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
    """Compute features of prompts with responses, and the responses' log-probabilities.

    Writes OUT/features.safetensors, OUT/rows.parquet (which row is which) and a cache that other
    commands can share; what is in the cache is not read again.
    """
    if offline:
        work_offline()
    from dataclasses import replace

    from llm_bridge.commands.make import feature_options, source
    from llm_bridge.jobs.embed import EmbedJob
    from llm_bridge.jobs.job import carry_out

    if (dim is not None or whiten) and not transform:
        message = "--dim and --whiten are parts of the transform: add --transform."
        raise ValueError(message)
    features = feature_options(encoder, pooling, layers, dim, whiten)
    job = EmbedJob(
        file=file,
        source=source(model, revision, device, dtype, offline, pad_token),
        features=replace(features, log_prob=log_prob),
        samples=samples,
        transform=transform,
        max_new_tokens=max_new_tokens,
        seed=seed,
        batch_size=batch_size,
        cache=cache,
    )
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
