"""Where a job gets its models, texts and settings from; all named by plain strings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import field_validator

from llm_bridge.embeddings.encoders import EncoderModel, load_encoder
from llm_bridge.language.chats import Message, Row
from llm_bridge.language.models import LanguageModel, Text
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.storage.jsonl import problems_with, read_jsonl


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """How models are loaded.

    Attributes
    ----------
    name
        Folder or id.
    revision, device, dtype, offline, pad_token
        As in `LanguageModel.from_pretrained`.
    """

    name: str
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    offline: bool = False
    pad_token: str | None = None

    def _options(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "device": self.device,
            "dtype": self.dtype,
            "offline": self.offline,
            "pad_token": self.pad_token,
        }

    def language_model(self) -> LanguageModel:
        """Load a causal model."""
        return LanguageModel.from_pretrained(self.name, **self._options())

    def encoder(self) -> EncoderModel:
        """Load an encoder."""
        return load_encoder(self.name, **self._options())

    def policy(self, *, max_new_tokens: int, batch_size: int) -> LanguageModelPolicy:
        """Load a causal model as a policy."""
        sampler = BatchedSampler(max_new_tokens=max_new_tokens, batch_size=max(batch_size, 64))
        return LanguageModelPolicy(self.language_model(), sampler, batch_size)

    def identity(self) -> dict[str, object]:
        """Return what results depend on; the device only decides the last bits."""
        return {"model": self.name, "revision": self.revision, "dtype": self.dtype}


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
    if not path.is_file():
        message = f"There is no file {path}."
        raise FileNotFoundError(message)
    wrong: list[str] = []
    if path.suffix == ".txt":
        found: list[Any] = [
            line for line in path.read_text("utf-8-sig").split("\n") if line.strip()
        ]
    elif path.suffix in (".jsonl", ".parquet"):
        if path.suffix == ".jsonl":
            rows, wrong = read_jsonl(path)
        else:
            rows = _parquet_rows(path)
        found = []
        for number, row in rows:
            try:
                _PromptRow.read(row)
            except ValueError as error:
                wrong.append(f"row {number}: {error}")
            found.append(row.get("prompt"))  # with all keys of its messages
    else:
        message = f"A file of prompts must end in .txt, .jsonl or .parquet; got {path}."
        raise ValueError(message)
    if wrong:
        raise ValueError(problems_with(path, wrong, "Nothing was read. Correct the file."))
    if not found:
        message = f"{path} has no prompts."
        raise ValueError(message)
    return list({json.dumps(p): p for p in found}.values())


def _parquet_rows(path: Path) -> list[tuple[int, dict[str, object]]]:
    try:
        return list(enumerate(pq.read_table(path).to_pylist(), start=1))
    except (pa.ArrowException, OSError) as error:
        message = f"{path} is no Parquet file, or damaged ({error})."
        raise ValueError(message) from error


class _PromptRow(Row):
    """The columns of a file of prompts, in which none is blank."""

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str | list[Message]) -> str | list[Message]:
        if isinstance(prompt, str) and not prompt.strip():
            message = f"prompt must be text or messages; got {prompt!r}"
            raise ValueError(message)
        return prompt


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
