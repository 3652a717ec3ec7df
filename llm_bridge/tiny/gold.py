r"""What people in the tiny world want: a reward, and a preference that no reward explains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llm_bridge.tiny.parser import Judged, judge
from rlhf_theory.errors import check_nonnegative

_FACT = 2.0
_UNGRAMMATICAL = -2.0
_TONE = {"polite": 1.0, "plain": 0.0, "rude": -1.5}
_SENTIMENT = 0.8
_CLOSING = 0.5
_FILLER = {"brief": -0.7, "full": 0.3}

# Beyond this a long answer earns no more: otherwise the best answer would have no end.
_WANTED_FILLERS = 3

# What each group of readers likes best, next, and least: every tone is first, second and last once.
_TASTES = (
    ("polite", "plain", "rude"),
    ("plain", "rude", "polite"),
    ("rude", "polite", "plain"),
)


def reward_terms(prompt: str, response: str) -> dict[str, float]:
    """Return the parts that the gold reward adds up.

    ``fact`` is 2 if right and -2 if not (wrong, about something else, or none); ``tone`` 1 if
    polite and -1.5 if rude; ``sentiment`` 0.8 times its sign; ``closing`` 0.5; ``fillers`` -0.7
    each where a brief answer is asked for and 0.3 each, for three at most, where a full one is;
    ``grammar`` -2 if ungrammatical, and then there is nothing else to like or dislike but that the
    fact is missing.

    ``ValueError`` for a prompt of no tiny world.
    """
    return _terms(judge(prompt, response))


def _terms(judged: Judged) -> dict[str, float]:
    answer = judged.answer
    if answer is None:
        return {"fact": -_FACT, "grammar": _UNGRAMMATICAL}
    full = judged.style == "full"
    fillers = min(answer.fillers, _WANTED_FILLERS) if full else answer.fillers
    return {
        "fact": _FACT if judged.fact_right else -_FACT,
        "tone": _TONE[answer.tone],
        "sentiment": _SENTIMENT * answer.sentiment,
        "closing": _CLOSING * answer.closing,
        "fillers": _FILLER[judged.style] * fillers,
    }


def gold_reward(prompt: str, response: str) -> float:
    """Return the gold reward of an answer: the sum of `reward_terms`.

    At most 4.3 where a brief answer is asked for and 5.2 where a full one is; -4 if ungrammatical.
    No linear function of usual features: whether a fact is right is a matter of topic and value
    together, and fillers change their sign with the prompt.
    """
    return sum(reward_terms(prompt, response).values())


@dataclass(frozen=True)
class ReaderGroups:
    r"""Three groups of readers, equally many, who agree on everything but the tone.

    .. math::

        P(a \succ b \mid x) = \frac13 \sum_{g=1}^{3}
            \sigma\bigl( r(a) - r(b) + s\,[\ell_g(a) - \ell_g(b)] \bigr)

    with ``r`` the gold reward without its tone and ``l_g`` 2, 1 or 0 as the tone is what the group
    likes best, next or least. Formal readers order polite, plain, rude; hurried ones plain, rude,
    polite; playful ones rude, polite, plain. So among answers that differ in tone alone polite
    beats plain, plain beats rude and rude beats polite, each with probability
    ``(2 sigma(s) + sigma(-2 s)) / 3``: a Condorcet cycle, at the best answers as everywhere. A
    policy of a single tone loses to the next one; what no answer beats is an even mixture of tones.

    Attributes
    ----------
    scale
        ``s``, at least 0. The cycle has probabilities .527, .593, .636 and .655 at ``s`` = 1, 2, 3
        and 4 (2/3 in the limit), and none at 0, where the preference is Bradley-Terry's.

    Source: theory sheet 9.3 (annotator mixtures).
    """

    scale: float = 3.0

    def __post_init__(self) -> None:
        check_nonnegative("scale", self.scale)

    def __call__(self, prompt: str, first: str, second: str) -> float:
        """Return the probability that the first answer is preferred to the second.

        An ungrammatical answer has no tone, which counts as everybody's second choice.
        """
        one, other = judge(prompt, first), judge(prompt, second)
        shared = _shared(_terms(one)) - _shared(_terms(other))
        parts = [
            _sigmoid(shared + self.scale * (_liking(taste, one) - _liking(taste, other)))
            for taste in _TASTES
        ]
        return math.fsum(parts) / len(parts)


def gold_preference(prompt: str, first: str, second: str) -> float:
    """Return the probability that readers prefer the first answer: `ReaderGroups` at scale 3."""
    return _READERS(prompt, first, second)


_READERS = ReaderGroups()


def _shared(terms: Mapping[str, float]) -> float:
    return sum(value for name, value in terms.items() if name != "tone")


def _liking(taste: tuple[str, ...], judged: Judged) -> int:
    return 1 if judged.answer is None else 2 - taste.index(judged.answer.tone)


def _sigmoid(u: float) -> float:
    # Both branches are exact mirrors, so that P(a, b) + P(b, a) is 1 to the last bits.
    return 1.0 / (1.0 + math.exp(-u)) if u >= 0 else 1.0 - 1.0 / (1.0 + math.exp(u))
