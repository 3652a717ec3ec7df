"""Text encoders: models that give hidden states and no probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from transformers import AutoModel

from llm_bridge.errors import ModelError
from llm_bridge.language.loading import LoadedModel, Loading, load_parts
from llm_bridge.language.models import Ids


@dataclass(frozen=True, eq=False)
class EncoderModel(LoadedModel):
    """A model without a language-model head, such as a sentence encoder, with its tokenizer.

    Encoder-decoder models are refused.

    Attributes
    ----------
    join
        What stands between prompt and response in the text that is read.
    """

    name: str = "encoder"
    join: str = " "

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.config.is_encoder_decoder:
            message = (
                f"An encoder must read one text and write none; {self.name} is an encoder-decoder "
                "model. Save its encoder alone and load that."
            )
            raise ModelError(message)

    @property
    def context_length(self) -> int | None:
        """Longest text in tokens, None where neither configuration nor tokenizer says."""
        # RoBERTa counts positions from its pad token, so that the tokenizer's limit is the lower.
        limits = (
            getattr(self.model.config, "max_position_embeddings", None),
            self.tokenizer.model_max_length,
        )
        known = [int(n) for n in limits if n is not None and 0 < n < 10**9]
        return min(known, default=None)

    def encode(
        self, prompts: Sequence[str], responses: Sequence[str]
    ) -> list[tuple[Ids, int, int]]:
        """Return, per text, the tokens and where the response starts and stops among them.

        Prompt and response are read as one text, with ``join`` between them where both have
        characters; the special tokens that the tokenizer adds belong to neither.

        Raises
        ------
        ValueError
            If a text is longer than the model reads.
        """
        heads = [p + self.join if p and r else p for p, r in zip(prompts, responses, strict=True)]
        texts = [h + r for h, r in zip(heads, responses, strict=True)]
        if not texts:
            return []
        read = self.tokenizer(
            texts, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
        )
        result = []
        for i, ids in enumerate(read["input_ids"]):
            if self.context_length is not None and len(ids) > self.context_length:
                message = (
                    f"Prompt and response must fit the {self.context_length} tokens that "
                    f"{self.name} reads; text {i} has {len(ids)}. Shorten it."
                )
                raise ValueError(message)
            spans = zip(read["offset_mapping"][i], read["special_tokens_mask"][i], strict=True)
            # A token belongs to the response if it ends in it: some begin with the space before.
            answer = [j for j, ((_, end), s) in enumerate(spans) if not s and end > len(heads[i])]
            start, stop = (answer[0], answer[-1] + 1) if answer else (len(ids), len(ids))
            result.append((tuple(ids), start, stop))
        return result


def load_encoder(name: str | Path, *, join: str = " ", **load: Unpack[Loading]) -> EncoderModel:
    """Load an encoder from a folder, or with ``offline=False`` by its hub id.

    Parameters
    ----------
    name
        Folder or id.
    join
        What stands between prompt and response.
    load
        See `load_parts`, but for ``offline``, which is on by default.

    Raises
    ------
    ModelError
        If the folder is missing or holds no model.
    """
    load.setdefault("offline", True)
    model, tokenizer = load_parts(AutoModel, name, **load)
    return EncoderModel(model, tokenizer, str(name), join)
