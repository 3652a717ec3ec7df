"""From the options of a command to the settings of its job; imported inside commands only."""

from __future__ import annotations

from llm_bridge.jobs.sources import ModelSource
from llm_bridge.jobs.texts import FeatureOptions
from llm_bridge.training.settings import LoRA, TrainingSettings


def source(
    model: str,
    revision: str | None,
    device: str,
    dtype: str,
    offline: bool,
    pad_token: str | None,
) -> ModelSource:
    """Return how models are loaded."""
    return ModelSource(
        name=model,
        revision=revision,
        device=device,
        dtype=dtype,
        offline=offline,
        pad_token=pad_token,
    )


def feature_options(
    encoder: bool, pooling: str | None, layers: str | None, dim: int | None, whiten: bool
) -> FeatureOptions:
    """Return the feature options; lists are given with commas.

    ``ValueError`` for layers that are no whole numbers.
    """
    numbers = None
    if layers is not None:
        try:
            numbers = tuple(int(part) for part in layers.split(","))
        except ValueError:
            message = f"--layers must be whole numbers with commas, such as 0,-1; got {layers!r}."
            raise ValueError(message) from None
    return FeatureOptions(
        encoder=encoder,
        pooling=None if pooling is None else tuple(pooling.split(",")),
        layers=numbers,
        dim=dim,
        whiten=whiten,
    )


def training_settings(
    epochs: float,
    steps: int | None,
    learning_rate: float,
    batch_size: int,
    accumulation: int,
    lora_rank: int | None,
    checkpoint_every: int,
) -> TrainingSettings:
    """Return how to train."""
    return TrainingSettings(
        epochs=epochs,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        gradient_accumulation=accumulation,
        lora=None if lora_rank is None else LoRA(rank=lora_rank),
        checkpoint_every=checkpoint_every,
    )
