"""Causal language models with their tokenizers."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, Unpack

import torch
from transformers import AutoModelForCausalLM

from llm_bridge.errors import ModelError
from llm_bridge.language.chats import chat_of
from llm_bridge.language.loading import (
    WRITTEN,
    LoadedModel,
    Loading,
    check_causal,
    load_parts,
    quiet,
)
from llm_bridge.storage.content import model_files
from llm_bridge.storage.records import clear, write_record

Ids = tuple[int, ...]
"""Token ids of one text."""

Text = str | Sequence[Mapping[str, str]]
"""Plain text, or the messages of a chat: ``{"role": ..., "content": ...}``."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and its tokens.

    Attributes
    ----------
    text
        As people read it; the messages of a chat are rendered by the chat template.
    ids
        Token ids, beginning-of-sequence and template included.
    messages
        ``(role, content)`` of every message of a chat, so that a reward model with another chat
        template can render it; empty for plain text.
    """

    text: str
    ids: Ids
    messages: tuple[tuple[str, str], ...] = ()


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off inside the block."""
    training = bool(module.training)
    if training:
        module.eval()
    try:
        yield
    finally:
        if training:
            module.train()


@dataclass(frozen=True, eq=False)
class LanguageModel(LoadedModel):
    """A causal language model with its tokenizer: a value; training makes a new one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokenizer.eos_token_id is None:
            message = "The tokenizer must have an end of sequence (eos_token); it has none."
            raise ModelError(message)
        if len(self.tokenizer) > self.n_tokens:
            message = (
                f"The tokenizer must fit the model; it has {len(self.tokenizer)} tokens and the "
                f"model embeds {self.n_tokens}. Load both from one folder."
            )
            raise ModelError(message)

    @classmethod
    def from_pretrained(cls, name: str | Path, **load: Unpack[Loading]) -> Self:
        """Load from a folder or a hub id; see `load_parts`.

        Raises
        ------
        ModelError
            If it cannot be loaded, is no causal model, or its tokenizer does not serve.
        """
        model, tokenizer = load_parts(AutoModelForCausalLM, name, **load)
        check_causal(model, str(name))
        return cls(model, tokenizer, str(name))

    @property
    def n_tokens(self) -> int:
        """Number of tokens that the model embeds; ids lie below it."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def eos_id(self) -> int:
        """Token that ends a response."""
        return int(self.tokenizer.eos_token_id)

    def encode_prompt(self, text: Text) -> Prompt:
        """Return the prompt with its tokens; messages go through the chat template.

        Raises
        ------
        ModelError
            If messages are given and the tokenizer has no chat template, or it refuses them.
        ValueError
            If the prompt is empty, a message lacks its role or content, or no room is left for a
            response.
        """
        if isinstance(text, str):
            shown, special = text, True
        else:
            shown, special = self._render(text), False
        ids = self._tokens(shown, special)
        if special and ids and ids[-1] == self.eos_id:
            ids.pop()  # some tokenizers close every text; a prompt goes on
        if not ids:
            message = "A prompt must have at least one token; got an empty one."
            raise ValueError(message)
        longest = self.context_length
        if longest is not None and len(ids) >= longest:
            message = (
                f"A prompt must be shorter than the model's context of {longest} tokens; "
                f"got {len(ids)} tokens: {shown[:60]!r}... Shorten it."
            )
            raise ValueError(message)
        said = () if isinstance(text, str) else tuple((m["role"], m["content"]) for m in text)
        return Prompt(shown, tuple(ids), said)

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        if not self.tokenizer.chat_template:
            message = (
                "Prompts given as messages need a tokenizer with a chat template; "
                f"{self.name} has none. Give plain text."
            )
            raise ModelError(message)
        chat_of("A prompt", messages)
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(m) for m in messages], tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as error:  # a template may raise whatever it likes
            message = f"The chat template of {self.name} refuses these messages: {error}"
            raise ModelError(message) from error

    def _tokens(self, text: str, special: bool) -> list[int]:
        # Too long a text is answered by our own checks, not by the tokenizer's warning.
        out = self.tokenizer(text, add_special_tokens=special, verbose=False)
        return [int(i) for i in out["input_ids"]]

    def encode_response(self, text: str) -> Ids:
        """Return the tokens of a response, the end of the sequence included.

        The text is cut into tokens on its own: where the tokenizer makes spaces part of words,
        give the space that follows the prompt. Samples keep the ids that were drawn; texts are
        encoded only where they come from outside.

        ``ValueError`` for an empty response, or one with an end of the sequence inside.
        """
        ids = self._tokens(text, special=False)
        if ids and ids[-1] == self.eos_id:
            ids.pop()
        if not ids:
            message = "A response must have at least one token; got an empty one."
            raise ValueError(message)
        if self.eos_id in ids:
            message = (
                f"A response must not go on after its end {self.tokenizer.eos_token!r}; "
                f"got {text[:60]!r}. Cut it there."
            )
            raise ValueError(message)
        return (*ids, self.eos_id)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a response, without special tokens."""
        return self.decode_many([ids])[0]

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of responses, without special tokens."""
        texts = self.tokenizer.batch_decode([list(r) for r in rows], skip_special_tokens=True)
        return [str(t).strip() for t in texts]

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r})"  # not its layers: learners say their settings

    def clone(self) -> LanguageModel:
        """Return a copy with weights of its own, to be trained."""
        return LanguageModel(copy.deepcopy(self.model), self.tokenizer, self.name)

    def save(self, folder: str | Path) -> None:
        """Write model and tokenizer so that `from_pretrained` reads them.

        Adapters are merged into the weights. A process that is killed leaves a folder without
        ``config.json``, which nobody takes for a model. `WRITTEN` comes last, with digests of all
        files: whoever loads them checks it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.model
        if hasattr(model, "merge_and_unload"):
            model = copy.deepcopy(model).merge_and_unload()
        with quiet(), tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as part:
            model.save_pretrained(part)
            self.tokenizer.save_pretrained(part)
            written = sorted(Path(part).iterdir(), key=lambda p: p.name == "config.json")
            clear(folder / WRITTEN, *model_files(folder))
            (folder / "config.json").unlink(missing_ok=True)
            for file in written:
                file.replace(folder / file.name)
            write_record(folder / WRITTEN, {}, [file.name for file in written])
