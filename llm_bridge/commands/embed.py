"""``rlhf-theory lm embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import configured


@configured(prompts="file", samples=None)
def embed(
    *,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="TEXTS", help="Preferences, or rows of prompt and response, or prompts alone."
        ),
    ],
    model: o.Model,
    out: o.Out,
    encoder: o.Encoder = False,
    features: o.Features,
    log_prob: Annotated[
        bool | None,
        typer.Option("--log-prob/--no-log-prob", help="The response's log-probability as feature."),
    ] = None,
    transform: Annotated[
        bool, typer.Option("--transform", help="Centre and standardise, fitted to these rows.")
    ] = False,
    samples: Annotated[
        int, typer.Option(help="Responses that MODEL writes to each prompt of a file of prompts.")
    ] = 0,
    max_new_tokens: o.MaxNewTokens = 64,
    cache: o.Cache = None,
    batch_size: o.BatchSize = 32,
    seed: o.Seed = 0,
    loading: o.Loading,
    dry_run: o.DryRun = False,
) -> None:
    """Compute features of prompts with responses, and the responses' log-probabilities.

    Writes OUT/features.safetensors, OUT/rows.parquet (which row is which) and a cache that other
    commands can share; what is in the cache is not read again.
    """
    from llm_bridge.jobs.embed import EmbedJob
    from llm_bridge.jobs.job import carry_out

    if (features.dim is not None or features.whiten) and not transform:
        message = "--dim and --whiten are parts of the transform: add --transform."
        raise ValueError(message)
    job = EmbedJob(
        file=file,
        source=loading.source(model),
        features=features.options(encoder=encoder, log_prob=log_prob),
        samples=samples,
        transform=transform,
        max_new_tokens=max_new_tokens,
        seed=seed,
        batch_size=batch_size,
        cache=cache,
    )
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
