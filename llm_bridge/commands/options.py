"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option(metavar="MODEL", help="Folder of a model, or its id on the hub.")
]
Revision = Annotated[str | None, typer.Option(help="Revision of an id on the hub.")]
Device = Annotated[str, typer.Option(metavar="cpu|cuda[:N]", help="Where models compute.")]
Dtype = Annotated[
    str, typer.Option(metavar="float32|bfloat16|float64", help="Precision of the weights.")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never ask a hub: folders, and what was fetched before.")
]
PadToken = Annotated[
    str | None,
    typer.Option(help="Token to pad with, where the tokenizer has none or pads with its end."),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for results; an old one goes on.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done and what is there; write nothing.")
]
Seed = Annotated[int, typer.Option(help="Seed of all draws.")]
BatchSize = Annotated[int, typer.Option(help="Texts per forward pass; smaller needs less memory.")]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of a feature cache to share; DIR/cache of the output"),
]
Eta = Annotated[float, typer.Option(help="Weight of KL(pi || pi0) in the objective.")]
PoolSize = Annotated[int, typer.Option(help="Responses of the reference model per prompt.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest response in tokens.")]
TestShare = Annotated[
    float, typer.Option(help="Share of the prompts that is held out, with all their rows.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the loss, such as beta=0.1."),
]

# ---------------------------------------------------------------------------- features

Encoder = Annotated[
    bool, typer.Option("--encoder", help="MODEL is an encoder (sentence embeddings).")
]
Pooling = Annotated[
    str | None,
    typer.Option(metavar="last,mean,sum,first", help="How tokens are pooled; several with commas."),
]
Layers = Annotated[
    str | None,
    typer.Option(metavar="N,N...", help="Hidden states to take: 0 is the embedding, -1 the last."),
]
Dim = Annotated[int | None, typer.Option(help="Project to so many directions of largest variance.")]
Whiten = Annotated[
    bool, typer.Option("--whiten", help="Make the features' covariance the identity.")
]

# ---------------------------------------------------------------------------- training

Epochs = Annotated[float, typer.Option(help="Passes over the examples.")]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps, instead of epochs.")]
LearningRate = Annotated[float, typer.Option("--lr", help="Learning rate of AdamW, at its peak.")]
TrainingBatch = Annotated[
    int, typer.Option(help="Examples per forward pass; smaller needs less memory.")
]
Accumulation = Annotated[int, typer.Option(help="Forward passes per optimiser step.")]
LoRARank = Annotated[
    int | None, typer.Option("--lora", metavar="RANK", help="Train adapters of this rank.")
]
CheckpointEvery = Annotated[int, typer.Option(help="Steps between checkpoints; 0 for none.")]
