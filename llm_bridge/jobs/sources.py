"""Where a job gets its models, texts and settings from; all named by plain strings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from llm_bridge.jobs.loading_options import LoadingOptions
from llm_bridge.language.chats import Message, Row
from llm_bridge.storage.content import model_content

if TYPE_CHECKING:
    from llm_bridge.embeddings.encoders import EncoderModel
    from llm_bridge.language.models import LanguageModel, Text
    from llm_bridge.pools.policy import LanguageModelPolicy


@dataclass(frozen=True, kw_only=True)
class ModelSource(LoadingOptions):
    """A model, and how it is loaded.

    Attributes
    ----------
    name
        Folder of a model, or its id on the hub.
    """

    name: str

    def language_model(self) -> LanguageModel:
        """Load a causal model."""
        from llm_bridge.language.models import LanguageModel

        return LanguageModel.from_pretrained(self.name, **self.loading())

    def reader(self, *, encoder: bool) -> LanguageModel | EncoderModel:
        """Load an encoder, or a causal model, to read texts."""
        from llm_bridge.embeddings.encoders import load_encoder

        return load_encoder(self.name, **self.loading()) if encoder else self.language_model()

    def policy(self, *, max_new_tokens: int, batch_size: int) -> LanguageModelPolicy:
        """Load a causal model as a policy."""
        from llm_bridge.language.sampler import BatchedSampler
        from llm_bridge.pools.policy import LanguageModelPolicy

        sampler = BatchedSampler(max_new_tokens=max_new_tokens, batch_size=max(batch_size, 64))
        return LanguageModelPolicy(self.language_model(), sampler, batch_size)

    def identity(self) -> dict[str, object]:
        """Return what results depend on; the device only decides the last bits."""
        content = model_content(self.name, self.revision)
        return {"weights": content, "revision": self.revision, "dtype": self.dtype}


def read_prompts(path: Path) -> list[Text]:
    """Read prompts: ``.txt``, one per line; ``.jsonl`` or ``.parquet`` with a column ``prompt``.

    Prompts are texts or messages. Repeated ones are kept once, in their order.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For rows without a prompt; says which.
    """
    from llm_bridge.storage.rows import each_made, numbered_rows

    if not path.is_file():
        message = f"There is no file {path}."
        raise FileNotFoundError(message)
    if path.suffix == ".txt":
        lines = path.read_text("utf-8-sig").split("\n")
        found: list[Text] = [line for line in lines if line.strip()]
    elif path.suffix in (".jsonl", ".parquet"):
        found = each_made(path, numbered_rows(path), _prompt_of, word="row")
    else:
        message = f"A file of prompts must end in .txt, .jsonl or .parquet; got {path}."
        raise ValueError(message)
    if not found:
        message = f"{path} has no prompts."
        raise ValueError(message)
    return list({json.dumps(p): p for p in found}.values())


class _PromptRow(Row):
    """The columns of a file of prompts, in which none is blank."""

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str | list[Message]) -> str | list[Message]:
        if isinstance(prompt, str) and not prompt.strip():
            message = f"prompt must be text or messages; got {prompt!r}"
            raise ValueError(message)
        return prompt


def _prompt_of(row: Mapping[str, object]) -> Any:
    _PromptRow.read(row)
    return row["prompt"]  # with all keys of its messages


def split_held_out(prompts: Sequence[Text], share: float, seed: int) -> list[bool]:
    """Return which rows are held out: about ``share`` of the prompts, each with all its rows.

    Whether a prompt is held out depends on its text and the seed alone, so that adding rows moves
    none from one side to the other.
    """
    if not 0.0 <= share < 1.0:
        message = f"The share that is held out must lie in [0, 1); got {share}."
        raise ValueError(message)
    words = [f"{seed} {json.dumps(p, ensure_ascii=True)}".encode() for p in prompts]
    draws = [int.from_bytes(hashlib.blake2b(w, digest_size=8).digest(), "big") for w in words]
    return [draw < share * 2.0**64 for draw in draws]
