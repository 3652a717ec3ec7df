"""General preferences by a language model that is asked which of two responses is better."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from llm_bridge.errors import ModelError, memory_advice
from llm_bridge.labels.preferences import JudgedPreference, Kind
from llm_bridge.labels.scoring import shown, transcript
from llm_bridge.language.log_probs import batches_by_length, pad_rows
from llm_bridge.language.models import Ids, LanguageModel, Prompt
from llm_bridge.language.sampler import Response
from rlhf_theory.errors import check_positive

_QUESTION = (
    "Which of two responses to a prompt is better?\n\nPrompt:\n{prompt}\n\nResponse A:\n{first}\n\n"
    "Response B:\n{second}\n\nThe better response, A or B, is"
)


@dataclass(frozen=True, eq=False)
class PairwisePreferenceModel(JudgedPreference):
    """A general preference by a language model that is asked which of two responses is better.

    Its ``f(x, a, b)`` is the probability of the answer A among A and B where ``a`` is shown first,
    so that a liking for the first place cancels.

    Attributes
    ----------
    model
        The language model; where its tokenizer has a chat template, the question is a message.
    question
        Text with the fields ``{prompt}``, ``{first}`` and ``{second}``.
    answers
        What the model says for the first and for the second; one token each. Where a word has
        another token after a space, write the space: ``(" A", " B")``.
    batch_size
        Questions per forward pass.
    kind, tables
        See `JudgedPreference`.

    Source: [2405.07863], section 3.1 (the pairwise preference model).
    """

    model: LanguageModel
    question: str = _QUESTION
    answers: tuple[str, str] = ("A", "B")
    kind: Kind = "probability"
    batch_size: int = 32
    tables: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _memo: dict[Hashable, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("batch_size", self.batch_size)
        for name in ("{prompt}", "{first}", "{second}"):
            if name not in self.question:
                message = f"question must have the field {name}; got {shown(self.question)}."
                raise ValueError(message)
        self._answer_ids()

    def _answer_ids(self) -> tuple[int, int]:
        tokenizer = self.model.tokenizer
        found = [tokenizer(a, add_special_tokens=False)["input_ids"] for a in self.answers]
        single = all(len(ids) == 1 and ids[0] != tokenizer.unk_token_id for ids in found)
        if not single or found[0] == found[1]:
            message = (
                f"answers must be two different tokens of {self.model.name}; {self.answers} have "
                f"the tokens {found}. Choose other words."
            )
            raise ModelError(message)
        return int(found[0][0]), int(found[1][0])

    def first_shown_wins(
        self, prompts: Sequence[Prompt], first: Sequence[Response], second: Sequence[Response]
    ) -> np.ndarray:
        """Return ``p(A | a, b)`` as the model says it, shape ``(n,)``; not symmetric.

        Raises
        ------
        ValueError
            If a question is longer than the model's context, or the model answers NaN.
        MemoryError
            If a batch does not fit; says which knob.
        """
        asked = [
            self._encode(transcript(x), a.text, b.text)
            for x, a, b in zip(prompts, first, second, strict=True)
        ]
        answer = self._answer_ids()
        result = np.empty(len(asked))
        with torch.inference_mode(), memory_advice(f"batch_size={self.batch_size}"):
            for rows in batches_by_length([len(ids) for ids in asked], self.batch_size):
                ids, mask, _ = pad_rows(
                    [asked[i] for i in rows],
                    [()] * len(rows),
                    self.model.pad_id,
                    self.model.device,
                )
                out = self.model.model(input_ids=ids, attention_mask=mask, use_cache=False)
                place = torch.arange(len(rows), device=mask.device)
                last = out.logits[place, mask.sum(dim=1) - 1]
                odds = last[:, answer[0]].double() - last[:, answer[1]].double()
                result[rows] = torch.sigmoid(odds).cpu().numpy()
        if np.isnan(result).any():
            message = f"{self.model.name} answers NaN; try dtype='float32'."
            raise ValueError(message)
        return result

    def _encode(self, prompt: str, first: str, second: str) -> Ids:
        # Not str.format: texts may hold braces, and so may the question.
        parts = re.split(r"(\{prompt\}|\{first\}|\{second\})", self.question)
        fill = {"{prompt}": prompt, "{first}": first, "{second}": second}
        text = "".join(fill.get(p, p) for p in parts)
        if self.model.tokenizer.chat_template:
            return self.model.encode_prompt([{"role": "user", "content": text}]).ids
        return self.model.encode_prompt(text).ids
