"""``rlhf-theory lm select``."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import configured


@configured(prompts="file")
def select(
    *,
    file: o.Prompts,
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
    features: o.Features,
    max_new_tokens: o.MaxNewTokens = 64,
    batch_size: o.BatchSize = 32,
    seed: o.Seed = 0,
    loading: o.Loading,
    dry_run: o.DryRun = False,
) -> None:
    """Choose which pairs of responses people should compare next.

    Writes them to OUT/labels/pending.jsonl, one question per line, and ends with exit code 3. When
    all labels are filled in there, the same command writes OUT/preferences.jsonl for fit and train.
    """
    from llm_bridge.jobs.job import carry_out
    from llm_bridge.jobs.select import SelectJob

    job = SelectJob(
        file=file,
        source=loading.source(model),
        reward=reward,
        features=features.options(),
        rule=rule,
        pairs=pairs,
        pool_size=pool_size,
        eta=eta,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
    )
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
