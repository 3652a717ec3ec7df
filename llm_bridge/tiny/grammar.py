"""The grammar of the tiny world: its prompts, and answers drawn as a careless expert writes them.

A prompt asks for the color or the place of a topic, briefly or in full. An answer is
``[opener] fact filler* [opinion] [closing]``; its fact is right 55 % of the time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from llm_bridge.tiny.words import (
    CLOSINGS,
    FACT_FORMS,
    FACTS,
    FILLERS,
    OPENERS,
    OPINIONS,
    QUESTION_FORMS,
    SPECIAL,
    STYLE_FORMS,
    TOPICS,
    VALUES,
)
from rlhf_theory.errors import suggestion
from rlhf_theory.randomness import Key

_T = TypeVar("_T")


@dataclass(frozen=True)
class Question:
    """A prompt of the tiny world.

    Attributes
    ----------
    topic
        What it is about, one of `words.TOPICS`.
    question
        ``"color"`` or ``"place"``.
    style
        ``"brief"`` or ``"full"``: the length that is asked for.
    form, style_form
        Which of the wordings is used, counted from 0.
    """

    topic: str
    question: str
    style: str
    form: int = 0
    style_form: int = 0

    @property
    def text(self) -> str:
        """The prompt as a string of words."""
        asked = QUESTION_FORMS[self.question][self.form].format(topic=self.topic)
        return f"{asked} {STYLE_FORMS[self.style][self.style_form]}"

    @property
    def value(self) -> str:
        """The right answer."""
        return FACTS[self.topic, self.question]


@functools.cache
def questions() -> tuple[Question, ...]:
    """Return all 768 prompts: 24 topics, 2 questions, 2 styles, 4 times 2 wordings.

    Those of one cell (topic, question, style) follow each other.
    """
    return tuple(
        Question(topic, question, style, form, style_form)
        for topic in TOPICS
        for question in QUESTION_FORMS
        for style in STYLE_FORMS
        for form in range(len(QUESTION_FORMS[question]))
        for style_form in range(len(STYLE_FORMS[style]))
    )


@functools.cache
def _by_text() -> Mapping[str, Question]:
    return {q.text: q for q in questions()}


def read_prompt(text: str) -> Question:
    """Return what a prompt asks; special tokens and spaces around words do not matter.

    ``ValueError`` for a text that the grammar does not make.
    """
    bare = " ".join(w for w in text.split() if w not in SPECIAL)
    question = _by_text().get(bare)
    if question is None:
        message = f"The prompt must be one of the tiny world's; got {bare!r}."
        raise ValueError(message + suggestion(bare, _by_text()))
    return question


def split_prompts(key: Key) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the prompts to learn from, 576, and those held out, 192, each well mixed.

    Of the four cells (question, style) of every topic one is held out, with all its wordings. The
    same question about the same topic stays among the others in the other style, so that what
    labels say about facts carries over, and the reward of a held-out prompt is learnable without
    having been seen. Each question and style is held out equally often.

    Parameters
    ----------
    key
        Decides which cells are held out, and the order of both lists.
    """
    cells = [(q, s) for q in QUESTION_FORMS for s in STYLE_FORMS]
    # A random permutation of the topics deals them to the four cells, six each.
    ranks = np.argsort(key.child("cells").uniform_numpy(1, len(TOPICS))[0], kind="stable")
    held = {(TOPICS[t], *cells[i % len(cells)]) for i, t in enumerate(ranks)}
    parts: tuple[list[str], list[str]] = ([], [])
    for q in questions():
        parts[(q.topic, q.question, q.style) in held].append(q.text)
    train, test = (
        _shuffled(part, key.child(name))
        for part, name in zip(parts, ("train", "held out"), strict=True)
    )
    return train, test


def _shuffled(items: Sequence[str], key: Key) -> tuple[str, ...]:
    order = np.argsort(key.uniform_numpy(1, len(items))[0], kind="stable")
    return tuple(items[i] for i in order)


def _fillers() -> dict[str, tuple[float, ...]]:
    return {"brief": (0.4, 0.3, 0.2, 0.1), "full": (0.25, 0.25, 0.25, 0.25)}


