"""A tiny world of prompts and answers, where everything about them is known.

Names are loaded when they are first used: the grammar and its rewards need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_bridge.tiny.architecture import tiny_tokenizer, untrained
    from llm_bridge.tiny.gold import ReaderGroups, gold_preference, gold_reward, reward_terms
    from llm_bridge.tiny.grammar import (
        AnswerLaw,
        Question,
        questions,
        read_prompt,
        sample_answers,
        split_prompts,
    )
    from llm_bridge.tiny.parser import Answer, Judged, judge, parse
    from llm_bridge.tiny.realisable import RealisableReward, realisable_reward
    from llm_bridge.tiny.words import vocabulary
    from llm_bridge.tiny.world import TinyWorld, TinyWorldRecipe, build, cache_folder

_HOME = {
    "Answer": "parser",
    "AnswerLaw": "grammar",
    "Judged": "parser",
    "Question": "grammar",
    "ReaderGroups": "gold",
    "RealisableReward": "realisable",
    "TinyWorld": "world",
    "TinyWorldRecipe": "world",
    "build": "world",
    "cache_folder": "world",
    "gold_preference": "gold",
    "gold_reward": "gold",
    "judge": "parser",
    "parse": "parser",
    "questions": "grammar",
    "read_prompt": "grammar",
    "realisable_reward": "realisable",
    "reward_terms": "gold",
    "sample_answers": "grammar",
    "split_prompts": "grammar",
    "tiny_tokenizer": "architecture",
    "untrained": "architecture",
    "vocabulary": "words",
}

__all__ = [
    "Answer",
    "AnswerLaw",
    "Judged",
    "Question",
    "ReaderGroups",
    "RealisableReward",
    "TinyWorld",
    "TinyWorldRecipe",
    "build",
    "cache_folder",
    "gold_preference",
    "gold_reward",
    "judge",
    "parse",
    "questions",
    "read_prompt",
    "realisable_reward",
    "reward_terms",
    "sample_answers",
    "split_prompts",
    "tiny_tokenizer",
    "untrained",
    "vocabulary",
]


def __getattr__(name: str) -> Any:
    """Load a public name; ``AttributeError`` for others."""
    if name not in _HOME:
        message = f"module 'llm_bridge.tiny' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(f"llm_bridge.tiny.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
