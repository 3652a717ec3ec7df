"""Rows of files as prompts and responses of a model, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.labels.preference_data import encoded_pair
from llm_bridge.labels.preference_rows import PreferencePair
from llm_bridge.language.models import LanguageModel, Prompt, Text
from llm_bridge.language.responses import Response
from llm_bridge.pools.data import Comparison


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Which features; as in `TransformerFeatures`, whose defaults None stands for.

    Attributes
    ----------
    encoder
        Whether the model is an encoder instead of a causal model.
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


def as_prompt(reader: LanguageModel | EncoderModel, text: Text) -> Prompt:
    """Return a prompt with the tokens of the model that reads it."""
    if isinstance(reader, LanguageModel):
        return reader.encode_prompt(text)
    plain = text if isinstance(text, str) else "\n".join(m["content"] for m in text)
    ((ids, _, _),) = reader.encode([plain], [""])
    said = () if isinstance(text, str) else tuple((m["role"], m["content"]) for m in text)
    return Prompt(plain, ids, said)


def as_response(reader: LanguageModel | EncoderModel, text: str) -> Response:
    """Return a response with the tokens of the model that reads it."""
    if isinstance(reader, LanguageModel):
        return Response(reader.encode_response(text), text, float("nan"))
    ((ids, _, _),) = reader.encode([""], [text])
    return Response(ids, text, float("nan"))


def unscored(
    reader: LanguageModel | EncoderModel, pairs: Sequence[PreferencePair]
) -> list[Comparison]:
    """Return pairs as comparisons whose reference log-probabilities are not known, and set to 0.

    ``ValueError`` for texts that the model cannot read; says which pair.
    """
    found = []
    for number, pair in enumerate(pairs, start=1):
        try:
            if isinstance(reader, LanguageModel):
                prompt, chosen, rejected = encoded_pair(reader, pair)
            else:
                prompt = as_prompt(reader, pair.prompt)
                chosen, rejected = (as_response(reader, t) for t in (pair.chosen, pair.rejected))
        except ValueError as error:
            message = f"Pair {number} cannot be used with {reader.name}: {error}"
            raise ValueError(message) from error
        found.append(
            Comparison(prompt, chosen, rejected, 0.0, 0.0, label=pair.label, weight=pair.weight)
        )
    return found
