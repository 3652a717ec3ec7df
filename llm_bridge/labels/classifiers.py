"""Reward models that somebody trained: sequence classifiers of transformers with a scalar head."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, Unpack, get_args

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from llm_bridge.errors import ModelError, memory_advice
from llm_bridge.labels.scoring import by_text, pool_rewards, remembered, shown
from llm_bridge.language.loading import LoadedModel, Loading, load_parts
from llm_bridge.language.log_probs import batches_by_length, pad_rows
from llm_bridge.language.models import Ids, Prompt
from llm_bridge.language.sampler import Response
from rlhf_theory.arrays import Array
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_choice, check_positive

Form = Literal["auto", "chat", "pair", "joined"]
"""How prompt and response become one text; see `TransformerReward`."""


@dataclass(frozen=True, eq=False)
class TransformerReward(LoadedModel):
    """The reward of a sequence classifier with one output (``num_labels = 1``).

    Attributes
    ----------
    form
        How prompt and response become one text: ``"chat"``, as messages through its chat template;
        ``"pair"``, as the two segments of an encoder; ``"joined"``, their tokens one after the
        other and the end of the sequence; ``"auto"``, the first of these that the tokenizer is
        made for.
    batch_size
        Rows per forward pass.
    """

    name: str = "reward model"
    form: Form = "auto"
    batch_size: int = 32
    _memo: dict[Hashable, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_choice("form", self.form, get_args(Form))
        check_positive("batch_size", self.batch_size)
        super().__post_init__()
        outputs = int(self.model.config.num_labels)
        if outputs != 1:
            message = (
                f"A reward model must have one output (num_labels = 1); {self.name} has {outputs}."
            )
            raise ModelError(message)
        if self.form == "chat" and not self.tokenizer.chat_template:
            message = (
                f"form='chat' needs a tokenizer with a chat template; {self.name} has none. "
                "Use form='joined' or 'pair'."
            )
            raise ModelError(message)
        # Decoders find the token that they read by looking for the last one that is no padding.
        self.model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        form: Form = "auto",
        batch_size: int = 32,
        **load: Unpack[Loading],
    ) -> Self:
        """Load from a folder or a hub id; see `llm_bridge.language.loading.load_parts`.

        Raises
        ------
        ModelError
            If it cannot be loaded, has no trained head or one of several outputs, or its tokenizer
            does not serve.
        """
        model, tokenizer = load_parts(AutoModelForSequenceClassification, name, **load)
        return cls(model, tokenizer, str(name), form, batch_size)

    def encode(self, prompt: Prompt, response: Response) -> tuple[Ids, Ids]:
        """Return the tokens of a response to its prompt, and their segments."""
        form = self._form
        if form == "pair":
            out = self.tokenizer(prompt.text, response.text, return_token_type_ids=True)
            return tuple(out["input_ids"]), tuple(out["token_type_ids"])
        if form == "chat":
            said = prompt.messages or (("user", prompt.text),)
            messages = [{"role": r, "content": c} for r, c in (*said, ("assistant", response.text))]
            text = self.tokenizer.apply_chat_template(messages, tokenize=False)
            ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        else:
            eos = self.tokenizer.eos_token_id
            first = list(self.tokenizer(prompt.text)["input_ids"])
            if first and first[-1] == eos:
                first.pop()  # some tokenizers close every text
            second = self.tokenizer(response.text, add_special_tokens=False)["input_ids"]
            ids = (*first, *second, *(() if eos is None else (eos,)))
        return ids, (0,) * len(ids)

    @property
    def _form(self) -> str:
        if self.form != "auto":
            return self.form
        if self.tokenizer.chat_template:
            return "chat"
        return "joined" if self.tokenizer.sep_token_id is None else "pair"

    def scores(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> np.ndarray:
        """Return the reward of every response to its prompt, float64, shape ``(n,)``.

        Raises
        ------
        ValueError
            For texts longer than the model's context (nothing is cut), and rewards that are not
            finite; both name the text.
        MemoryError
            If a batch does not fit; says which knob.
        """

        def compute(places: list[int]) -> np.ndarray:
            return self._forward([(prompts[i], responses[i]) for i in places])

        keys = [by_text(p, r) for p, r in zip(prompts, responses, strict=True)]
        return remembered(self._memo, keys, compute)

    def _forward(self, pairs: list[tuple[Prompt, Response]]) -> np.ndarray:
        rows = [self.encode(*pair) for pair in pairs]
        longest = self.context_length
        for (ids, _), (_, response) in zip(rows, pairs, strict=True):
            if longest is not None and len(ids) > longest:
                message = (
                    f"A text must fit {self.name}'s context of {longest} tokens; prompt and "
                    f"response have {len(ids)}: {shown(response.text)}."
                )
                raise ValueError(message)
        result = np.empty(len(rows))
        with torch.inference_mode(), memory_advice(f"batch_size={self.batch_size}"):
            for batch in batches_by_length([len(ids) for ids, _ in rows], self.batch_size):
                result[batch] = self._logits([rows[i] for i in batch])
        for value, (_, response) in zip(result, pairs, strict=True):
            if not np.isfinite(value):
                message = f"{self.name} must give finite rewards; got {value} for "
                raise ValueError(message + f"{shown(response.text)}.")
        return result

    def _logits(self, rows: list[tuple[Ids, Ids]]) -> np.ndarray:
        ids, mask, _ = pad_rows(
            [row for row, _ in rows], [()] * len(rows), self.pad_id, self.device
        )
        batch = {"input_ids": ids, "attention_mask": mask}
        if any(any(segments) for _, segments in rows):
            kinds, _, _ = pad_rows([kind for _, kind in rows], [()] * len(rows), 0, self.device)
            batch["token_type_ids"] = kinds
        return np.asarray(self.model(**batch).logits[:, 0].double().cpu().numpy())

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``; 0 for absent responses."""
        return pool_rewards(contexts, self)
