"""``rlhf-theory lm select``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import command, work_offline


@command
def select(
    file: Annotated[
        Path, typer.Argument(metavar="PROMPTS", help="One per line, or a column prompt.")
    ],
    model: o.Model,
    out: o.Out,
    pairs: Annotated[int, typer.Option(help="Pairs to have labelled.")] = 100,
    rule: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="informative: pairs that tell most; best-worst; or an enhancer of `rlhf-theory "
            "list enhancers`, which the policy of the estimate meets.",
        ),
    ] = "informative",
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="What is known so far: a folder of `lm fit`; DIR#lower, DIR#min (see there) make "
            "the policy pessimistic.",
        ),
    ] = None,
    pool_size: o.PoolSize = 8,
    eta: o.Eta = 0.1,
    pooling: o.Pooling = None,
    layers: o.Layers = None,
    dim: o.Dim = None,
    whiten: o.Whiten = False,
    max_new_tokens: o.MaxNewTokens = 64,
    batch_size: o.BatchSize = 32,
    seed: o.Seed = 0,
    device: o.Device = "cpu",
    dtype: o.Dtype = "float32",
    revision: o.Revision = None,
    offline: o.Offline = False,
    pad_token: o.PadToken = None,
    dry_run: o.DryRun = False,
) -> None:
    """Choose which pairs of responses people should compare next.

    Writes them to OUT/labels/pending.jsonl, one question per line, and ends with exit code 3. When
    all labels are filled in there, the same command writes OUT/preferences.jsonl for fit and train.
    """
    if offline:
        work_offline()
    from llm_bridge.commands.make import feature_options, source
    from llm_bridge.jobs.job import carry_out
    from llm_bridge.jobs.select import SelectJob

    job = SelectJob(
        file=file,
        source=source(model, revision, device, dtype, offline, pad_token),
        reward=reward,
        features=feature_options(False, pooling, layers, dim, whiten),
        rule=rule,
        pairs=pairs,
        pool_size=pool_size,
        eta=eta,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
    )
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
