"""A folder as users of language-model commands have one: a model, prompts, preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def fill_home(folder: Path, model: Any, n_prompts: int) -> Path:
    """Write ``model/``, ``prompts.txt`` and ``pairs.jsonl`` into a folder, and return it."""
    from llm_bridge.labels.preference_files import (  # noqa: PLC0415
        PreferencePair,
        write_preferences,
    )
    from llm_bridge.tiny import sample_answers, split_prompts  # noqa: PLC0415
    from rlhf_theory.randomness import Key  # noqa: PLC0415

    model.save(folder / "model")
    prompts = split_prompts(Key(0))[0][:n_prompts]
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
    answers = zip(*(sample_answers(prompts, Key(k)) for k in (1, 2)), strict=True)
    pairs = [PreferencePair(p, a, b) for p, (a, b) in zip(prompts, answers, strict=True)]
    write_preferences(folder / "pairs.jsonl", pairs)
    return folder
