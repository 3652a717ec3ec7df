"""``rlhf-theory lm evaluate``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import configured


@configured(prompts="file", model="reference", labels="gold")
def evaluate(
    *,
    file: o.Prompts,
    reference: Annotated[
        str, typer.Option(metavar="MODEL", help="The reference pi0: KL and win rates are against.")
    ],
    out: o.Out,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="[NAME=]MODEL", help="A model to evaluate; give several."),
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option(
            metavar="REWARD",
            help="True reward: a classifier, a folder of fit (or its version, such as DIR#lower), "
            "module:function.",
        ),
    ] = None,
    proxy: Annotated[
        str | None, typer.Option(metavar="REWARD", help="Another reward, such as a learnt one.")
    ] = None,
    preference: Annotated[
        str | None,
        typer.Option(metavar="module:function", help="Who wins, if not the larger gold reward."),
    ] = None,
    game: Annotated[
        str | None,
        typer.Option(metavar="logit|probability", help="Report exploitability in this game."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=module:function", help="A number of a prompt and a response."),
    ] = None,
    eta: o.Eta = 0.1,
    pool_size: o.PoolSize = 16,
    samples: Annotated[
        int, typer.Option(help="Fresh responses per prompt; 0 for pools alone, else at least 2.")
    ] = 4,
    limit: Annotated[int | None, typer.Option(help="Only the first so many prompts.")] = None,
    max_new_tokens: o.MaxNewTokens = 64,
    batch_size: o.BatchSize = 32,
    seed: o.Seed = 0,
    loading: o.Loading,
    dry_run: o.DryRun = False,
) -> None:
    """Evaluate models on held-out prompts: rewards, KL, J, win rates, length, entropy.

    Writes OUT/results.parquet, OUT/policies (per prompt and answer), figures and OUT/report.html.
    Numbers are exact on pools of the reference's responses, and estimated from fresh responses.
    """
    from llm_bridge.jobs.evaluate import EvaluateJob
    from llm_bridge.jobs.job import carry_out

    which: Any = game
    job = EvaluateJob(
        file=file,
        source=loading.source(reference),
        models=tuple(models or ()),
        gold=gold,
        proxy=proxy,
        preference=preference,
        game=which,
        metrics=tuple(metric or ()),
        eta=eta,
        pool_size=pool_size,
        samples=samples,
        limit=limit,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
    )
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