@dataclass(frozen=True, kw_only=True)
class AnswerLaw:
    """How answers are written; the defaults are the data of the reference policy.

    Attributes
    ----------
    right
        Probability that the fact is right; a wrong one is uniform over the other values.
    polite, rude
        Probabilities of the two tones; the rest is plain.
    pleased, displeased
        Probabilities of the two opinions; the rest has none.
    closing
        Probability of a closing.
    fillers
        Probabilities of 0, 1, 2, ... fillers, by the style that is asked for.
    """

    right: float = 0.55
    polite: float = 0.35
    rude: float = 0.3
    pleased: float = 0.25
    displeased: float = 0.25
    closing: float = 0.3
    fillers: Mapping[str, tuple[float, ...]] = field(default_factory=_fillers)

    def __post_init__(self) -> None:
        laws = {
            "right": (self.right, 1 - self.right),
            "polite, rude": (self.polite, self.rude, 1 - self.polite - self.rude),
            "pleased, displeased": (
                self.pleased,
                self.displeased,
                1 - self.pleased - self.displeased,
            ),
            "closing": (self.closing, 1 - self.closing),
            **{f"fillers[{s!r}]": tuple(p) for s, p in self.fillers.items()},
        }
        if set(self.fillers) != set(STYLE_FORMS):
            message = f"fillers must have the styles {', '.join(STYLE_FORMS)}; got {self.fillers}."
            raise ValueError(message)
        for name, law in laws.items():
            if min(law) < 0 or abs(sum(law) - 1) > 1e-9:
                message = f"{name} must be probabilities that leave none below 0; got {law}."
                raise ValueError(message)


class _Row:
    """The uniform numbers of one answer, spent one after the other."""

    def __init__(self, row: Sequence[float]) -> None:
        self._rest = iter(row)

    def which(self, probs: Sequence[float]) -> int:
        """Return an index drawn by inversion."""
        u, below = next(self._rest), 0.0
        for i, p in enumerate(probs[:-1]):
            below += p
            if u < below:
                return i
        return len(probs) - 1

    def one_of(self, items: Sequence[_T]) -> _T:
        """Return an item drawn uniformly."""
        return items[int(next(self._rest) * len(items))]


def sample_answers(
    prompts: Sequence[str], key: Key, answer_law: AnswerLaw | None = None
) -> tuple[str, ...]:
    """Draw one answer to every prompt.

    Parameters
    ----------
    prompts
        Prompts of this world; repeat one to draw several answers to it.
    key
        Row ``i`` of its draws makes answer ``i``, whatever the other prompts are.
    answer_law
        How answers are written; as the reference policy's data by default.

    Returns
    -------
    As many answers as prompts.
    """
    answer_law = AnswerLaw() if answer_law is None else answer_law
    most = max(len(p) for p in answer_law.fillers.values())
    draws = key.uniform_numpy(len(prompts), 10 + most).tolist()
    return tuple(
        _answer(read_prompt(prompt), _Row(row), answer_law)
        for prompt, row in zip(prompts, draws, strict=True)
    )


def _answer(asked: Question, row: _Row, answer_law: AnswerLaw) -> str:
    polite, rude = answer_law.polite, answer_law.rude
    tone = ("polite", "rude", "plain")[row.which((polite, rude, 1 - polite - rude))]
    opener = row.one_of(OPENERS[tone])

    wrong = [v for v in VALUES[asked.question] if v != asked.value]
    value, other = asked.value, row.one_of(wrong)
    if row.which((answer_law.right, 1 - answer_law.right)) == 1:
        value = other
    fact = row.one_of(FACT_FORMS[asked.question]).format(topic=asked.topic, value=value)

    glad, sad = answer_law.pleased, answer_law.displeased
    sentiment = (1, -1, 0)[row.which((glad, sad, 1 - glad - sad))]
    opinion = row.one_of(OPINIONS[sentiment])
    closing = row.one_of(CLOSINGS)
    if row.which((answer_law.closing, 1 - answer_law.closing)) == 1:
        closing = ""
    fillers = [row.one_of(FILLERS) for _ in range(row.which(answer_law.fillers[asked.style]))]
    return " ".join(p for p in (opener, fact, *fillers, opinion, closing) if p)
