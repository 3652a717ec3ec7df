"""A tiny world of prompts and answers, where everything about them is known.

Names are loaded when they are first used: the grammar and its rewards need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_theory.lazy import lazy_names

if TYPE_CHECKING:
    from llm_bridge.tiny.architecture import tiny_tokenizer as tiny_tokenizer
    from llm_bridge.tiny.architecture import untrained as untrained
    from llm_bridge.tiny.gold import ReaderGroups as ReaderGroups
    from llm_bridge.tiny.gold import gold_preference as gold_preference
    from llm_bridge.tiny.gold import gold_reward as gold_reward
    from llm_bridge.tiny.gold import reward_terms as reward_terms
    from llm_bridge.tiny.grammar import AnswerLaw as AnswerLaw
    from llm_bridge.tiny.grammar import Question as Question
    from llm_bridge.tiny.grammar import questions as questions
    from llm_bridge.tiny.grammar import read_prompt as read_prompt
    from llm_bridge.tiny.grammar import sample_answers as sample_answers
    from llm_bridge.tiny.grammar import split_prompts as split_prompts
    from llm_bridge.tiny.parser import Answer as Answer
    from llm_bridge.tiny.parser import Judged as Judged
    from llm_bridge.tiny.parser import judge as judge
    from llm_bridge.tiny.parser import parse as parse
    from llm_bridge.tiny.realisable import RealisableReward as RealisableReward
    from llm_bridge.tiny.realisable import realisable_reward as realisable_reward
    from llm_bridge.tiny.words import vocabulary as vocabulary
    from llm_bridge.tiny.world import TinyWorld as TinyWorld
    from llm_bridge.tiny.world import TinyWorldRecipe as TinyWorldRecipe
    from llm_bridge.tiny.world import build as build
    from llm_bridge.tiny.world import cache_folder as cache_folder
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "llm_bridge.tiny.architecture": ["tiny_tokenizer", "untrained"],
            "llm_bridge.tiny.gold": [
                "ReaderGroups",
                "gold_preference",
                "gold_reward",
                "reward_terms",
            ],
            "llm_bridge.tiny.grammar": [
                "AnswerLaw",
                "Question",
                "questions",
                "read_prompt",
                "sample_answers",
                "split_prompts",
            ],
            "llm_bridge.tiny.parser": ["Answer", "Judged", "judge", "parse"],
            "llm_bridge.tiny.realisable": ["RealisableReward", "realisable_reward"],
            "llm_bridge.tiny.words": ["vocabulary"],
            "llm_bridge.tiny.world": ["TinyWorld", "TinyWorldRecipe", "build", "cache_folder"],
        },
    )
