"""All cases by name: functions without arguments that return names and values."""

from __future__ import annotations

from pathlib import Path

from tests.golden import cards, parts, runs
from tests.golden.runs import Case

__all__ = ["SMALL_RECORD", "Case", "all_cases", "one_thread", "small_cases"]

SMALL_RECORD = Path(__file__).with_name("record.json")
"""What the test compares with; `python -m tests.golden record-small` writes it anew."""


def one_thread() -> None:
    """Let torch compute with one thread, so that its bits repeat."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)


def language_cases() -> dict[str, Case]:
    """The cases that need torch and transformers."""
    from tests.golden import language  # noqa: PLC0415

    return language.cases()


def all_cases() -> dict[str, Case]:
    return {**language_cases(), **parts.cases(), **runs.cases(), **cards.cases()}


def small_cases() -> dict[str, Case]:
    """The cases of the test, short ones; those of the language models are `small_language`."""
    return {**parts.small_cases(), **runs.small_cases(), **cards.small_cases()}


def small_language() -> dict[str, Case]:
    from tests.golden import language  # noqa: PLC0415

    return language.small_cases()
