"""Which features of a model; plain settings that import no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_bridge.embeddings.encoders import EncoderModel
    from llm_bridge.embeddings.features import TransformerFeatures
    from llm_bridge.language.models import LanguageModel


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Which features; as in `TransformerFeatures`, whose defaults None stands for.

    Attributes
    ----------
    encoder
        Whether the model is an encoder instead of a causal model.
    pooling
        How tokens are pooled: last, mean, sum, first, or several.
    layers
        Hidden states to take: 0 is the embedding, -1 the last.
    log_prob
        Whether the response's log-probability is a feature.
    dim
        Directions of largest variance to project to.
    whiten
        Whether the features' covariance is the identity.
    scale
        ``"none"``, or ``"unit"`` or ``"ball"`` for features of length at most 1.
    """

    encoder: bool = False
    pooling: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    log_prob: bool | None = None
    dim: int | None = None
    whiten: bool = False
    scale: str = "none"

    def identity(self) -> dict[str, object]:
        """Return the options as plain data."""
        return {"features": asdict(self)}

    @classmethod
    def of(cls, content: dict[str, object]) -> FeatureOptions:
        """Return what `identity` wrote."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        return cls(**values)

    def make(
        self,
        reader: LanguageModel | EncoderModel,
        *,
        cache: Path | None,
        batch_size: int,
        tokens_of: object = None,
    ) -> TransformerFeatures:
        """Return the raw features of a loaded model."""
        from llm_bridge.embeddings.features import TransformerFeatures

        return TransformerFeatures(
            reader,
            tokens_of=tokens_of,
            pooling=self.pooling,
            layers=self.layers,
            log_prob=self.log_prob,
            dim=self.dim,
            whiten=self.whiten,
            scale=self.scale,
            batch_size=batch_size,
            cache=cache,
        )
