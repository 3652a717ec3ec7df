"""What an answer of the tiny world says and how, read back from its words."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from llm_bridge.tiny.grammar import read_prompt
from llm_bridge.tiny.words import (
    CLOSINGS,
    FACT_FORMS,
    FACTS,
    FILLERS,
    OPENERS,
    OPINIONS,
    SPECIAL,
    TOPICS,
    VALUES,
)

Words = tuple[str, ...]
Meaning = TypeVar("Meaning")


@dataclass(frozen=True)
class Answer:
    """A grammatical answer.

    Attributes
    ----------
    topic, question, value
        What the fact says of what: ``("oak", "color", "brown")``.
    tone
        ``"polite"``, ``"plain"`` or ``"rude"``.
    sentiment
        1, 0 or -1.
    closing
        Whether it ends with a closing.
    fillers
        Number of sentences that say nothing; any number is grammatical.
    """

    topic: str
    question: str
    value: str
    tone: str
    sentiment: int
    closing: bool
    fillers: int

    @property
    def fact_right(self) -> bool:
        """Whether what it says is true, asked for or not."""
        return FACTS[self.topic, self.question] == self.value


@dataclass(frozen=True)
class Judged:
    """An answer seen from its prompt.

    Attributes
    ----------
    style
        The length that the prompt asks for, ``"brief"`` or ``"full"``.
    answer
        What it says; None where the answer is ungrammatical.
    on_topic
        Whether the fact is about the topic and the question of the prompt.
    fact_right
        Whether it is on topic and true.
    """

    style: str
    answer: Answer | None
    on_topic: bool
    fact_right: bool

    @property
    def grammatical(self) -> bool:
        """Whether the answer belongs to the grammar."""
        return self.answer is not None


def _words(phrase: str) -> Words:
    return tuple(phrase.split())


_OPENERS = {_words(p): tone for tone, phrases in OPENERS.items() for p in phrases if p}
_SAID = {
    _words(form.format(topic=topic, value=value)): (topic, question, value)
    for question, forms in FACT_FORMS.items()
    for form in forms
    for topic in TOPICS
    for value in VALUES[question]
}
_FILLERS = dict.fromkeys(map(_words, FILLERS), True)
_OPINIONS = {_words(p): value for value, phrases in OPINIONS.items() for p in phrases if p}
_CLOSINGS = dict.fromkeys(map(_words, CLOSINGS), True)


def _take(table: Mapping[Words, Meaning], words: Words, at: int) -> tuple[Meaning | None, int]:
    """Return what the phrase at a position means, and where it ends.

    No phrase of a table begins another, so at most one length fits.
    """
    for length in sorted({len(phrase) for phrase in table}):
        meaning = table.get(words[at : at + length])
        if meaning is not None:
            return meaning, at + length
    return None, at


@functools.lru_cache(maxsize=65536)
def parse(text: str) -> Answer | None:
    """Return what an answer says, or None where it is not grammatical.

    Special tokens are dropped; an empty or unfinished answer is ungrammatical.
    """
    words = tuple(w for w in text.split() if w not in SPECIAL)
    tone, at = _take(_OPENERS, words, 0)
    fact, at = _take(_SAID, words, at)
    if fact is None:
        return None
    fillers = -1
    more: bool | None = True
    while more:
        more, at = _take(_FILLERS, words, at)
        fillers += 1
    sentiment, at = _take(_OPINIONS, words, at)
    closing, at = _take(_CLOSINGS, words, at)
    if at != len(words):
        return None
    return Answer(*fact, tone or "plain", sentiment or 0, bool(closing), fillers)


def judge(prompt: str, response: str) -> Judged:
    """Return an answer seen from its prompt; ``ValueError`` for a prompt of no tiny world."""
    asked, answer = read_prompt(prompt), parse(response)
    on_topic = answer is not None and (answer.topic, answer.question) == (
        asked.topic,
        asked.question,
    )
    right = on_topic and answer is not None and answer.fact_right
    return Judged(asked.style, answer, on_topic, right)
