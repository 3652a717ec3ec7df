"""Preference data row by row: pairs and rankings of texts, checked, as columns of a file and back.

The columns are those of TRL: ``prompt``, ``chosen``, ``rejected``, as texts or as messages, and
``margin``. What TRL does not know has the prefix ``rlhf_``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llm_bridge.language.chats import Message, Row, chat_of
from llm_bridge.language.models import Ids, Text

PREFIX = "rlhf_"
"""What names of columns that TRL does not know begin with."""

FORMAT = PREFIX + "format"
"""The column by which a file is known as ours."""

Weight = Annotated[
    float,
    Field(
        alias=PREFIX + "weight",
        ge=0.0,
        allow_inf_nan=False,
        description="must be a finite number, at least 0",
    ),
]
"""The column that says how often a row counts."""


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


_TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class _Tokens(BaseModel):
    """The tokens of a pair."""

    model_config = ConfigDict(strict=True)

    prompt: _TokenIds
    chosen: _TokenIds
    rejected: _TokenIds

    @property
    def parts(self) -> tuple[Ids, Ids, Ids]:
        """The tokens of prompt, chosen and rejected."""
        return tuple(self.prompt), tuple(self.chosen), tuple(self.rejected)


class _PairRow(Row):
    """The columns of a pair; without a prompt, the common beginning of the responses is one."""

    chosen: object
    rejected: object
    margin: Annotated[
        float | None, Field(allow_inf_nan=False, description="must be a finite number")
    ] = None
    label: Annotated[
        float,
        Field(
            alias=PREFIX + "label",
            ge=0.0,
            le=1.0,
            allow_inf_nan=False,
            description="must be a number from 0 to 1",
        ),
    ] = 1.0
    weight: Weight = 1.0
    ids: Annotated[
        _Tokens | None,
        Field(
            alias=PREFIX + "ids", description="must hold the tokens of prompt, chosen and rejected"
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _with_prompt(cls, row: dict[str, object]) -> dict[str, object]:
        if "prompt" in row or not {"chosen", "rejected"} <= set(row):
            return row
        parts = _split(row["chosen"], row["rejected"])
        return row | dict(zip(("prompt", "chosen", "rejected"), parts, strict=True))


class _RankingRow(Row):
    """The columns of a ranking."""

    completions: list[Any] = Field(
        min_length=2, description="must be a list of at least two responses"
    )
    ranking: Any = None

    @model_validator(mode="after")
    def _holds_every_place_once(self) -> Self:
        k, ranking = len(self.completions), self.ranking
        whole = isinstance(ranking, list) and all(type(r) is int for r in ranking)
        if not whole or sorted(ranking) != list(range(k)):
            message = f"ranking must hold 0 .. {k - 1} once each, the best first; got {ranking}"
            raise ValueError(message)
        return self


def pair_of(row: Mapping[str, object]) -> PreferencePair:
    """Return the pair of a row; ``ValueError`` says what is wrong with it."""
    known = _PairRow.read(row)
    return PreferencePair(
        plain_prompt(known.prompt),
        answer_of("chosen", known.chosen, known.prompt),
        answer_of("rejected", known.rejected, known.prompt),
        label=known.label,
        margin=known.margin,
        weight=known.weight,
        ids=None if known.ids is None else known.ids.parts,
        extras=_extras(row, _PairRow),
    )


def ranking_of(row: Mapping[str, object]) -> PreferenceRanking:
    """Return the ranking of a row; ``ValueError`` says what is wrong with it."""
    known = _RankingRow.read(row)
    return PreferenceRanking(
        plain_prompt(known.prompt),
        tuple(
            answer_of(f"completion {i}", c, known.prompt) for i, c in enumerate(known.completions)
        ),
        tuple(known.ranking),
        _extras(row, _RankingRow),
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


def plain_prompt(prompt: str | list[Message]) -> Text:
    """Return a prompt as plain data: text, or messages of role and content."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": m.role, "content": m.content} for m in prompt]


def answer_of(name: str, value: object, prompt: str | list[Message]) -> str:
    """Return the text of a response to a text, or of the assistant's message of a chat."""
    if isinstance(value, str) != isinstance(prompt, str):
        message = f"prompt and {name} must both be texts, or both messages"
        raise ValueError(message)
    if isinstance(value, str):
        text = value
    else:
        said = chat_of(name, value)
        if len(said) != 1 or said[0].role != "assistant":
            roles = ", ".join(m.role for m in said)
            message = f"{name} must be one message of the assistant; its roles are: {roles}"
            raise ValueError(message)
        text = said[0].content
    if not text.strip():
        message = f"{name} is empty"
        raise ValueError(message)
    return text


def _extras(row: Mapping[str, object], kind: type[Row]) -> dict[str, object]:
    """Return the columns that neither a kind of row nor this program knows, without the prefix."""
    ours = {f.alias for f in _PairRow.model_fields.values()} | {FORMAT}
    known = ours | {f.alias or name for name, f in kind.model_fields.items()}
    return {
        name.removeprefix(PREFIX): value
        for name, value in row.items()
        if name not in known and value is not None
    }


# --------------------------------------------------------------------------- writing


def row_of(item: PreferencePair | PreferenceRanking) -> dict[str, object]:
    """Return the columns of a pair or ranking."""
    prompt = item.prompt

    def answer(text: str) -> object:
        return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]

    shown = prompt if isinstance(prompt, str) else [dict(m) for m in prompt]
    row: dict[str, object] = {"prompt": shown}
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
