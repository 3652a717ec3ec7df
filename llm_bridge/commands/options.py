"""Options that several commands share, those that belong together as groups.

A parameter of a command whose type is a group stands for all options of the group, see
`guard.command`. What a group is made into is imported only then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llm_bridge.jobs.feature_options import FeatureOptions
    from llm_bridge.jobs.sources import ModelSource
    from llm_bridge.training.settings import TrainingSettings

Prompts = Annotated[
    Path, typer.Argument(metavar="PROMPTS", help="One per line, or a column prompt.")
]
Model = Annotated[
    str, typer.Option(metavar="MODEL", help="Folder of a model, or its id on the hub.")
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
Encoder = Annotated[
    bool, typer.Option("--encoder", help="MODEL is an encoder (sentence embeddings).")
]

Steps = Annotated[int | None, typer.Option(help="Optimiser steps, instead of epochs.")]
TrainingBatch = Annotated[
    int, typer.Option(help="Examples per forward pass; smaller needs less memory.")
]
Accumulation = Annotated[int, typer.Option(help="Forward passes per optimiser step.")]


@dataclass(frozen=True)
class Loading:
    """How models are loaded."""

    device: Annotated[str, typer.Option(metavar="cpu|cuda[:N]", help="Where models compute.")] = (
        "cpu"
    )
    dtype: Annotated[
        str, typer.Option(metavar="float32|bfloat16|float64", help="Precision of the weights.")
    ] = "float32"
    revision: Annotated[str | None, typer.Option(help="Revision of an id on the hub.")] = None
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Never ask a hub: folders, and what was fetched before."),
    ] = False
    pad_token: Annotated[
        str | None,
        typer.Option(help="Token to pad with, where the tokenizer has none or pads with its end."),
    ] = None

    def source(self, model: str) -> ModelSource:
        """Return how this model is loaded."""
        from llm_bridge.jobs.sources import ModelSource

        return ModelSource(name=model, **vars(self))


@dataclass(frozen=True)
class Features:
    """Features of the hidden states."""

    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="last,mean,sum,first", help="How tokens are pooled; several with commas."
        ),
    ] = None
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="N,N...", help="Hidden states to take: 0 is the embedding, -1 the last."
        ),
    ] = None
    dim: Annotated[
        int | None, typer.Option(help="Project to so many directions of largest variance.")
    ] = None
    whiten: Annotated[
        bool, typer.Option("--whiten", help="Make the features' covariance the identity.")
    ] = False

    def options(self, *, encoder: bool = False, log_prob: bool | None = None) -> FeatureOptions:
        """Return which features; ``ValueError`` for layers that are no whole numbers."""
        from llm_bridge.jobs.feature_options import FeatureOptions

        numbers = None
        if self.layers is not None:
            try:
                numbers = tuple(int(part) for part in self.layers.split(","))
            except ValueError:
                message = (
                    "--layers must be whole numbers with commas, such as 0,-1; got "
                    f"{self.layers!r}."
                )
                raise ValueError(message) from None
        return FeatureOptions(
            encoder=encoder,
            pooling=None if self.pooling is None else tuple(self.pooling.split(",")),
            layers=numbers,
            log_prob=log_prob,
            dim=self.dim,
            whiten=self.whiten,
        )


@dataclass(frozen=True)
class Training:
    """How models are trained."""

    epochs: Annotated[float, typer.Option(help="Passes over the examples.")] = 1.0
    learning_rate: Annotated[
        float, typer.Option("--lr", help="Learning rate of AdamW, at its peak.")
    ] = 5e-5
    lora_rank: Annotated[
        int | None, typer.Option("--lora", metavar="RANK", help="Train adapters of this rank.")
    ] = None
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps between checkpoints; 0 for none.")
    ] = 100

    def settings(
        self, batch_size: int, steps: int | None = None, accumulation: int = 1
    ) -> TrainingSettings:
        """Return how to train."""
        from llm_bridge.training.settings import LoRA, TrainingSettings

        return TrainingSettings(
            epochs=self.epochs,
            steps=steps,
            learning_rate=self.learning_rate,
            batch_size=batch_size,
            gradient_accumulation=accumulation,
            lora=None if self.lora_rank is None else LoRA(rank=self.lora_rank),
            checkpoint_every=self.checkpoint_every,
        )
