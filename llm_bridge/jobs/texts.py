"""Rows of files as prompts and responses of a model, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Sequence

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.labels.preference_data import encoded_pair
from llm_bridge.labels.preference_rows import PreferencePair
from llm_bridge.language.models import LanguageModel, Prompt, Text
from llm_bridge.language.responses import Response
from llm_bridge.pools.data import Comparison


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
