"""``rlhf-theory lm iterate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import command, work_offline

__all__ = ["iterate"]


@command
def iterate(
    file: Annotated[
        Path, typer.Argument(metavar="PROMPTS", help="One per line, or a column prompt.")
    ],
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
        typer.Option(metavar="module:function", help="Labels of a general preference, for nash."),
    ] = None,
    label_scale: Annotated[
        float,
        typer.Option(help="What the reward is multiplied by in its labels; known to the learner."),
    ] = 1.0,
    learner: Annotated[
        str,
        typer.Option(
            metavar="online|direct|nash",
            help="Estimate and enhancer; a loss on the labels themselves; a preference game.",
        ),
    ] = "online",
    planner: Annotated[
        str, typer.Option(metavar="train|pools", help="Train the model, or re-rank pools exactly.")
    ] = "train",
    enhancer: Annotated[
        str | None,
        typer.Option(
            metavar="optimistic|reference|on-policy|uniform|information-ratio",
            help="The second player of online and nash; the paper's if not given.",
        ),
    ] = None,
    pairs: Annotated[
        str,
        typer.Option(
            metavar="on-policy|reference|best-worst|optimistic", help="Pairs, for direct."
        ),
    ] = "on-policy",
    data: Annotated[
        str, typer.Option(metavar="all|latest", help="Comparisons trained on, for direct.")
    ] = "all",
    reference: Annotated[
        str, typer.Option(metavar="fixed|last", help="What the loss measures from, for direct.")
    ] = "fixed",
    start: Annotated[
        str, typer.Option(metavar="reference|last", help="Where training starts, for direct.")
    ] = "reference",
    rounds: Annotated[int, typer.Option(help="Rounds of labels.")] = 3,
    labels_per_round: Annotated[int, typer.Option(help="Labels asked for in a round.")] = 256,
    eta: o.Eta = 0.1,
    pool_size: o.PoolSize = 8,
    refresh: Annotated[
        bool, typer.Option("--refresh/--no-refresh", help="Half of the pools follow the policy.")
    ] = True,
    loss: Annotated[str, typer.Option(help="A loss of `rlhf-theory list losses`.")] = "dpo",
    settings: o.Settings = None,
    update: Annotated[
        str, typer.Option(metavar="inpo|sppo|nash-md", help="Map of the self-play of nash.")
    ] = "inpo",
    self_play_rounds: Annotated[int, typer.Option(help="Trainings of the self-play.")] = 3,
    beta: Annotated[
        float, typer.Option(help="Radius of the confidence set, for optimistic.")
    ] = 1.0,
    lam: Annotated[
        float, typer.Option(help="Ridge lambda of the estimate, or of optimistic pairs.")
    ] = 1.0,
    pooling: o.Pooling = None,
    layers: o.Layers = None,
    dim: o.Dim = None,
    whiten: o.Whiten = False,
    epochs: o.Epochs = 1.0,
    steps: o.Steps = None,
    learning_rate: o.LearningRate = 5e-5,
    batch_size: o.TrainingBatch = 16,
    accumulation: o.Accumulation = 1,
    lora_rank: o.LoRARank = None,
    checkpoint_every: o.CheckpointEvery = 100,
    test_share: o.TestShare = 0.2,
    samples: Annotated[
        int, typer.Option(help="Fresh responses per held-out prompt; 0, or at least 2.")
    ] = 4,
    max_new_tokens: o.MaxNewTokens = 64,
    seed: o.Seed = 0,
    device: o.Device = "cpu",
    dtype: o.Dtype = "float32",
    revision: o.Revision = None,
    offline: o.Offline = False,
    pad_token: o.PadToken = None,
    dry_run: o.DryRun = False,
) -> None:
    """Train online: ask about the current policy, fit, train, evaluate, and again.

    With --labels people it stops with exit code 3 whenever labels are missing, and says where the
    questions are; called again it replays what is there. Options that the learner would ignore are
    refused. Writes OUT/model with its card, OUT/trace.parquet and OUT/report.html.
    """
    if offline:
        work_offline()
    from llm_bridge.commands.make import feature_options, source, training_settings
    from llm_bridge.jobs.iterate import IterateJob
    from llm_bridge.jobs.job import carry_out
    from llm_bridge.jobs.learners import LearnerOptions
    from llm_bridge.jobs.sources import parse_settings

    job = IterateJob(
        file=file,
        source=source(model, revision, device, dtype, offline, pad_token),
        labels=labels,
        preference=preference,
        label_scale=label_scale,
        learner=LearnerOptions(
            learner=learner,
            planner=planner,
            enhancer=enhancer,
            pairs=pairs,
            data=data,
            reference=reference,
            start=start,
            loss=loss,
            loss_settings=parse_settings(settings),
            update=update,
            self_play_rounds=self_play_rounds,
            batch_size=labels_per_round,
            beta=beta,
            lam=lam,
        ),
        rounds=rounds,
        eta=eta,
        pool_size=pool_size,
        refresh=refresh,
        features=feature_options(False, pooling, layers, dim, whiten),
        training=training_settings(
            epochs, steps, learning_rate, batch_size, accumulation, lora_rank, checkpoint_every
        ),
        test_share=test_share,
        samples=samples,
        max_new_tokens=max_new_tokens,
        batch_size=2 * batch_size,
        seed=seed,
    )
    carry_out(job, out, dry_run=dry_run, say=typer.echo)
