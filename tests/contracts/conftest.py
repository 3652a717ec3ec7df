"""Fixtures of the contract tests."""

import pytest

from rlhf_theory.worlds import bandit


@pytest.fixture(autouse=True)
def few_evaluation_contexts(monkeypatch):
    """Fresh worlds evaluate on few contexts: contracts are about behaviour, not precision."""
    monkeypatch.setattr(bandit, "_EVALUATION_CONTEXTS", 16)
