"""Prompts and responses as a feature model reads them: tokens, and which of them count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.errors import ModelError
from llm_bridge.language.log_probs import check_lengths
from llm_bridge.language.models import Ids, LanguageModel


class Written(Protocol):
    """A prompt or a response as the bridge keeps it, such as `Prompt` and `Response`."""

    @property
    def ids(self) -> Ids:
        """Tokens of the language model."""
        ...

    @property
    def text(self) -> str:
        """As people read it."""
        ...


Piece = Written | str | Sequence[int] | Sequence[Mapping[str, str]]
"""A prompt or a response: with tokens and text, as text, as the tokens of a language model, or
(prompts only) as the messages of a chat."""


@dataclass(frozen=True)
class Reading:
    """A text as the model reads it.

    Attributes
    ----------
    ids
        All tokens.
    answer
        Where the response starts.
    start, stop
        The tokens that are pooled; at least one.
    """

    ids: Ids
    answer: int
    start: int
    stop: int


def reader_of(model: object) -> LanguageModel | EncoderModel:
    """Return the model itself, or that of a policy; ``ModelError`` for anything else."""
    for found in (model, getattr(model, "model", None)):
        if isinstance(found, LanguageModel | EncoderModel):
            return found
    message = (
        "Features need a LanguageModel, a policy of one, or load_encoder(folder); "
        f"got {type(model).__name__}."
    )
    raise ModelError(message)


def writer_of(model: object) -> LanguageModel | None:
    """Return the language model whose tokens are given, or None; ``ModelError`` if it is none."""
    if model is None:
        return None
    found = reader_of(model)
    if not isinstance(found, LanguageModel):
        message = f"tokens_of must be a language model or a policy of one; got {found.name}."
        raise ModelError(message)
    return found


def read(
    model: LanguageModel | EncoderModel,
    prompts: Sequence[Piece],
    responses: Sequence[Piece],
    over: str,
    tokens_of: LanguageModel | None = None,
) -> list[Reading]:
    """Return the texts as ``model`` reads them.

    A language model reads tokens; what comes as text is encoded as `LanguageModel` does. An encoder
    reads texts.

    Parameters
    ----------
    model
        Who reads.
    prompts, responses
        Equally many.
    over
        What is pooled: ``"response"`` or ``"text"``.
    tokens_of
        Whose tokens bare tokens are, where they are not the reader's own: they are read as text.

    Raises
    ------
    ValueError
        For empty responses, texts longer than the model reads, and tokens that it cannot read.
    """
    if len(prompts) != len(responses):
        message = f"Give one prompt per response; got {len(prompts)} and {len(responses)}."
        raise ValueError(message)
    for i, response in enumerate(responses):
        if len(_raw(response)) == 0:
            message = f"A response must have at least one token; response {i} is empty."
            raise ValueError(message)
    if isinstance(model, EncoderModel):
        return _encoder_readings(model, prompts, responses, over, tokens_of)
    own = tokens_of is None or tokens_of is model
    heads = [_prompt_ids(model, p if own else _text(p, tokens_of)) for p in prompts]
    tails = [_response_ids(model, r if own else _text(r, tokens_of)) for r in responses]
    check_lengths(model, heads, tails)
    return [
        Reading((*p, *r), len(p), len(p) if over == "response" else 0, len(p) + len(r))
        for p, r in zip(heads, tails, strict=True)
    ]


def _encoder_readings(
    model: EncoderModel,
    prompts: Sequence[Piece],
    responses: Sequence[Piece],
    over: str,
    tokens_of: LanguageModel | None,
) -> list[Reading]:
    texts = [_text(p, tokens_of) for p in prompts], [_text(r, tokens_of) for r in responses]
    result = []
    for i, (ids, start, stop) in enumerate(model.encode(*texts)):
        span = (start, stop) if over == "response" else (0, len(ids))
        if span[0] == span[1]:
            message = (
                f"Nothing of response {i} is left to pool: {model.name} sees no token in "
                f"{texts[1][i]!r}. Pool over='text'."
            )
            raise ValueError(message)
        result.append(Reading(ids, start, *span))
    return result


def _raw(piece: Any) -> Ids:
    """Return the text or the tokens; what has both is known by its tokens."""
    ids: Ids = getattr(piece, "ids", piece)
    return ids


def _prompt_ids(model: LanguageModel, prompt: object) -> Ids:
    if isinstance(prompt, str) or _messages(prompt):
        return model.encode_prompt(prompt).ids
    return tuple(int(i) for i in _raw(prompt))


def _response_ids(model: LanguageModel, response: object) -> Ids:
    if isinstance(response, str):
        # An answer that ended at once has no text.
        return model.encode_response(response) if response else (model.eos_id,)
    return tuple(int(i) for i in _raw(response))


def _messages(piece: object) -> TypeGuard[Sequence[Mapping[str, str]]]:
    return isinstance(piece, Sequence) and bool(piece) and isinstance(piece[0], Mapping)


def _text(piece: object, tokens_of: LanguageModel | None) -> str:
    if isinstance(piece, str):
        return piece
    if isinstance(text := getattr(piece, "text", None), str):
        return text
    if _messages(piece):
        return "\n".join(message["content"] for message in piece)
    if tokens_of is not None:
        return tokens_of.decode(_raw(piece))
    message = (
        "Features of another model than the one that wrote the tokens are read from text: give "
        "str, or Prompt and Response, or say tokens_of=policy so that tokens can be decoded; "
        f"got {type(piece).__name__}."
    )
    raise ValueError(message)
