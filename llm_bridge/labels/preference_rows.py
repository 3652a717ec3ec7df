"""Preference data row by row: pairs and rankings of texts, checked, as columns of a file and back.

The columns are those of TRL: ``prompt``, ``chosen``, ``rejected``, as texts or as messages, and
``margin``. What TRL does not know has the prefix ``rlhf_``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_bridge.language.models import Ids, Text

__all__ = [
    "PREFIX",
    "PreferencePair",
    "PreferenceRanking",
    "answer_of",
    "number_of",
    "pair_of",
    "prompt_of",
    "ranking_of",
    "row_of",
]

PREFIX = "rlhf_"
"""What names of columns that TRL does not know begin with."""

FORMAT = PREFIX + "format"
"""The column by which a file is known as ours."""

_OURS = ("label", "weight", "ids", "format")


@dataclass(frozen=True)
class PreferencePair:
    """Two responses to a prompt, the better one first.

    Attributes
    ----------
    prompt
        Text, or the messages of a chat.
    chosen, rejected
        Texts of the responses; of a chat, what the assistant says.
    label
        Probability that ``chosen`` is better, in [0, 1]; 1 unless labels are soft, 1/2 for a tie.
    margin
        Known difference of rewards, or None.
    weight
        How often the pair counts.
    ids
        Tokens of prompt, chosen and rejected where they are known; text alone may be cut into
        other tokens than a model has sampled.
    extras
        Other columns, names without the prefix.
    """

    prompt: Text
    chosen: str
    rejected: str
    label: float = 1.0
    margin: float | None = None
    weight: float = 1.0
    ids: tuple[Ids, Ids, Ids] | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_identical(self) -> bool:
        """Whether both responses are the same: the pair tells nothing."""
        return self.chosen == self.rejected


@dataclass(frozen=True)
class PreferenceRanking:
    """Several responses to a prompt, ranked.

    Attributes
    ----------
    prompt
        Text, or the messages of a chat.
    completions
        Texts of the responses, at least two.
    ranking
        Their places, the best first.
    extras
        Other columns, names without the prefix.
    """

    prompt: Text
    completions: tuple[str, ...]
    ranking: tuple[int, ...]
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_identical(self) -> bool:
        """Whether all responses are the same: the ranking tells nothing."""
        return len(set(self.completions)) == 1

    def pairs(self, *, equal: bool = False) -> list[PreferencePair]:
        r"""Return all pairs, each of weight :math:`1 / \binom K2`.

        Equal responses make a pair only if ``equal``, and weigh nothing otherwise.

        Source: [2203.02155] (InstructGPT), equation (1): all comparisons of a prompt together count
        as one.
        """
        best_first = [self.completions[k] for k in self.ranking]
        made = [(a, b) for i, a in enumerate(best_first) for b in best_first[i + 1 :]]
        found = [(a, b) for a, b in made if equal or a != b]
        return [
            PreferencePair(self.prompt, a, b, weight=1.0 / len(found), extras=self.extras)
            for a, b in found
        ]


# --------------------------------------------------------------------------- reading


def pair_of(row: Mapping[str, Any]) -> PreferencePair:
    """Return the pair of a row; ``ValueError`` says what is wrong with it."""
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        if value is None:
            message = f"{name} is missing"
            raise ValueError(message)
    if prompt is None:
        prompt, chosen, rejected = _split(chosen, rejected)
    prompt = prompt_of(prompt)
    return PreferencePair(
        prompt,
        answer_of("chosen", chosen, prompt),
        answer_of("rejected", rejected, prompt),
        label=number_of(row, PREFIX + "label", 1.0, least=0.0, most=1.0),
        margin=None if row.get("margin") is None else number_of(row, "margin", 0.0),
        weight=number_of(row, PREFIX + "weight", 1.0, least=0.0),
        ids=_ids(row.get(PREFIX + "ids")),
        extras=_extras(row, ("prompt", "chosen", "rejected", "margin")),
    )


def ranking_of(row: Mapping[str, Any]) -> PreferenceRanking:
    """Return the ranking of a row; ``ValueError`` says what is wrong with it."""
    prompt = prompt_of(row.get("prompt"))
    given, ranking = row.get("completions"), row.get("ranking")
    if not isinstance(given, list) or len(given) < 2:
        message = "completions must be a list of at least two responses"
        raise ValueError(message)
    k = len(given)
    whole = isinstance(ranking, list) and all(type(r) is int for r in ranking)
    if not whole or sorted(ranking) != list(range(k)):  # type: ignore[arg-type]
        message = f"ranking must hold 0 .. {k - 1} once each, the best first; got {ranking}"
        raise ValueError(message)
    return PreferenceRanking(
        prompt,
        tuple(answer_of(f"completion {i}", c, prompt) for i, c in enumerate(given)),
        tuple(ranking),  # type: ignore[arg-type]
        _extras(row, ("prompt", "completions", "ranking")),
    )


def _split(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Return prompt, chosen and rejected of a row without prompt: their common beginning.

    As in TRL: whole messages of chats; of texts, characters, and a space before the difference
    belongs to the responses.
    """
    if type(chosen) is not type(rejected) or not isinstance(chosen, str | list):
        message = "chosen and rejected must both be texts, or both messages"
        raise ValueError(message)
    if chosen == rejected:
        if isinstance(chosen, list) and len(chosen) > 1:
            return chosen[:-1], chosen[-1:], rejected[-1:]
        return " ", chosen, rejected  # the reader drops it: any prompt will do
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    if isinstance(chosen, str) and n > 0 and chosen[n - 1] == " ":
        n -= 1
    if n == 0:
        message = "there is no prompt, and chosen and rejected have no common beginning"
        raise ValueError(message)
    if n == min(len(chosen), len(rejected)):
        message = "there is no prompt, and one response is the beginning of the other"
        raise ValueError(message)
    return chosen[:n], chosen[n:], rejected[n:]


