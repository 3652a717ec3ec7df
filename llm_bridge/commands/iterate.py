"""``rlhf-theory lm iterate``."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import command


@command
def iterate(
    *,
    file: o.Prompts,
    model: o.Model,
    out: o.Out,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="people|REWARD",
            help="Who labels: people (files in OUT/labels), or a reward with Bradley-Terry noise.",
        ),
    ] = None,
    preference: Annotated[
        str | None,
        typer.Option(
            metavar="module:function",
            help="Labels of a general preference, for learners of a game.",
        ),
    ] = None,
    label_scale: Annotated[
        float,
        typer.Option(help="What the reward is multiplied by in its labels; known to the learner."),
    ] = 1.0,
    learner: Annotated[
        str, typer.Option(help="A learner of `rlhf-theory list learners` that plays rounds.")
    ] = "online-iterative",
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PLACE=VALUE",
            help="A setting of the learner, as in a study: planner=imitation, "
            "enhancer=from-reference, planner.loss=ipo, radius.beta=2; repeatable.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of labels.")] = 3,
    eta: o.Eta = 0.1,
    pool_size: o.PoolSize = 8,
    refresh: Annotated[
        bool, typer.Option("--refresh/--no-refresh", help="Half of the pools follow the policy.")
    ] = True,
    features: o.Features,
    training: o.Training,
    steps: o.Steps = None,
    batch_size: o.TrainingBatch = 16,
    accumulation: o.Accumulation = 1,
    test_share: o.TestShare = 0.2,
    samples: Annotated[
        int, typer.Option(help="Fresh responses per held-out prompt; 0, or at least 2.")
    ] = 4,
    max_new_tokens: o.MaxNewTokens = 64,
    seed: o.Seed = 0,
    loading: o.Loading,
    dry_run: o.DryRun = False,
) -> None:
    """Train online: ask about the current policy, fit, train, evaluate, and again.

    With --labels people it stops with exit code 3 whenever labels are missing, and says where the
    questions are; called again it replays what is there. Settings that the learner does
    not have are refused. Writes OUT/model with its card, OUT/trace.parquet and OUT/report.html.
    """
    from llm_bridge.jobs.iterate import IterateJob
    from llm_bridge.jobs.job import carry_out
    from llm_bridge.jobs.learners import LearnerOptions

    job = IterateJob(
        file=file,
        source=loading.source(model),
        labels=labels,
        preference=preference,
        label_scale=label_scale,
        learner=LearnerOptions(learner=learner, changes=tuple(sets or ())),
        rounds=rounds,
        eta=eta,
        pool_size=pool_size,
        refresh=refresh,
        features=features.options(),
        training=training.settings(batch_size, steps, accumulation),
        test_share=test_share,
        samples=samples,
        max_new_tokens=max_new_tokens,
        batch_size=2 * batch_size,
        seed=seed,
    )
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
