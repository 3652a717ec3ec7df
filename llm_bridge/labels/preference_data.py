"""Preferences as a file holds them, made of comparisons and made into comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_bridge.labels.preference_rows import PreferencePair, PreferenceRanking
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import Ids, LanguageModel, Prompt, Text
from llm_bridge.language.sampler import Response
from llm_bridge.pools.data import Comparison, PromptData


@dataclass(frozen=True)
class Preferences:
    """What a file of preferences holds.

    Attributes
    ----------
    items
        Pairs, or rankings.
    identical
        Those whose responses are all the same: they say nothing about who is better, but some
        losses learn from them (see `all_pairs`).
    n_lost
        Rows without a prompt that were dropped because their responses are the same: nobody knows
        where the responses begin.
    n_empty
        Comparisons that were dropped because a response has no text.
    """

    items: tuple[PreferencePair, ...] | tuple[PreferenceRanking, ...]
    identical: tuple[PreferencePair, ...] | tuple[PreferenceRanking, ...] = ()
    n_lost: int = 0
    n_empty: int = 0

    @property
    def n_identical(self) -> int:
        """Rows whose responses are all the same, whether they are kept or lost."""
        return len(self.identical) + self.n_lost

    @property
    def pairs(self) -> list[PreferencePair]:
        """All pairs of different responses; those of a ranking together have weight 1."""
        return _pairs(self.items, equal=False)

    @property
    def all_pairs(self) -> list[PreferencePair]:
        """Also the pairs of a response with itself, for losses that learn from them (XPO, VPO).

        Their label says nothing. Those of a ranking, with the others, have weight 1.
        """
        return _pairs([*self.items, *self.identical], equal=True)

    @classmethod
    def of(cls, data: PromptData | Sequence[Comparison], *, ids: bool = True) -> Preferences:
        """Return comparisons as pairs, the likelier winner first; ties keep their order.

        Which of the two was the second is kept among the extras.

        Parameters
        ----------
        data
            Data of one replica, with those of a response with itself; or comparisons.
        ids
            Whether to keep the tokens, so that the same model reads back the very same responses.
        """
        if isinstance(data, PromptData):
            data.comparisons  # noqa: B018  (refuses several replicas)
            data = data.comparisons_of(0, equal=True)
        pairs = [_pair_of_comparison(c, ids) for c in data]
        said = [p for p in pairs if p.chosen.strip() and p.rejected.strip()]
        return cls(
            tuple(p for p in said if not p.is_identical),
            tuple(p for p in said if p.is_identical),
            n_empty=len(pairs) - len(said),
        )

    def comparisons(
        self, model: LanguageModel, *, batch_size: int = 32, equal: bool = False
    ) -> list[Comparison]:
        """Return all pairs as comparisons, with their tokens and log-probabilities.

        For a problem: ``problem.data_of(preferences.comparisons(model, equal=True))``.

        Parameters
        ----------
        model
            The reference model: its tokenizer reads the texts and it scores the responses. Tokens
            that came with a pair are taken where they say the same text.
        batch_size
            Rows per forward pass.
        equal
            Whether those of a response with itself come too, see `all_pairs`.

        Raises
        ------
        ValueError
            For texts that do not fit the model's context; says which pair.
        """
        prompts: list[Prompt] = []
        responses: list[Response] = []
        pairs = self.all_pairs if equal else self.pairs
        for number, pair in enumerate(pairs, start=1):
            try:
                prompt, chosen, rejected = encoded_pair(model, pair)
            except ValueError as error:
                message = f"Pair {number} cannot be used with {model.name}: {error}"
                raise type(error)(message) from error
            prompts += [prompt, prompt]
            # Equal texts in other tokens would be a comparison that nobody has made.
            responses += [chosen, chosen if pair.is_identical else rejected]
        scores = sequence_log_probs(
            model, [p.ids for p in prompts], [r.ids for r in responses], batch_size=batch_size
        )
        return [
            Comparison(
                prompts[2 * i],
                responses[2 * i],
                responses[2 * i + 1],
                float(scores[2 * i]),
                float(scores[2 * i + 1]),
                label=pair.label,
                round=int(pair.extras.get("round", 0)),
                weight=pair.weight,
            )
            for i, pair in enumerate(pairs)
        ]


def _pairs(
    items: Sequence[PreferencePair | PreferenceRanking], *, equal: bool
) -> list[PreferencePair]:
    return [
        pair
        for item in items
        for pair in (item.pairs(equal=equal) if isinstance(item, PreferenceRanking) else [item])
    ]


def _pair_of_comparison(c: Comparison, ids: bool) -> PreferencePair:
    first_won = c.label >= 0.5
    better, worse = (c.first, c.second) if first_won else (c.second, c.first)
    prompt: Text = c.prompt.text
    if c.prompt.messages:
        prompt = [{"role": role, "content": content} for role, content in c.prompt.messages]
    return PreferencePair(
        prompt,
        better.text,
        worse.text,
        label=c.label if first_won else 1.0 - c.label,
        weight=c.weight,
        ids=(c.prompt.ids, better.ids, worse.ids) if ids else None,
        # XPO and VPO have to know which response came from the calibration policy.
        extras={"round": c.round, "second": "rejected" if first_won else "chosen"},
    )


def encoded_pair(model: LanguageModel, pair: PreferencePair) -> tuple[Prompt, Response, Response]:
    """Return the prompt and both responses with the tokens of a model."""
    prompt = model.encode_prompt(pair.prompt)
    known = pair.ids if pair.ids is not None and pair.ids[0] == prompt.ids else (None, None, None)
    return (
        prompt,
        _response(model, pair.chosen, known[1]),
        _response(model, pair.rejected, known[2]),
    )


def _response(model: LanguageModel, text: str, ids: Ids | None) -> Response:
    fits = ids is not None and max(ids) < model.n_tokens and model.decode(ids) == text
    chosen = ids if ids is not None and fits else model.encode_response(text)
    return Response(chosen, text, float("nan"), chosen[-1] == model.eos_id)