def _messages(name: str, value: Any) -> list[dict[str, str]]:
    fits = (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(m, Mapping)
            and isinstance(m.get("role"), str)
            and isinstance(m.get("content"), str)
            for m in value
        )
    )
    if not fits:
        message = f'{name} must be text, or messages {{"role": ..., "content": ...}}'
        raise ValueError(message)
    return [{"role": m["role"], "content": m["content"]} for m in value]


def prompt_of(prompt: Any) -> Text:
    """Return a prompt that can be used, text or messages; ``ValueError`` says what is wrong."""
    if prompt is None:
        message = "prompt is missing"
        raise ValueError(message)
    if isinstance(prompt, str):
        if not prompt:
            message = "prompt is empty"
            raise ValueError(message)
        return prompt
    return _messages("prompt", prompt)


def answer_of(name: str, value: Any, prompt: Text) -> str:
    """Return the text of a response to a text, or of the assistant's message of a chat."""
    if isinstance(value, str) != isinstance(prompt, str):
        message = f"prompt and {name} must both be texts, or both messages"
        raise ValueError(message)
    if isinstance(value, str):
        text = value
    else:
        said = _messages(name, value)
        if len(said) != 1 or said[0]["role"] != "assistant":
            roles = ", ".join(m["role"] for m in said)
            message = f"{name} must be one message of the assistant; its roles are: {roles}"
            raise ValueError(message)
        text = said[0]["content"]
    if not text.strip():
        message = f"{name} is empty"
        raise ValueError(message)
    return text


def number_of(
    row: Mapping[str, Any],
    name: str,
    default: float,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """Return the number in a column; ``ValueError`` unless it is one between two others."""
    value = row.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:
        if most < math.inf:
            wanted = f"a number from {least:g} to {most:g}"
        else:
            wanted = "a finite number" + (f", at least {least:g}" if least > -math.inf else "")
        message = f"{name} must be {wanted}; got {value!r}"
        raise ValueError(message)
    return float(value)


def _ids(value: Any) -> tuple[Ids, Ids, Ids] | None:
    if value is None:
        return None
    parts: list[Ids] = []
    for name in ("prompt", "chosen", "rejected"):
        part = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(part, list) and part and all(type(i) is int and i >= 0 for i in part):
            parts.append(tuple(part))
    if len(parts) != 3:
        message = f"{PREFIX}ids must hold the tokens of prompt, chosen and rejected"
        raise ValueError(message)
    return parts[0], parts[1], parts[2]


def _extras(row: Mapping[str, Any], standard: Sequence[str]) -> dict[str, Any]:
    known = {*standard, *(PREFIX + name for name in _OURS)}
    return {
        name.removeprefix(PREFIX): value
        for name, value in row.items()
        if name not in known and value is not None
    }


# --------------------------------------------------------------------------- writing


def row_of(item: PreferencePair | PreferenceRanking) -> dict[str, Any]:
    """Return the columns of a pair or ranking."""
    prompt = item.prompt

    def answer(text: str) -> Any:
        return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]

    shown = prompt if isinstance(prompt, str) else [dict(m) for m in prompt]
    row: dict[str, Any] = {"prompt": shown}
    if isinstance(item, PreferenceRanking):
        row |= {"completions": [answer(c) for c in item.completions], "ranking": list(item.ranking)}
    else:
        row |= {"chosen": answer(item.chosen), "rejected": answer(item.rejected)}
        if item.margin is not None:
            row["margin"] = item.margin
        if item.label != 1.0:
            row[PREFIX + "label"] = item.label
        if item.weight != 1.0:
            row[PREFIX + "weight"] = item.weight
        if item.ids is not None:
            parts = zip(("prompt", "chosen", "rejected"), item.ids, strict=True)
            row[PREFIX + "ids"] = {name: list(ids) for name, ids in parts}
    row |= {PREFIX + name: value for name, value in item.extras.items()}
    row[FORMAT] = 1
    return row
